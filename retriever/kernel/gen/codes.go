package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// codeTiles are the shapes of tiles for 8-bit rows: R·Q registers for sums, Q for
// the queries' values, one for a row's and one for products.
var codeTiles = []struct{ r, q int }{
	{3, 3}, {4, 2}, {4, 1},
	{1, 1}, {1, 2}, {1, 3},
}

// An isa is what a tile's instructions are of.
type isa int

const (
	avx2   isa = iota
	avx512     // F and BW
	vnni       // these and VNNI
)

// codeTile writes func name(dst *int32, dstStride uintptr, rows *int8, queries *int16, stride uintptr, n int):
// dst[r][q] = Σ rows[r][i]·queries[q][i], i < n. dstStride is in bytes; rows
// are stride bytes apart and queries 2·stride; n is a multiple of 64.
//
// Bytes become words in a register, words are multiplied and added in pairs
// into int32: with VNNI by one instruction, which does not saturate. It takes
// longer than an addition, so a single row has two sums for each query.
func codeTile(name string, r, q int, on isa) {
	wide := on != avx2
	TEXT(name, NOSPLIT, "func(dst *int32, dstStride uintptr, rows *int8, queries *int16, stride uintptr, n int)")
	Pragma("noescape")
	Doc(fmt.Sprintf("%s is the inner products of %d rows with %d queries.", name, r, q))
	width := 16 // values of a register of words
	vector := YMM
	if wide {
		width, vector = 32, ZMM
	}
	rows := Load(Param("rows"), GP64())
	queries := Load(Param("queries"), GP64())
	stride := Load(Param("stride"), GP64())
	n := Load(Param("n"), GP64())
	stride2, stride3, stride4 := GP64(), GP64(), GP64()
	LEAQ(Mem{Base: stride, Index: stride, Scale: 1}, stride2)
	LEAQ(Mem{Base: stride, Index: stride, Scale: 2}, stride3)
	LEAQ(Mem{Base: stride2, Index: stride2, Scale: 1}, stride4)
	rowAt := func(i, disp int) Mem {
		return [4]Mem{{Base: rows, Disp: disp}, {Base: rows, Index: stride, Scale: 1, Disp: disp},
			{Base: rows, Index: stride2, Scale: 1, Disp: disp}, {Base: rows, Index: stride3, Scale: 1, Disp: disp}}[i]
	}
	queryAt := func(i, disp int) Mem {
		return [3]Mem{{Base: queries, Disp: disp}, {Base: queries, Index: stride2, Scale: 1, Disp: disp},
			{Base: queries, Index: stride4, Scale: 1, Disp: disp}}[i]
	}
	parts := 1
	if on == vnni && r == 1 {
		parts = 2
	}
	sums := make([]reg.VecVirtual, parts*r*q)
	for i := range sums {
		sums[i] = vector()
		if wide {
			VPXORD(sums[i], sums[i], sums[i])
		} else {
			VPXOR(sums[i], sums[i], sums[i])
		}
	}
	Label("loop")
	const step = 64
	for at := 0; at < step; at += width {
		sums := sums[at/width%parts*r*q:]
		held := make([]reg.VecVirtual, q)
		for j := range held {
			held[j] = vector()
			if wide {
				VMOVDQU16(queryAt(j, 2*at), held[j])
			} else {
				VMOVDQU(queryAt(j, 2*at), held[j])
			}
		}
		for i := range r {
			v := vector()
			VPMOVSXBW(rowAt(i, at), v)
			for j := range q {
				if on == vnni {
					VPDPWSSD(held[j], v, sums[i*q+j])
					continue
				}
				product := v // the last one needs the row no more
				if j < q-1 {
					product = vector()
				}
				VPMADDWD(held[j], v, product)
				VPADDD(product, sums[i*q+j], sums[i*q+j])
			}
		}
	}
	ADDQ(Imm(step), rows)
	ADDQ(Imm(2*step), queries)
	SUBQ(Imm(step), n)
	JNZ(LabelRef("loop"))

	dst := Load(Param("dst"), GP64())
	dstStride := Load(Param("dstStride"), GP64())
	for i := range r {
		for j := range q {
			if parts == 2 {
				VPADDD(sums[r*q+j], sums[j], sums[j])
			}
			x := foldInts(sums[i*q+j], wide)
			VMOVD(x, Mem{Base: dst, Disp: 4 * j})
		}
		if i+1 < r {
			ADDQ(dstStride, dst)
		}
	}
	VZEROUPPER()
	RET()
}

// foldInts adds up a register of int32.
func foldInts(v reg.VecVirtual, wide bool) reg.VecVirtual {
	y := v
	if wide {
		hi := YMM()
		VEXTRACTI64X4(Imm(1), v, hi)
		y = v.AsY().(reg.VecVirtual)
		VPADDD(hi, y, y)
	}
	hi := XMM()
	VEXTRACTI128(Imm(1), y, hi)
	x := y.AsX().(reg.VecVirtual)
	VPADDD(hi, x, x)
	other := XMM()
	VPSHUFD(Imm(0x4e), x, other)
	VPADDD(other, x, x)
	VPSHUFD(Imm(0xb1), x, other)
	VPADDD(other, x, x)
	return x
}

// prefetch writes func prefetch(p *int8, lines int): lines of 64 bytes from p on
// are asked for, into the second cache.
func prefetch() {
	TEXT("prefetch", NOSPLIT, "func(p *int8, lines int)")
	Pragma("noescape")
	Doc("prefetch asks for lines of 64 bytes, at least one.")
	p, n := Load(Param("p"), GP64()), Load(Param("lines"), GP64())
	Label("loop")
	PREFETCHT1(Mem{Base: p})
	ADDQ(Imm(64), p)
	DECQ(n)
	JNZ(LabelRef("loop"))
	RET()
}

// largest writes func avx2_largest(x *float32, n int) float32: max |x[i]|, n a
// positive multiple of 16.
func largest() {
	TEXT("avx2_largest", NOSPLIT, "func(x *float32, n int) float32")
	Pragma("noescape")
	Doc("avx2_largest is the largest absolute value.")
	x, n := Load(Param("x"), GP64()), Load(Param("n"), GP64())
	mask, a, b := YMM(), YMM(), YMM()
	VPCMPEQD(mask, mask, mask)
	VPSRLD(Imm(1), mask, mask)
	VXORPS(a, a, a)
	VXORPS(b, b, b)
	Label("loop")
	for i, m := range []reg.VecVirtual{a, b} {
		v := YMM()
		VANDPS(Mem{Base: x, Disp: 32 * i}, mask, v)
		VMAXPS(v, m, m)
	}
	ADDQ(Imm(64), x)
	SUBQ(Imm(16), n)
	JNZ(LabelRef("loop"))
	VMAXPS(b, a, a)
	hi, lo := XMM(), a.AsX()
	VEXTRACTF128(Imm(1), a, hi)
	VMAXPS(hi, lo, lo)
	VPSHUFD(Imm(0x4e), lo, hi)
	VMAXPS(hi, lo, lo)
	VPSHUFD(Imm(0xb1), lo, hi)
	VMAXPS(hi, lo, lo)
	Store(lo, ReturnIndex(0))
	VZEROUPPER()
	RET()
}

// codes writes func avx2_codes(dst *int8, x *float32, n int, inverse, scale float64) float64:
// dst = round(x·inverse), to even; it returns Σ (x - scale·dst)². n is a
// positive multiple of 16, and |x·inverse| < 127.5.
func codes() {
	TEXT("avx2_codes", NOSPLIT, "func(dst *int8, x *float32, n int, inverse float64, scale float64) float64")
	Pragma("noescape")
	Doc("avx2_codes rounds values to bytes and returns the sum of the squares of what is lost.")
	dst, x, n := Load(Param("dst"), GP64()), Load(Param("x"), GP64()), Load(Param("n"), GP64())
	inverse, scale, sum := YMM(), YMM(), []reg.VecVirtual{YMM(), YMM()}
	in, sc := Load(Param("inverse"), XMM()), Load(Param("scale"), XMM())
	VBROADCASTSD(in, inverse)
	VBROADCASTSD(sc, scale)
	VXORPD(sum[0], sum[0], sum[0])
	VXORPD(sum[1], sum[1], sum[1])
	Label("loop")
	ints := make([]reg.VecVirtual, 4)
	for i := range ints {
		v, q := YMM(), YMM()
		VCVTPS2PD(Mem{Base: x, Disp: 16 * i}, v)
		VMULPD(inverse, v, q)
		VROUNDPD(Imm(0), q, q)
		ints[i] = XMM()
		VCVTPD2DQY(q, ints[i])
		VFNMADD231PD(scale, q, v) // v - scale·q
		VFMADD231PD(v, v, sum[i%2])
	}
	VPACKSSDW(ints[1], ints[0], ints[0])
	VPACKSSDW(ints[3], ints[2], ints[2])
	VPACKSSWB(ints[2], ints[0], ints[0])
	VMOVDQU(ints[0], Mem{Base: dst})
	ADDQ(Imm(16), dst)
	ADDQ(Imm(64), x)
	SUBQ(Imm(16), n)
	JNZ(LabelRef("loop"))
	VADDPD(sum[1], sum[0], sum[0])
	Store(foldDoubles(sum[0]), ReturnIndex(0))
	VZEROUPPER()
	RET()
}

func foldDoubles(v reg.VecVirtual) reg.VecVirtual {
	hi := XMM()
	VEXTRACTF128(Imm(1), v, hi)
	x := v.AsX().(reg.VecVirtual)
	VADDPD(hi, x, x)
	VPERMILPD(Imm(1), x, hi)
	VADDPD(hi, x, x)
	return x
}

// dot64 writes func avx2_dot64(a, b *float32, n int) float64: Σ a·b in float64, n
// a positive multiple of 16.
func dot64() {
	TEXT("avx2_dot64", NOSPLIT, "func(a *float32, b *float32, n int) float64")
	Pragma("noescape")
	Doc("avx2_dot64 is the inner product, summed in float64.")
	a, b, n := Load(Param("a"), GP64()), Load(Param("b"), GP64()), Load(Param("n"), GP64())
	sum := make([]reg.VecVirtual, 4)
	for i := range sum {
		sum[i] = YMM()
		VXORPD(sum[i], sum[i], sum[i])
	}
	Label("loop")
	for i := range sum {
		x, y := YMM(), YMM()
		VCVTPS2PD(Mem{Base: a, Disp: 16 * i}, x)
		VCVTPS2PD(Mem{Base: b, Disp: 16 * i}, y)
		VFMADD231PD(x, y, sum[i])
	}
	ADDQ(Imm(64), a)
	ADDQ(Imm(64), b)
	SUBQ(Imm(16), n)
	JNZ(LabelRef("loop"))
	VADDPD(sum[1], sum[0], sum[0])
	VADDPD(sum[3], sum[2], sum[2])
	VADDPD(sum[2], sum[0], sum[0])
	Store(foldDoubles(sum[0]), ReturnIndex(0))
	VZEROUPPER()
	RET()
}

// halves writes func avx2_toHalf(dst *uint16, src *float32, n int) and the way
// back; n is a positive multiple of 16.
func halves() {
	for _, to := range []bool{true, false} {
		name, signature := "avx2_toHalf", "func(dst *uint16, src *float32, n int)"
		if !to {
			name, signature = "avx2_fromHalf", "func(dst *float32, src *uint16, n int)"
		}
		TEXT(name, NOSPLIT, signature)
		Pragma("noescape")
		Doc(name + " converts between float32 and binary16.")
		dst, src, n := Load(Param("dst"), GP64()), Load(Param("src"), GP64()), Load(Param("n"), GP64())
		Label("loop")
		for i := range 2 {
			v := YMM()
			if to {
				VMOVUPS(Mem{Base: src, Disp: 32 * i}, v)
				VCVTPS2PH(Imm(0), v, Mem{Base: dst, Disp: 16 * i})
			} else {
				VCVTPH2PS(Mem{Base: src, Disp: 16 * i}, v)
				VMOVUPS(v, Mem{Base: dst, Disp: 32 * i})
			}
		}
		if to {
			ADDQ(Imm(32), dst)
			ADDQ(Imm(64), src)
		} else {
			ADDQ(Imm(64), dst)
			ADDQ(Imm(32), src)
		}
		SUBQ(Imm(16), n)
		JNZ(LabelRef("loop"))
		VZEROUPPER()
		RET()
	}
}
