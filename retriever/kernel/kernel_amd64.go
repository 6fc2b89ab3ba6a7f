package kernel

import (
	"log/slog"
	"slices"

	"golang.org/x/sys/cpu"
)

// sets are the kernels that this machine can run, the best first.
func sets() []set {
	all := []set{plain}
	if cpu.X86.HasAVX2 && cpu.X86.HasFMA && cpu.X86.HasF16C {
		fast := set{"avx2", avx2Quantise, func(dst []int32, rows []int8, queries []int16, stride int) {
			tiled(&avx2Tiles, dst, rows, queries, stride)
		}, func(x []float32) float64 { return avx2Dot64(x, x) }, avx2Dot64, avx2ToHalf, avx2FromHalf}
		all = append([]set{fast}, all...)
		if cpu.X86.HasAVX512F && cpu.X86.HasAVX512BW && cpu.X86.HasAVX512VL {
			fast.name = "avx512"
			fast.scores8 = func(dst []int32, rows []int8, queries []int16, stride int) {
				tiled(&avx512Tiles, dst, rows, queries, stride)
			}
			all = append([]set{fast}, all...)
		}
	}
	return all
}

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
// row's codes to plain Go's. The AVX-512 tiles are checked here alone where those
// who build this have no such processor.
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

// A tile is R rows against Q queries (package gen writes them).
type tile func(dst *int32, dstStride uintptr, rows *int8, queries *int16, stride uintptr, n int)

// tiles by the number of queries: tall takes rows[q-1] rows, one a single one.
type tiles struct {
	tall [3]tile
	rows [3]int
	one  [3]tile
}

var (
	avx2Tiles = tiles{[3]tile{avx2_codes_4x1, avx2_codes_4x2, avx2_codes_3x3}, [3]int{4, 4, 3},
		[3]tile{avx2_codes_1x1, avx2_codes_1x2, avx2_codes_1x3}}
	avx512Tiles = tiles{[3]tile{avx512_codes_4x1, avx512_codes_4x2, avx512_codes_3x3}, [3]int{4, 4, 3},
		[3]tile{avx512_codes_1x1, avx512_codes_1x2, avx512_codes_1x3}}
)

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

// whole is how many of n values the loops take; the others are done in Go.
func whole(n int) int { return n &^ 15 }

func avx2Quantise(dst []int8, row []float32) (scale, loss float32) {
	n := whole(len(row))
	if n == 0 {
		return plain.quantise(dst, row)
	}
	most := avx2_largest(&row[0], n)
	for _, v := range row[n:] {
		most = max(most, v, -v)
	}
	if scale = most / 127; scale < 0x1p-100 { // the plain one knows of steps that are rounded themselves
		return plain.quantise(dst, row)
	}
	inverse := 1 / float64(scale)
	sum := avx2_codes(&dst[0], &row[0], n, inverse, float64(scale))
	clear(dst[n:])
	for i, v := range row[n:] {
		q, off := code(v, scale, inverse, 127)
		dst[n+i] = int8(q)
		sum += off * off
	}
	return scale, lost(sum)
}

func avx2Dot64(a, b []float32) float64 {
	n, sum := whole(len(a)), 0.0
	if n > 0 {
		sum = avx2_dot64(&a[0], &b[0], n)
	}
	for i, v := range a[n:] {
		sum += float64(v) * float64(b[n+i])
	}
	return sum
}

func avx2ToHalf(dst []uint16, src []float32) {
	n := whole(len(src))
	if n > 0 {
		avx2_toHalf(&dst[0], &src[0], n)
	}
	plainToHalf(dst[n:], src[n:])
}

func avx2FromHalf(dst []float32, src []uint16) {
	n := whole(len(src))
	if n > 0 {
		avx2_fromHalf(&dst[0], &src[0], n)
	}
	plainFromHalf(dst[n:], src[n:])
}
