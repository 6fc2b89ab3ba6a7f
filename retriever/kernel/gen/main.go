// Gen writes ../kernel_amd64.s: inner products of tiles of rows and queries, all
// in registers, and what codes are made with, for AVX2 and AVX-512.
//
// Run it with go generate in the folder above.
package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
)

func main() {
	for _, t := range codeTiles {
		codeTile(fmt.Sprintf("avx2_codes_%dx%d", t.r, t.q), t.r, t.q, false)
		codeTile(fmt.Sprintf("avx512_codes_%dx%d", t.r, t.q), t.r, t.q, true)
	}
	prefetch()
	largest()
	codes()
	dot64()
	halves()
	Generate()
}
