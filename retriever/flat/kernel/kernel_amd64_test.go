package kernel

func kernels() map[string]func(dst, rows, queries []float32, stride int) {
	k := map[string]func(dst, rows, queries []float32, stride int){"go": plain}
	if hasAVX2 {
		k["avx2"] = avx2
	}
	return k
}
