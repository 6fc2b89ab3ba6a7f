package checkpoint

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	imagebind "imagebind-llm"
	"imagebind-llm/exporter/internal/fake"
)

// FuzzConfigs: whatever the JSON beside the weights says, a model opens with
// dims that its tensors have, or is refused as the caller's mistake.
func FuzzConfigs(f *testing.F) {
	twoHF, twoGGUF := hfJSON(), ggufOf() // what the small models below are
	for k, v := range map[string]int{"head_dim": 2, "num_attention_heads": 1, "intermediate_size": 2, "vocab_size": 2} {
		twoHF[k] = v
	}
	for k, v := range map[string]int{"key_length": 2, "value_length": 2, "head_count": 1} {
		twoGGUF["llama.attention."+k] = v
	}
	twoGGUF["llama.rope.dimension_count"], twoGGUF["llama.feed_forward_length"] = 2, 2
	for _, c := range []any{
		twoHF, twoGGUF, hfJSON(), ggufOf(), map[string]any{"dim": 80, "n_layers": 6, "n_heads": 4, "norm_eps": 1e-6, "vocab_size": -1},
		map[string]any{"weight_map": map[string]string{"model.norm.weight": "model.safetensors"}},
		map[string]any{"weight_map": map[string]string{"x": "../model.safetensors"}},
		map[string]any{"dim": 1 << 40, "n_layers": 1 << 30, "n_heads": 1, "norm_eps": 1},
	} {
		raw, err := json.Marshal(c)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	meta, hf := f.TempDir(), f.TempDir()
	m, err := OpenLLaMA(filepath.Join(tiny, "7B"), "")
	if err != nil {
		f.Fatal(err)
	}
	defer m.Close()
	small := all(f, m)
	for i, x := range small { // to two outputs, and inputs of wo and w2: the files are read each time
		switch k := kind(x.Name); {
		case k == "attention.wo", k == "feed_forward.w2":
			small[i] = Columns(x, []int{0, 1})
		case len(x.Shape) == 2:
			small[i] = Rows(x, []int{0, 1})
		}
	}
	fake.Save(f, filepath.Join(meta, "consolidated.00.pth"), small...)
	fake.Save(f, filepath.Join(hf, "model.safetensors"), toHuggingFace(f, &LLaMA{Checkpoint: New(small...), Config: LLaMAConfig{Layers: 6, HeadDim: 2}})...)
	gguf := toGGUF(f, &LLaMA{Checkpoint: New(small...), Config: LLaMAConfig{Layers: 6}})
	f.Fuzz(func(t *testing.T, raw []byte) {
		check := func(m *LLaMA, err error) {
			if err != nil {
				if imagebind.KindOf(err) == imagebind.Internal {
					t.Errorf("nobody's fault: %v", err)
				}
				return
			}
			for _, x := range all(t, m) {
				part := make([]float32, min(5, x.Len()))
				if err := x.Read(part, x.Len()-len(part)); err != nil {
					t.Errorf("%v: %v", x, err)
				}
			}
			if err := m.Close(); err != nil {
				t.Error(err)
			}
		}
		for path, dir := range map[string]string{"params.json": meta, "config.json": hf} {
			if err := os.WriteFile(filepath.Join(dir, path), raw, 0o644); err != nil {
				t.Fatal(err)
			}
			check(OpenLLaMA(dir, ""))
		}
		var metadata map[string]any
		if json.Unmarshal(raw, &metadata) == nil {
			check(readGGUF(metadata, gguf))
		}
		index := filepath.Join(hf, "model.safetensors.index.json")
		if err := os.WriteFile(index, raw, 0o644); err != nil {
			t.Fatal(err)
		}
		if c, err := Open(index); err == nil {
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		} else if imagebind.KindOf(err) == imagebind.Internal {
			t.Errorf("nobody's fault: %v", err)
		}
		if err := os.Remove(index); err != nil {
			t.Fatal(err)
		}
	})
}
