package kernel

import "golang.org/x/sys/cpu"

// sets are the kernels that this machine can run, the best first.
func sets() []set {
	all := []set{plain}
	if cpu.X86.HasAVX2 && cpu.X86.HasFMA && cpu.X86.HasF16C {
		all = append([]set{avx2.set("avx2", &avx2Tiles)}, all...)
		if cpu.X86.HasAVX512F && cpu.X86.HasAVX512BW && cpu.X86.HasAVX512VL {
			all = append([]set{avx2.set("avx512", &avx512Tiles)}, all...)
			if cpu.X86.HasAVX512VNNI {
				all = append([]set{avx2.set("avx512vnni", &vnniTiles)}, all...)
			}
		}
	}
	return all
}

var (
	avx2 = loops{avx2_largest, avx2_codes, avx2_dot64, avx2_toHalf, avx2_fromHalf}

	avx2Tiles = tiles{[3]tile{avx2_codes_4x1, avx2_codes_4x2, avx2_codes_3x3}, [3]int{4, 4, 3},
		[3]tile{avx2_codes_1x1, avx2_codes_1x2, avx2_codes_1x3}}
	avx512Tiles = tiles{[3]tile{avx512_codes_4x1, avx512_codes_4x2, avx512_codes_3x3}, [3]int{4, 4, 3},
		[3]tile{avx512_codes_1x1, avx512_codes_1x2, avx512_codes_1x3}}
	vnniTiles = tiles{[3]tile{vnni_codes_4x1, vnni_codes_4x2, vnni_codes_3x3}, [3]int{4, 4, 3},
		[3]tile{vnni_codes_1x1, vnni_codes_1x2, vnni_codes_1x3}}
)
