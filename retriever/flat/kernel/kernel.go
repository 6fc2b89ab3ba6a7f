// Package kernel scores rows against queries: many inner products of fp32
// vectors at once, in registers, with AVX2 where the machine has it and in
// plain Go elsewhere.
//
// The results are sums in fp32 in an order that differs between machines;
// Error bounds by how much they may be off. Whoever needs exact results takes
// the candidates that the bound leaves and scores those again.
package kernel

import "math"

//go:generate go run ./gen -out kernel_amd64.s -stubs stubs_amd64.go -pkg kernel

// Align is what the length of vectors is padded to, with zeros: 64 bytes.
const Align = 16

// Pad returns dim rounded up to a multiple of Align.
func Pad(dim int) int { return (dim + Align - 1) / Align * Align }

// Error returns how far a score of a row and a query may be from the exact
// inner product, given the product of their lengths: n roundings in a row of
// fp32, n as the longest chain of additions in any of the kernels, plus what
// is lost to denormals.
func Error(stride int, norms float64) float64 {
	n := float64(stride)/4 + 8
	return 1.01*n*0x1p-24*norms + float64(stride)*0x1p-148
}

// Limit is the largest product of two lengths for which no sum of Scores
// overflows.
const Limit = math.MaxFloat32 / 4

// Scores writes the inner products dst[r][q] of rows [R, stride] with queries
// [Q, stride]: R = len(rows)/stride, Q = len(queries)/stride. It panics when
// the lengths do not fit or stride is no multiple of Align.
//
// A few dozen rows at a time stay in the second cache while all queries pass.
func Scores(dst, rows, queries []float32, stride int) {
	if stride <= 0 || stride%Align != 0 || len(rows)%stride != 0 || len(queries)%stride != 0 {
		panic("kernel: rows and queries are whole vectors of a multiple of 16 values")
	}
	r, q := len(rows)/stride, len(queries)/stride
	if len(dst) != r*q {
		panic("kernel: dst holds one value for each row and query")
	}
	if r > 0 && q > 0 {
		scores(dst, rows, queries, stride)
	}
}

// Name says which kernel this machine runs: avx2 or go.
func Name() string { return name }

// plain is Scores in Go.
func plain(dst, rows, queries []float32, stride int) {
	nq := len(queries) / stride
	for r := range len(rows) / stride {
		row := rows[r*stride : (r+1)*stride]
		for q := range nq {
			dst[r*nq+q] = dot(row, queries[q*stride:(q+1)*stride])
		}
	}
}

// dot keeps four sums, which a processor adds to at the same time.
func dot(a, b []float32) float32 {
	var s0, s1, s2, s3 float32
	for len(a) >= 4 && len(b) >= 4 {
		s0 += a[0] * b[0]
		s1 += a[1] * b[1]
		s2 += a[2] * b[2]
		s3 += a[3] * b[3]
		a, b = a[4:], b[4:]
	}
	return (s0 + s1) + (s2 + s3)
}
