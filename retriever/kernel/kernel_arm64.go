package kernel

var (
	neon = loops{neon_largest, neon_codes, neon_dot64, neon_toHalf, neon_fromHalf}

	neonTiles = tiles{[3]tile{neon_codes_4x1, neon_codes_4x2, neon_codes_4x3}, [3]int{4, 4, 4},
		[3]tile{neon_codes_1x1, neon_codes_1x2, neon_codes_1x3}}
)

// sets are the kernels that this machine can run, the best first. Every arm64 has NEON.
func sets() []set { return []set{neon.set("neon", &neonTiles), plain} }
