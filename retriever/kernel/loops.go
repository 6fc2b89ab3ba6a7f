//go:build amd64 || arm64

package kernel

// loops take a row's values 16 at a time, n in all (package gen writes them); the
// others are done in Go.
type loops struct {
	largest  func(x *float32, n int) float32                                    // max |x|
	codes    func(dst *int8, x *float32, n int, inverse, scale float64) float64 // dst = round(x·inverse); Σ (x - scale·dst)²
	dot64    func(a, b *float32, n int) float64
	toHalf   func(dst *uint16, src *float32, n int)
	fromHalf func(dst *float32, src *uint16, n int)
}

// set is the kernels made of loops and tiles.
func (l *loops) set(name string, t *tiles) set {
	return set{
		name:       name,
		quantise:   l.rowQuantise,
		scores8:    func(dst []int32, rows []int8, queries []int16, stride int) { tiled(t, dst, rows, queries, stride) },
		sumSquares: func(x []float32) float64 { return l.rowDot64(x, x) },
		dot64:      l.rowDot64,
		toHalf:     l.rowToHalf,
		fromHalf:   l.rowFromHalf,
	}
}

// whole is how many of n values the loops take.
func whole(n int) int { return n &^ 15 }

func (l *loops) rowQuantise(dst []int8, row []float32) (scale, loss float32) {
	n := whole(len(row))
	if n == 0 {
		return plain.quantise(dst, row)
	}
	most := l.largest(&row[0], n)
	for _, v := range row[n:] {
		most = max(most, v, -v)
	}
	if scale = most / 127; scale < 0x1p-100 { // the plain one knows of steps that are rounded themselves
		return plain.quantise(dst, row)
	}
	inverse := 1 / float64(scale)
	sum := l.codes(&dst[0], &row[0], n, inverse, float64(scale))
	clear(dst[n:])
	for i, v := range row[n:] {
		q, off := code(v, scale, inverse, 127)
		dst[n+i] = int8(q)
		sum += off * off
	}
	return scale, lost(sum)
}

func (l *loops) rowDot64(a, b []float32) float64 {
	n, sum := whole(len(a)), 0.0
	if n > 0 {
		sum = l.dot64(&a[0], &b[0], n)
	}
	for i, v := range a[n:] {
		sum += float64(v) * float64(b[n+i])
	}
	return sum
}

func (l *loops) rowToHalf(dst []uint16, src []float32) {
	n := whole(len(src))
	if n > 0 {
		l.toHalf(&dst[0], &src[0], n)
	}
	plainToHalf(dst[n:], src[n:])
}

func (l *loops) rowFromHalf(dst []float32, src []uint16) {
	n := whole(len(src))
	if n > 0 {
		l.fromHalf(&dst[0], &src[0], n)
	}
	plainFromHalf(dst[n:], src[n:])
}
