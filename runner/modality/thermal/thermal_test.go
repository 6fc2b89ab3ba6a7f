package thermal

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

const (
	exact = 1e-7      // bytes are equal; their division by 255 rounds apart at most
	jpeg  = 2.0 / 255 // inverse DCTs round apart, and resizing may add a step
)

func TestReadGolden(t *testing.T) {
	want := golden.Open(t, "testdata/thermal.safetensors")
	for _, tt := range []struct {
		name   string // of the tensor
		file   string
		params modality.Params
		tol    float64
	}{
		{"grey.png", "grey.png", nil, exact},
		{"grey.jpg", "grey.jpg", nil, jpeg},
		{"colour.png", "colour.png", nil, exact},
		{"counts.png", "counts.png", nil, exact},
		{"counts.png 21000 to 24000", "counts.png", modality.Params{"low": 21000, "high": 24000}, exact},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Read(t.Context(), golden.Bytes(t, "testdata/"+tt.file), modality.Options{Params: tt.params})
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(got.Shape, []int{1, 1, side, side}) {
				t.Fatalf("shape %v", got.Shape)
			}
			golden.Close(t, golden.Every(7, got.Floats, side), want.Tensor(t, tt.name).Values, tt.tol)
		})
	}
}

// degrees makes a float map [1, N].
func degrees(values ...float32) []byte {
	b := []byte("Pf\n" + string(rune('0'+len(values))) + " 1\n-1\n")
	for _, v := range values {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(v))
	}
	return b
}

func TestPicture(t *testing.T) {
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	header := "{'descr': '|u1', 'fortran_order': False, 'shape': (1, 3), }\n"
	npy := append([]byte("\x93NUMPY\x01\x00"+string(rune(len(header)))+"\x00"+header), 0, 100, 255)
	for _, tt := range []struct {
		name   string
		data   []byte
		params modality.Params
		want   []byte
	}{
		{"degrees", degrees(20, 25, 30), nil, []byte{0, 128, 255}},
		{"degrees, said", degrees(20, 25, 30), modality.Params{"low": 20, "high": 40}, []byte{0, 64, 128}},
		{"below zero", degrees(-20, 0), modality.Params{"low": -20}, []byte{0, 255}},
		{"flat", degrees(20, 20), nil, []byte{0, 0}},
		{"no numbers among them", degrees(nan, 1, 3, inf), nil, []byte{0, 0, 255, 255}},
		{"bytes stay", npy, nil, []byte{0, 100, 255}},
		{"extremes", degrees(-math.MaxFloat32, 0, math.MaxFloat32), nil, []byte{0, 128, 255}},
	} {
		p, err := picture(t.Context(), tt.data, modality.Options{Params: tt.params})
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		var got []byte
		for i := 0; i < len(p.Pix); i += 3 {
			got = append(got, p.Pix[i])
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

// TestPercentiles: a hundredth at either end does not count.
func TestPercentiles(t *testing.T) {
	pix := make([]float32, 1000)
	for i := range pix {
		pix[i] = float32(20000 + i*7%1000)
	}
	if from, to := percentiles(pix); from != 20010 || to != 20990 {
		t.Errorf("%v to %v, want 20010 to 20990", from, to)
	}
	for i := range 999 {
		pix[i] = 5
	}
	if from, to := percentiles(pix); from != 5 || to != float64(pix[999]) {
		t.Errorf("flat but for a spot: %v to %v", from, to)
	}
}

func TestRefused(t *testing.T) {
	nan := float32(math.NaN())
	grey := golden.Bytes(t, "testdata/grey.png")
	for _, tt := range []struct {
		name string
		data []byte
		o    modality.Options
		kind imagebind.Kind
		want string
	}{
		{"empty", nil, modality.Options{}, imagebind.Invalid, "empty"},
		{"text", []byte("hot"), modality.Options{}, imagebind.Unsupported, "text/plain"},
		{"cut", grey[:200], modality.Options{}, imagebind.Invalid, "PNG"},
		{"cut counts", golden.Bytes(t, "testdata/counts.png")[:200], modality.Options{}, imagebind.Invalid, "PNG"},
		{"no number", degrees(nan, nan), modality.Options{}, imagebind.Invalid, "no pixel of the thermal picture is a number"},
		{"high below low", degrees(1, 2), modality.Options{Params: modality.Params{"low": 5}}, imagebind.Invalid, "low is 5 and high 0"},
		{"range of bytes", grey, modality.Options{Params: modality.Params{"high": 200}}, imagebind.Invalid, "8 bits a channel"},
		{"large", grey, modality.Options{Limits: modality.Limits{Pixels: 100}}, imagebind.TooLarge, "160 × 110"},
		{"large counts", golden.Bytes(t, "testdata/counts.png"), modality.Options{Limits: modality.Limits{Side: 100}}, imagebind.TooLarge, "160 × 110"},
	} {
		_, err := Read(t.Context(), tt.data, tt.o)
		if err == nil || imagebind.KindOf(err) != tt.kind || !strings.Contains(imagebind.MessageOf(err), tt.want) {
			t.Errorf("%s: error is %v (kind %v), want %q", tt.name, err, imagebind.KindOf(err), tt.want)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, data := range [][]byte{grey, degrees(1, 2)} {
		if _, err := Read(ctx, data, modality.Options{}); !errors.Is(err, context.Canceled) {
			t.Errorf("canceled: error is %v", err)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add(degrees(1, 2, 3))
	f.Add(golden.Bytes(f, "testdata/grey.jpg"))
	f.Fuzz(func(t *testing.T, data []byte) {
		x, err := Read(t.Context(), data, modality.Options{Limits: modality.Limits{Pixels: 1 << 15}})
		if err != nil {
			if imagebind.KindOf(err) == imagebind.Internal {
				t.Fatal(err)
			}
			return
		}
		for _, v := range x.Floats {
			if !(v >= 0 && v <= 1) {
				t.Fatal(v)
			}
		}
	})
}

func BenchmarkRead(b *testing.B) {
	img := image.NewGray16(image.Rect(0, 0, 640, 480))
	for i := range 640 * 480 {
		img.SetGray16(i%640, i/640, color.Gray16{Y: uint16(21000 + 2*(i%640) + i/640 + i*i%7)})
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
