package checkpoint

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/x448/float16"

	imagebind "imagebind-llm"
	"imagebind-llm/exporter/internal/fake"
	"imagebind-llm/internal/format"
)

// tiny is a small LLaMA with adapters in the published formats; its README says
// what made it.
const tiny = "../../testdata/golden/llama-adapter-tiny"

func openTiny(t testing.TB) *LLaMA {
	t.Helper()
	m, err := OpenLLaMA(filepath.Join(tiny, "7B"), "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

func floats(t testing.TB, s Source, name string) []float32 {
	t.Helper()
	x, err := s.Tensor(name)
	if err != nil {
		t.Fatal(err)
	}
	v, err := x.Floats()
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// same compares all tensors of two models, whole and in odd parts.
func same(t testing.TB, got, want *LLaMA) {
	t.Helper()
	if got.Config != want.Config {
		t.Errorf("config is %+v, want %+v", got.Config, want.Config)
	}
	if g, w := got.Names(), want.Names(); !slices.Equal(slices.Sorted(slices.Values(g)), slices.Sorted(slices.Values(w))) {
		t.Fatalf("names are %v, want %v", g, w)
	}
	for _, n := range want.Names() {
		v := floats(t, want, n)
		if !slices.Equal(floats(t, got, n), v) {
			t.Errorf("tensor %s differs", n)
			continue
		}
		x, _ := got.Tensor(n)
		if w, _ := want.Tensor(n); x.DType != w.DType || x.Name != w.Name || !slices.Equal(x.Shape, w.Shape) {
			t.Errorf("it is %v, want %v", x, w)
		}
		part := make([]float32, 37)
		for _, from := range []int{0, 1, len(v)/2 - 5, len(v) - 37} {
			if err := x.Read(part, from); err != nil || !slices.Equal(part, v[from:from+37]) {
				t.Errorf("tensor %s: elements from %d differ: %v", n, from, err)
			}
		}
		if err := x.Read(part, len(v)-36); err == nil {
			t.Errorf("tensor %s: reads beyond its end", n)
		}
	}
}

func all(t testing.TB, s Source) []format.Tensor {
	t.Helper()
	var list []format.Tensor
	for _, n := range s.Names() {
		x, err := s.Tensor(n)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, x)
	}
	return list
}

func TestMeta(t *testing.T) {
	m := openTiny(t)
	want := LLaMAConfig{
		Width: 80, Layers: 6, Heads: 4, KVHeads: 4, HeadDim: 20, Hidden: 224, Vocab: 512,
		NormEps: 1e-6, RopeTheta: 10000, RopeScale: 1, Context: 2048,
	}
	if m.Config != want || m.Layout != Meta || m.Metadata != nil {
		t.Errorf("it is %+v, %s", m.Config, m.Layout)
	}
	if n := m.Names(); len(n) != 3+9*6 || n[0] != "tok_embeddings.weight" || n[9] != "layers.0.ffn_norm.weight" || n[len(n)-1] != "output.weight" {
		t.Errorf("%d names: %v", len(n), n)
	}
	file, err := OpenLLaMA(filepath.Join(tiny, "7B", "consolidated.00.pth"), "")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	same(t, file, m)
}

// split returns part i of n of a tensor along axis 0 or 1.
func split(x format.Tensor, axis, i, n int) format.Tensor {
	index := make([]int, x.Shape[axis]/n)
	for j := range index {
		index[j] = i*len(index) + j
	}
	if axis == 0 {
		return Rows(x, index)
	}
	return Columns(x, index)
}

// shard is what Meta's model parallelism puts in file i of n.
func shard(t testing.TB, m *LLaMA, i, n int, vocabulary bool) []format.Tensor {
	t.Helper()
	var list []format.Tensor
	for _, x := range all(t, m) {
		switch k := kind(x.Name); {
		case len(x.Shape) == 1:
		case k == "attention.wo", k == "feed_forward.w2", k == "tok_embeddings" && !vocabulary:
			x = split(x, 1, i, n)
		default:
			x = split(x, 0, i, n)
		}
		list = append(list, x)
	}
	return append(list, format.Tensor{Name: "rope.freqs", DType: format.F32, Shape: []int{10}, Read: func([]float32, int) error { return nil }})
}

// TestShards: model-parallel parts of LLaMA 1 and 2 (the embedding table cut
// along its width) and 3 (along the vocabulary) are the whole.
func TestShards(t *testing.T) {
	m := openTiny(t)
	for _, n := range []int{1, 2, 4} {
		for _, vocabulary := range []bool{false, true} {
			dir := t.TempDir()
			fake.SaveJSON(t, filepath.Join(dir, "params.json"), map[string]any{"dim": 80, "n_layers": 6, "n_heads": 4, "norm_eps": 1e-6, "vocab_size": -1})
			for i := range n {
				// Open tells formats by content, so that a test can write this one.
				fake.Save(t, filepath.Join(dir, fmt.Sprintf("consolidated.%02d.pth", i)), shard(t, m, i, n, vocabulary)...)
			}
			got, err := OpenLLaMA(dir, "")
			if err != nil {
				t.Fatalf("%d shards: %v", n, err)
			}
			same(t, got, m)
			if err := got.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}

func TestShardErrors(t *testing.T) {
	m := openTiny(t)
	params := map[string]any{"dim": 80, "n_layers": 6, "n_heads": 4, "norm_eps": 1e-6, "vocab_size": -1}
	for _, tt := range []struct {
		name   string
		params map[string]any
		shards [][]format.Tensor
		files  []int
		kind   imagebind.Kind
		want   []string
	}{
		{"second missing", nil, [][]format.Tensor{shard(t, m, 0, 2, false)}, []int{0}, imagebind.Invalid, []string{"layers.0.attention.wq.weight has shape [40 80], want [80 80]", "tok_embeddings.weight has shape [512 40], want [512 80]"}},
		{"first missing", nil, [][]format.Tensor{shard(t, m, 1, 2, false)}, []int{1}, imagebind.NotFound, []string{"consolidated.00.pth is missing"}},
		{"unequal", nil, [][]format.Tensor{shard(t, m, 0, 2, false), shard(t, m, 0, 4, false)}, []int{0, 1}, imagebind.Invalid, []string{"layers.5.feed_forward.w2.weight has shape [80 56] in consolidated.01.pth, [80 112] in the first"}},
		{"fewer tensors", nil, [][]format.Tensor{shard(t, m, 0, 2, false), shard(t, m, 1, 2, false)[3:]}, []int{0, 1}, imagebind.Invalid, []string{"tok_embeddings.weight is missing in consolidated.01.pth"}},
		{"more tensors", nil, [][]format.Tensor{shard(t, m, 0, 2, false)[3:], shard(t, m, 1, 2, false)}, []int{0, 1}, imagebind.Invalid, []string{"tok_embeddings.weight is no part of consolidated.00.pth"}},
		{"scaled rope", map[string]any{"use_scaled_rope": true}, [][]format.Tensor{all(t, m)}, []int{0}, imagebind.Unsupported, []string{"use_scaled_rope"}},
		{"experts", map[string]any{"moe": map[string]any{"num_experts": 8}}, [][]format.Tensor{all(t, m)}, []int{0}, imagebind.Unsupported, []string{"moe"}},
		{"no dims", map[string]any{"dim": 0}, [][]format.Tensor{all(t, m)}, []int{0}, imagebind.Invalid, []string{"the width is 0"}},
		{"very deep", map[string]any{"n_layers": 1 << 20}, [][]format.Tensor{all(t, m)}, []int{0}, imagebind.Invalid, []string{"1048576 layers"}},
		{"deeper", map[string]any{"n_layers": 7}, [][]format.Tensor{all(t, m)}, []int{0}, imagebind.Invalid, []string{"9 tensors", "layers.6.attention.wq.weight is missing"}},
		{"flatter", map[string]any{"n_layers": 5}, [][]format.Tensor{all(t, m)}, []int{0}, imagebind.Invalid, []string{"layers.5.ffn_norm.weight is no part of LLaMA with 5 layers"}},
		{"other heads", map[string]any{"n_kv_heads": 2}, [][]format.Tensor{all(t, m)}, []int{0}, imagebind.Invalid, []string{"layers.0.attention.wk.weight has shape [80 80], want [40 80]"}},
		{"other vocabulary", map[string]any{"vocab_size": 500}, [][]format.Tensor{all(t, m)}, []int{0}, imagebind.Invalid, []string{"output.weight has shape [512 80], want [500 80]"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			p := maps.Clone(params)
			maps.Copy(p, tt.params)
			fake.SaveJSON(t, filepath.Join(dir, "params.json"), p)
			for i, s := range tt.shards {
				fake.Save(t, filepath.Join(dir, fmt.Sprintf("consolidated.%02d.pth", tt.files[i])), s...)
			}
			_, err := OpenLLaMA(dir, "")
			wantError(t, err, tt.kind, tt.want...)
		})
	}
}

func wantError(t testing.TB, err error, kind imagebind.Kind, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want %q", parts)
	}
	if imagebind.KindOf(err) != kind {
		t.Errorf("error is of kind %v, want %v: %v", imagebind.KindOf(err), kind, err)
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("error is %v, want %q", err, p)
		}
	}
}

// halves undoes interleave: from Meta's order of rows to Hugging Face's.
func halves(n, dh int) []int {
	order := make([]int, n)
	for i, from := range interleave(n, dh) {
		order[from] = i
	}
	return order
}

// toHuggingFace returns the model's tensors under Hugging Face's names and order.
func toHuggingFace(t testing.TB, m *LLaMA) []format.Tensor {
	t.Helper()
	var list []format.Tensor
	renames(HuggingFace, m.Config.Layers, func(meta, theirs string) {
		x, err := m.Tensor(meta)
		if err != nil {
			t.Fatal(err)
		}
		if k := kind(meta); k == "attention.wq" || k == "attention.wk" {
			x = Rows(x, halves(x.Shape[0], m.Config.HeadDim))
		}
		x.Name = theirs
		list = append(list, x)
	})
	return append(list, format.Tensor{
		Name: "model.layers.0.self_attn.rotary_emb.inv_freq", Shape: []int{10}, Read: func([]float32, int) error { return nil },
	})
}

func hfJSON() map[string]any {
	return map[string]any{
		"architectures": []string{"LlamaForCausalLM"}, "model_type": "llama", "hidden_size": 80, "intermediate_size": 224,
		"num_hidden_layers": 6, "num_attention_heads": 4, "rms_norm_eps": 1e-6, "vocab_size": 512, "max_position_embeddings": 2048,
		"hidden_act": "silu", "rope_scaling": nil, "tie_word_embeddings": false,
	}
}

// TestInterleave: the rotary pair j of Hugging Face's head is rows j and j+Dh/2.
func TestInterleave(t *testing.T) {
	if got := interleave(12, 6); !slices.Equal(got, []int{0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11}) {
		t.Errorf("order is %v", got)
	}
}

func TestHuggingFace(t *testing.T) {
	m := openTiny(t)
	tensors := toHuggingFace(t, m)
	single, sharded := t.TempDir(), t.TempDir()
	for _, dir := range []string{single, sharded} {
		fake.SaveJSON(t, filepath.Join(dir, "config.json"), hfJSON())
	}
	fake.Save(t, filepath.Join(single, "model.safetensors"), tensors...)
	where := map[string]string{}
	for i, part := range [][]format.Tensor{tensors[:20], tensors[20:]} {
		file := fmt.Sprintf("model-%05d-of-00002.safetensors", i+1)
		fake.Save(t, filepath.Join(sharded, file), part...)
		for _, x := range part {
			where[x.Name] = file
		}
	}
	index := filepath.Join(sharded, "model.safetensors.index.json")
	fake.SaveJSON(t, index, map[string]any{"weight_map": where})
	for _, path := range []string{single, filepath.Join(single, "model.safetensors"), filepath.Join(single, "config.json"), sharded, index} {
		got, err := OpenLLaMA(path, "")
		if err != nil {
			t.Fatal(err)
		}
		same(t, got, m)
		if got.Layout != HuggingFace {
			t.Errorf("layout is %s", got.Layout)
		}
		got.Close()
	}
}

// TestTiedHead: without a head of its own, or with a copy, the embedding table
// is the head.
func TestTiedHead(t *testing.T) {
	m := openTiny(t)
	tensors := toHuggingFace(t, m)
	for _, list := range [][]format.Tensor{tensors, slices.DeleteFunc(slices.Clone(tensors), func(x format.Tensor) bool { return x.Name == "lm_head.weight" })} {
		dir := t.TempDir()
		c := hfJSON()
		c["tie_word_embeddings"] = true
		fake.SaveJSON(t, filepath.Join(dir, "config.json"), c)
		fake.Save(t, filepath.Join(dir, "model.safetensors"), list...)
		got, err := OpenLLaMA(dir, "")
		if err != nil {
			t.Fatal(err)
		}
		defer got.Close()
		if !got.Config.TiedHead || !slices.Equal(floats(t, got, "output.weight"), floats(t, m, "tok_embeddings.weight")) {
			t.Error("the head is not the embedding table")
		}
	}
}

func TestHuggingFaceConfig(t *testing.T) {
	for _, tt := range []struct {
		key   string
		value any
		kind  imagebind.Kind
		want  string // in the error; "" for none
	}{
		{"model_type", "mistral", imagebind.Unsupported, `model_type "mistral"`},
		{"architectures", []string{"LlamaForSequenceClassification"}, imagebind.Unsupported, "LlamaForSequenceClassification"},
		{"hidden_act", "gelu", imagebind.Unsupported, `hidden_act "gelu"`},
		{"attention_bias", true, imagebind.Unsupported, "attention_bias"},
		{"mlp_bias", true, imagebind.Unsupported, "mlp_bias"},
		{"quantization_config", map[string]any{"bits": 4}, imagebind.Unsupported, "quantization_config"},
		{"rope_scaling", map[string]any{"rope_type": "llama3", "factor": 8}, imagebind.Unsupported, `rope_scaling "llama3"`},
		{"rope_scaling", map[string]any{"type": "dynamic", "factor": 8}, imagebind.Unsupported, `rope_scaling "dynamic"`},
		{"rope_parameters", map[string]any{"rope_type": "yarn", "factor": 8}, imagebind.Unsupported, `rope_scaling "yarn"`},
		{"rope_scaling", map[string]any{"type": "linear"}, imagebind.Invalid, "the rotary scale is 0"},
		{"num_key_value_heads", 3, imagebind.Invalid, "4 heads share 3"},
		{"num_attention_heads", -1, imagebind.Invalid, "heads is -1"},
		{"hidden_size", 1 << 30, imagebind.Invalid, "the width is 1073741824"},
		{"num_hidden_layers", 5000, imagebind.Invalid, "5000 layers"},
		{"rms_norm_eps", 0, imagebind.Invalid, "epsilon is 0"},
		{"head_dim", 21, imagebind.Invalid, "heads 21 wide"},
		{"max_position_embeddings", -5, imagebind.Invalid, "-5 tokens"},
		{"rope_theta", 0.5, imagebind.Invalid, "rotary base"},
		{"rope_scaling", map[string]any{"type": "linear", "factor": 4}, 0, ""},
		{"rope_parameters", map[string]any{"rope_type": "default", "rope_theta": 500000}, 0, ""},
	} {
		c := hfJSON()
		c[tt.key] = tt.value
		raw, _ := json.Marshal(c)
		var h hfConfig
		if err := json.Unmarshal(raw, &h); err != nil {
			t.Fatal(err)
		}
		got, err := h.llama()
		if tt.want != "" {
			wantError(t, err, tt.kind, tt.want)
		} else if err != nil || got.RopeScale != 4 && got.RopeTheta != 500000 {
			t.Errorf("%s %v: %+v, %v", tt.key, tt.value, got, err)
		}
	}
}

func TestOpen(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	x := format.Tensor{Name: "x", Shape: []int{2}, Read: func(dst []float32, _ int) error { clear(dst); return nil }}
	fake.Save(t, filepath.Join(dir, "a.safetensors"), x)
	fake.Save(t, filepath.Join(dir, "b.safetensors"), x)
	for _, tt := range []struct {
		path string
		want string
	}{
		{write("empty.pth", ""), "empty.pth"},
		{write("text.pth", "this is no checkpoint, however long it is"), "text.pth"},
		{write("one.index.json", `{}`), "no weight_map"},
		{write("two.index.json", `{"weight_map":{"x":"../a.safetensors"}}`), `"../a.safetensors", which is not beside it`},
		{write("three.index.json", `{"weight_map":{"y":"a.safetensors"}}`), "tensor y is not in a.safetensors"},
		{write("four.index.json", `{"weight_map":{"y":"absent.safetensors"}}`), "absent.safetensors"},
		{write("five.index.json", `[`), "five.index.json"},
		{dir, "tensor x is in an earlier shard too"},
		{t.TempDir(), "holds no *.safetensors"},
	} {
		if _, err := Open(tt.path); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: error is %v, want %q", tt.path, err, tt.want)
		}
	}
	if _, err := Open(filepath.Join(dir, "absent")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("absent: %v", err)
	}
	meta := t.TempDir()
	if err := os.WriteFile(filepath.Join(meta, "consolidated.00.pth"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		dir:                            "is no base model",
		filepath.Join(dir, "text.pth"): "config.json",
		filepath.Join(dir, "absent"):   "absent",
		meta:                           "params.json",
	} {
		if _, err := OpenLLaMA(path, ""); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("base model %s: error is %v, want %q", path, err, want)
		}
	}
	c, err := Open(filepath.Join(dir, "a.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Tensor("y"); imagebind.KindOf(err) != imagebind.NotFound {
		t.Errorf("tensor y: %v", err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

// TestDelta: base + delta in float32, rounded to half precision.
func TestDelta(t *testing.T) {
	m := openTiny(t)
	var delta []format.Tensor
	for _, x := range all(t, m) {
		read := x.Read
		x.Read = func(dst []float32, from int) error {
			err := read(dst, from)
			for i := range dst {
				dst[i] = float16.Fromfloat32(dst[i] / 3).Float32()
			}
			return err
		}
		delta = append(delta, x)
	}
	delta = append(delta, format.Tensor{Name: "layers.0.attention.inner_attention.rope.freqs", Shape: []int{4}, Read: func([]float32, int) error { return nil }})
	dir := t.TempDir()
	fake.Save(t, filepath.Join(dir, "delta.pth"), delta...)
	got, err := OpenLLaMA(filepath.Join(tiny, "7B"), filepath.Join(dir, "delta.pth"))
	if err != nil {
		t.Fatal(err)
	}
	defer got.Close()
	for _, n := range m.Names() {
		sum := floats(t, got, n)
		for i, x := range floats(t, m, n) {
			third := float16.Fromfloat32(x / 3).Float32()
			if want := float16.Fromfloat32(x + third).Float32(); sum[i] != want {
				t.Fatalf("tensor %s: %v + %v is %v, want %v", n, x, third, sum[i], want)
			}
		}
	}

	wrong := slices.Clone(delta)
	wrong[0] = Rows(wrong[0], []int{0, 1})
	wrong[5].Name = "layers.9.attention.wq.weight"
	fake.Save(t, filepath.Join(dir, "wrong.pth"), wrong...)
	_, err = OpenLLaMA(filepath.Join(tiny, "7B"), filepath.Join(dir, "wrong.pth"))
	wantError(t, err, imagebind.Invalid, "wrong.pth", "tok_embeddings.weight has shape [2 80], the base model's [512 80]",
		"layers.0.feed_forward.w1.weight is missing", "layers.9.attention.wq.weight is no part of the base model")
}

// ggufOf is the metadata of the tiny model.
func ggufOf() map[string]any {
	return map[string]any{
		"general.architecture": "llama", "llama.embedding_length": uint32(80), "llama.block_count": uint32(6),
		"llama.attention.head_count": uint32(4), "llama.feed_forward_length": uint32(224), "llama.context_length": uint32(2048),
		"llama.attention.layer_norm_rms_epsilon": float32(1e-6), "llama.rope.freq_base": float32(10000), "llama.rope.dimension_count": uint32(20),
	}
}

func toGGUF(t testing.TB, m *LLaMA) []format.Tensor {
	t.Helper()
	var list []format.Tensor
	renames(GGUF, m.Config.Layers, func(meta, theirs string) {
		x, err := m.Tensor(meta)
		if err != nil {
			t.Fatal(err)
		}
		x.Name = theirs
		list = append(list, x)
	})
	return list
}

func TestGGUF(t *testing.T) {
	m := openTiny(t)
	got, err := readGGUF(ggufOf(), toGGUF(t, m))
	if err != nil {
		t.Fatal(err)
	}
	same(t, got, m)

	tied, err := readGGUF(ggufOf(), slices.DeleteFunc(toGGUF(t, m), func(x format.Tensor) bool { return x.Name == "output.weight" }))
	if err != nil || !tied.Config.TiedHead {
		t.Errorf("without a head: %v", err)
	}
}

func TestGGUFMetadata(t *testing.T) {
	m := openTiny(t)
	tensors := toGGUF(t, m)
	for _, tt := range []struct {
		key   string
		value any
		kind  imagebind.Kind
		want  string
	}{
		{"general.architecture", "qwen2", imagebind.Unsupported, `architecture "qwen2"`},
		{"general.architecture", 5, imagebind.Unsupported, `architecture ""`},
		{"general.type", "adapter", imagebind.Unsupported, "general.type = adapter"},
		{"split.count", uint16(3), imagebind.Unsupported, "one of 3 parts"},
		{"llama.expert_count", uint32(8), imagebind.Unsupported, "llama.expert_count = 8"},
		{"llama.rope.scaling.type", "yarn", imagebind.Unsupported, "llama.rope.scaling.type = yarn"},
		{"llama.rope.dimension_count", uint32(10), imagebind.Unsupported, "llama.rope.dimension_count = 10"},
		{"llama.attention.value_length", uint32(10), imagebind.Unsupported, "llama.attention.value_length = 10"},
		{"llama.embedding_length", "many", imagebind.Invalid, "the width is 0"},
		{"llama.embedding_length", math.NaN(), imagebind.Invalid, "the width is -1"},
		{"llama.block_count", uint64(math.MaxUint64), imagebind.Invalid, "layers is -1"},
		{"llama.attention.head_count", []any{4, 4}, imagebind.Invalid, "the number of heads is 0"},
		{"llama.attention.head_count_kv", uint32(2), imagebind.Invalid, "blk.0.attn_k.weight has shape [80 80], want [40 80]"},
		{"llama.rope.scaling.factor", float32(2), 0, ""},
	} {
		meta := ggufOf()
		delete(meta, "llama.rope.dimension_count") // it would be the first to differ
		meta[tt.key] = tt.value
		got, err := readGGUF(meta, tensors)
		if tt.want != "" {
			wantError(t, err, tt.kind, tt.want)
		} else if err != nil || got.Config.RopeScale != 1 {
			t.Errorf("%s = %v: %v", tt.key, tt.value, err)
		}
	}
	linear := ggufOf()
	linear["llama.rope.scaling.type"], linear["llama.rope.scaling.factor"] = "linear", float32(2)
	if got, err := readGGUF(linear, tensors); err != nil || got.Config.RopeScale != 2 {
		t.Errorf("linear scaling: %v", err)
	}
	x := tensors[0]
	x.Name = "rope_freqs.weight"
	_, err := readGGUF(ggufOf(), append(slices.Clone(tensors), x))
	wantError(t, err, imagebind.Unsupported, "rope_freqs.weight")
	x.Name = "blk.0.attn_q.bias"
	_, err = readGGUF(ggufOf(), append(slices.Clone(tensors), x))
	wantError(t, err, imagebind.Invalid, "blk.0.attn_q.bias is no part of LLaMA")
}
