package audio

import (
	"math"
	"math/bits"
)

// Frames of 25 ms every 10 ms; the Fourier transform has the next power of two.
const (
	frameLen   = 400
	frameShift = 160
	fftLen     = 512
)

// melLow is the lowest frequency of the filter bank, in Hz; the highest is 8000.
const melLow = 20

// minPower is float32's epsilon: the floor under the logarithm.
const minPower = 1.1920928955078125e-07

// A filterBank makes the features of torchaudio.compliance.kaldi.fbank as
// ImageBind calls it (data.py, waveform2melspec): Hann window, pre-emphasis
// 0.97, power spectrum, 128 mel bins, no dither, samples of -1..1. It is not
// safe for concurrent use.
type filterBank struct {
	x     [fftLen]float64
	power [fftLen / 2]float64
}

func newFilterBank() *filterBank { return &filterBank{} }

// hann is the symmetric Hann window.
var hann = func() (w [frameLen]float32) {
	for i := range w {
		w[i] = float32(0.5 - 0.5*math.Cos(2*math.Pi*float64(i)/(frameLen-1)))
	}
	return w
}()

// A triangle holds the weights of one mel bin, from a Fourier bin on. The bin
// at 8 kHz has no weight in any.
type triangle struct {
	first   int
	weights []float64
}

var triangles = func() (ts [bins]triangle) {
	mel := func(hz float64) float64 { return 1127 * math.Log(1+hz/700) }
	low := mel(melLow)
	step := (mel(rate/2) - low) / (bins + 1)
	for m := range ts {
		left := low + float64(m)*step
		for i := range fftLen / 2 {
			f := mel(float64(i) * rate / fftLen)
			w := min((f-left)/step, (left+2*step-f)/step)
			if w <= 0 {
				continue
			}
			if ts[m].weights == nil {
				ts[m].first = i
			}
			ts[m].weights = append(ts[m].weights, w)
		}
	}
	return ts
}()

// featuresTo fills dst [M=128, F=204] with the log-mel energies of wave, at
// least 400 samples; frames behind its end are 0.
func (b *filterBank) featuresTo(dst []float32, wave []float32) {
	clear(dst)
	n := min(1+(len(wave)-frameLen)/frameShift, frames)
	for f := range n {
		b.spectrum(wave[f*frameShift:][:frameLen])
		for m, t := range triangles {
			sum := 0.0
			for i, w := range t.weights {
				sum += w * b.power[t.first+i]
			}
			dst[m*frames+f] = float32(math.Log(max(sum, minPower)))
		}
	}
}

// spectrum computes the power of the frame's 256 lowest frequencies.
func (b *filterBank) spectrum(frame []float32) {
	sum := 0.0
	for _, v := range frame {
		sum += float64(v)
	}
	// Rounded to float32 at every step, as torch does: quiet bins beside a loud
	// one hold little else than such rounding.
	average := float32(sum / frameLen)
	prev := frame[0] - average
	for i, v := range frame {
		x := v - average
		b.x[i] = float64(float32(x-float32(0.97*prev)) * hann[i])
		prev = x
	}
	clear(b.x[frameLen:])

	// The even and odd samples are the parts of a complex signal half as long.
	const n = fftLen / 2
	var z [n]complex128
	for i := range n {
		z[reversed[i]] = complex(b.x[2*i], b.x[2*i+1])
	}
	for size := 2; size <= n; size *= 2 {
		half, step := size/2, fftLen/size
		for at := 0; at < n; at += size {
			lo, hi := z[at:at+half], z[at+half:at+size]
			for k := range half {
				t := roots[k*step] * hi[k]
				lo[k], hi[k] = lo[k]+t, lo[k]-t
			}
		}
	}
	for k := range n {
		a, c := z[k], z[(n-k)%n] // of the other half the conjugate counts
		even := complex((real(a)+real(c))/2, (imag(a)-imag(c))/2)
		odd := complex((imag(a)+imag(c))/2, (real(c)-real(a))/2) // divided by i
		x := even + roots[k]*odd
		b.power[k] = real(x)*real(x) + imag(x)*imag(x)
	}
}

// roots are exp(-2πi·k/512), reversed the bit-reversed indices of 8 bits.
var roots, reversed = func() (w [fftLen / 2]complex128, r [fftLen / 2]uint8) {
	for k := range w {
		sin, cos := math.Sincos(-2 * math.Pi * float64(k) / fftLen)
		w[k], r[k] = complex(cos, sin), bits.Reverse8(uint8(k))
	}
	return
}()
