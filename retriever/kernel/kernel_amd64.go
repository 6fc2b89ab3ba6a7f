package kernel

import "golang.org/x/sys/cpu"

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
			if cpu.X86.HasAVX512VNNI {
				fast.name = "avx512vnni"
				fast.scores8 = func(dst []int32, rows []int8, queries []int16, stride int) {
					tiled(&vnniTiles, dst, rows, queries, stride)
				}
				all = append([]set{fast}, all...)
			}
		}
	}
	return all
}

var (
	avx2Tiles = tiles{[3]tile{avx2_codes_4x1, avx2_codes_4x2, avx2_codes_3x3}, [3]int{4, 4, 3},
		[3]tile{avx2_codes_1x1, avx2_codes_1x2, avx2_codes_1x3}}
	avx512Tiles = tiles{[3]tile{avx512_codes_4x1, avx512_codes_4x2, avx512_codes_3x3}, [3]int{4, 4, 3},
		[3]tile{avx512_codes_1x1, avx512_codes_1x2, avx512_codes_1x3}}
	vnniTiles = tiles{[3]tile{vnni_codes_4x1, vnni_codes_4x2, vnni_codes_3x3}, [3]int{4, 4, 3},
		[3]tile{vnni_codes_1x1, vnni_codes_1x2, vnni_codes_1x3}}
)

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
