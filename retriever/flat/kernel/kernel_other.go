//go:build !amd64

package kernel

const name = "go"

func scores(dst, rows, queries []float32, stride int) { plain(dst, rows, queries, stride) }
