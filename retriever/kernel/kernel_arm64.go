package kernel

var neonTiles = tiles{[3]tile{neon_codes_4x1, neon_codes_4x2, neon_codes_4x3}, [3]int{4, 4, 4},
	[3]tile{neon_codes_1x1, neon_codes_1x2, neon_codes_1x3}}

// sets are the kernels that this machine can run, the best first. Every arm64 has NEON.
func sets() []set {
	fast := plain
	fast.name = "neon"
	fast.scores8 = func(dst []int32, rows []int8, queries []int16, stride int) {
		tiled(&neonTiles, dst, rows, queries, stride)
	}
	return []set{fast, plain}
}
