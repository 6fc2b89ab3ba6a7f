// Gen writes ../kernel_amd64.s: inner products of tiles of rows and queries, all
// in registers, and what codes are made with, for AVX2, AVX-512 and AVX-512 VNNI;
// and ../kernel_arm64.s, the same for NEON.
//
// Run it with go generate in the folder above.
package main

import (
	"fmt"
	"log"

	. "github.com/mmcloughlin/avo/build"
)

func main() {
	if err := neon(); err != nil {
		log.Fatal(err)
	}
	for _, t := range codeTiles {
		codeTile(fmt.Sprintf("avx2_codes_%dx%d", t.r, t.q), t.r, t.q, avx2)
		codeTile(fmt.Sprintf("avx512_codes_%dx%d", t.r, t.q), t.r, t.q, avx512)
		codeTile(fmt.Sprintf("vnni_codes_%dx%d", t.r, t.q), t.r, t.q, vnni)
	}
	prefetch()
	largest()
	codes()
	dot64()
	halves()
	Generate()
}
