package point

import (
	"math"
	"slices"
)

// An index is points in leaves: neighbours in space, by their place on a curve
// through a grid, with a box around each leaf. A leaf whose box is too far from
// a point to matter is passed over, so that farthest and nearest give what
// looking at every point gives, for a fraction of the work.
//
// A box's distance is computed in float32 by the operations of a point's, each
// of which rounds monotonically: it is never above that of a point within.
type index struct {
	x, y, z []float32 // [N], leaf after leaf
	id      []int32   // [N], of the points given; ascending within a leaf
	leaves  []leaf
}

type leaf struct {
	from, to int // in x, y, z and id
	lo, hi   [3]float32
}

const (
	fewest = 32   // points of a leaf: with fewer, boxes cost more than they save
	boxes  = 1024 // leaves at most: every search looks at all boxes
)

// newIndex copies points [N, 3].
func newIndex(points []float32) *index {
	n := len(points) / 3
	lo, hi := bounds(points)
	side := max(hi[0]-lo[0], hi[1]-lo[1], hi[2]-lo[2])
	scale := 0.0
	if side > 0 {
		scale = 1023 / float64(side)
	}
	keys := make([]uint64, n) // place on the curve, index
	for i := range keys {
		var code uint64
		for a := range 3 {
			code |= spread(uint64(float64(points[3*i+a]-lo[a])*scale)) << a
		}
		keys[i] = code<<32 | uint64(i)
	}
	slices.Sort(keys)
	x := &index{make([]float32, n), make([]float32, n), make([]float32, n), make([]int32, n), nil}
	for i, k := range keys {
		x.id[i] = int32(k)
	}
	each := max(fewest, (n+boxes-1)/boxes)
	for from := 0; from < n; from += each {
		l := leaf{from: from, to: min(from+each, n)}
		slices.Sort(x.id[l.from:l.to])
		for i := l.from; i < l.to; i++ {
			p := points[3*x.id[i] : 3*x.id[i]+3]
			x.x[i], x.y[i], x.z[i] = p[0], p[1], p[2]
		}
		for a, v := range [][]float32{x.x, x.y, x.z} {
			l.lo[a], l.hi[a] = slices.Min(v[l.from:l.to]), slices.Max(v[l.from:l.to])
		}
		x.leaves = append(x.leaves, l)
	}
	return x
}

func bounds(points []float32) (lo, hi [3]float32) {
	lo, hi = [3]float32(points), [3]float32(points)
	for i, v := range points {
		lo[i%3], hi[i%3] = min(lo[i%3], v), max(hi[i%3], v)
	}
	return lo, hi
}

// spread puts the 10 bits of v three apart.
func spread(v uint64) uint64 {
	v = (v | v<<16) & 0x030000ff
	v = (v | v<<8) & 0x0300f00f
	v = (v | v<<4) & 0x030c30c3
	return (v | v<<2) & 0x09249249
}

// squared is x²+y²+z². The conversions keep it from being fused, which would
// round otherwise on some machines.
func squared(x, y, z float32) float32 {
	return float32(x*x) + float32(y*y) + float32(z*z)
}

// distance returns the squared distance of the box, 0 within.
func (l *leaf) distance(x, y, z float32) float32 {
	return squared(max(l.lo[0]-x, x-l.hi[0], 0), max(l.lo[1]-y, y-l.hi[1], 0), max(l.lo[2]-z, z-l.hi[2], 0))
}

// farthest returns n points by their index, each the farthest from all before
// it: the first of equals, in float32, as the reference has it (pointbert/misc.py,
// fps), from start on.
func (x *index) farthest(n, start int) []int {
	const far = 1e10 // squared distances count up to here, as in the reference
	dist := make([]float32, len(x.id))
	for i := range dist {
		dist[i] = far
	}
	type peak struct {
		dist float32 // largest of the leaf
		id   int32   // where
		at   int
	}
	peaks := make([]peak, len(x.leaves))
	at := slices.Index(x.id, int32(start))
	for i, l := range x.leaves {
		peaks[i] = peak{far, x.id[l.from], l.from}
	}
	out := make([]int, 0, n)
	for {
		out = append(out, int(x.id[at]))
		if len(out) == n {
			return out
		}
		cx, cy, cz := x.x[at], x.y[at], x.z[at]
		best := peak{dist: -1}
		for i := range x.leaves {
			l, p := &x.leaves[i], &peaks[i]
			if l.distance(cx, cy, cz) < p.dist {
				xs, d := x.x[l.from:l.to], dist[l.from:l.to]
				ys, zs := x.y[l.from:l.to][:len(xs)], x.z[l.from:l.to][:len(xs)]
				d = d[:len(xs)]
				most, where := float32(-1), 0
				for j, px := range xs {
					v := min(d[j], squared(px-cx, ys[j]-cy, zs[j]-cz))
					d[j] = v
					if v > most {
						most, where = v, j
					}
				}
				*p = peak{most, x.id[l.from+where], l.from + where}
			}
			if p.dist > best.dist || p.dist == best.dist && p.id < best.id {
				best = *p
			}
		}
		at = best.at
	}
}

// A neighbour is a point near another.
type neighbour struct {
	dist float32 // squared
	id   int32
}

// nearest returns the k points nearest to c [3], fewer where there are fewer,
// the nearest first; of equals any, but always the same. It writes to near[:0].
func (x *index) nearest(near []neighbour, k int, c []float32) []neighbour {
	near = near[:0]
	limit := float32(math.MaxFloat32) // the distance to be below
	visit := func(l *leaf) {
		for i := l.from; i < l.to; i++ {
			d := squared(x.x[i]-c[0], x.y[i]-c[1], x.z[i]-c[2])
			if d >= limit {
				continue
			}
			if len(near) < k {
				near = append(near, neighbour{})
			}
			at := len(near) - 1
			for ; at > 0 && near[at-1].dist > d; at-- {
				near[at] = near[at-1]
			}
			near[at] = neighbour{d, x.id[i]}
			if len(near) == k {
				limit = near[k-1].dist
			}
		}
	}
	first := -1 // a leaf around c, for a low limit
	for i := range x.leaves {
		if x.leaves[i].distance(c[0], c[1], c[2]) == 0 {
			first = i
			visit(&x.leaves[i])
			break
		}
	}
	for i := range x.leaves {
		if i != first && x.leaves[i].distance(c[0], c[1], c[2]) < limit {
			visit(&x.leaves[i])
		}
	}
	return near
}
