// Package imu turns recordings of an accelerometer and a gyroscope into the
// input of ImageBind's IMU encoder. The reference has no loader for them (issues
// 48, 66 and 131 of facebookresearch/ImageBind ask for one), so the rules here
// are put together from what its authors published:
//
//   - A clip is 5 s long and 2000 steps, hence 400 Hz: the ImageBind paper
//     (arXiv 2305.05665), "Implementation details" and appendix B.1.
//   - The channels are the accelerometer's x, y, z, then the gyroscope's, and
//     their values are not normalised. This is inferred: it is the order in
//     which the paper names them, and that of IMU2CLIP, by the same company on
//     the same data (facebookresearch/imu2clip, extract_imu.py, load_imu), from
//     which come the resampler too and the zeros behind a short trace (padIMU).
//   - Units are m/s², gravity included, and rad/s. This is inferred: Ego4D's
//     page on its IMU files names none, but the values that it shows are GoPro's
//     whole numbers over 417 and 939, which are in these (gpmf-parser's README).
//
// table.go and names.go read text, array.go .npy, clock.go makes the times
// regular, resample.go brings them to the encoder's rate.
package imu

import (
	"context"
	"math"

	imagebind "imagebind-llm"
	"imagebind-llm/runner/modality"
)

const (
	channels = 6    // accelerometer x, y, z in m/s², gyroscope x, y, z in rad/s
	steps    = 2000 // of a clip
	seconds  = 5    // of a clip
	maxClips = 12   // S at most: a minute is covered whole
	shortest = 0.5  // seconds of a trace
)

// What senders may say of a trace.
var (
	rate = modality.Param{Name: "rate", Max: maxRate,
		Doc: "samples a second (Hz), instead of the file's time column; 0 means the time column"}
	inG = modality.Param{Name: "acc_in_g", IsSwitch: true,
		Doc: "the accelerometer's values are in g, not in m/s²"}
	inDegrees = modality.Param{Name: "gyro_in_degrees", IsSwitch: true,
		Doc: "the gyroscope's values are in degrees a second, not in rad/s"}
	window = modality.Param{Name: "window", Default: seconds, Min: 1, Max: 20,
		Doc: "seconds that a clip of 2000 steps lasts"}
)

// Spec is motion: clips of five seconds, [S, 6, 2000].
var Spec = modality.Spec{
	Name:   "imu",
	Part:   "imu_url",
	Media:  []string{"text/csv", "application/x-npy", "text/plain"},
	Params: []modality.Param{rate, inG, inDegrees, window},
	Encoder: modality.Encoder{
		Name:  "imu",
		Heads: 8,
		Input: []int{channels, steps},
		Stem:  modality.Patches{Weight: "imu_stem.proj.weight", Stride: []int{8}},
		Preprocessing: map[string]any{
			"sample_rate": steps / seconds, "clip_seconds": seconds, "max_clips": maxClips,
			"channels": names[:], "units": []string{"m/s^2", "rad/s"}, "normalization": "none", "padding": "zeros at the end",
		},
	},
	Read: Read,
}

// A trace is a recording.
type trace struct {
	times  []float64           // [N], rising; nil where the rate is known
	unit   float64             // seconds of 1 in times; 0 where the file does not say
	values [channels][]float32 // [N] each, finite
	scale  [channels]float64   // of a value to m/s² or rad/s; 0 where the file does not say
}

func (t *trace) len() int { return len(t.values[0]) }

// Read turns a recording into [S, 6, 2000]. One of up to a clip's length is
// one clip, with zeros at its end; of a longer one S clips are spread evenly
// from its start to its end, as many as cover it (paper, appendix B.1: "we
// uniformly sample multiple clips to cover the full length of the input"), but
// twelve at most.
func Read(ctx context.Context, data []byte, o modality.Options) (imagebind.Tensor, error) {
	t, err := decode(ctx, data, o)
	if err != nil {
		return imagebind.Tensor{}, err
	}
	hz, err := t.level(o)
	if err != nil {
		return imagebind.Tensor{}, err
	}
	if err := t.rescale(o); err != nil {
		return imagebind.Tensor{}, err
	}
	r := newResampler(hz, steps/o.Value(window))
	total := r.outLen(t.len())
	clips := min((total+steps-1)/steps, maxClips)
	x := imagebind.NewFloats(clips, channels, steps)
	for i := range clips {
		if err := ctx.Err(); err != nil {
			return imagebind.Tensor{}, err
		}
		from := 0
		if i > 0 {
			from = i * (total - steps) / (clips - 1)
		}
		r.clipTo(x.Floats[i*channels*steps:(i+1)*channels*steps], &t.values, from, min(total-from, steps))
	}
	return x, nil
}

// decode reads the file; its content decides the format.
func decode(ctx context.Context, data []byte, o modality.Options) (trace, error) {
	if err := ctx.Err(); err != nil {
		return trace{}, err
	}
	if hz := o.Value(rate); hz != 0 && hz < minRate {
		return trace{}, imagebind.Errorf(imagebind.Invalid, "rate is %v; it is %d to %d, or 0 where the file has a time column", hz, minRate, maxRate)
	}
	if len(data) == 0 {
		return trace{}, imagebind.Errorf(imagebind.Invalid, "the motion trace is empty")
	}
	switch media := modality.Sniff(data); media {
	case "application/x-npy":
		return decodeArray(data, o)
	case "text/plain":
		return decodeTable(ctx, string(data), o)
	default:
		return trace{}, imagebind.Errorf(imagebind.Unsupported, "the file is not a motion trace that can be read (its content is %s); send CSV as UTF-8 text, or .npy", media)
	}
}

// most returns how many samples a trace may have: the seconds allowed, at the
// rate that the sender says, or at the highest.
func most(o modality.Options) int {
	hz := o.Value(rate)
	if hz == 0 {
		hz = maxRate
	}
	return int(math.Ceil(o.Limits.OrDefault().Seconds * hz))
}

func tooLong(o modality.Options) error {
	return imagebind.Errorf(imagebind.TooLarge, "the motion trace is longer than the %g seconds allowed; send a part of it", o.Limits.OrDefault().Seconds)
}

// largest is the greatest value read, in any unit; no sensor says more.
const largest = 1e6

func believable(v float64) bool { return math.Abs(v) <= largest } // nor NaN

const gravity = 9.80665 // m/s² of 1 g (ISO 80000-3)

// rescale brings the values to m/s² and rad/s.
func (t *trace) rescale(o modality.Options) error {
	for c := range t.values {
		f, said, to := t.scale[c], inG, float64(gravity)
		if c >= 3 {
			said, to = inDegrees, math.Pi/180
		}
		if o.On(said) {
			if f != 0 && f != to {
				return imagebind.Errorf(imagebind.Invalid, "the file's header and %s name different units of %s; leave %s out", said.Name, names[c], said.Name)
			}
			f = to
		}
		if f == 0 || f == 1 {
			continue
		}
		for i, v := range t.values[c] {
			t.values[c][i] = float32(float64(v) * f)
		}
	}
	return nil
}
