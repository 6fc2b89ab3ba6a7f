package imu

import "math"

// The filter is torchaudio's default (functional.resample: a sinc within a Hann
// window), which IMU2CLIP resamples Ego4D with: its zero crossings on a side,
// and where it cuts, of the lower rate's half.
const width, rolloff = 6, 0.99

// A resampler turns a constant rate into another, and leaves samples of the
// wanted rate as they are. Unlike torchaudio's it takes
// any rates, not only whole ones; outside a trace it goes on with its first and
// its last sample, where torchaudio has zeros, and its weights sum to 1, which
// torchaudio's only nearly do: the accelerometer of a body at rest says
// 9.81 m/s² all the time, and must neither ring nor change.
type resampler struct {
	ratio float64 // input samples of an output sample
	cut   float64 // the filter's edge, of the input's half rate
}

func newResampler(from, to float64) resampler {
	r := resampler{from / to, rolloff * min(1, to/from)}
	if math.Abs(r.ratio-1) < 1e-6 { // as near as a measured rate comes
		r.ratio = 1
	}
	return r
}

// outLen returns the number of samples that n become: ⌈n/ratio⌉, but for a
// thousandth of a sample, as a rate that is measured is not exact.
func (r resampler) outLen(n int) int {
	return max(int(math.Ceil(float64(n)/r.ratio-1e-3)), 1)
}

// clipTo fills the first n steps of each channel of dst [6, 2000] with the
// resampled x [6, N], from its output sample from on. Downsampling filters what
// the lower rate cannot hold.
func (r resampler) clipTo(dst []float32, x *[channels][]float32, from, n int) {
	if r.ratio == 1 {
		for c, v := range x {
			copy(dst[c*steps:c*steps+n], v[from:])
		}
		return
	}
	last := len(x[0]) - 1
	reach := width / r.cut
	taps := make([]float64, int(2*reach)+2)
	for j := range n {
		center := float64(from+j) * r.ratio
		first := int(math.Ceil(center - reach))
		w := taps[:int(math.Floor(center+reach))-first+1]
		var total float64
		for k := range w {
			w[k] = kernel((float64(first+k) - center) * r.cut)
			total += w[k]
		}
		for c := range x {
			var sum float64
			for k, v := range w {
				sum += v * float64(x[c][min(max(first+k, 0), last)])
			}
			dst[c*steps+j] = float32(sum / total)
		}
	}
}

// kernel is the filter at t zero crossings from its middle.
func kernel(t float64) float64 {
	if t == 0 {
		return 1
	}
	w := math.Cos(math.Pi / 2 * t / width)
	return w * w * math.Sin(math.Pi*t) / (math.Pi * t)
}
