package point

import (
	"math"
	"slices"
)

// surface returns n points spread evenly over the triangles of c, or its
// vertices where they have no area. The same mesh gives the same points: the
// i-th lies where the areas, summed, reach (i+½)/n, and within its triangle
// where the i-th step of a two-dimensional golden ratio falls (Roberts, "The
// Unreasonable Effectiveness of Quasirandom Sequences", 2018).
func surface(c cloud, n int) []float64 {
	sum := make([]float64, len(c.faces)/3) // areas up to and with a triangle
	total := 0.0
	for i := range sum {
		_, u, v := c.triangle(i)
		total += math.Sqrt(sq(u[1]*v[2]-u[2]*v[1])+sq(u[2]*v[0]-u[0]*v[2])+sq(u[0]*v[1]-u[1]*v[0])) / 2
		sum[i] = total
	}
	if total == 0 {
		return c.points
	}
	points := make([]float64, 0, 3*n)
	for i := range n {
		at, _ := slices.BinarySearch(sum, (float64(i)+0.5)/float64(n)*total)
		_, s := math.Modf(float64(i+1) * 0.7548776662466927)
		_, t := math.Modf(float64(i+1) * 0.5698402909980532)
		if s+t > 1 { // the other half of the parallelogram
			s, t = 1-s, 1-t
		}
		a, u, v := c.triangle(min(at, len(sum)-1))
		for k := range 3 {
			points = append(points, a[k]+s*u[k]+t*v[k])
		}
	}
	return points
}

func sq(x float64) float64 { return x * x }

// triangle returns a corner and the two sides from there.
func (c cloud) triangle(i int) (a, u, v [3]float64) {
	f := c.faces[3*i : 3*i+3]
	for k := range 3 {
		a[k] = c.points[3*f[0]+int32(k)]
		u[k], v[k] = c.points[3*f[1]+int32(k)]-a[k], c.points[3*f[2]+int32(k)]-a[k]
	}
	return a, u, v
}
