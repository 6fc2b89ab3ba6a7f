package vision

import "math"

// A window is a part of a picture, in pixels.
type window struct{ left, top, w, h int }

// precision is the number of fraction bits of a coefficient (Pillow,
// libImaging/Resample.c, PRECISION_BITS).
const precision = 32 - 8 - 2

// taps are the source samples that make one output sample: first and those
// behind it, by their fixed-point coefficients.
type taps struct {
	first int
	k     []int32
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

// coefficients returns the taps of the outputs from..from+n of a line that is
// resized from in to out samples. Where it shrinks, the kernel widens
// (antialiasing); at the borders it is cut and its weights are normalized again.
func coefficients(in, out, from, n int) []taps {
	scale := float64(in) / float64(out)
	wide := max(scale, 1)
	support := 2 * wide
	ts := make([]taps, n)
	w := make([]float64, 0, 2*int(math.Ceil(support))+1)
	for i := range ts {
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
		k := make([]int32, len(w))
		for j, v := range w {
			if sum != 0 {
				v /= sum
			}
			v = float64(v * (1 << precision))
			if v < 0 {
				k[j] = int32(v - 0.5)
			} else {
				k[j] = int32(v + 0.5)
			}
		}
		ts[i] = taps{first, k}
	}
	return ts
}

// clip8 rounds a fixed-point sum to a byte.
func clip8(v int32) byte { return byte(min(max(v>>precision, 0), 255)) }

// span returns the source samples first..last that the taps need.
func span(ts []taps) (first, last int) {
	end := ts[len(ts)-1]
	return ts[0].first, end.first + len(end.k)
}

// resize returns the window of p resized to w × h with Pillow's bicubic filter
// (Image.resize, BICUBIC): across, rounded to bytes, then down. Down comes first
// only where h shrinks, by more than twice what w does (less than nothing where w grows),
// as observed of Pillow 13; earlier releases always filter across first.
func resize(p Picture, w, h int, crop window) Picture {
	cols := coefficients(p.W, w, crop.left, crop.w)
	rows := coefficients(p.H, h, crop.top, crop.h)
	if p.H > h && p.H-h > 2*(p.W-w) {
		first, last := span(cols)
		p = vertical(p, rows, first, last)
		for i := range cols {
			cols[i].first -= first
		}
		return horizontal(p, cols, 0, p.H)
	}
	first, last := span(rows)
	p = horizontal(p, cols, first, last)
	for i := range rows {
		rows[i].first -= first
	}
	return vertical(p, rows, 0, p.W)
}

const half = 1 << (precision - 1) // rounds

// horizontal filters the rows first..last of p.
func horizontal(p Picture, cols []taps, first, last int) Picture {
	out := Picture{len(cols), last - first, make([]byte, 3*len(cols)*(last-first))}
	for y := range out.H {
		src, dst := p.Pix[3*p.W*(first+y):][:3*p.W], out.Pix[3*out.W*y:][:3*out.W]
		for x, t := range cols {
			var r, g, b int32 = half, half, half
			s := src[3*t.first : 3*(t.first+len(t.k))]
			for _, k := range t.k {
				r += k * int32(s[0])
				g += k * int32(s[1])
				b += k * int32(s[2])
				s = s[3:]
			}
			dst[3*x], dst[3*x+1], dst[3*x+2] = clip8(r), clip8(g), clip8(b)
		}
	}
	return out
}

// vertical filters the columns first..last of p.
func vertical(p Picture, rows []taps, first, last int) Picture {
	out := Picture{last - first, len(rows), make([]byte, 3*(last-first)*len(rows))}
	n := 3 * out.W
	acc := make([]int32, n)
	for y, t := range rows {
		for i := range acc {
			acc[i] = half
		}
		for j, k := range t.k {
			for i, v := range p.Pix[3*(p.W*(t.first+j)+first):][:n] {
				acc[i] += k * int32(v)
			}
		}
		for i, v := range acc {
			out.Pix[n*y+i] = clip8(v)
		}
	}
	return out
}
