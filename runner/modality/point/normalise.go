package point

import "math"

// farthest is the largest coordinate: squares of differences must fit a float32.
const farthest = 1e15

// A cloud within these bounds is left as it is: so far ULIP's training shifts and
// scales clouds of mean 0 and largest norm 1 (salesforce/ULIP, data/dataset_3d.py,
// shift_point_cloud and random_scale_point_cloud).
const (
	shifted        = 0.1       // largest mean of an axis
	shrunk, scaled = 0.8, 1.25 // largest distance from the mean
)

// normaliseTo writes points [N, 3] to dst with mean 0 and largest norm 1, as
// Point-Bind prepares ModelNet (data/dataset_3d.py, pc_normalize), or unchanged
// where that is about so already: the reference's loader changes nothing, and
// its files come so. Points in one place go to the origin.
func normaliseTo(dst, points []float64) {
	n := len(points) / 3
	var mean [3]float64
	for i := range n {
		for a := range 3 {
			mean[a] += points[3*i+a]
		}
	}
	for a := range mean {
		mean[a] /= float64(n)
	}
	largest := 0.0
	for i := range n {
		x, y, z := points[3*i]-mean[0], points[3*i+1]-mean[1], points[3*i+2]-mean[2]
		largest = max(largest, math.Sqrt(x*x+y*y+z*z))
	}
	if max(math.Abs(mean[0]), math.Abs(mean[1]), math.Abs(mean[2])) <= shifted && largest >= shrunk && largest <= scaled {
		copy(dst, points)
		return
	}
	if largest == 0 {
		largest = 1
	}
	for i := range points {
		dst[i] = (points[i] - mean[i%3]) / largest
	}
}

// floats rounds to float32.
func floats(v []float64) []float32 {
	f := make([]float32, len(v))
	for i := range v {
		f[i] = float32(v[i])
	}
	return f
}
