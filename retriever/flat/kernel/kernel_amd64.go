package kernel

import "golang.org/x/sys/cpu"

var (
	hasAVX2      = cpu.X86.HasAVX2 && cpu.X86.HasFMA
	scores, name = choose()
)

func choose() (func(dst, rows, queries []float32, stride int), string) {
	if hasAVX2 {
		return avx2, "avx2"
	}
	return plain, "go"
}

// A tile is R rows against Q queries (package gen writes them).
type tile func(dst *float32, dstStride uintptr, rows, queries *float32, stride uintptr, n int)

// What many[q-1] takes is tall[q-1] rows and q queries, one[q-1] one row.
var (
	many = [4]tile{avx2_4x1, avx2_4x2, avx2_4x3, avx2_3x4}
	tall = [4]int{4, 4, 4, 3}
	one  = [4]tile{avx2_1x1, avx2_1x2, avx2_1x3, avx2_1x4}
)

// avx2 is Scores in tiles: four queries at a time.
func avx2(dst, rows, queries []float32, stride int) {
	nr, nq := len(rows)/stride, len(queries)/stride
	for q := 0; q < nq; q += 4 {
		w := min(4, nq-q) - 1
		r, qp := 0, &queries[q*stride]
		for ; r+tall[w] <= nr; r += tall[w] {
			many[w](&dst[r*nq+q], uintptr(4*nq), &rows[r*stride], qp, uintptr(4*stride), stride)
		}
		for ; r < nr; r++ {
			one[w](&dst[r*nq+q], uintptr(4*nq), &rows[r*stride], qp, uintptr(4*stride), stride)
		}
	}
}
