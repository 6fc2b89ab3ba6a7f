package kernel

import (
	"log/slog"
	"slices"
)

// active are the kernels in use.
var active = choose()

// choose takes the first set that computes what plain Go does.
func choose() set {
	for _, s := range sets() {
		if agrees(s) {
			return s
		}
		slog.Warn("a kernel is wrong on this processor and is not used", "kernel", s.name)
	}
	return plain
}

// agrees holds products of a few rows and queries, of all shapes of tiles, and a
// row's codes to plain Go's: tests run where a processor has the instructions,
// and not everybody who builds this has one.
func agrees(s set) bool {
	const stride, nr, nq = 2 * Align8, 9, 7
	rows, queries := make([]int8, nr*stride), make([]int16, nq*stride)
	for i := range rows {
		rows[i] = int8(i*i*31 + i*7)
	}
	most := MaxQuery(stride)
	for i := range queries {
		queries[i] = int16((i*i*4099+i*17)%(2*most+1) - most)
	}
	row := make([]float32, stride)
	for i := range row {
		row[i] = float32(i*i%97) - 40.5
	}
	codes, plainCodes := make([]int8, stride), make([]int8, stride)
	scale, _ := s.quantise(codes, row)
	if plainScale, _ := plain.quantise(plainCodes, row); scale != plainScale || !slices.Equal(codes, plainCodes) {
		return false
	}
	for q := 1; q <= nq; q++ {
		want, got := make([]int32, nr*q), make([]int32, nr*q)
		plain.scores8(want, rows, queries[:q*stride], stride)
		s.scores8(got, rows, queries[:q*stride], stride)
		if !slices.Equal(got, want) {
			return false
		}
	}
	return true
}
