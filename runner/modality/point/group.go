package point

import "fmt"

// Group returns [groups, size+1, 3] of points [N, 3], N at least 1: of each
// group its centre, then its nearest points less the centre, the nearest first.
// Centres are farthest points from start on; where there are fewer points than
// groups, the first point repeats (as in the reference), and where there are
// fewer than size, the nearest: the encoder takes a group's maximum.
func Group(points []float32, groups, size, start int) []float32 {
	if n := len(points) / 3; n == 0 || len(points)%3 != 0 || start < 0 || start >= n {
		panic(fmt.Sprintf("point: %d values and start %d; [N, 3] with N at least 1 and a start below N is wanted", len(points), start))
	}
	x := newIndex(points)
	out := make([]float32, 0, groups*(size+1)*3)
	near := make([]neighbour, 0, size)
	for _, c := range x.farthest(groups, start) {
		centre := points[3*c : 3*c+3]
		out = append(out, centre...)
		near = x.nearest(near, size, centre)
		for i := range size {
			n := near[0]
			if i < len(near) {
				n = near[i]
			}
			for a := range 3 {
				out = append(out, points[3*n.id+int32(a)]-centre[a])
			}
		}
	}
	return out
}
