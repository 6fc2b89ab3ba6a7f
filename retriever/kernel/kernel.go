// Package kernel does the arithmetic of rows that there are millions of: 8-bit
// codes and their exact inner products with queries, half precision, sums in
// float64. With AVX2 where the machine has it, the products with AVX-512 VNNI or
// AVX-512 where it has that; with NEON on arm64; and in plain Go elsewhere. Tests
// hold all to the same numbers (those of AVX-512 under Bochs: gen/emulate_test.go;
// NEON under qemu: make arm64); at the start the first is taken that gives them on
// this machine. GODEBUG=cpu.avx512bw=off and cpu.avx2=off leave some out.
package kernel

import "math"

//go:generate go run ./gen -out kernel_amd64.s -stubs stubs_amd64.go -pkg kernel

// Align8 is what the length of 8-bit rows is padded to, with zeros: 64 bytes.
const Align8 = 64

// Pad8 returns dim rounded up to a multiple of Align8.
func Pad8(dim int) int { return (dim + Align8 - 1) / Align8 * Align8 }

// Quantise writes a row [dim] as 8-bit values [Pad8(dim)]: row ≈ scale·dst, with
// scale = max|row|/127, rounded to the nearest, ties to even, and zeros behind
// it. It returns the scale and the length of what was rounded away,
// ‖row - scale·dst‖, not less. The row is finite.
func Quantise(dst []int8, row []float32) (scale, loss float32) {
	if len(dst) != Pad8(len(row)) {
		panic("kernel: dst holds a row's values, padded")
	}
	return active.quantise(dst, row)
}

// MaxQuery is the largest absolute value in a query for rows of a stride: with
// it no sum of Scores8 overflows.
func MaxQuery(stride int) int { return min(16383, math.MaxInt32/(127*stride)) }

// QuantiseQuery writes a query [dim] as 16-bit values [Pad8(dim)]: query ≈
// scale·dst with scale = max|query|/MaxQuery(stride). It returns the scale and
// the length of what was rounded away, not less. The query is finite.
func QuantiseQuery(dst []int16, query []float32) (scale, loss float32) {
	if len(dst) != Pad8(len(query)) {
		panic("kernel: dst holds a query's values, padded")
	}
	return plainQuantise(dst, query, MaxQuery(len(dst)))
}

// Scores8 writes the inner products dst[r][q] of 8-bit rows [R, stride] with
// 16-bit queries [Q, stride]: R = len(rows)/stride, Q = len(queries)/stride,
// stride a multiple of Align8, |query| ≤ MaxQuery(stride). They are exact, and so the same on every machine.
func Scores8(dst []int32, rows []int8, queries []int16, stride int) {
	if stride <= 0 || stride%Align8 != 0 || len(rows)%stride != 0 || len(queries)%stride != 0 {
		panic("kernel: rows and queries are whole vectors of a multiple of 64 values")
	}
	r, q := len(rows)/stride, len(queries)/stride
	if len(dst) != r*q {
		panic("kernel: dst holds one value for each row and query")
	}
	if r > 0 && q > 0 {
		active.scores8(dst, rows, queries, stride)
	}
}

// SumSquares returns Σ x², summed in float64: not finite exactly when x is not.
func SumSquares(x []float32) float64 { return active.sumSquares(x) }

// Dot returns the inner product of vectors of one length, summed in float64.
func Dot(a, b []float32) float64 {
	if len(a) != len(b) {
		panic("kernel: Dot of two lengths")
	}
	return active.dot64(a, b)
}

// ToHalf rounds to IEEE binary16, to the nearest, ties to even. |src| ≤ MaxHalf.
func ToHalf(dst []uint16, src []float32) {
	if len(dst) != len(src) {
		panic("kernel: ToHalf of two lengths")
	}
	active.toHalf(dst, src)
}

// MaxHalf is the largest value of binary16.
const MaxHalf = 65504

// FromHalf is the way back. It is exact.
func FromHalf(dst []float32, src []uint16) {
	if len(dst) != len(src) {
		panic("kernel: FromHalf of two lengths")
	}
	active.fromHalf(dst, src)
}

// Up rounds a length to float32, not down; what is over its range becomes its
// largest value.
func Up(x float64) float32 {
	f := float32(x)
	if float64(f) < x {
		f = math.Nextafter32(f, float32(math.Inf(1)))
	}
	return min(f, math.MaxFloat32)
}

// Name says which kernels this machine runs: avx512vnni, avx512, avx2, neon or go.
func Name() string { return active.name }

// A set is the kernels of one kind of processor.
type set struct {
	name       string
	quantise   func(dst []int8, row []float32) (scale, loss float32)
	scores8    func(dst []int32, rows []int8, queries []int16, stride int)
	sumSquares func(x []float32) float64
	dot64      func(a, b []float32) float64
	toHalf     func(dst []uint16, src []float32)
	fromHalf   func(dst []float32, src []uint16)
}
