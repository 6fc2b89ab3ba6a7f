package main

// The loops over a row for NEON, as codes.go has them for AVX2: n is a positive
// multiple of 16, which is what a turn takes.

func (w *arm64) prefetch() {
	w.function("prefetch", "(p *int8, lines int)", 16, "asks for lines of 64 bytes, at least one.")
	w.line("MOVD p+0(FP), R0")
	w.line("MOVD lines+8(FP), R1")
	w.label("loop")
	w.line("PRFM (R0), PLDL2KEEP")
	w.line("ADD $64, R0")
	w.line("SUBS $1, R1")
	w.line("BNE loop")
	w.line("RET")
}

// next ends a turn of 16 values, counted in R8.
func (w *arm64) next() {
	w.line("SUBS $16, R8")
	w.line("BNE loop")
}

// largest is max |x[i]|.
func (w *arm64) largest() {
	w.function("neon_largest", "(x *float32, n int) float32", 20, "is the largest absolute value.")
	w.line("MOVD x+0(FP), R0")
	w.line("MOVD n+8(FP), R8")
	w.zero(4, 8)
	w.label("loop")
	w.line("VLD1.P 64(R0), [V0.S4, V1.S4, V2.S4, V3.S4]")
	for i := range 4 {
		w.word("fabs v%d.4s, v%d.4s", i, i)
		w.word("fmax v%d.4s, v%d.4s, v%d.4s", 4+i, 4+i, i)
	}
	w.next()
	for i := 1; i < 4; i++ {
		w.word("fmax v%d.4s, v%d.4s, v%d.4s", 4, 4, 4+i)
	}
	w.word("fmaxv s%d, v%d.4s", 0, 4)
	w.line("FMOVS F0, ret+16(FP)")
	w.line("RET")
}

// codes are dst = round(x·inverse), to even, |x·inverse| < 127.5; the result is
// Σ (x - scale·dst)².
func (w *arm64) codes() {
	const inverse, scale, sum, q = 16, 17, 18, 20 // sum: two registers; q: eight, of int64
	w.function("neon_codes", "(dst *int8, x *float32, n int, inverse float64, scale float64) float64", 48,
		"rounds values to bytes and returns the sum of the squares of what is lost.")
	w.line("MOVD dst+0(FP), R0")
	w.line("MOVD x+8(FP), R1")
	w.line("MOVD n+16(FP), R8")
	w.line("MOVD inverse+24(FP), R2")
	w.line("MOVD scale+32(FP), R3")
	w.line("VDUP R2, V%d.D2", inverse)
	w.line("VDUP R3, V%d.D2", scale)
	w.zero(sum, sum+2)
	w.label("loop")
	w.line("VLD1.P 64(R1), [V0.S4, V1.S4, V2.S4, V3.S4]")
	for i := range 8 {
		const v, back = 4, 5
		if i%2 == 0 {
			w.word("fcvtl v%d.2d, v%d.2s", v, i/2)
		} else {
			w.word("fcvtl2 v%d.2d, v%d.4s", v, i/2)
		}
		w.word("fmul v%d.2d, v%d.2d, v%d.2d", q+i, v, inverse)
		w.word("fcvtns v%d.2d, v%d.2d", q+i, q+i)
		w.word("scvtf v%d.2d, v%d.2d", back, q+i)
		w.line("VFMLS V%d.D2, V%d.D2, V%d.D2", back, scale, v) // v - scale·q
		w.line("VFMLA V%d.D2, V%d.D2, V%d.D2", v, v, sum+i%2)
	}
	for i := range 4 {
		w.word("xtn v%d.2s, v%d.2d", i, q+2*i)
		w.word("xtn2 v%d.4s, v%d.2d", i, q+2*i+1)
	}
	for i := range 2 {
		w.word("xtn v%d.4h, v%d.4s", 4+i, 2*i)
		w.word("xtn2 v%d.8h, v%d.4s", 4+i, 2*i+1)
	}
	w.word("xtn v%d.8b, v%d.8h", 6, 4)
	w.word("xtn2 v%d.16b, v%d.8h", 6, 5)
	w.line("VST1.P [V6.B16], 16(R0)")
	w.next()
	w.foldDoubles(sum, 2, "ret+40(FP)")
}

// foldDoubles returns the sum of n registers of float64, from v on.
func (w *arm64) foldDoubles(v, n int, to string) {
	for i := 1; i < n; i++ {
		w.word("fadd v%d.2d, v%d.2d, v%d.2d", v, v, v+i)
	}
	w.word("faddp d%d, v%d.2d", v, v)
	w.line("FMOVD F%d, %s", v, to)
	w.line("RET")
}

// dot64 is Σ a·b in float64.
func (w *arm64) dot64() {
	w.function("neon_dot64", "(a *float32, b *float32, n int) float64", 32, "is the inner product, summed in float64.")
	w.line("MOVD a+0(FP), R0")
	w.line("MOVD b+8(FP), R1")
	w.line("MOVD n+16(FP), R8")
	w.zero(16, 20)
	w.label("loop")
	w.line("VLD1.P 64(R0), [V0.S4, V1.S4, V2.S4, V3.S4]")
	w.line("VLD1.P 64(R1), [V4.S4, V5.S4, V6.S4, V7.S4]")
	for i := range 4 {
		for half, form := range []string{"fcvtl v%d.2d, v%d.2s", "fcvtl2 v%d.2d, v%d.4s"} {
			w.word(form, 8, i)
			w.word(form, 9, 4+i)
			w.line("VFMLA V8.D2, V9.D2, V%d.D2", 16+(2*i+half)%4)
		}
	}
	w.next()
	w.foldDoubles(16, 4, "ret+24(FP)")
}

// halves converts between float32 and binary16.
func (w *arm64) halves() {
	w.function("neon_toHalf", "(dst *uint16, src *float32, n int)", 24, "converts float32 to binary16.")
	w.line("MOVD dst+0(FP), R0")
	w.line("MOVD src+8(FP), R1")
	w.line("MOVD n+16(FP), R8")
	w.label("loop")
	w.line("VLD1.P 64(R1), [V0.S4, V1.S4, V2.S4, V3.S4]")
	for i := range 2 {
		w.word("fcvtn v%d.4h, v%d.4s", 4+i, 2*i)
		w.word("fcvtn2 v%d.8h, v%d.4s", 4+i, 2*i+1)
	}
	w.line("VST1.P [V4.H8, V5.H8], 32(R0)")
	w.next()
	w.line("RET")

	w.function("neon_fromHalf", "(dst *float32, src *uint16, n int)", 24, "converts binary16 to float32.")
	w.line("MOVD dst+0(FP), R0")
	w.line("MOVD src+8(FP), R1")
	w.line("MOVD n+16(FP), R8")
	w.label("loop")
	w.line("VLD1.P 32(R1), [V4.H8, V5.H8]")
	for i := range 2 {
		w.word("fcvtl v%d.4s, v%d.4h", 2*i, 4+i)
		w.word("fcvtl2 v%d.4s, v%d.8h", 2*i+1, 4+i)
	}
	w.line("VST1.P [V0.S4, V1.S4, V2.S4, V3.S4], 64(R0)")
	w.next()
	w.line("RET")
}
