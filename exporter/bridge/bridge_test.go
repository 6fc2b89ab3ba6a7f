package bridge

import (
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	imagebind "imagebind-llm"
	"imagebind-llm/exporter/checkpoint"
	"imagebind-llm/exporter/graph"
	"imagebind-llm/exporter/nn"
	"imagebind-llm/internal/format"
	"imagebind-llm/internal/golden"
	"imagebind-llm/internal/ort"
	"imagebind-llm/runner/bundle"
)

// golden data of the reference for a small LLaMA and its adapters, and of the
// embeddings that their cases mix; a README in each folder says what made it.
const (
	tiny     = "../../testdata/golden/llama-adapter-tiny"
	encoders = "../../testdata/golden/imagebind-tiny"
)

const (
	width, adapted = 80, 4
	tolerance      = 1e-5 // float32 sums in another order
)

func openTiny(t testing.TB, variant string) (*checkpoint.LLaMA, *checkpoint.Checkpoint) {
	t.Helper()
	base, err := checkpoint.OpenLLaMA(filepath.Join(tiny, "7B"), "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { base.Close() })
	adapter, err := checkpoint.Open(filepath.Join(tiny, "adapter-"+variant+".pth"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { adapter.Close() })
	return base, adapter
}

// session exports a bridge and opens it.
func session(t testing.TB, base *checkpoint.LLaMA, adapter *checkpoint.Checkpoint, o Options) (*ort.Session, bundle.Bridge) {
	t.Helper()
	if _, err := ort.Load(""); err != nil {
		golden.Need(t, "ort", "wants onnxruntime: "+err.Error())
	}
	g, b, err := Build(base, adapter, adapted, o)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "bridge.onnx")
	if err := g.Save(path, nil); err != nil {
		t.Fatal(err)
	}
	s, err := ort.Open(path, ort.Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s, b
}

func compute(t testing.TB, s *ort.Session, rows ...imagebind.Embedding) (query, injection []float32) {
	t.Helper()
	in := imagebind.Tensor{Shape: []int{len(rows), len(rows[0])}, Floats: slices.Concat(rows...)}
	out, err := s.Compute(t.Context(), map[string]imagebind.Tensor{"embedding": in})
	if err != nil {
		t.Fatal(err)
	}
	return out["visual_query"].Floats, out["injection"].Floats
}

// files are the sources of the reference's cases (goldens.json).
var files = map[string]string{
	"Image": "image/landscape_401x300_q92_444.jpg", "Audio": "audio/speech_16k_mono.wav",
	"Video": "video/portrait_90x160_30fps_3s.mp4", "Text": "text_llm",
}

const textRow = 8 // of text_llm

// mix returns the weighted mixture of a case.
func mix(t testing.TB, weights map[string]float32) imagebind.Embedding {
	t.Helper()
	f := golden.Open(t, filepath.Join(encoders, "from_files.safetensors"))
	var parts []imagebind.Weighted
	for _, name := range []string{"Image", "Text", "Video", "Audio"} {
		if w, ok := weights[name]; ok {
			x := f.Tensor(t, files[name])
			e, embed := imagebind.Embedding(x.Values), x.Shape[1]
			if name == "Text" {
				e = e[textRow*embed:]
			}
			e = e[:embed]
			e.Normalize()
			parts = append(parts, imagebind.Weighted{Embedding: e, Weight: w})
		}
	}
	m, err := imagebind.Mix(parts)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TestBindNetwork: both variants on unit vectors, a batch at a time.
func TestBindNetwork(t *testing.T) {
	f := golden.Open(t, filepath.Join(tiny, "bind_network.safetensors"))
	in := f.Tensor(t, "input")
	var rows []imagebind.Embedding
	for row := range slices.Chunk(in.Values, in.Shape[1]) {
		m, err := imagebind.Mix([]imagebind.Weighted{{Embedding: row, Weight: 1}})
		if err != nil {
			t.Fatal(err)
		}
		rows = append(rows, m)
	}
	for _, tt := range []struct{ variant, is string }{
		{"finetune", checkpoint.RMSNorm}, {"legacy", checkpoint.Legacy}, {"pretrain", checkpoint.RMSNorm},
	} {
		t.Run(tt.variant, func(t *testing.T) {
			base, adapter := openTiny(t, tt.variant)
			s, b := session(t, base, adapter, Options{})
			if want := (bundle.Bridge{Embed: 64, Width: width, Layers: adapted, Variant: tt.is}); b != want {
				t.Errorf("it is %+v, want %+v", b, want)
			}
			query, injection := compute(t, s, rows...)
			t.Logf("off by %.2g", golden.Close(t, query, f.Tensor(t, tt.variant+"/output").Values, tolerance))
			for i, row := range rows {
				_, alone := compute(t, s, row)
				golden.Close(t, injection[i*adapted*width:(i+1)*adapted*width], alone, tolerance)
			}
		})
	}
}

// cosine is the worst over the rows, width values each.
func cosine(a, b []float32, width int) float64 {
	worst := 1.0
	for at := 0; at < len(a); at += width {
		var ab, aa, bb float64
		for i := at; i < at+width; i++ {
			x, y := float64(a[i]), float64(b[i])
			ab, aa, bb = ab+x*y, aa+x*x, bb+y*y
		}
		worst = min(worst, ab/math.Sqrt(aa*bb))
	}
	return worst
}

// TestPrecisions: how far each precision turns what a layer adds.
func TestPrecisions(t *testing.T) {
	base, adapter := openTiny(t, "finetune")
	rows := []imagebind.Embedding{mix(t, map[string]float32{"Image": 1}), mix(t, map[string]float32{"Audio": 1}), mix(t, map[string]float32{"Image": 1, "Text": 2})}
	s, _ := session(t, base, adapter, Options{Precision: nn.FP32})
	query, injection := compute(t, s, rows...)
	for _, tt := range []struct {
		Options
		least float64 // cosine of a layer's injection to that of float32
	}{
		{Options{}, 0.99999999},
		{Options{Precision: nn.FP16}, 0.999999},
		{Options{Precision: Mixed}, 0.9999},
		{Options{Precision: nn.Int8, Exact: true}, 0.999},
		{Options{Precision: nn.Int8}, 0.999},
	} {
		s, b := session(t, base, adapter, tt.Options)
		if b.Precision != string(tt.Precision) {
			t.Errorf("%q says it is %q", tt.Precision, b.Precision)
		}
		q, i := compute(t, s, rows...)
		got := cosine(i, injection, width)
		t.Logf("%q, exact %v: query %.7f, injection %.7f", tt.Precision, tt.Exact, cosine(q, query, width), got)
		if got < tt.least {
			t.Errorf("%q: cosine %.7f, want %v", tt.Precision, got, tt.least)
		}
	}
}

// TestInjection: from the mixtures of the reference's cases to what each layer adds.
func TestInjection(t *testing.T) {
	f := golden.Open(t, filepath.Join(tiny, "goldens.safetensors"))
	for _, tt := range []struct {
		variant, name string
		weights       map[string]float32
	}{
		{"finetune", "image", map[string]float32{"Image": 1}},
		{"finetune", "text_video", map[string]float32{"Text": 0.6, "Video": 0.4}},
		{"finetune", "image_audio", map[string]float32{"Image": 1, "Audio": 1}},
		{"legacy", "legacy_audio", map[string]float32{"Audio": 1}},
		{"pretrain", "pretrain_image", map[string]float32{"Image": 1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			base, adapter := openTiny(t, tt.variant)
			s, _ := session(t, base, adapter, Options{})
			query, injection := compute(t, s, mix(t, tt.weights))
			q := golden.Close(t, query, f.Tensor(t, tt.name+"/visual_query").Values, tolerance)
			i := golden.Close(t, injection, f.Tensor(t, tt.name+"/injection_after_wo").Values, tolerance)
			t.Logf("off by %.2g and %.2g", q, i)
		})
	}
}

// TestStoredWhole: a base model that is not of half precision keeps its own.
func TestStoredWhole(t *testing.T) {
	base, adapter := openTiny(t, "finetune")
	s, _ := session(t, base, adapter, Options{})
	e := mix(t, map[string]float32{"Image": 1})
	_, half := compute(t, s, e)

	var tensors []format.Tensor
	for _, n := range base.Names() {
		x, err := base.Tensor(n)
		if err != nil {
			t.Fatal(err)
		}
		x.DType = format.F32
		tensors = append(tensors, x)
	}
	whole := &checkpoint.LLaMA{Checkpoint: checkpoint.New(tensors...), Config: base.Config}
	s, _ = session(t, whole, adapter, Options{})
	_, full := compute(t, s, e)
	golden.Close(t, half, full, tolerance)

	g, _, err := Build(whole, adapter, adapted, Options{})
	if err != nil {
		t.Fatal(err)
	}
	h, _, err := Build(base, adapter, adapted, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if a, b := g.Tensors(), h.Tensors(); bytes(t, a, "adapted.0.wo.weight") != 2*bytes(t, b, "adapted.0.wo.weight") {
		t.Error("wo of a half-precision base is not stored so")
	}
}

func bytes(t testing.TB, list []graph.Tensor, name string) int64 {
	t.Helper()
	for _, x := range list {
		if x.Name == name {
			return x.Bytes
		}
	}
	t.Fatalf("no weight %s", name)
	return 0
}

// TestSharedHeads: where query heads share keys and values, each has its own
// gate on the shared ones.
func TestSharedHeads(t *testing.T) {
	base, adapter := openTiny(t, "finetune")
	c := base.Config
	kv := c.Width / 2
	shared := base.Config
	shared.KVHeads = c.Heads / 2
	var some, all []format.Tensor // the same model with shared and with repeated heads
	for _, n := range base.Names() {
		x, err := base.Tensor(n)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(n, ".wk.weight") || strings.HasSuffix(n, ".wv.weight") {
			few := make([]int, kv)
			each := make([]int, c.Width)
			for i := range few {
				few[i] = i
			}
			for i := range each {
				each[i] = i/c.HeadDim/2*c.HeadDim + i%c.HeadDim
			}
			some, all = append(some, checkpoint.Rows(x, few)), append(all, checkpoint.Rows(x, each))
			continue
		}
		some, all = append(some, x), append(all, x)
	}
	adapter = without(t, adapter, "lora_w", ".bias") // LoRA on wk and wv is of the wider model
	e := mix(t, map[string]float32{"Image": 1})
	s, _ := session(t, &checkpoint.LLaMA{Checkpoint: checkpoint.New(some...), Config: shared}, adapter, Options{})
	_, got := compute(t, s, e)
	s, _ = session(t, &checkpoint.LLaMA{Checkpoint: checkpoint.New(all...), Config: c}, adapter, Options{})
	_, want := compute(t, s, e)
	golden.Close(t, got, want, 1e-6)
}

// without returns the adapter without the tensors whose names hold one of parts
// (of the decoder).
func without(t testing.TB, c *checkpoint.Checkpoint, parts ...string) *checkpoint.Checkpoint {
	t.Helper()
	var tensors []format.Tensor
	for _, n := range c.Names() {
		x, err := c.Tensor(n)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(n, "llama.") || !slices.ContainsFunc(parts, func(p string) bool { return strings.Contains(n, p) }) {
			tensors = append(tensors, x)
		}
	}
	return checkpoint.New(tensors...)
}

func TestErrors(t *testing.T) {
	base, adapter := openTiny(t, "finetune")
	if _, _, err := Build(base, adapter, adapted+1, Options{}); imagebind.KindOf(err) != imagebind.Invalid {
		t.Errorf("five layers of four: %v", err)
	}
	if _, _, err := Build(base, without(t, adapter, ".gate"), adapted, Options{}); err == nil || !strings.Contains(err.Error(), "llama.layers.2.attention.gate is missing") {
		t.Errorf("no gates: %v", err)
	}
}
