package checkpoint

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	imagebind "imagebind-llm"
	"imagebind-llm/internal/format"
)

// metaParams is params.json.
type metaParams struct {
	Dim       int      `json:"dim"`
	Layers    int      `json:"n_layers"`
	Heads     int      `json:"n_heads"`
	KVHeads   int      `json:"n_kv_heads"`
	Vocab     int      `json:"vocab_size"` // -1: the tokenizer's
	NormEps   float64  `json:"norm_eps"`
	RopeTheta float64  `json:"rope_theta"`
	Scaled    bool     `json:"use_scaled_rope"`
	Context   int      `json:"max_seq_len"`
	MoE       any      `json:"moe"`
	Experts   *int     `json:"num_experts"`
	LoRA      any      `json:"lora_args"`
	Quantised any      `json:"quantization_args"`
	Vision    *float64 `json:"vision_chunk_size"`
}

// metaShards returns consolidated.NN.pth in dir, in their order.
func metaShards(dir string) ([]string, error) {
	return filepath.Glob(filepath.Join(escape(dir), "consolidated.*.pth"))
}

// openMeta opens params.json and all shards of the folder path, or of the
// folder that the file path is in.
func openMeta(path string) (m *LLaMA, err error) {
	dir := path
	if info, err := os.Stat(path); err != nil || !info.IsDir() {
		dir = filepath.Dir(path)
	}
	var p metaParams
	if err := readJSON(filepath.Join(dir, "params.json"), &p); err != nil {
		return nil, err
	}
	for what, is := range map[string]bool{
		"use_scaled_rope": p.Scaled, "moe": p.MoE != nil, "num_experts": p.Experts != nil, "lora_args": p.LoRA != nil,
		"quantization_args": p.Quantised != nil, "vision_chunk_size": p.Vision != nil,
	} {
		if is {
			return nil, imagebind.Errorf(imagebind.Unsupported, "%s has %s, which is not built here", filepath.Join(dir, "params.json"), what)
		}
	}
	files, err := metaShards(dir)
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return nil, imagebind.Errorf(imagebind.NotFound, "%s has no consolidated.00.pth", dir)
	}
	var shards []*Checkpoint
	var open []*Checkpoint // to be closed
	defer func() {
		if err != nil {
			for _, s := range open {
				err = errors.Join(err, s.Close())
			}
		}
	}()
	for i, f := range files {
		if want := fmt.Sprintf("consolidated.%02d.pth", i); filepath.Base(f) != want {
			return nil, imagebind.Errorf(imagebind.NotFound, "%s is missing: %d shards are there, among them %s", filepath.Join(dir, want), len(files), filepath.Base(f))
		}
		s, err := Open(f)
		if err != nil {
			return nil, err
		}
		shards, open = append(shards, s), append(open, s)
	}
	joined, err := joinShards(shards, p)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	c := LLaMAConfig{
		Width: p.Dim, Layers: p.Layers, Heads: p.Heads, KVHeads: p.KVHeads, Vocab: p.Vocab,
		NormEps: p.NormEps, RopeTheta: p.RopeTheta, RopeScale: 1, Context: p.Context,
	}
	if c.KVHeads == 0 {
		c.KVHeads = c.Heads
	}
	if c.RopeTheta == 0 {
		c.RopeTheta = 10000
	}
	if c.Context == 0 {
		c.Context = defaultContext
	}
	if c.Heads > 0 {
		c.HeadDim = c.Width / c.Heads
	}
	if c.Vocab <= 0 {
		c.Vocab = rows(joined, "tok_embeddings.weight")
	}
	c.Hidden = rows(joined, "layers.0.feed_forward.w1.weight")
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	weights, err := c.rename(Meta, joined, nil)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	for _, s := range shards {
		weights.files = append(weights.files, s.files...)
	}
	return &LLaMA{Checkpoint: weights, Config: c, Layout: Meta}, nil
}

// rows returns the first dimension of a tensor, 0 where it is missing.
func rows(src Source, name string) int {
	t, err := src.Tensor(name)
	if err != nil || len(t.Shape) == 0 {
		return 0
	}
	return t.Shape[0]
}

// joinShards puts Meta's model-parallel shards together. Each holds part of the
// outputs of wq, wk, wv, w1, w3 and output (axis 0), part of the inputs of wo
// and w2 (axis 1), and all of the norms. The embedding table is cut along its
// width in LLaMA 1 and 2, along the vocabulary in LLaMA 3: its shape tells.
func joinShards(shards []*Checkpoint, p metaParams) (*Checkpoint, error) {
	if len(shards) == 1 {
		return shards[0], nil
	}
	out := New()
	var faults faults
	left := map[string]bool{} // in a later shard, not in the first
	for _, s := range shards[1:] {
		for _, n := range s.Names() {
			left[n] = !unused(Meta, n)
		}
	}
	for _, name := range shards[0].Names() {
		left[name] = false
		if unused(Meta, name) {
			continue
		}
		var parts []format.Tensor
		for i, s := range shards {
			t, err := s.Tensor(name)
			if err != nil {
				faults.add("tensor %s is missing in consolidated.%02d.pth", name, i)
				continue
			}
			if !slices.Equal(t.Shape, shardShape(parts, t)) {
				faults.add("tensor %s has shape %v in consolidated.%02d.pth, %v in the first", name, t.Shape, i, parts[0].Shape)
				continue
			}
			parts = append(parts, t)
		}
		if len(parts) < len(shards) {
			continue
		}
		out.put(join(name, parts, p))
	}
	faults.extra(left, "consolidated.00.pth")
	return out, faults.err()
}

func shardShape(parts []format.Tensor, t format.Tensor) []int {
	if len(parts) == 0 {
		return t.Shape
	}
	return parts[0].Shape
}

func join(name string, parts []format.Tensor, p metaParams) format.Tensor {
	t := parts[0]
	if len(t.Shape) != 2 {
		return t // norms are in every shard, whole
	}
	switch kind(name) {
	case "attention.wo", "feed_forward.w2":
		return beside(name, parts)
	case "tok_embeddings":
		if t.Shape[1] != p.Dim {
			return beside(name, parts)
		}
	}
	return below(name, parts)
}
