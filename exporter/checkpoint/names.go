package checkpoint

import (
	"fmt"
	"strings"
)

// Layouts of a base model.
const (
	Meta        = "meta"
	HuggingFace = "huggingface"
	GGUF        = "gguf"
)

// names is LLaMA's tensors: Meta's names, which are ours, Hugging Face's and
// GGUF's, all followed by ".weight". Names of layers follow "layers.N.",
// "model.layers.N." and "blk.N.".
var names = struct {
	top, layer []triple
}{
	top: []triple{
		{"tok_embeddings", "model.embed_tokens", "token_embd"},
		{"norm", "model.norm", "output_norm"},
		{"output", "lm_head", "output"},
	},
	layer: []triple{
		{"attention.wq", "self_attn.q_proj", "attn_q"},
		{"attention.wk", "self_attn.k_proj", "attn_k"},
		{"attention.wv", "self_attn.v_proj", "attn_v"},
		{"attention.wo", "self_attn.o_proj", "attn_output"},
		{"feed_forward.w1", "mlp.gate_proj", "ffn_gate"},
		{"feed_forward.w2", "mlp.down_proj", "ffn_down"},
		{"feed_forward.w3", "mlp.up_proj", "ffn_up"},
		{"attention_norm", "input_layernorm", "attn_norm"},
		{"ffn_norm", "post_attention_layernorm", "ffn_norm"},
	},
}

type triple struct{ meta, hf, gguf string }

func (t triple) in(layout string) string {
	switch layout {
	case HuggingFace:
		return t.hf
	case GGUF:
		return t.gguf
	}
	return t.meta
}

var layerPrefix = triple{"layers.%d.", "model.layers.%d.", "blk.%d."}

// renames calls f with each of a model's tensors in Meta's order and name, and
// with its name in a layout.
func renames(layout string, layers int, f func(meta, theirs string)) {
	top := func(t triple) { f(t.meta+".weight", t.in(layout)+".weight") }
	top(names.top[0])
	for i := range layers {
		ours, theirs := fmt.Sprintf(layerPrefix.meta, i), fmt.Sprintf(layerPrefix.in(layout), i)
		for _, t := range names.layer {
			f(ours+t.meta+".weight", theirs+t.in(layout)+".weight")
		}
	}
	for _, t := range names.top[1:] {
		top(t)
	}
}

// unused reports whether a base model may have the tensor although nothing
// reads it: rotary frequencies, which follow from the config. Those of GGUF are
// of a scaling that is not built here, and are not among them.
func unused(layout, name string) bool {
	switch layout {
	case Meta:
		return strings.HasSuffix(name, "rope.freqs")
	case HuggingFace:
		return strings.HasSuffix(name, "rotary_emb.inv_freq")
	}
	return false
}

// shapes of a base model's tensors by the end of their Meta name.
func (c LLaMAConfig) shape(meta string) []int {
	q, kv := c.Heads*c.HeadDim, c.KVHeads*c.HeadDim
	switch kind(meta) {
	case "attention.wq":
		return []int{q, c.Width}
	case "attention.wk", "attention.wv":
		return []int{kv, c.Width}
	case "attention.wo":
		return []int{c.Width, q}
	case "feed_forward.w1", "feed_forward.w3":
		return []int{c.Hidden, c.Width}
	case "feed_forward.w2":
		return []int{c.Width, c.Hidden}
	case "tok_embeddings", "output":
		return []int{c.Vocab, c.Width}
	}
	return []int{c.Width} // the norms
}

// kind returns a Meta name without its layer and ".weight".
func kind(meta string) string {
	if rest, ok := strings.CutPrefix(meta, "layers."); ok {
		_, meta, _ = strings.Cut(rest, ".")
	}
	return strings.TrimSuffix(meta, ".weight")
}
