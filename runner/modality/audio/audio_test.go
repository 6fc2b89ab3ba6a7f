package audio

import (
	"math"
	"slices"
	"testing"

	"imagebind-llm/internal/golden"
	"imagebind-llm/runner/modality"
)

// tolerance is that of the features: quiet bins under the logarithm magnify
// what float32 and float64 round apart.
const tolerance = 5e-4

func TestReadGolden(t *testing.T) {
	want := golden.Open(t, "testdata/audio.safetensors")
	if len(want.Names()) != 12 {
		t.Fatalf("%d files", len(want.Names()))
	}
	for _, name := range want.Names() {
		t.Run(name, func(t *testing.T) {
			got, err := Read(t.Context(), golden.Bytes(t, "testdata/inputs/"+name), modality.Options{})
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(got.Shape, []int{clips, 1, bins, frames}) {
				t.Fatalf("shape %v", got.Shape)
			}
			t.Logf("off by %.2g", golden.Close(t, got.Floats, want.Tensor(t, name).Values, tolerance))
		})
	}
}

func TestResampleGolden(t *testing.T) {
	want := golden.Open(t, "testdata/audio_resampled.safetensors")
	for _, name := range want.Names() {
		t.Run(name, func(t *testing.T) {
			s, err := decode(t.Context(), golden.Bytes(t, "testdata/inputs/"+name), modality.Options{})
			if err != nil {
				t.Fatal(err)
			}
			r := newResampler(s.rate)
			var got []float32
			for c := range s.channels {
				channel := make([]float32, r.outLen(s.len()))
				r.resampleTo(channel, s, c, 0)
				got = append(got, channel...)
			}
			t.Logf("off by %.2g", golden.Close(t, got, want.Tensor(t, name).Values, 5e-5))
		})
	}
}

// TestResamplePart holds a part against the same samples of the whole.
func TestResamplePart(t *testing.T) {
	s := sound{rate: 11025, channels: 2, samples: make([]float32, 2*5000)}
	for i := range s.samples {
		s.samples[i] = float32(math.Sin(float64(i * i)))
	}
	r := newResampler(s.rate)
	whole := make([]float32, r.outLen(s.len()))
	r.resampleTo(whole, s, 1, 0)
	for _, from := range []int{0, 1, 639, 640, 5000, len(whole) - 1} {
		part := make([]float32, min(700, len(whole)-from))
		r.resampleTo(part, s, 1, from)
		golden.Close(t, part, whole[from:from+len(part)], 0)
	}
}

// TestClipStart holds the clips against those that the reference took
// (goldens' preprocess.json), and a duration that has no exact double.
func TestClipStart(t *testing.T) {
	for _, tt := range []struct {
		total int
		want  [clips]int
	}{
		{1600, [clips]int{0, 0, 0}},
		{32000, [clips]int{0, 0, 0}},
		{43210, [clips]int{0, 3736, 7473}},
		{40998, [clips]int{0, 2999, 5998}},
		{72000, [clips]int{0, 13333, 26666}},
		{80000, [clips]int{0, 16000, 32000}},
		{32096, [clips]int{0, 31, 63}}, // 2.006 s is a little less as a double: 32 and 64 are not reached
	} {
		for i, want := range tt.want {
			if got := clipStart(tt.total, i); got != want {
				t.Errorf("clip %d of %d samples starts at %d, want %d", i, tt.total, got, want)
			}
		}
	}
}

// TestLossless reads the same sound from another container.
func TestLossless(t *testing.T) {
	want := golden.Open(t, "testdata/audio.safetensors")
	for _, tt := range []struct{ file, name string }{
		{"speech_16k_mono.flac", "speech_16k_mono.wav"},
	} {
		got, err := Read(t.Context(), golden.Bytes(t, "testdata/"+tt.file), modality.Options{})
		if err != nil {
			t.Errorf("%s: %v", tt.file, err)
			continue
		}
		golden.Close(t, got.Floats, want.Tensor(t, tt.name).Values, tolerance)
	}
}
