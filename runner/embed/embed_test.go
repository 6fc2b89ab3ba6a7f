package embed

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"

	imagebind "imagebind-llm"
	"imagebind-llm/internal/golden"
	"imagebind-llm/runner/bundle"
	"imagebind-llm/runner/internal/testbundle"
	"imagebind-llm/runner/modality"
	"imagebind-llm/runner/modality/all"
)

func TestMain(m *testing.M) { testbundle.Main(m) }

const goldens = "../../testdata/golden/imagebind-tiny/"

func open(t testing.TB) *Encoders {
	t.Helper()
	return openWith(t, Options{})
}

func openWith(t testing.TB, o Options) *Encoders {
	t.Helper()
	e, err := Open(testbundle.Open(t, testbundle.ImageBind), all.Specs, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	if e.Dim() != 64 || !e.Has("image") || !e.Has("audio") || !e.Has("text") || !e.Has("depth") || e.Has("point_cloud") {
		t.Fatalf("dim %d, modalities %v", e.Dim(), e.of)
	}
	return e
}

// The reference's tensors through its encoders. 2e-6 is ten times what float32
// moves a unit vector.
func TestGolden(t *testing.T) {
	e := open(t)
	f := golden.Open(t, goldens+"goldens.safetensors")
	for _, tt := range []struct{ name, modality string }{
		{"vision_image", "image"}, {"vision_image_random", "image"}, {"vision_video", "video"}, {"audio", "audio"}, {"text", "text"},
		{"depth", "depth"}, {"thermal", "thermal"}, {"imu", "imu"},
	} {
		in := f.Tensor(t, tt.name+"/input")
		want := f.Tensor(t, tt.name+"/normalised")
		for b := range in.Shape[0] {
			t.Run(fmt.Sprint(tt.name, b), func(t *testing.T) {
				x := item(t, in, b, tt.modality)
				got, err := e.Embed(t.Context(), tt.modality, x)
				if err != nil {
					t.Fatal(err)
				}
				golden.Close(t, got, want.Values[b*64:][:64], 2e-6)
				if n := got.Norm(); math.Abs(n-1) > 1e-6 {
					t.Errorf("norm %v", n)
				}
			})
		}
	}
}

// item is entry b of a batch [B, …], as clips [S, …].
func item(t *testing.T, in golden.Tensor, b int, name string) imagebind.Tensor {
	t.Helper()
	spec, _ := all.ByName(name)
	n := imagebind.Size(in.Shape[1:])
	x := imagebind.Tensor{Shape: in.Shape[1:], Floats: in.Values[b*n:][:n]}
	if name == "image" { // [C, H, W] to two equal frames, as the model does: [C, 2, H, W]
		var frames []float32
		for c := range slices.Chunk(x.Floats, 224*224) {
			frames = append(append(frames, c...), c...)
		}
		x = imagebind.Tensor{Shape: spec.Encoder.Input, Floats: frames}
	}
	if len(x.Shape) == len(spec.Encoder.Input) {
		x.Shape = append([]int{1}, x.Shape...)
	}
	if spec.Encoder.Ints {
		x.Ints = make([]int64, len(x.Floats))
		for i, v := range x.Floats {
			x.Ints[i] = int64(v)
		}
		x.Floats = nil
	}
	return x
}

// Files to embeddings: preprocessing and encoder together.
func TestFiles(t *testing.T) {
	e := open(t)
	f := golden.Open(t, goldens+"from_files.safetensors")
	read := func(t *testing.T, name string, data []byte, o modality.Options) imagebind.Embedding {
		t.Helper()
		spec, ok := all.ByName(name)
		if !ok {
			t.Fatalf("no modality %s", name)
		}
		input, err := spec.Read(t.Context(), data, o)
		if err != nil {
			t.Fatal(err)
		}
		got, err := e.Embed(t.Context(), name, input)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	unit := func(v []float32) imagebind.Embedding {
		u := append(imagebind.Embedding(nil), v...)
		u.Normalize()
		return u
	}
	const (
		exact = 2e-6 // PNG, H.264: the input is the reference's to the last bit or two
		jpeg  = 2e-3 // another decoder's pixels (docs/numerics.md)
		sound = 5e-6 // what an fbank within 5e-4 moves a unit vector
	)
	program, _ := exec.LookPath("ffmpeg")
	folders := map[string]string{"image": "vision/testdata/inputs/", "audio": "audio/testdata/inputs/", "video": "vision/testdata/video/"}
	for _, name := range f.Names() {
		kind, file, ok := strings.Cut(name, "/")
		if !ok { // texts, below
			continue
		}
		t.Run(name, func(t *testing.T) {
			tol := exact
			switch {
			case kind == "audio":
				tol = sound
			case strings.HasSuffix(file, ".jpg"):
				tol = jpeg
			case kind == "video" && program == "":
				golden.Need(t, "ffmpeg", "wants ffmpeg")
			}
			data := golden.Bytes(t, "../modality/"+folders[kind]+file)
			got := read(t, kind, data, modality.Options{Reference: true, FFmpeg: program})
			t.Logf("largest difference %.2g", golden.Close(t, got, unit(f.Tensor(t, name).Values), tol))
		})
	}
	t.Run("text", func(t *testing.T) {
		var texts struct{ Cases []struct{ Text string } }
		golden.JSON(t, "../modality/text/testdata/clip_bpe.json", &texts)
		want := f.Tensor(t, "text_fb").Values
		if len(texts.Cases) != len(want)/64 {
			t.Fatalf("%d texts, %d embeddings", len(texts.Cases), len(want)/64)
		}
		for i, c := range texts.Cases {
			golden.Close(t, read(t, "text", []byte(c.Text), modality.Options{}), unit(want[i*64:][:64]), 2e-6)
		}
	})
}

// More clips than go through the encoder at once are averaged all the same, and
// the embeddings of many callers at once are those of one.
func TestManyClips(t *testing.T) {
	e := open(t)
	in := golden.Open(t, goldens+"goldens.safetensors").Tensor(t, "audio/input") // [2, 3, 1, 128, 204]
	clip := imagebind.Size(in.Shape[2:])
	clips := imagebind.Tensor{Shape: append([]int{2*16 + 3}, in.Shape[2:]...)}
	for i := range clips.Shape[0] {
		clips.Floats = append(clips.Floats, in.Values[i%6*clip:][:clip]...)
	}
	want := make([]float64, 64)
	for i := range clips.Shape[0] {
		out, err := e.sessions["audio"].Compute(t.Context(), map[string]imagebind.Tensor{"input": slice(clips, i, i+1)}, "embedding")
		if err != nil {
			t.Fatal(err)
		}
		for j, v := range out["embedding"].Floats {
			want[j] += float64(v)
		}
	}
	mean := make(imagebind.Embedding, 64)
	for j, v := range want {
		mean[j] = float32(v / float64(clips.Shape[0]))
	}
	mean.Normalize()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			got, err := e.Embed(t.Context(), "audio", clips)
			if err != nil {
				t.Error(err)
				return
			}
			golden.Close(t, got, mean, 2e-6)
		})
	}
	wg.Wait()
}

func TestRefuses(t *testing.T) {
	e := open(t)
	if _, err := e.Embed(t.Context(), "point_cloud", imagebind.Tensor{}); imagebind.KindOf(err) != imagebind.Unsupported {
		t.Errorf("a modality without encoder: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := e.Embed(ctx, "text", imagebind.NewInts(1, 77)); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	nan := imagebind.NewFloats(1, 3, 2, 224, 224)
	nan.Floats[5] = float32(math.NaN())
	if _, err := e.Embed(t.Context(), "image", nan); err == nil {
		t.Error("NaN was embedded")
	}
	func() {
		defer func() {
			if recover() == nil {
				t.Error("a wrong shape was taken")
			}
		}()
		_, _ = e.Embed(t.Context(), "image", imagebind.NewFloats(1, 3, 2, 224, 223))
	}()
}

// A bundle whose encoder takes another input than this program's reader makes
// is refused when it is opened.
func TestOpenRefuses(t *testing.T) {
	b := *testbundle.Open(t, testbundle.ImageBind)
	b.Encoders = append([]bundle.Encoder(nil), b.Encoders...)
	for i := range b.Encoders {
		if b.Encoders[i].Name == "audio" {
			b.Encoders[i].Input = []int{1, 128, 100}
		}
	}
	if e, err := Open(&b, all.Specs, Options{}); err == nil {
		e.Close()
		t.Error("it opened")
	} else if !strings.Contains(err.Error(), "audio") {
		t.Error(err)
	}
}
