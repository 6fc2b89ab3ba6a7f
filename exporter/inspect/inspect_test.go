package inspect

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	imagebind "imagebind-llm"
	"imagebind-llm/exporter/graph"
	"imagebind-llm/exporter/onnx"
	"imagebind-llm/internal/format"
	"imagebind-llm/internal/format/torch"
	"imagebind-llm/internal/golden"
	"imagebind-llm/runner/bundle"
)

const testdata = "../../testdata/golden/"

func open(t *testing.T, path string) *Report {
	t.Helper()
	r, err := Open(t.Context(), path, Options{Hash: true})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// find returns a tensor of the report.
func find(t *testing.T, r *Report, file, name string) Tensor {
	t.Helper()
	for _, f := range r.Files {
		if f.Name != file {
			continue
		}
		if i := slices.IndexFunc(f.Tensors, func(x Tensor) bool { return x.Name == name }); i >= 0 {
			return f.Tensors[i]
		}
	}
	t.Fatalf("%s holds no %q", file, name)
	return Tensor{}
}

func hash(b []byte) string { h := sha256.Sum256(b); return hex.EncodeToString(h[:]) }

func floats(values []float32) (b []byte) {
	for _, v := range values {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(v))
	}
	return b
}

// write makes a file of the test.
func write(t *testing.T, dir, name string, content []byte) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, content, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// stored makes a .safetensors file of one tensor.
func stored(name, dtype string, shape []int, data []byte) []byte {
	header, _ := json.Marshal(map[string]any{name: map[string]any{"dtype": dtype, "shape": shape, "data_offsets": []int{0, len(data)}}, "__metadata__": map[string]string{"made": "by\x1b[2J test"}})
	return append(append(binary.LittleEndian.AppendUint64(nil, uint64(len(header))), header...), data...)
}

// TestFiles: what every kind of file holds.
func TestFiles(t *testing.T) {
	dir := t.TempDir()
	values := []float32{1, 2.5, -3, 0}
	g, err := graph.Build(func(g *graph.Graph) {
		g.Name = "plus"
		g.Output("y", g.Add(g.Input("x", onnx.Float, "N", 4), g.Floats("b", values, 4)))
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Save(filepath.Join(dir, "plus.onnx"), nil); err != nil {
		t.Fatal(err)
	}
	half := stored("h", "F16", []int{2}, []byte{0x00, 0x3c, 0x00, 0xc1})
	tests := []struct {
		path, kind, tensor, dtype string
		shape                     []int
		sha                       string // of the tensor; "" where another test knows it
	}{
		{testdata + "imagebind-tiny/checkpoint.pth", kindTorch, "modality_preprocessors.vision.rgbt_stem.proj.1.weight", "F32", []int{64, 3, 2, 14, 14}, ""},
		{testdata + "llama-adapter-tiny/7B/consolidated.00.pth", kindTorch, "tok_embeddings.weight", "F16", []int{512, 80}, ""},
		{testdata + "llama-adapter-tiny/adapter-finetune.pth", kindTorch, "model.prefix_query.weight", "F32", []int{4, 80}, ""},
		{testdata + "llama-adapter-tiny/bind_network.safetensors", kindSafetensors, "input", "F32", []int{6, 64}, ""},
		{"../../demo/features.npy", kindNPY, "", "", nil, ""},
		{"../../internal/format/faiss/testdata/knn.index", kindFAISS, "vectors", "F32", []int{500, 64}, ""},
		{"../../internal/format/faiss/testdata/knn_hnsw.index", kindFAISS, "vectors", "F32", []int{500, 64}, ""},
		{"../../internal/format/faiss/testdata/codes/ivf_pq.index", kindFAISS, "vectors", "F32", []int{40, 16}, ""},
		{"../../internal/format/gguf/testdata/types.gguf", kindGGUF, "Q4_K", "Q4_K", []int{3, 512}, ""},
		{filepath.Join(dir, "plus.onnx"), kindONNX, "b", "float32", []int{4}, hash(floats(values))},
		{write(t, dir, "renamed.bin", half), kindSafetensors, "h", "F16", []int{2}, hash([]byte{0x00, 0x3c, 0x00, 0xc1})},
		{write(t, dir, "ids.safetensors", stored("i", "I64", []int{2}, []byte{7, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff})), kindSafetensors, "i", "I64", []int{2},
			hash([]byte{7, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff})},
	}
	for _, tt := range tests {
		t.Run(filepath.Base(tt.path), func(t *testing.T) {
			r := open(t, tt.path)
			if r.Kind != tt.kind {
				t.Errorf("it is a %s, want a %s", r.Kind, tt.kind)
			}
			x := find(t, r, filepath.Base(tt.path), tt.tensor)
			if tt.dtype != "" && (x.DType != tt.dtype || !slices.Equal(x.Shape, tt.shape)) {
				t.Errorf("tensor is %+v", x)
			}
			if tt.sha != "" && x.SHA256 != tt.sha || len(x.SHA256) != 64 {
				t.Errorf("tensor's sha256 is %q, want %q", x.SHA256, tt.sha)
			}
			if want := hash(golden.Bytes(t, tt.path)); r.Files[0].SHA256 != want {
				t.Errorf("file's sha256 is %s, want %s", r.Files[0].SHA256, want)
			}
			var text bytes.Buffer
			if err := r.Text(&text); err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(text.String(), x.SHA256) || strings.ContainsRune(text.String(), 0x1b) {
				t.Errorf("as text it is\n%s", text.String())
			}
			if strings.Contains(tt.path, "/codes/") != strings.Contains(text.String(), "lossy = IVF4,PQ4x6: values are rebuilt") {
				t.Errorf("what it lost: as text it is\n%s", text.String())
			}
			if _, err := json.Marshal(r); err != nil {
				t.Error(err)
			}
		})
	}
}

// A tensor's hash does not depend on the format: a .pth's, by its values.
func TestSameHash(t *testing.T) {
	r := open(t, testdata+"imagebind-tiny/checkpoint.pth")
	x := find(t, r, "checkpoint.pth", "modality_heads.vision.2.weight")
	path := write(t, t.TempDir(), "x.safetensors", nil)
	values := read(t, testdata+"imagebind-tiny/checkpoint.pth", x.Name)
	if err := os.WriteFile(path, stored("w", "F32", x.Shape, floats(values)), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := find(t, open(t, path), "x.safetensors", "w"); got.SHA256 != x.SHA256 {
		t.Errorf("%s in safetensors, %s in PyTorch's format", got.SHA256, x.SHA256)
	}
}

// A block type's hash is that of its values.
func TestBlockHash(t *testing.T) {
	const file = "types.gguf"
	r := open(t, "../../internal/format/gguf/testdata/"+file)
	for _, d := range []string{"Q4_0", "Q4_1", "Q8_0", "Q4_K", "Q6_K"} {
		if got, want := find(t, r, file, d).SHA256, find(t, r, file, d+"/want").SHA256; got != want {
			t.Errorf("%s: %s, its values %s", d, got, want)
		}
	}
}

// TestAppendAs: what is read as float32 becomes the stored bytes again, or says
// that it may not.
func TestAppendAs(t *testing.T) {
	tests := []struct {
		dtype format.DType
		value float32
		want  []byte
		ok    bool
	}{
		{format.F32, -2, []byte{0, 0, 0, 0xc0}, true},
		{format.F16, 1, []byte{0, 0x3c}, true},
		{format.F16, 5.960464477539063e-08, []byte{1, 0}, true}, // the smallest subnormal
		{format.BF16, 1, []byte{0x80, 0x3f}, true},
		{format.I64, -1, bytes.Repeat([]byte{0xff}, 8), true},
		{format.I32, 1 << 24, nil, false},
		{format.I16, -2, []byte{0xfe, 0xff}, true},
		{format.I8, -2, []byte{0xfe}, true},
		{format.U8, 255, []byte{255}, true},
		{format.Bool, 1, []byte{1}, true},
		{format.Q8_0, 1, []byte{0, 0, 0x80, 0x3f}, true},
	}
	for _, tt := range tests {
		got, ok := appendAs(nil, []float32{tt.value}, tt.dtype)
		if ok != tt.ok || !bytes.Equal(got, tt.want) && ok {
			t.Errorf("%v as %s: % x, %v, want % x, %v", tt.value, tt.dtype, got, ok, tt.want, tt.ok)
		}
	}
}

// TestFolders: Meta's layout, shards with their index, any folder of weights,
// and bundles.
func TestFolders(t *testing.T) {
	t.Run("Meta", func(t *testing.T) {
		r := open(t, testdata+"llama-adapter-tiny/7B")
		find(t, r, "consolidated.00.pth", "layers.0.attention.wq.weight")
		i := slices.IndexFunc(r.Files, func(f File) bool { return f.Name == "params.json" })
		if !strings.Contains(r.Kind, "Meta") || i < 0 || r.Files[i].Metadata["dim"] != 80.0 {
			t.Errorf("it is %s with files %+v", r.Kind, r.Files)
		}
	})
	one := stored("a", "F32", []int{1}, make([]byte, 4))
	t.Run("shards", func(t *testing.T) {
		dir := t.TempDir()
		write(t, dir, "1.safetensors", one)
		write(t, dir, "2.safetensors", stored("b", "F32", []int{1}, make([]byte, 4)))
		index := write(t, dir, "model.safetensors.index.json", []byte(`{"weight_map":{"a":"1.safetensors","b":"2.safetensors"}}`))
		for _, path := range []string{index, dir} {
			r := open(t, path)
			find(t, r, "1.safetensors", "a")
			find(t, r, "2.safetensors", "b")
		}
		write(t, dir, "model.safetensors.index.json", []byte(`{"weight_map":{"a":"../1.safetensors"}}`))
		if _, err := Open(t.Context(), index, Options{}); err == nil || !strings.Contains(err.Error(), "leaves the folder") {
			t.Errorf("a shard elsewhere: %v", err)
		}
	})
	t.Run("bundle", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "b")
		w, err := bundle.Create(dir)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(w.Path("x.safetensors"), one, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := w.Commit(&bundle.Manifest{Name: "of test", Exporter: "x", Licences: []bundle.Licence{{Part: "all", Name: "MIT"}}}); err != nil {
			t.Fatal(err)
		}
		r := open(t, dir)
		var text bytes.Buffer
		if err := r.Text(&text); err != nil {
			t.Fatal(err)
		}
		if r.Kind != "bundle" || !strings.Contains(text.String(), "name of test") || !strings.Contains(text.String(), "licence of all: MIT") || !strings.Contains(text.String(), hash(one)) {
			t.Errorf("it says\n%s", text.String())
		}
		one[len(one)-1]++
		write(t, dir, "x.safetensors", one)
		if _, err := Open(t.Context(), dir, Options{Hash: true}); err == nil || !strings.Contains(err.Error(), "x.safetensors") {
			t.Errorf("a changed file: %v", err)
		}
	})
}

// TestForeign: what is none of ours is refused in words that name it.
func TestForeign(t *testing.T) {
	dir := t.TempDir()
	sub := filepath.Join(dir, "sub")
	if err := os.Mkdir(sub, 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, sub, "notes.txt", []byte("hello"))
	tests := []struct{ name, path, says string }{
		{"text", write(t, dir, "notes.txt", []byte("hello")), "hello"},
		{"empty", write(t, dir, "empty.pth", nil), "is empty"},
		{"picture", "../../demo/samples/known-style/owl-noto.png", "PNG"},
		{"JSON", write(t, dir, "x.json", []byte("{}")), "x.json"},
		{"config alone", write(t, dir, "config.json", []byte(`{"a":1}`)), "config.json"},
		{"text named .pth", write(t, dir, "text.pth", []byte("hello world, this is text")), "text.pth"},
		{"text named .safetensors", write(t, dir, "text.safetensors", []byte("hello world, this is text")), "text.safetensors"},
		{"text named .gguf", write(t, dir, "text.gguf", []byte("hello world, this is text")), "text.gguf"},
		{"text named .npy", write(t, dir, "text.npy", []byte("hello world, this is text")), "text.npy"},
		{"text named .onnx", write(t, dir, "text.onnx", []byte("hello world, this is text")), "text.onnx"},
		{"cut", write(t, dir, "cut.pth", golden.Bytes(t, testdata+"llama-adapter-tiny/7B/consolidated.00.pth")[:5000]), "cut.pth"},
		{"folder", sub, "no file of weights"},
		{"index of nothing", write(t, dir, "m.safetensors.index.json", []byte("{}")), "weight_map"},
		{"missing", filepath.Join(dir, "none"), "none"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Open(t.Context(), tt.path, Options{Hash: true})
			if err == nil || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("error is %v, want %q", err, tt.says)
			}
		})
	}
	if _, err := Open(t.Context(), tests[0].path, Options{}); imagebind.KindOf(err) != imagebind.Unsupported {
		t.Errorf("a foreign file is %v", imagebind.KindOf(err))
	}
}

// A graph may not make us read files elsewhere.
func TestExternalElsewhere(t *testing.T) {
	dir := t.TempDir()
	for name, x := range map[string]onnx.External{
		"outside":   {Location: "../secret", Length: 4},
		"too long":  {Location: "w.data", Length: 5},
		"too far":   {Location: "w.data", Offset: math.MaxInt64, Length: 4},
		"backwards": {Location: "w.data", Offset: -1, Length: 4},
	} {
		write(t, dir, "w.data", make([]byte, 4))
		m := onnx.Model{IRVersion: onnx.IRVersion, Graph: onnx.Graph{Initialisers: []onnx.Tensor{{Name: "w", DType: onnx.Float, Shape: []int64{1}, External: &x}}}}
		if _, err := Open(t.Context(), write(t, dir, "g.onnx", m.Marshal()), Options{Hash: true}); err == nil || !strings.Contains(err.Error(), "weight w") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCanceled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Open(ctx, testdata+"imagebind-tiny/checkpoint.pth", Options{Hash: true}); !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v", err)
	}
}

func TestShorten(t *testing.T) {
	long := make([]string, 1000)
	got := short(map[string]any{"list": long, "text": strings.Repeat("é", 1000), "nan": math.NaN(), "small": []int32{1, 2}})
	if b, err := json.Marshal(got); err != nil || len(b) > 1000 || !strings.Contains(string(b), "1000 in all") || !strings.Contains(string(b), "[1,2]") {
		t.Errorf("%s, %v", b, err)
	}
}

// FuzzOpen: any content under any name is a report or an error.
func FuzzOpen(f *testing.F) {
	f.Add("x.pth", []byte("PK\x03\x04"))
	f.Add("x", stored("a", "F16", []int{2}, make([]byte, 4)))
	f.Add("x.gguf", []byte("GGUF\x03\x00\x00\x00"))
	f.Add("x.index", []byte("IxFI\x00\x00"))
	f.Add("x.npy", []byte("\x93NUMPY\x01\x00"))
	f.Add("x.onnx", []byte{8, 10})
	f.Add("params.json", []byte("{}"))
	f.Add("m.safetensors.index.json", []byte(`{"weight_map":{"a":"b"}}`))
	f.Fuzz(func(t *testing.T, name string, content []byte) {
		name = filepath.Base(name)
		if len(name) > 100 || strings.ContainsRune(name, 0) || !filepath.IsLocal(name) || name == "." {
			return
		}
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, content, 0o644); err != nil {
			return
		}
		r, err := Open(t.Context(), path, Options{Hash: true})
		if err != nil {
			return
		}
		if _, err := json.Marshal(r); err != nil {
			t.Error(err)
		}
		var text bytes.Buffer
		if err := r.Text(&text); err != nil || strings.ContainsRune(text.String(), 0x1b) {
			t.Errorf("%q, %v", text.String(), err)
		}
	})
}

// read returns the values of a tensor in a .pth.
func read(t *testing.T, path, name string) []float32 {
	t.Helper()
	f, err := torch.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	x, ok := f.Tensor(name)
	if !ok {
		t.Fatalf("no tensor %s", name)
	}
	v, err := x.Floats()
	if err != nil {
		t.Fatal(err)
	}
	return v
}
