package gguf

import (
	"encoding/binary"

	"github.com/x448/float16"

	"imagebind-llm/internal/format"
	"imagebind-llm/internal/format/view"
)

// blocks convert one block of a type (ggml, ggml-quants.c, dequantize_row_*;
// layouts in ggml-common.h). Products stand in float32(…) so that no compiler
// joins them with the sum behind: the values are the same bits everywhere.
var blocks = map[format.DType]func(dst []float32, b []byte){
	format.Q4_0: q4_0, format.Q4_1: q4_1, format.Q5_0: q5_0, format.Q5_1: q5_1, format.Q8_0: q8_0,
	format.Q2_K: q2K, format.Q3_K: q3K, format.Q4_K: q4K, format.Q5_K: q5K, format.Q6_K: q6K,
}

// decoder returns what converts whole blocks of a type, or nil for one that is
// not read here. Its src holds len(dst) elements.
func decoder(d format.DType) func(dst []float32, src []byte) {
	n, size := d.Block(), d.BlockBytes()
	if n == 1 && size > 0 {
		return func(dst []float32, src []byte) { view.Decode(dst, src, d) }
	}
	block := blocks[d]
	if block == nil {
		return nil
	}
	return func(dst []float32, src []byte) {
		for ; len(dst) > 0; dst, src = dst[n:], src[size:] {
			block(dst[:n], src[:size])
		}
	}
}

func half(b []byte) float32 { return float16.Frombits(binary.LittleEndian.Uint16(b)).Float32() }

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
		dst[i] = float32(float32(q&15)*d) + m
		dst[i+16] = float32(float32(q>>4)*d) + m
	}
}

// q5_0: as q4_0, with a fifth bit of each element in a word before; 16 is zero.
func q5_0(dst []float32, b []byte) {
	d, high := half(b), binary.LittleEndian.Uint32(b[2:])
	for i, q := range b[6:22] {
		dst[i] = d * float32(int(q&15)+int(high>>i&1<<4)-16)
		dst[i+16] = d * float32(int(q>>4)+int(high>>(i+16)&1<<4)-16)
	}
}

// q5_1: as q4_1, with a fifth bit.
func q5_1(dst []float32, b []byte) {
	d, m, high := half(b), half(b[2:]), binary.LittleEndian.Uint32(b[4:])
	for i, q := range b[8:24] {
		dst[i] = float32(float32(uint32(q&15)+high>>i&1<<4)*d) + m
		dst[i+16] = float32(float32(uint32(q>>4)+high>>(i+16)&1<<4)*d) + m
	}
}

// q8_0: a scale, then 32 signed bytes.
func q8_0(dst []float32, b []byte) {
	d := half(b)
	for i, q := range b[2:34] {
		dst[i] = float32(int8(q)) * d
	}
}

// q2K: 256 elements of 2 bits in 16 groups of 16, each with a scale and a
// minimum of 4 bits, over a scale and a minimum of the block.
func q2K(dst []float32, b []byte) {
	s, q, d, m := b[0:16], b[16:80], half(b[80:]), half(b[82:])
	for i := range dst {
		g := s[i/16]
		x := q[i/128*32+i%32] >> (i / 32 % 4 * 2) & 3
		dst[i] = float32(d*float32(g&15)*float32(x)) - float32(m*float32(g>>4))
	}
}

// q3K: 256 elements of 3 bits, the high one (0 means -4) apart, in 16 groups of
// 16 with a scale of 6 bits: four low ones, then two high ones of all.
func q3K(dst []float32, b []byte) {
	high, q, s, d := b[0:32], b[32:96], b[96:108], half(b[108:])
	for i := range dst {
		g := i / 16
		scale := int(s[g%8]>>(g/8*4)&15|s[8+g%4]>>(g/4*2)&3<<4) - 32
		x := int(q[i/128*32+i%32]>>(i/32%4*2)&3) - 4 + int(high[i%32]>>(i/32)&1<<2)
		dst[i] = d * float32(scale) * float32(x)
	}
}

// scales unpacks the eight scales and minima of 6 bits of Q4_K and Q5_K
// (get_scale_min_k4), over those of the block.
func scales(b []byte) (scale, minimum [8]float32) {
	d, m, s := half(b), half(b[2:]), b[4:16]
	for j := range 4 {
		scale[j], minimum[j] = d*float32(s[j]&63), m*float32(s[j+4]&63)
		scale[j+4] = d * float32(s[j+8]&15|s[j]>>6<<4)
		minimum[j+4] = m * float32(s[j+8]>>4|s[j+4]>>6<<4)
	}
	return scale, minimum
}

// q4K: 256 elements in 8 groups of 32, each with a scale and a minimum.
func q4K(dst []float32, b []byte) {
	d, m := scales(b)
	q := b[16:144]
	for j := 0; j < 8; j += 2 {
		y := dst[32*j : 32*j+64]
		for i, x := range q[16*j : 16*j+32] {
			y[i] = float32(d[j]*float32(x&15)) - m[j]
			y[32+i] = float32(d[j+1]*float32(x>>4)) - m[j+1]
		}
	}
}

// q5K: as q4K, with a fifth bit: bit j of byte i is of element i of group j.
func q5K(dst []float32, b []byte) {
	d, m := scales(b)
	high, q := b[16:48], b[48:176]
	for j := 0; j < 8; j += 2 {
		y := dst[32*j : 32*j+64]
		for i, x := range q[16*j : 16*j+32] {
			y[i] = float32(d[j]*float32(x&15|high[i]>>j&1<<4)) - m[j]
			y[32+i] = float32(d[j+1]*float32(x>>4|high[i]>>(j+1)&1<<4)) - m[j+1]
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
