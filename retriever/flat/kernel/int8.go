package kernel

import (
	"math"

	"github.com/x448/float16"
)

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
	return quantise(dst, row)
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
		scores8(dst, rows, queries, stride)
	}
}

// SumSquares returns Σ x², summed in float64: not finite exactly when x is not.
func SumSquares(x []float32) float64 { return sumSquares(x) }

// Dot returns the inner product of vectors of one length, summed in float64.
func Dot(a, b []float32) float64 {
	if len(a) != len(b) {
		panic("kernel: Dot of two lengths")
	}
	return dot64(a, b)
}

// ToHalf rounds to IEEE binary16, to the nearest, ties to even. |src| ≤ MaxHalf.
func ToHalf(dst []uint16, src []float32) {
	if len(dst) != len(src) {
		panic("kernel: ToHalf of two lengths")
	}
	toHalf(dst, src)
}

// MaxHalf is the largest value of binary16.
const MaxHalf = 65504

// FromHalf is the way back. It is exact.
func FromHalf(dst []float32, src []uint16) {
	if len(dst) != len(src) {
		panic("kernel: FromHalf of two lengths")
	}
	fromHalf(dst, src)
}

// What follows is plain Go, for machines that have nothing better and as the
// measure of what they have.

func plainQuantise[T int8 | int16](dst []T, row []float32, largest int) (scale, loss float32) {
	var most float32
	for _, v := range row {
		most = max(most, float32(math.Abs(float64(v))))
	}
	clear(dst[len(row):])
	scale = most / float32(largest)
	if scale == 0 { // zeros, or so small that they are
		clear(dst)
		return 0, up(math.Sqrt(plainSumSquares(row)))
	}
	sum := 0.0
	for i, v := range row {
		q := max(-float64(largest), min(float64(largest), math.RoundToEven(float64(v)/float64(scale))))
		dst[i] = T(q)
		off := float64(v) - float64(scale)*q
		sum += off * off
	}
	return scale, up(math.Sqrt(sum))
}

// up rounds to float32, not down.
func up(x float64) float32 {
	f := float32(x)
	if float64(f) < x {
		f = math.Nextafter32(f, float32(math.Inf(1)))
	}
	return f
}

func plainScores8(dst []int32, rows []int8, queries []int16, stride int) {
	nq := len(queries) / stride
	for r := range len(rows) / stride {
		row := rows[r*stride : (r+1)*stride]
		for q := range nq {
			var sum int32
			for i, v := range queries[q*stride : (q+1)*stride] {
				sum += int32(v) * int32(row[i])
			}
			dst[r*nq+q] = sum
		}
	}
}

func plainSumSquares(x []float32) float64 { return plainDot64(x, x) }

func plainDot64(a, b []float32) float64 {
	var s0, s1, s2, s3 float64
	for len(a) >= 4 && len(b) >= 4 {
		s0 += float64(a[0]) * float64(b[0])
		s1 += float64(a[1]) * float64(b[1])
		s2 += float64(a[2]) * float64(b[2])
		s3 += float64(a[3]) * float64(b[3])
		a, b = a[4:], b[4:]
	}
	for i, v := range a {
		s0 += float64(v) * float64(b[i])
	}
	return (s0 + s1) + (s2 + s3)
}

func plainToHalf(dst []uint16, src []float32) {
	for i, v := range src {
		dst[i] = float16.Fromfloat32(v).Bits()
	}
}

func plainFromHalf(dst []float32, src []uint16) {
	for i, v := range src {
		dst[i] = float16.Frombits(v).Float32()
	}
}

var (
	quantise   = func(dst []int8, row []float32) (float32, float32) { return plainQuantise(dst, row, 127) }
	scores8    = plainScores8
	sumSquares = plainSumSquares
	dot64      = plainDot64
	toHalf     = plainToHalf
	fromHalf   = plainFromHalf
)
