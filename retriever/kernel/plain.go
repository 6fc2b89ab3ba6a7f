package kernel

import (
	"math"

	"github.com/x448/float16"
)

// plain is for machines that have nothing better, and the measure of what they
// have.
var plain = set{
	name:       "go",
	quantise:   func(dst []int8, row []float32) (float32, float32) { return plainQuantise(dst, row, 127) },
	scores8:    plainScores8,
	sumSquares: func(x []float32) float64 { return plainDot64(x, x) },
	dot64:      plainDot64,
	toHalf:     plainToHalf,
	fromHalf:   plainFromHalf,
}

func plainQuantise[T int8 | int16](dst []T, row []float32, largest int) (scale, loss float32) {
	var most float32
	for _, v := range row {
		most = max(most, float32(math.Abs(float64(v))))
	}
	clear(dst[len(row):])
	scale = most / float32(largest)
	if scale == 0 { // zeros, or so small that they are
		clear(dst)
		return 0, lost(plainDot64(row, row))
	}
	sum, inverse := 0.0, 1/float64(scale)
	for i, v := range row {
		q, off := code(v, scale, inverse, largest)
		dst[i] = T(q)
		sum += off * off
	}
	return scale, lost(sum)
}

// code returns the value nearest to v, in steps of scale, and what is lost to it.
func code(v, scale float32, inverse float64, largest int) (q, off float64) {
	q = max(-float64(largest), min(float64(largest), math.RoundToEven(float64(v)*inverse)))
	return q, float64(v) - float64(scale)*q
}

// lost is the length of what has the sum of squares, not less: sums are off by
// their last bits.
func lost(sum float64) float32 { return Up(math.Sqrt(sum) * (1 + 1e-9)) }

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
