package view

import (
	"encoding/binary"
	"fmt"
	"math"

	"imagebind-llm/internal/format"
)

// Decode converts little-endian elements of a plain type (not one of ggml's
// blocks) to float32; integers above 2^24 and float64 are rounded.
// It panics when src does not hold len(dst) elements.
func Decode(dst []float32, src []byte, d format.DType) {
	src = src[:len(dst)*d.BlockBytes()]
	switch d {
	case format.F64:
		for i := range dst {
			dst[i] = float32(math.Float64frombits(binary.LittleEndian.Uint64(src[8*i:])))
		}
	case format.F32:
		for i := range dst {
			dst[i] = math.Float32frombits(binary.LittleEndian.Uint32(src[4*i:]))
		}
	case format.F16:
		for i := range dst {
			dst[i] = half(binary.LittleEndian.Uint16(src[2*i:]))
		}
	case format.BF16:
		for i := range dst {
			dst[i] = math.Float32frombits(uint32(binary.LittleEndian.Uint16(src[2*i:])) << 16)
		}
	case format.I64:
		for i := range dst {
			dst[i] = float32(int64(binary.LittleEndian.Uint64(src[8*i:])))
		}
	case format.I32:
		for i := range dst {
			dst[i] = float32(int32(binary.LittleEndian.Uint32(src[4*i:])))
		}
	case format.I16:
		for i := range dst {
			dst[i] = float32(int16(binary.LittleEndian.Uint16(src[2*i:])))
		}
	case format.I8:
		for i := range dst {
			dst[i] = float32(int8(src[i]))
		}
	case format.U8:
		for i := range dst {
			dst[i] = float32(src[i])
		}
	case format.Bool:
		for i := range dst {
			dst[i] = 0
			if src[i] != 0 {
				dst[i] = 1
			}
		}
	default:
		panic(fmt.Sprintf("view: elements of type %s", d))
	}
}

// half returns the value of a 16-bit float. The exponent is moved by addition;
// subnormals take their value from a subtraction that is exact.
func half(h uint16) float32 {
	const exponent = 0x1f << 23 // an fp16 exponent of ones, where a float32 has it
	x := uint32(h&0x7fff) << 13
	sign := uint32(h&0x8000) << 16
	e := x & exponent
	x += (127 - 15) << 23
	switch e {
	case exponent: // infinite or not a number
		x += (128 - 16) << 23
	case 0:
		x = math.Float32bits(math.Float32frombits(x+1<<23) - math.Float32frombits(113<<23))
	}
	return math.Float32frombits(x | sign)
}
