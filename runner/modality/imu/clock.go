package imu

import (
	"slices"

	imagebind "imagebind-llm"
	"imagebind-llm/runner/modality"
)

// The rates that are read, in Hz. Ego4D's are about 200.
const minRate, maxRate = 5, 10000

// The rates by which the unit of times is guessed: a thousandfold, so that one
// unit fits, whose ends are rates that no sensor has.
const guessFrom, guessTo = 7, 7000

// gap is the longest step between two samples, in seconds, that is bridged.
const gap = 0.5

// level gives the trace a constant rate, which it returns in Hz: samples at
// times that the file gives are interpolated linearly to as many at equal
// distances. The times are gone then.
func (t *trace) level(o modality.Options) (hz float64, err error) {
	if t.len() < 2 {
		return 0, imagebind.Errorf(imagebind.Invalid, "the motion trace holds %d samples; at least %g s of them are needed", t.len(), shortest)
	}
	hz = o.Value(rate)
	if t.times != nil {
		if hz, err = t.measure(); err != nil {
			return 0, err
		}
	}
	switch length := float64(t.len()) / hz; {
	case length < shortest:
		return 0, imagebind.Errorf(imagebind.Invalid, "the motion trace is %.3g s long (%d samples at %.4g Hz); at least %g s are needed", length, t.len(), hz, shortest)
	case length > o.Limits.OrDefault().Seconds:
		return 0, tooLong(o)
	}
	if t.times != nil {
		t.interpolate()
	}
	return hz, nil
}

// measure returns the mean rate of the times, in Hz, having checked them. Where
// the file does not say their unit, it is the one that gives a usual rate.
func (t *trace) measure() (float64, error) {
	step := make([]float64, t.len()-1)
	for i := range step {
		step[i] = t.times[i+1] - t.times[i]
		if !(step[i] > 0) {
			return 0, imagebind.Errorf(imagebind.Invalid, "the time of sample %d, %v, is not after that of the one before, %v; sort the samples by time, or set rate", i+2, t.times[i+1], t.times[i])
		}
	}
	sorted := slices.Sorted(slices.Values(step))
	median := sorted[len(sorted)/2]
	unit := t.unit
	for _, u := range []float64{1, 1e-3, 1e-6, 1e-9} {
		if hz := 1 / (median * u); t.unit == 0 && hz >= guessFrom && hz < guessTo {
			unit = u
		}
	}
	if unit == 0 {
		return 0, imagebind.Errorf(imagebind.Invalid, "times that are %.4g apart are neither seconds nor milli-, micro- or nanoseconds of %d to %d samples a second; name the unit in the header, as in time_ms, or set rate", median, guessFrom, guessTo)
	}
	if hz := 1 / (median * unit); !(hz >= minRate && hz <= maxRate) {
		return 0, imagebind.Errorf(imagebind.Invalid, "the motion trace has %.4g samples a second; %d to %d are read", hz, minRate, maxRate)
	}
	for i, d := range step {
		if d*unit > gap {
			return 0, imagebind.Errorf(imagebind.Invalid, "the motion trace has a gap of %.4g s before sample %d; at most %g s are bridged: send the part before or after it", d*unit, i+2, gap)
		}
	}
	return float64(len(step)) / ((t.times[len(step)] - t.times[0]) * unit), nil
}

// interpolate replaces the samples by as many at equal distances.
func (t *trace) interpolate() {
	n := t.len()
	first, length := t.times[0], t.times[n-1]-t.times[0]
	var even [channels][]float32
	for c := range even {
		even[c] = make([]float32, n)
	}
	k := 0 // times[k] <= at, but for rounding, and k+1 is a sample
	for i := range n {
		at := first + length*float64(i)/float64(n-1)
		for k < n-2 && t.times[k+1] <= at {
			k++
		}
		w := float32(min(max((at-t.times[k])/(t.times[k+1]-t.times[k]), 0), 1))
		for c, v := range &t.values {
			even[c][i] = (1-w)*v[k] + w*v[k+1]
		}
	}
	t.values, t.times = even, nil
}
