package gguf

import (
	"encoding/binary"
	"fmt"

	"github.com/x448/float16"

	"imagebind-llm/internal/format"
	"imagebind-llm/internal/format/view"
)

func half(b []byte) float32 { return float16.Frombits(binary.LittleEndian.Uint16(b)).Float32() }

// dequantise converts whole blocks: src holds len(dst) elements of type d
// (ggml, ggml-quants.c, dequantize_row_*; block layouts in ggml-common.h).
func dequantise(dst []float32, src []byte, d format.DType) {
	var f func(dst []float32, b []byte)
	switch d {
	case format.Q4_0:
		f = q4_0
	case format.Q4_1:
		f = q4_1
	case format.Q8_0:
		f = q8_0
	case format.Q4_K:
		f = q4K
	case format.Q6_K:
		f = q6K
	default:
		if d.Block() != 1 {
			panic(fmt.Sprintf("gguf: %s is not read", d))
		}
		view.Decode(dst, src, d)
		return
	}
	for n, size := d.Block(), d.BlockBytes(); len(dst) > 0; dst, src = dst[n:], src[size:] {
		f(dst[:n], src[:size])
	}
}

// q4_0: a scale, then 16 bytes with the elements i and i+16; 8 is zero.
func q4_0(dst []float32, b []byte) {
	d := half(b)
	for i, q := range b[2:18] {
		dst[i] = d * float32(int(q&15)-8)
		dst[i+16] = d * float32(int(q>>4)-8)
	}
}

// q4_1: a scale and a minimum.
func q4_1(dst []float32, b []byte) {
	d, m := half(b), half(b[2:])
	for i, q := range b[4:20] {
		dst[i] = float32(q&15)*d + m
		dst[i+16] = float32(q>>4)*d + m
	}
}

// q8_0: a scale, then 32 signed bytes.
func q8_0(dst []float32, b []byte) {
	d := half(b)
	for i, q := range b[2:34] {
		dst[i] = float32(int8(q)) * d
	}
}

// q4K: 256 elements in 8 groups of 32, each with a scale and a minimum of 6
// bits (get_scale_min_k4), over a scale and a minimum of the block.
func q4K(dst []float32, b []byte) {
	d, m := half(b), half(b[2:])
	s, q := b[4:16], b[16:144]
	group := func(j int) (scale, minimum float32) {
		if j < 4 {
			return d * float32(s[j]&63), m * float32(s[j+4]&63)
		}
		return d * float32(s[j+4]&15|s[j-4]>>6<<4), m * float32(s[j+4]>>4|s[j]>>6<<4)
	}
	for j := 0; j < 8; j += 2 {
		d1, m1 := group(j)
		d2, m2 := group(j + 1)
		for i, x := range q[16*j : 16*j+32] {
			dst[32*j+i] = d1*float32(x&15) - m1
			dst[32*j+32+i] = d2*float32(x>>4) - m2
		}
	}
}

// q6K: 256 elements of 6 bits, four low ones and two high ones apart, in 16
// groups of 16 with a signed scale each.
func q6K(dst []float32, b []byte) {
	low, high, s := b[0:128], b[128:192], b[192:208]
	d := half(b[208:])
	for n := 0; n < 2; n++ {
		y, l, h, s := dst[128*n:], low[64*n:], high[32*n:], s[8*n:]
		for i := range 32 {
			g := i / 16
			q1 := int(l[i]&15|h[i]&3<<4) - 32
			q2 := int(l[i+32]&15|h[i]>>2&3<<4) - 32
			q3 := int(l[i]>>4|h[i]>>4&3<<4) - 32
			q4 := int(l[i+32]>>4|h[i]>>6<<4) - 32
			y[i] = d * float32(int8(s[g])) * float32(q1)
			y[i+32] = d * float32(int8(s[g+2])) * float32(q2)
			y[i+64] = d * float32(int8(s[g+4])) * float32(q3)
			y[i+96] = d * float32(int8(s[g+6])) * float32(q4)
		}
	}
}
