package audio

import "math"

// A resampler turns one rate into 16 kHz as torchaudio does (functional.resample:
// a sinc with a Hann window, lowpass_filter_width 6, rolloff 0.99).
type resampler struct {
	orig, out int // the rates by their common divisor: orig samples become out
	// Output out·q + i is the sum over k of taps[i][k] times the sample at
	// orig·q + first[i] + k; 0 outside the sound. Nil where nothing changes.
	taps  [][]float32
	first []int
}

func newResampler(from int) *resampler {
	g := gcd(from, rate)
	r := &resampler{orig: from / g, out: rate / g}
	if r.orig == r.out {
		return r
	}
	const width, rolloff = 6, 0.99
	orig, out := float32(r.orig), float32(r.out)
	base := float64(min(r.orig, r.out)) * rolloff
	reach := width * float64(r.orig) / base // in samples
	pad := int(math.Ceil(reach))
	scale := float32(base / float64(r.orig))
	r.taps, r.first = make([][]float32, r.out), make([]int, r.out)
	for i := range r.out {
		center := float64(i) * float64(r.orig) / float64(r.out)
		first := max(int(math.Ceil(center-reach)), -pad)
		last := min(int(math.Floor(center+reach)), r.orig+pad-1)
		k := make([]float32, last-first+1)
		for j := range k { // in float32, rounded at every step, as torchaudio computes
			t := float32(float32(-i)/out) + float32(float32(first+j)/orig)
			t = min(max(float32(t*float32(base)), -width), width)
			angle := float32(float32(t*math.Pi)/width) / 2
			w := float32(math.Cos(float64(angle)))
			w = float32(float32(w*w) * scale)
			if t *= math.Pi; t != 0 {
				w = float32(float32(math.Sin(float64(t)))/t) * w
			}
			k[j] = w
		}
		r.taps[i], r.first[i] = k, first
	}
	return r
}

// outLen returns the number of samples that n become: ⌈n·out/orig⌉.
func (r *resampler) outLen(n int) int { return (n*r.out + r.orig - 1) / r.orig }

// resampleTo fills dst with the resampled channel c of s, from its sample from on.
func (r *resampler) resampleTo(dst []float32, s sound, c, from int) {
	if r.taps == nil {
		for i := range dst {
			dst[i] = s.samples[(from+i)*s.channels+c]
		}
		return
	}
	n := s.len()
	for j := range dst {
		q, i := (from+j)/r.out, (from+j)%r.out
		taps, at := r.taps[i], q*r.orig+r.first[i]
		if at < 0 {
			taps, at = taps[min(-at, len(taps)):], 0
		}
		taps = taps[:min(len(taps), max(n-at, 0))]
		var sum float32
		for k, x := 0, at*s.channels+c; k < len(taps); k, x = k+1, x+s.channels {
			sum = float32(float64(taps[k])*float64(s.samples[x]) + float64(sum))
		}
		dst[j] = sum
	}
}

func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}
