package llama

import (
	"fmt"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"imagebind-llm/exporter/checkpoint"
	"imagebind-llm/exporter/internal/fake"
	"imagebind-llm/exporter/nn"
	"imagebind-llm/internal/format"
	"imagebind-llm/internal/golden"
)

// write makes a folder of a config file and .safetensors files of half precision.
func write(t testing.TB, config string, dims map[string]any, files map[string][]format.Tensor) (dir string) {
	t.Helper()
	dir = t.TempDir()
	fake.SaveJSON(t, filepath.Join(dir, config), dims)
	for name, tensors := range files {
		fake.Save(t, filepath.Join(dir, name), tensors...)
	}
	return dir
}

func tensors(t testing.TB, m *checkpoint.LLaMA) []format.Tensor {
	t.Helper()
	var list []format.Tensor
	for _, n := range m.Names() {
		x, err := m.Tensor(n)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, x)
	}
	return list
}

// huggingFace names and permutes as transformers' convert_llama_weights_to_hf.py
// does: each head's rows [Dh/2, 2] become [2, Dh/2] in q and k.
func huggingFace(t testing.TB, m *checkpoint.LLaMA) string {
	t.Helper()
	rename := strings.NewReplacer(
		"tok_embeddings", "model.embed_tokens", "output.", "lm_head.", "layers.", "model.layers.",
		"attention.wq", "self_attn.q_proj", "attention.wk", "self_attn.k_proj", "attention.wv", "self_attn.v_proj",
		"attention.wo", "self_attn.o_proj", "feed_forward.w1", "mlp.gate_proj", "feed_forward.w2", "mlp.down_proj",
		"feed_forward.w3", "mlp.up_proj", "attention_norm", "input_layernorm", "ffn_norm", "post_attention_layernorm",
	)
	dh := m.Config.HeadDim
	var list []format.Tensor
	for _, x := range tensors(t, m) {
		if strings.Contains(x.Name, ".wq.") || strings.Contains(x.Name, ".wk.") {
			var rows []int
			for head := 0; head < x.Shape[0]; head += dh {
				for j := range 2 {
					for i := range dh / 2 {
						rows = append(rows, head+2*i+j)
					}
				}
			}
			x = checkpoint.Rows(x, rows)
		}
		if x.Name = rename.Replace(x.Name); x.Name == "norm.weight" {
			x.Name = "model.norm.weight"
		}
		list = append(list, x)
	}
	return write(t, "config.json", map[string]any{
		"model_type": "llama", "hidden_size": 80, "intermediate_size": 224, "num_hidden_layers": 6, "num_attention_heads": 4,
		"rms_norm_eps": 1e-6, "vocab_size": 512, "max_position_embeddings": 2048,
	}, map[string][]format.Tensor{"model.safetensors": list})
}

// shards cuts the model as Meta's model parallelism does.
func shards(t testing.TB, m *checkpoint.LLaMA, n int) string {
	t.Helper()
	files := map[string][]format.Tensor{}
	for i := range n {
		name := fmt.Sprintf("consolidated.%02d.pth", i)
		for _, x := range tensors(t, m) {
			part := func(size int) (list []int) {
				for j := range size / n {
					list = append(list, i*size/n+j)
				}
				return list
			}
			switch {
			case len(x.Shape) == 1:
			case strings.Contains(x.Name, ".wo."), strings.Contains(x.Name, ".w2."), strings.Contains(x.Name, "tok_"):
				x = checkpoint.Columns(x, part(x.Shape[1]))
			default:
				x = checkpoint.Rows(x, part(x.Shape[0]))
			}
			files[name] = append(files[name], x)
		}
	}
	return write(t, "params.json", map[string]any{"dim": 80, "n_layers": 6, "n_heads": 4, "norm_eps": 1e-6, "vocab_size": -1}, files)
}

// TestLayouts: the same model in Hugging Face's layout and in two shards gives
// the very same decoder, with an adapter too.
func TestLayouts(t *testing.T) {
	base := openBase(t, filepath.Join(tiny, "7B"))
	for _, variant := range []string{"", "finetune"} {
		for _, p := range []nn.Precision{nn.FP32, nn.Int4} {
			o := Options{Precision: p}
			want := sums(t, base, openAdapter(t, variant), o)
			for layout, dir := range map[string]string{"Hugging Face": huggingFace(t, base), "two shards": shards(t, base, 2)} {
				got := sums(t, openBase(t, dir), openAdapter(t, variant), o)
				for name, sum := range want {
					if got[name] != sum {
						t.Errorf("%s, %s %q: weight %s differs", layout, p, variant, name)
					}
				}
				if len(got) != len(want) {
					t.Errorf("%s: %d weights, want %d", layout, len(got), len(want))
				}
			}
		}
	}
	// The hashes say so already; this says that the order of rows is the right one.
	d := decoder(t, openBase(t, huggingFace(t, base)), nil, Options{}, 1)
	for _, c := range cases(t, "") {
		logits, err := d.Run(t.Context(), [][]int{c.Prompt}, nil)
		if err != nil {
			t.Fatal(err)
		}
		golden.Close(t, logits[0], c.Prefill, 1e-4)
		d.Reset()
	}
}

// TestSharedHeads: heads that share keys and values are heads with equal ones.
// A head 32 wide is not filled up.
func TestSharedHeads(t *testing.T) {
	for _, dh := range []int{20, 32} {
		const heads, width, vocab = 4, 64, 50
		c := checkpoint.LLaMAConfig{
			Width: width, Layers: 2, Heads: heads, KVHeads: 2, HeadDim: dh, Hidden: 96, Vocab: vocab,
			NormEps: 1e-5, RopeTheta: 10000, RopeScale: 1, Context: capacity,
		}
		var few, all []format.Tensor
		add := func(name string, shape ...int) {
			x := fake.Tensor(name, uint64(len(few)), shape...)
			few = append(few, x)
			if strings.Contains(name, ".wk.") || strings.Contains(name, ".wv.") {
				var rows []int
				for i := range heads * dh {
					rows = append(rows, i/dh/2*dh+i%dh)
				}
				x = checkpoint.Rows(x, rows)
			}
			all = append(all, x)
		}
		add("tok_embeddings.weight", vocab, width)
		for i := range c.Layers {
			p := fmt.Sprintf("layers.%d.", i)
			add(p+"attention.wq.weight", heads*dh, width)
			add(p+"attention.wk.weight", 2*dh, width)
			add(p+"attention.wv.weight", 2*dh, width)
			add(p+"attention.wo.weight", width, heads*dh)
			add(p+"feed_forward.w1.weight", 96, width)
			add(p+"feed_forward.w2.weight", width, 96)
			add(p+"feed_forward.w3.weight", 96, width)
			add(p+"attention_norm.weight", width)
			add(p+"ffn_norm.weight", width)
		}
		add("norm.weight", width)
		add("output.weight", vocab, width)
		whole := c
		whole.KVHeads = heads
		var results [2][][]float32
		for i, m := range []*checkpoint.LLaMA{{Checkpoint: checkpoint.New(few...), Config: c}, {Checkpoint: checkpoint.New(all...), Config: whole}} {
			d := decoder(t, m, nil, Options{}, 1)
			for _, ids := range [][]int{{1, 7, 30, 4}, {9}, {2}} {
				logits, err := d.Run(t.Context(), [][]int{ids}, nil)
				if err != nil {
					t.Fatal(err)
				}
				results[i] = append(results[i], slices.Clone(logits[0]))
			}
		}
		for i := range results[0] {
			golden.Close(t, results[0][i], results[1][i], 1e-5)
		}
	}
}

// TestRotary: the tables are cos and sin of position · θ^(-2i/Dh), in the
// reference's float32 steps; a stretched model's positions are divided.
func TestRotary(t *testing.T) {
	c := checkpoint.LLaMAConfig{HeadDim: 20, RopeTheta: 10000, RopeScale: 1}
	plain := (&model{config: c}).frequencies()
	for i, f := range plain {
		if want := math.Pow(10000, -float64(2*i)/20); len(plain) != 10 || math.Abs(float64(f)-want) > 1e-6*want {
			t.Errorf("frequency %d of %d is %v, want %v", i, len(plain), f, want)
		}
	}
	c.RopeScale = 4
	for i, f := range (&model{config: c}).frequencies() {
		if f != plain[i]/4 {
			t.Errorf("stretched fourfold, frequency %d is %v, was %v", i, f, plain[i])
		}
	}
}

// TestContext: the tables have as many rows as the context asks for, and no
// weight but them depends on it.
func TestContext(t *testing.T) {
	base := openBase(t, filepath.Join(tiny, "7B"))
	g, d, err := Build(base, nil, Options{Context: 100})
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range g.Tensors() {
		if strings.HasPrefix(x.Name, "rotary.") && !slices.Equal(x.Shape, []int{100, 16}) {
			t.Errorf("%s is %v", x.Name, x.Shape)
		}
	}
	if d.Context != 100 || d.HeadDim != 32 {
		t.Errorf("it is %+v", d)
	}
	short, long := sums(t, base, nil, Options{Context: 100}), sums(t, base, nil, Options{})
	for _, m := range []map[string]string{short, long} {
		delete(m, "rotary.cos")
		delete(m, "rotary.sin")
	}
	if !maps.Equal(short, long) {
		t.Error("other weights differ")
	}
}
