package depth

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"image"
	"image/color"
	"image/png"
	"math"
	"slices"
	"strings"
	"testing"

	imagebind "imagebind-llm"
	"imagebind-llm/internal/golden"
	"imagebind-llm/runner/modality"
)

// Positions in the source are float32, in steps of 3e-5 near 300, and two
// neighbours may differ by 30: torch's sums in another order are farther apart
// than values of one size suggest.
const tol = 1e-4

func TestReadGolden(t *testing.T) {
	want := golden.Open(t, "testdata/depth.safetensors")
	for _, tt := range []struct {
		name string // of the tensor
		file string
		o    modality.Options
	}{
		{"wide.png", "wide.png", modality.Options{}},
		{"wide.png reference", "wide.png", modality.Options{Reference: true}},
		{"tall.png", "tall.png", modality.Options{}},
		{"tall.png realsense", "tall.png", modality.Options{Params: modality.Params{"baseline": 0.095, "focal": 691.584229}}},
		{"depth16_320x240.png", "depth16_320x240.png", modality.Options{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Read(t.Context(), golden.Bytes(t, "testdata/"+tt.file), tt.o)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(got.Shape, []int{1, 1, side, side}) {
				t.Fatalf("shape %v", got.Shape)
			}
			golden.Close(t, golden.Every(7, got.Floats, side), want.Tensor(t, tt.name).Values, tol)
		})
	}
}

// plane makes a float map of one pixel, so that no resizing mixes values.
func plane(v float32) []byte { return pfm("1 1", v) }

// pfm makes a float map of any size, the bottom row first.
func pfm(size string, values ...float32) []byte {
	b := []byte("Pf\n" + size + "\n-1\n")
	for _, v := range values {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(v))
	}
	return b
}

func grey(t testing.TB, deep bool, v uint16) []byte {
	t.Helper()
	r := image.Rect(0, 0, 3, 3)
	var img image.Image
	if deep {
		g := image.NewGray16(r)
		for i := range 9 {
			g.SetGray16(i%3, i/3, color.Gray16{Y: v})
		}
		img = g
	} else {
		g := image.NewGray(r)
		for i := range g.Pix {
			g.Pix[i] = byte(v)
		}
		img = g
	}
	var b bytes.Buffer
	if err := png.Encode(&b, img); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestUnits: the same distance in any unit is the same input.
func TestUnits(t *testing.T) {
	small := modality.Limits{Smallest: 1}
	norm := func(disparity float64) float32 { return float32((disparity/most - mean) / std) }
	at := func(m float64) float32 { return norm(0.075 * kinect / (asTrained * m)) }
	for _, tt := range []struct {
		name   string
		data   []byte
		params modality.Params
		want   float32
	}{
		{"2000 mm in 16 bits", grey(t, true, 2000), nil, at(2)},
		{"2 m as a float", plane(2), nil, at(2)},
		{"2000 mm as a float", plane(2000), modality.Params{"scale": 0.001}, at(2)},
		{"SUN RGB-D's bits", grey(t, true, 16000), modality.Params{"scale": 0.000125}, at(2)},
		{"5 mm steps", grey(t, true, 400), modality.Params{"scale": 0.005}, at(2)},
		{"8 bits of 2 cm", grey(t, false, 100), modality.Params{"scale": 0.02}, at(2)},
		{"twice the baseline", plane(2), modality.Params{"baseline": 0.15}, norm(0.15 * kinect / 16)},
		{"half the focal length", plane(2), modality.Params{"focal": kinect / 2}, at(4)},
		{"farther than 50 of theirs", plane(7), nil, at(50. / asTrained)},
		{"far away", plane(99), nil, at(50. / asTrained)},
		{"infinite", plane(float32(math.Inf(1))), nil, at(50. / asTrained)},
		{"nearer than 75 pixels", plane(0.01), nil, norm(most)},
	} {
		got, err := Read(t.Context(), tt.data, modality.Options{Limits: small, Params: tt.params})
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		for _, v := range got.Floats {
			if math.Abs(float64(v-tt.want)) > tol {
				t.Errorf("%s: %v, want %v", tt.name, v, tt.want)
				break
			}
		}
	}
}

func TestRefused(t *testing.T) {
	small := modality.Options{Limits: modality.Limits{Smallest: 1}}
	for _, tt := range []struct {
		name string
		data []byte
		o    modality.Options
		kind imagebind.Kind
		want string
	}{
		{"empty", nil, small, imagebind.Invalid, "empty; a depth map"},
		{"text", []byte("near, far"), small, imagebind.Unsupported, "not a depth map that can be read"},
		{"no depth at all", grey(t, true, 0), small, imagebind.Invalid, "no pixel of the depth map has a depth"},
		{"not a number", plane(float32(math.NaN())), small, imagebind.Invalid, "no pixel"},
		{"negative", plane(-1), small, imagebind.Invalid, "no pixel"},
		{"millimetres as floats", pfm("2 2", 0, 800, 2000, 5000), small, imagebind.Invalid, "nearest depth of the depth map is 800 m; set scale"},
		{"8 bits", grey(t, false, 100), small, imagebind.Invalid, "set scale"},
		{"one pixel", plane(1), modality.Options{}, imagebind.Invalid, "at least 2"},
		{"large", grey(t, true, 100), modality.Options{Limits: modality.Limits{Pixels: 8}}, imagebind.TooLarge, "3 × 3"},
	} {
		_, err := Read(t.Context(), tt.data, tt.o)
		if err == nil || imagebind.KindOf(err) != tt.kind || !strings.Contains(imagebind.MessageOf(err), tt.want) {
			t.Errorf("%s: error is %v (kind %v), want %q", tt.name, err, imagebind.KindOf(err), tt.want)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Read(ctx, plane(1), small); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: error is %v", err)
	}
}

// TestMissing: a hole is the mean, and no NaN of a file gets through.
func TestMissing(t *testing.T) {
	nan := float32(math.NaN())
	got, err := Read(t.Context(), pfm("2 2", nan, 0, -3, 2), modality.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for i, v := range got.Floats {
		if math.IsNaN(float64(v)) {
			t.Fatalf("value %d is NaN", i)
		}
	}
	// The hole that is NaN is at the bottom left.
	if v := got.Floats[(side-1)*side]; math.Abs(float64(v)) > tol {
		t.Errorf("a hole is %v, want 0", v)
	}
}

func FuzzRead(f *testing.F) {
	f.Add(plane(2))
	f.Add(grey(f, true, 2000))
	f.Fuzz(func(t *testing.T, data []byte) {
		x, err := Read(t.Context(), data, modality.Options{Limits: modality.Limits{Pixels: 1 << 12, Smallest: 1}})
		if err != nil {
			if imagebind.KindOf(err) == imagebind.Internal {
				t.Fatal(err)
			}
			return
		}
		for _, v := range x.Floats {
			if !(v > -2 && v < 33) { // (0 - mean)/std to (1 - mean)/std
				t.Fatal(v)
			}
		}
	})
}

func BenchmarkRead(b *testing.B) {
	img := image.NewGray16(image.Rect(0, 0, 640, 480))
	for i := range 640 * 480 {
		img.SetGray16(i%640, i/640, color.Gray16{Y: uint16(800 + 5*(i%640) + i/640 + i*i%7)})
	}
	var buf bytes.Buffer
	if err := png.Encode(&buf, img); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := Read(b.Context(), buf.Bytes(), modality.Options{}); err != nil {
			b.Fatal(err)
		}
	}
}
