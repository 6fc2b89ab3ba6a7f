// Gen writes ../kernel_amd64.s: the inner products of a tile of R rows with Q
// queries, all in registers, with AVX2 and FMA.
//
// Run it with go generate in the folder above.
package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// tiles are their shapes. Queries come in fours, and what is left of them in a
// tile of its own; a block's last rows come one by one. A tile takes R·Q
// registers for its sums, the shorter side one each, and one for the longer
// side: with 4x3 and 3x4 that is all 16.
var tiles = []struct{ r, q int }{
	{4, 1}, {4, 2}, {4, 3}, {3, 4},
	{1, 1}, {1, 2}, {1, 3}, {1, 4},
}

const width = 8 // float32 values of a register

func main() {
	for _, t := range tiles {
		tile(fmt.Sprintf("avx2_%dx%d", t.r, t.q), t.r, t.q)
	}
	Generate()
}

// tile writes func name(dst *float32, dstStride uintptr, rows, queries *float32, stride uintptr, n int):
// dst[r][q] = Σ rows[r][i]·queries[q][i], i < n. Strides are in bytes, n is a
// multiple of 16 and at least 16.
func tile(name string, r, q int) {
	TEXT(name, NOSPLIT, "func(dst *float32, dstStride uintptr, rows *float32, queries *float32, stride uintptr, n int)")
	Pragma("noescape")
	Doc(fmt.Sprintf("%s is the inner products of %d rows with %d queries.", name, r, q))
	rows := Load(Param("rows"), GP64())
	queries := Load(Param("queries"), GP64())
	stride := Load(Param("stride"), GP64())
	n := Load(Param("n"), GP64())
	stride3 := GP64()
	LEAQ(Mem{Base: stride, Index: stride, Scale: 2}, stride3)
	sums := make([][]reg.VecVirtual, r)
	for i := range sums {
		sums[i] = make([]reg.VecVirtual, q)
		for j := range sums[i] {
			sums[i][j] = YMM()
			VXORPS(sums[i][j], sums[i][j], sums[i][j])
		}
	}
	// at addresses the i-th of the vectors from base, up to the fourth.
	at := func(base reg.Register, i int) Mem {
		switch i {
		case 0:
			return Mem{Base: base}
		case 3:
			return Mem{Base: base, Index: stride3, Scale: 1}
		}
		return Mem{Base: base, Index: stride, Scale: uint8(i)}
	}

	Label("loop")
	if r >= q { // the queries' values stay in registers while the rows pass
		held := make([]reg.VecVirtual, q)
		for j := range held {
			held[j] = YMM()
			VMOVUPS(at(queries, j), held[j])
		}
		for i := range r {
			if q == 1 {
				VFMADD231PS(at(rows, i), held[0], sums[i][0])
				continue
			}
			v := YMM()
			VMOVUPS(at(rows, i), v)
			for j := range q {
				VFMADD231PS(v, held[j], sums[i][j])
			}
		}
	} else {
		held := make([]reg.VecVirtual, r)
		for i := range held {
			held[i] = YMM()
			VMOVUPS(at(rows, i), held[i])
		}
		for j := range q {
			v := YMM()
			VMOVUPS(at(queries, j), v)
			for i := range r {
				VFMADD231PS(v, held[i], sums[i][j])
			}
		}
	}
	step := Imm(uint64(4 * width))
	ADDQ(step, rows)
	ADDQ(step, queries)
	SUBQ(Imm(uint64(width)), n)
	JNZ(LabelRef("loop"))

	dst := Load(Param("dst"), GP64())
	dstStride := Load(Param("dstStride"), GP64())
	for i := range r {
		for j := range q {
			x := fold(sums[i][j])
			VMOVSS(x, Mem{Base: dst, Disp: 4 * j})
		}
		if i+1 < r {
			ADDQ(dstStride, dst)
		}
	}
	VZEROUPPER()
	RET()
}

// fold adds up a register, in log2(width) additions.
func fold(v reg.VecVirtual) reg.VecVirtual {
	hi := XMM()
	VEXTRACTF128(Imm(1), v, hi)
	x := v.AsX().(reg.VecVirtual)
	VADDPS(hi, x, x)
	VHADDPS(x, x, x)
	VHADDPS(x, x, x)
	return x
}
