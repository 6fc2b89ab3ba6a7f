package vision

import "math"

// A window is a part of a picture, in pixels.
type window struct{ left, top, w, h int }

// precision is the number of fraction bits of a coefficient (Pillow,
// libImaging/Resample.c, PRECISION_BITS).
const precision = 32 - 8 - 2

// taps are the source samples that make two neighbouring outputs: first and
// those behind it, by their fixed-point coefficients: the first output's plus
// 2³² times the second's. One multiplication serves both, as a sum needs 32
// bits at most; halves takes the two apart.
type taps struct {
	first int
	k     []int64
}

// bicubic is the Catmull-Rom kernel (a = -1/2), |x| < 2. The conversions keep
// a compiler from fusing operations, which would round another way.
func bicubic(x float64) float64 {
	const a = -0.5
	x = math.Abs(x)
	switch {
	case x < 1:
		return float64(float64(float64(float64((a+2)*x)-(a+3))*x)*x) + 1
	case x < 2:
		return float64(float64(float64(float64(float64(x-5)*x)+8)*x)-4) * a
	}
	return 0
}

// coefficients returns the taps of the outputs from..from+n, n even, of a line
// that is resized from in to out samples. Where it shrinks, the kernel widens
// (antialiasing); at the borders it is cut and its weights are normalized again.
func coefficients(in, out, from, n int) []taps {
	scale := float64(in) / float64(out)
	wide := max(scale, 1)
	support := 2 * wide
	ts := make([]taps, n/2)
	w := make([]float64, 0, 2*int(math.Ceil(support))+1)
	for i := range n {
		center := float64((float64(from+i) + 0.5) * scale)
		first := max(int(center-support+0.5), 0)
		last := min(int(center+support+0.5), in)
		w = w[:0]
		sum := 0.0
		for x := first; x < last; x++ {
			v := bicubic((float64(x) - center + 0.5) * (1 / wide))
			w = append(w, v)
			sum += v
		}
		t, shift := &ts[i/2], 32*(i%2)
		if shift == 0 {
			t.first = first
		}
		t.k = append(t.k, make([]int64, last-t.first-len(t.k))...)
		for j, v := range w {
			if sum != 0 {
				v /= sum
			}
			v = float64(v * (1 << precision))
			t.k[first-t.first+j] += int64(v+math.Copysign(0.5, v)) << shift
		}
	}
	return ts
}

// span returns the source samples first..last that the taps need.
func span(ts []taps) (first, last int) {
	end := ts[len(ts)-1]
	return ts[0].first, end.first + len(end.k)
}

const half = (1<<32 + 1) << (precision - 1) // rounds, in both sums

// halves returns the two sums in v as bytes. A first one below 0 has borrowed
// from the second, which gets it back.
func halves(v int64) (first, second byte) {
	return clamp(int32(v) >> precision), clamp(int32((v + 1<<31) >> 32 >> precision))
}

// resize returns the window of p resized to w × h with Pillow's bicubic filter
// (Image.resize, BICUBIC): across, rounded to bytes, then down. Down comes first
// only where h shrinks, by more than twice what w does (less than nothing where w grows),
// as observed of Pillow 13; earlier releases always filter across first.
// The window's sides are even. Each row is asked for once, and added to all the
// outputs that it has a part in.
func resize(p rows, w, h int, crop window) Picture {
	pw, ph := p.size()
	downFirst := ph > h && ph-h > 2*(pw-w)
	cols, lines := coefficients(pw, w, crop.left, crop.w), coefficients(ph, h, crop.top, crop.h)
	left, right := span(cols)
	for i := range cols {
		cols[i].first -= left
	}
	n := 3 * crop.w
	if downFirst {
		n = 3 * (right - left)
	}
	sums := make([]int64, n*len(lines)) // a row [n] for two rows of the window
	for i := range sums {
		sums[i] = half
	}
	a, b := make([]byte, n), make([]byte, n)
	done := 0 // lines that are complete
	for y, bottom := span(lines); y < bottom; y++ {
		row := p.row(y, left, right)
		if !downFirst {
			across(a, row, cols)
			row = a
		}
		for i := done; i < len(lines) && lines[i].first <= y; i++ {
			t, acc := lines[i], sums[n*i:][:len(row)]
			k := t.k[y-t.first]
			for j, v := range row {
				acc[j] += k * int64(v)
			}
			if y == t.first+len(t.k)-1 {
				done = i + 1
			}
		}
	}
	out := Picture{crop.w, crop.h, make([]byte, 3*crop.w*crop.h)}
	for i := range lines {
		pair := out.Pix[6*crop.w*i:][:6*crop.w]
		first, second := pair[:3*crop.w], pair[3*crop.w:]
		if !downFirst {
			a, b = first, second
		}
		for j, v := range sums[n*i:][:n] {
			a[j], b[j] = halves(v)
		}
		if downFirst {
			across(first, a, cols)
			across(second, b, cols)
		}
	}
	return out
}

// across filters row [W, 3] to dst [2·len(cols), 3].
func across(dst, row []byte, cols []taps) {
	for i, t := range cols {
		var r, g, b int64 = half, half, half
		s, k := row[3*t.first:][:3*len(t.k)], t.k
		for len(k) >= 2 && len(s) >= 6 { // two at a time: a quarter faster
			r += k[0]*int64(s[0]) + k[1]*int64(s[3])
			g += k[0]*int64(s[1]) + k[1]*int64(s[4])
			b += k[0]*int64(s[2]) + k[1]*int64(s[5])
			s, k = s[6:], k[2:]
		}
		if len(k) == 1 {
			r, g, b = r+k[0]*int64(s[0]), g+k[0]*int64(s[1]), b+k[0]*int64(s[2])
		}
		d := dst[6*i:][:6]
		d[0], d[3] = halves(r)
		d[1], d[4] = halves(g)
		d[2], d[5] = halves(b)
	}
}
