package encoder

import (
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	imagebind "imagebind-llm"
	"imagebind-llm/exporter/nn"
	"imagebind-llm/internal/format"
	"imagebind-llm/internal/format/torch"
	"imagebind-llm/internal/golden"
	"imagebind-llm/internal/ort"
	"imagebind-llm/runner/modality"
	"imagebind-llm/runner/modality/audio"
	"imagebind-llm/runner/modality/depth"
	"imagebind-llm/runner/modality/imu"
	"imagebind-llm/runner/modality/point"
	"imagebind-llm/runner/modality/text"
	"imagebind-llm/runner/modality/thermal"
	"imagebind-llm/runner/modality/vision"
)

var update = flag.Bool("update", false, "rewrite testdata/hashes.json")

// tiny and pointTiny are checkpoints of small dims with the reference's numbers
// for them; their READMEs say how they were made.
const (
	tiny      = "../../testdata/golden/imagebind-tiny/"
	pointTiny = "../../testdata/golden/pointbind-tiny/"
)

// encoders are those of the two checkpoints, with their heads.
var encoders = []struct {
	modality.Encoder
	heads int
}{
	{vision.Encoder, 4},
	{text.Spec.Encoder, 4},
	{audio.Spec.Encoder, 4},
	{depth.Spec.Encoder, 4},
	{thermal.Spec.Encoder, 4},
	{imu.Spec.Encoder, 3},
	{pointEncoder(64, 16), 4},
}

// pointEncoder is the point encoder for so many groups of so many points.
func pointEncoder(groups, size int) modality.Encoder {
	e := point.Spec.Encoder
	e.Input = []int{groups, size + 1, 3}
	return e
}

// A source is a checkpoint in memory, to be changed by tests.
type source map[string]format.Tensor

func (s source) Tensor(name string) (format.Tensor, error) {
	t, ok := s[name]
	if !ok {
		return t, fmt.Errorf("no tensor %s", name)
	}
	return t, nil
}

func (s source) Names() []string {
	var names []string
	for n := range s {
		names = append(names, n)
	}
	return names
}

// load returns both checkpoints as one, as imagebind_w3D.pth has them.
func load(t testing.TB) source {
	t.Helper()
	s := source{}
	for _, dir := range []string{tiny, pointTiny} {
		f, err := torch.Open(dir + "checkpoint.pth")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		for _, x := range f.Tensors() {
			s[x.Name] = x
		}
	}
	return s
}

// export builds and saves an encoder and returns its path.
func export(t testing.TB, src Source, enc modality.Encoder, o Options) (string, Info) {
	t.Helper()
	g, info, err := Build(src, enc, o)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), enc.Name+".onnx")
	if err := g.Save(path, nil); err != nil {
		t.Fatal(err)
	}
	return path, info
}

func session(t testing.TB, path string) *ort.Session {
	t.Helper()
	if _, err := ort.Load(""); err != nil {
		golden.Need(t, "ort", "wants onnxruntime: "+err.Error())
	}
	s, err := ort.Open(path, ort.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// A golden case: clips [N, …] of B inputs, and what the reference makes of them.
type expected struct {
	name               string
	input              imagebind.Tensor // [B·S, …]
	prenorm, embedding golden.Tensor    // [B, E]
}

// cases reads the golden cases of an encoder.
func cases(t testing.TB, enc modality.Encoder) []expected {
	t.Helper()
	if enc.Name == "point" {
		return pointCases(t, enc)
	}
	f := golden.Open(t, tiny+"goldens.safetensors")
	var list []expected
	for _, n := range f.Names() {
		name, ok := strings.CutSuffix(n, "/input")
		if ok && (name == enc.Name || strings.HasPrefix(name, enc.Name+"_")) {
			list = append(list, expected{name, clips(f.Tensor(t, n), enc), f.Tensor(t, name+"/prenorm"), f.Tensor(t, name+"/embedding")})
		}
	}
	if len(list) == 0 {
		t.Fatalf("no golden for %s", enc.Name)
	}
	return list
}

// clips makes [B·S, …Input] of a golden's input; a still picture is repeated in time.
func clips(in golden.Tensor, enc modality.Encoder) imagebind.Tensor {
	values, one := in.Values, imagebind.Size(enc.Input)
	if enc.Name == "vision" && len(in.Shape) == 4 {
		const plane = 224 * 224
		values = nil
		for p := range slices.Chunk(in.Values, plane) {
			values = append(append(values, p...), p...)
		}
	}
	x := imagebind.Tensor{Shape: append([]int{len(values) / one}, enc.Input...), Floats: values}
	if enc.Ints {
		x.Floats, x.Ints = nil, make([]int64, len(values))
		for i, v := range values {
			x.Ints[i] = int64(v)
		}
	}
	return x
}

// average is the mean over each input's clips.
func average(clips []float32, inputs, e int) []float32 {
	out := make([]float32, inputs*e)
	s := len(clips) / len(out)
	for i := range out {
		for c := range s {
			out[i] += clips[(i/e*s+c)*e+i%e] / float32(s)
		}
	}
	return out
}

func run(t testing.TB, s *ort.Session, c expected) (prenorm, embedding []float32) {
	t.Helper()
	out, err := s.Compute(t.Context(), map[string]imagebind.Tensor{"input": c.input}, "prenorm", "embedding")
	if err != nil {
		t.Fatal(err)
	}
	b, e := c.prenorm.Shape[0], c.prenorm.Shape[1]
	return average(out["prenorm"].Floats, b, e), average(out["embedding"].Floats, b, e)
}

func norm(x []float32) float64 {
	var sum float64
	for _, v := range x {
		sum += float64(v) * float64(v)
	}
	return math.Sqrt(sum)
}

func cosine(a, b []float32) float64 {
	var dot float64
	for i := range a {
		dot += float64(a[i]) * float64(b[i])
	}
	return dot / norm(a) / norm(b)
}

// TestGolden: 1e-5 on prenorm (about 10 long) is four times the reference's own
// float32 noise, and a quarter of what a wrong epsilon in a norm moves. Without
// taps the last block is for the pooled token only.
func TestGolden(t *testing.T) {
	src := load(t)
	for _, enc := range encoders {
		for _, taps := range []bool{false, true} {
			testGolden(t, src, enc.Encoder, enc.heads, taps)
		}
	}
}

func testGolden(t *testing.T, src Source, enc modality.Encoder, heads int, taps bool) {
	t.Helper()
	t.Run(fmt.Sprintf("%s taps=%v", enc.Name, taps), func(t *testing.T) {
		path, info := export(t, src, enc, Options{Heads: heads, Taps: taps})
		s := session(t, path)
		for _, c := range cases(t, enc) {
			prenorm, embedding := run(t, s, c)
			worst := golden.Close(t, prenorm, c.prenorm.Values, 1e-5)
			length := norm(c.embedding.Values[:info.Embed])
			worstE := golden.Close(t, embedding, c.embedding.Values, 1e-6*length)
			t.Logf("%s: prenorm %.1e, embedding %.1e of its length", c.name, worst, worstE/length)
		}
		if taps && enc.Name != "point" { // which TestGroups looks into
			testTaps(t, s, enc, info)
		}
	})
}

// testTaps holds the trunk's input and output against the reference's.
func testTaps(t *testing.T, s *ort.Session, enc modality.Encoder, info Info) {
	t.Helper()
	f := golden.Open(t, tiny+"taps.safetensors")
	c := cases(t, enc)[0]
	out, err := s.Compute(t.Context(), map[string]imagebind.Tensor{"input": c.input}, "tokens", "trunk")
	if err != nil {
		t.Fatal(err)
	}
	n := info.Tokens * info.Width
	golden.Close(t, out["tokens"].Floats[:n], f.Tensor(t, c.name+"/tokens").Values, 1e-5)
	x := out["trunk"].Floats[:n]
	firstLast := slices.Concat(x[:info.Width], x[n-info.Width:])
	golden.Close(t, firstLast, f.Tensor(t, c.name+"/trunk_first_last").Values, 2e-5)
}

// TestBatch: an input's result does not depend on its company.
func TestBatch(t *testing.T) {
	src := load(t)
	enc := encoders[2]
	path, info := export(t, src, enc.Encoder, Options{Heads: enc.heads})
	s := session(t, path)
	c := cases(t, enc.Encoder)[0]
	all, err := s.Compute(t.Context(), map[string]imagebind.Tensor{"input": c.input}, "prenorm")
	if err != nil {
		t.Fatal(err)
	}
	one := imagebind.Size(enc.Input)
	for i := range c.input.Shape[0] {
		in := imagebind.Tensor{Shape: append([]int{1}, enc.Input...), Floats: c.input.Floats[i*one : (i+1)*one]}
		alone, err := s.Compute(t.Context(), map[string]imagebind.Tensor{"input": in}, "prenorm")
		if err != nil {
			t.Fatal(err)
		}
		golden.Close(t, alone["prenorm"].Floats, all["prenorm"].Floats[i*info.Embed:(i+1)*info.Embed], 1e-5)
	}
}

// TestPrecision holds smaller weights against the reference by angle. The
// tolerances are some twice what is seen.
func TestPrecision(t *testing.T) {
	src := load(t)
	for _, p := range []struct {
		nn.Precision
		exact bool
		loss  float64 // 1 - cosine, at most
	}{{nn.FP16, false, 2e-6}, {nn.Int8, true, 8e-4}, {nn.Int8, false, 8e-4}} {
		for _, enc := range encoders {
			t.Run(fmt.Sprintf("%s/%s/exact=%v", p.Precision, enc.Name, p.exact), func(t *testing.T) {
				path, info := export(t, src, enc.Encoder, Options{Heads: enc.heads, Precision: p.Precision, Exact: p.exact})
				s := session(t, path)
				worst, moved := 0.0, 0.0
				for _, c := range cases(t, enc.Encoder) {
					prenorm, embedding := run(t, s, c)
					for i := 0; i < len(embedding); i += info.Embed {
						worst = max(worst, 1-cosine(embedding[i:i+info.Embed], c.embedding.Values[i:i+info.Embed]))
					}
					for i := range prenorm {
						moved = max(moved, math.Abs(float64(prenorm[i]-c.prenorm.Values[i])))
					}
				}
				t.Logf("1 - cosine %.1e, prenorm %.1e", worst, moved)
				if worst > p.loss {
					t.Errorf("1 - cosine is %.2g, tolerance %.2g", worst, p.loss)
				}
			})
		}
	}
}

// TestHashes: every exported weight, to the bit. A change that is meant is
// written with -update.
func TestHashes(t *testing.T) {
	src := load(t)
	got := map[string]map[string]string{}
	for _, p := range []nn.Precision{nn.FP32, nn.FP16, nn.Int8} {
		for _, enc := range encoders {
			if p != nn.FP32 && enc.Name != "audio" {
				continue
			}
			g, _, err := Build(src, enc.Encoder, Options{Heads: enc.heads, Precision: p})
			if err != nil {
				t.Fatal(err)
			}
			if err := g.Save(filepath.Join(t.TempDir(), "g.onnx"), nil); err != nil {
				t.Fatal(err)
			}
			sums := map[string]string{}
			for _, w := range g.Tensors() {
				sums[w.Name] = w.SHA256
			}
			got[enc.Name+" "+string(p)] = sums
		}
	}
	const path = "testdata/hashes.json"
	if *update {
		b, err := json.MarshalIndent(got, "", " ")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, append(b, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var want map[string]map[string]string
	golden.JSON(t, path, &want)
	for enc, sums := range want {
		for name, sum := range sums {
			if s := cmp.Or(got[enc][name], "absent"); s != sum {
				t.Errorf("%s: weight %s is %s, want %s", enc, name, s, sum)
			}
		}
		if len(got[enc]) != len(sums) {
			t.Errorf("%s: %d weights, want %d", enc, len(got[enc]), len(sums))
		}
	}
}

func TestErrors(t *testing.T) {
	enc := encoders[2] // audio
	const block = "modality_trunks.audio.blocks.1."
	for _, tt := range []struct {
		name   string
		change func(source)
		heads  int
		enc    modality.Encoder
		want   []string // all in the one error
	}{
		{"absent", func(s source) {
			for n := range s {
				if Of(n) == "audio" {
					delete(s, n)
				}
			}
		}, 4, enc.Encoder, []string{"has no audio encoder"}},
		{"missing, extra and misshapen", func(s source) {
			delete(s, block+"attn.bias_k")
			delete(s, "modality_heads.audio.2.weight")
			delete(s, "modality_preprocessors.audio.rgbt_stem.norm_layer.weight")
			s[block+"attn.gate"] = s[block+"norm_1.weight"]
			s["modality_heads.audio.1.weight"] = s[block+"norm_1.weight"]
			s[block+"mlp.fc1.bias"] = s[block+"norm_1.weight"]
			s["modality_preprocessors.audio.cls_token"] = s[block+"norm_1.weight"]
			s["modality_heads.vision.9.weight"] = s[block+"norm_1.weight"] // another encoder's: not our business
		}, 4, enc.Encoder, []string{
			"tensor " + block + "attn.bias_k is missing",
			"tensor modality_heads.audio.2.weight is missing",
			"tensor modality_preprocessors.audio.rgbt_stem.norm_layer.weight is missing",
			"tensor " + block + "attn.gate is not part of this encoder",
			"tensor modality_heads.audio.1.weight is not part of this encoder",
			"tensor " + block + "mlp.fc1.bias has shape [40], want [160]",
			"tensor modality_preprocessors.audio.cls_token has shape [40], want [1 1 40]",
		}},
		{"a block is missing", func(s source) {
			for n := range s {
				if strings.HasPrefix(n, "modality_trunks.audio.blocks.0.") {
					delete(s, n)
				}
			}
		}, 4, enc.Encoder, []string{"blocks.0.norm_1.weight is missing", "blocks.0.mlp.fc1.weight is missing"}},
		{"a stem of another size", func(s source) {
			n := "modality_preprocessors.audio.rgbt_stem.proj.weight"
			x := s[n]
			x.Shape = []int{40, 1, 16, 400}
			s[n] = x
		}, 4, enc.Encoder, []string{"larger than the input"}},
		{"heads", func(source) {}, 7, enc.Encoder, []string{"7 heads do not divide its width of 40", "audio_num_heads"}},
		{"heads of the released model", func(source) {}, 0, enc.Encoder, []string{"40 wide", "--heads-config"}},
		{"unknown stem", func(source) {}, 4, modality.Encoder{Name: "audio", Input: []int{1}}, []string{"a stem of kind <nil>"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			src := load(t)
			tt.change(src)
			_, _, err := Build(src, tt.enc, Options{Heads: tt.heads})
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q is not in: %v", want, err)
				}
			}
			if k := imagebind.KindOf(err); k == imagebind.Internal {
				t.Errorf("kind is internal: %v", err)
			}
		})
	}
	if _, _, err := Build(load(t), enc.Encoder, Options{Heads: 4, Precision: nn.Int4}); err == nil {
		t.Error("int4 is built")
	}
}

// TestReadFails: what cannot be read is named when the graph is saved.
func TestReadFails(t *testing.T) {
	src := load(t)
	const name = "modality_trunks.text.blocks.2.mlp.fc2.weight"
	x := src[name]
	x.Read = func([]float32, int) error { return fmt.Errorf("disk on fire") }
	src[name] = x
	g, _, err := Build(src, text.Spec.Encoder, Options{Heads: 4})
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Save(filepath.Join(t.TempDir(), "g.onnx"), nil); err == nil || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), "on fire") {
		t.Errorf("error is %v", err)
	}
}
