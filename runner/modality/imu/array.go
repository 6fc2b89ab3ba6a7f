package imu

import (
	"slices"

	imagebind "imagebind-llm"
	"imagebind-llm/internal/format/npy"
	"imagebind-llm/runner/modality"
)

// decodeArray reads numpy's [6, N] or [N, 6]; [6, 6] is channels first, as the
// encoder's input is. The rate is the sender's to say.
func decodeArray(data []byte, o modality.Options) (trace, error) {
	x, err := npy.Parse(data)
	if err != nil {
		return trace{}, err
	}
	if len(x.Shape) != 2 || !slices.Contains(x.Shape, channels) {
		return trace{}, imagebind.Errorf(imagebind.Invalid, "the array has shape %v; a motion trace has [6, N] or [N, 6]: accelerometer x, y, z and gyroscope x, y, z", x.Shape)
	}
	if o.Value(rate) == 0 {
		return trace{}, imagebind.Errorf(imagebind.Invalid, "a .npy file says no times; set rate, its samples a second (%d where it is the encoder's input already)", steps/seconds)
	}
	n := imagebind.Size(x.Shape) / channels
	if n > most(o) {
		return trace{}, tooLong(o)
	}
	all, err := x.Floats()
	if err != nil {
		return trace{}, imagebind.Errorf(imagebind.Invalid, "the .npy file cannot be read: %w", err)
	}
	var t trace
	for c := range t.values {
		t.values[c] = make([]float32, n)
		for i := range n {
			v := all[c*n:][i]
			if x.Shape[0] != channels {
				v = all[i*channels+c]
			}
			if !believable(float64(v)) {
				return trace{}, imagebind.Errorf(imagebind.Invalid, "%s of sample %d is %v; values are numbers of up to a million", names[c], i+1, v)
			}
			t.values[c][i] = v
		}
	}
	return t, nil
}
