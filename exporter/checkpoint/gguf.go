package checkpoint

import (
	"errors"
	"fmt"
	"reflect"
	"strconv"

	imagebind "imagebind-llm"
	"imagebind-llm/internal/format"
	"imagebind-llm/internal/format/gguf"
)

// openGGUF opens a GGUF file of architecture llama. Its wq and wk have Meta's
// order of rows: llama.cpp's converter puts Hugging Face's back.
func openGGUF(path string) (*LLaMA, error) {
	f, err := gguf.Open(path)
	if err != nil {
		return nil, err
	}
	m, err := readGGUF(f.Metadata(), f.Tensors())
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), f.Close())
	}
	m.files = append(m.files, f)
	return m, nil
}

func readGGUF(metadata map[string]any, tensors []format.Tensor) (*LLaMA, error) {
	meta := ggufMetadata(metadata)
	src := New(tensors...)
	c, err := meta.llama()
	if err != nil {
		return nil, err
	}
	c.Vocab = rows(src, "token_embd.weight")
	_, err = src.Tensor("output.weight")
	c.TiedHead = err != nil
	if _, err := src.Tensor("rope_freqs.weight"); err == nil {
		return nil, imagebind.Errorf(imagebind.Unsupported, "tensor rope_freqs.weight (the rotary scaling of Llama 3.1 and later) is not built here")
	}
	if err := c.check(); err != nil {
		return nil, err
	}
	weights, err := c.rename(GGUF, src, nil)
	if err != nil {
		return nil, err
	}
	return &LLaMA{Checkpoint: weights, Config: c, Metadata: metadata, Layout: GGUF}, nil
}

// ggufMetadata is a file's metadata. A value of another type than asked for is
// as good as none: the config's check finds it.
type ggufMetadata map[string]any

func (m ggufMetadata) text(key string) string {
	s, _ := m[key].(string)
	return s
}

func (m ggufMetadata) number(key string, or float64) float64 {
	v := reflect.ValueOf(m[key])
	switch {
	case v.CanInt():
		return float64(v.Int())
	case v.CanUint():
		return float64(v.Uint())
	case v.CanFloat():
		return v.Float()
	}
	return or
}

func (m ggufMetadata) int(key string, or int) int {
	x := m.number(key, float64(or))
	if !(x >= -maxDim && x <= maxDim) {
		return -1
	}
	return int(x)
}

// shortest returns the decimal number that x, a float32, was written as.
func shortest(x float64) float64 {
	y, err := strconv.ParseFloat(strconv.FormatFloat(x, 'g', -1, 32), 64)
	if err != nil {
		return x
	}
	return y
}

// llama returns the config, or an error that names what is not built here.
// https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
func (m ggufMetadata) llama() (LLaMAConfig, error) {
	const p = "llama."
	refuse := func(key string) (LLaMAConfig, error) {
		return LLaMAConfig{}, imagebind.Errorf(imagebind.Unsupported, "%s = %v is not built here", key, m[key])
	}
	if a := m.text("general.architecture"); a != "llama" {
		return LLaMAConfig{}, imagebind.Errorf(imagebind.Unsupported, "architecture %q is not built here; llama is", a)
	}
	if t := m.text("general.type"); t != "" && t != "model" {
		return refuse("general.type")
	}
	if m.int("split.count", 1) > 1 {
		return LLaMAConfig{}, imagebind.Errorf(imagebind.Unsupported, "it is one of %d parts (split.count): join them with llama-gguf-split --merge", m.int("split.count", 1))
	}
	if m.int(p+"expert_count", 0) > 0 {
		return refuse(p + "expert_count")
	}
	c := LLaMAConfig{
		Width: m.int(p+"embedding_length", 0), Layers: m.int(p+"block_count", 0), Heads: m.int(p+"attention.head_count", 0),
		Hidden: m.int(p+"feed_forward_length", 0), Context: m.int(p+"context_length", defaultContext),
		NormEps: m.number(p+"attention.layer_norm_rms_epsilon", 0), RopeTheta: m.number(p+"rope.freq_base", 10000), RopeScale: 1,
	}
	// Numbers of GGUF are float32: 1e-5 would come out as 9.99999974e-06.
	c.NormEps, c.RopeTheta = shortest(c.NormEps), shortest(c.RopeTheta)
	c.KVHeads = m.int(p+"attention.head_count_kv", c.Heads)
	if c.Heads > 0 {
		c.HeadDim = c.Width / c.Heads
	}
	c.HeadDim = m.int(p+"attention.key_length", c.HeadDim)
	if m.int(p+"attention.value_length", c.HeadDim) != c.HeadDim {
		return refuse(p + "attention.value_length")
	}
	if m.int(p+"rope.dimension_count", c.HeadDim) != c.HeadDim {
		return refuse(p + "rope.dimension_count")
	}
	switch t := m.text(p + "rope.scaling.type"); t {
	case "", "none":
		c.RopeScale = m.number(p+"rope.scale_linear", 1)
	case "linear":
		c.RopeScale = m.number(p+"rope.scaling.factor", 1)
	default:
		return refuse(p + "rope.scaling.type")
	}
	return c, nil
}
