//go:build amd64 || arm64

package kernel

// A tile is R rows against Q queries (package gen writes them).
type tile func(dst *int32, dstStride uintptr, rows *int8, queries *int16, stride uintptr, n int)

// tiles by the number of queries: tall takes rows[q-1] rows, one a single one.
type tiles struct {
	tall [3]tile
	rows [3]int
	one  [3]tile
}

// blockBytes of rows stay in the second cache while all queries pass.
const blockBytes = 96 << 10

// tiled is Scores8 in tiles of three queries. So many alone read rows in order,
// which the processor sees and fetches ahead; more take a block of rows, several
// at a time, while they ask for the next.
func tiled(t *tiles, dst []int32, rows []int8, queries []int16, stride int) {
	nr, nq := len(rows)/stride, len(queries)/stride
	if nq <= 3 {
		for r := range nr {
			t.one[nq-1](&dst[r*nq], 0, &rows[r*stride], &queries[0], uintptr(stride), stride)
		}
		return
	}
	block := max(12, blockBytes/stride/12*12) // whole tiles of three and of four
	for from := 0; from < nr; from += block {
		to := min(from+block, nr)
		next := rows[to*stride : min(to+block, nr)*stride]
		share := len(next)/64/max(1, (to-from)/4*((nq+2)/3)) + 1 // of next, in lines, for each tile
		for q := 0; q < nq; q += 3 {
			w := min(3, nq-q) - 1
			r, qp := from, &queries[q*stride]
			for ; r+t.rows[w] <= to; r += t.rows[w] {
				t.tall[w](&dst[r*nq+q], uintptr(4*nq), &rows[r*stride], qp, uintptr(stride), stride)
				if n := min(share, len(next)/64); n > 0 {
					prefetch(&next[0], n)
					next = next[64*n:]
				}
			}
			for ; r < to; r++ {
				t.one[w](&dst[r*nq+q], uintptr(4*nq), &rows[r*stride], qp, uintptr(stride), stride)
			}
		}
	}
}
