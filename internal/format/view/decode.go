package view

import (
	"encoding/binary"
	"fmt"
	"math"
	"sync"

	"github.com/x448/float16"

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
		half := halves()
		for i := range dst {
			dst[i] = half[binary.LittleEndian.Uint16(src[2*i:])]
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
	case format.U16:
		for i := range dst {
			dst[i] = float32(binary.LittleEndian.Uint16(src[2*i:]))
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

// halves are the values of all 16-bit floats: looking one up takes half the
// time of moving its bits, as weights are small and subnormals not rare.
var halves = sync.OnceValue(func() *[1 << 16]float32 {
	var t [1 << 16]float32
	for i := range t {
		t[i] = float16.Frombits(uint16(i)).Float32()
	}
	return &t
})
