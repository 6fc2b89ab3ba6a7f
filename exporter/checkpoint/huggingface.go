package checkpoint

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	imagebind "imagebind-llm"
	"imagebind-llm/internal/format"
)

// hfConfig is config.json of a LlamaForCausalLM.
type hfConfig struct {
	Architectures []string  `json:"architectures"`
	ModelType     string    `json:"model_type"`
	Width         int       `json:"hidden_size"`
	Hidden        int       `json:"intermediate_size"`
	Layers        int       `json:"num_hidden_layers"`
	Heads         int       `json:"num_attention_heads"`
	KVHeads       int       `json:"num_key_value_heads"`
	HeadDim       int       `json:"head_dim"`
	Vocab         int       `json:"vocab_size"`
	NormEps       float64   `json:"rms_norm_eps"`
	RopeTheta     float64   `json:"rope_theta"`
	RopeScaling   *hfRope   `json:"rope_scaling"`
	Rope          *hfRope   `json:"rope_parameters"` // the two of them, in newer files
	Context       int       `json:"max_position_embeddings"`
	Tied          bool      `json:"tie_word_embeddings"`
	Act           string    `json:"hidden_act"`
	AttentionBias bool      `json:"attention_bias"`
	MLPBias       bool      `json:"mlp_bias"`
	Quantised     *anything `json:"quantization_config"`
}

type anything struct{}

// UnmarshalJSON implements json.Unmarshaler.
func (*anything) UnmarshalJSON([]byte) error { return nil }

type hfRope struct {
	Type    string  `json:"rope_type"`
	OldType string  `json:"type"`
	Factor  float64 `json:"factor"`
	Theta   float64 `json:"rope_theta"`
}

// openHuggingFace opens config.json and the weights beside it: those of the
// folder path, or the file or index path.
func openHuggingFace(path string) (*LLaMA, error) {
	dir := path
	if info, err := os.Stat(path); err != nil || !info.IsDir() {
		dir = filepath.Dir(path)
		if filepath.Base(path) == "config.json" {
			path = dir
		}
	}
	config := filepath.Join(dir, "config.json")
	var h hfConfig
	if err := readJSON(config, &h); err != nil {
		return nil, fmt.Errorf("a base model that is neither GGUF nor Meta's consolidated.NN.pth has a config.json beside it: %w", err)
	}
	c, err := h.llama()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", config, err)
	}
	src, err := Open(path)
	if err != nil {
		return nil, err
	}
	weights, err := c.rename(HuggingFace, prefixed(src), func(meta string, t format.Tensor) format.Tensor {
		switch kind(meta) {
		case "attention.wq", "attention.wk":
			return Rows(t, interleave(t.Shape[0], c.HeadDim))
		}
		return t
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), src.Close())
	}
	weights.files = src.files
	return &LLaMA{Checkpoint: weights, Config: c, Layout: HuggingFace}, nil
}

// llama returns the config, or an error that names what is not built here.
func (h hfConfig) llama() (LLaMAConfig, error) {
	c := LLaMAConfig{
		Width: h.Width, Layers: h.Layers, Heads: h.Heads, KVHeads: cmp.Or(h.KVHeads, h.Heads), HeadDim: h.HeadDim,
		Hidden: h.Hidden, Vocab: h.Vocab, NormEps: h.NormEps, RopeTheta: cmp.Or(h.RopeTheta, 10000), RopeScale: 1,
		Context: cmp.Or(h.Context, defaultContext), TiedHead: h.Tied,
	}
	refuse := func(format string, args ...any) (LLaMAConfig, error) {
		return c, imagebind.Errorf(imagebind.Unsupported, "%s is not built here; LLaMA is", fmt.Sprintf(format, args...))
	}
	switch {
	case h.ModelType != "llama":
		return refuse("model_type %q", h.ModelType)
	case len(h.Architectures) > 0 && h.Architectures[0] != "LlamaForCausalLM":
		return refuse("architecture %s", strings.Join(h.Architectures, ", "))
	case h.Act != "" && h.Act != "silu":
		return refuse("hidden_act %q", h.Act)
	case h.AttentionBias:
		return refuse("attention_bias")
	case h.MLPBias:
		return refuse("mlp_bias")
	case h.Quantised != nil:
		return refuse("quantization_config")
	}
	for _, r := range []*hfRope{h.RopeScaling, h.Rope} {
		if r == nil {
			continue
		}
		c.RopeTheta = cmp.Or(r.Theta, c.RopeTheta)
		switch typ := cmp.Or(r.Type, r.OldType, "default"); typ {
		case "default":
		case "linear":
			c.RopeScale = r.Factor
		default:
			return refuse("rope_scaling %q", typ)
		}
	}
	if c.HeadDim == 0 && c.Heads > 0 {
		c.HeadDim = c.Width / c.Heads
	}
	return c, c.check()
}

// prefixed gives the names of a bare LlamaModel, or of a .bin whose "model." was
// taken for a wrapper, that prefix again.
func prefixed(src *Checkpoint) *Checkpoint {
	if _, err := src.Tensor("embed_tokens.weight"); err != nil {
		return src
	}
	out := New()
	for _, t := range src.tensors {
		if !strings.HasPrefix(t.Name, "lm_head.") {
			t.Name = "model." + t.Name
		}
		out.put(t)
	}
	return out
}

// interleave returns which row of Hugging Face's wq or wk is row i of Meta's.
// In a head of Dh rows the rotary pair j is rows j and j+Dh/2 there, 2j and
// 2j+1 here.
func interleave(n, dh int) []int {
	order := make([]int, n)
	for i := range order {
		head, r := i/dh*dh, i%dh
		order[i] = head + r%2*(dh/2) + r/2
	}
	return order
}
