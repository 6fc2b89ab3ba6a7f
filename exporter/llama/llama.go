// Package llama builds LLaMA's decoder as a graph: prefill and decode are the
// same graph, the KV cache is its input and output, and what an ImageBind-LLM
// adapter changes is merged into the weights while they are written. The one
// thing that is not merged, what each adapted layer's attention adds, is an
// input (see exporter/bridge).
package llama

import (
	"fmt"
	"math"

	imagebind "imagebind-llm"
	"imagebind-llm/exporter/checkpoint"
	"imagebind-llm/exporter/graph"
	"imagebind-llm/exporter/nn"
	"imagebind-llm/exporter/onnx"
	"imagebind-llm/internal/format"
	"imagebind-llm/runner/bundle"
)

// An Adapter is the tensors of an ImageBind-LLM checkpoint. A
// checkpoint.Checkpoint is one.
type Adapter = checkpoint.Source

// Options of Build.
type Options struct {
	Precision nn.Precision // of the matrices; "" is fp32
	// Head is the precision of the output head. "" is the decoder's, but int8 for
	// int4: its errors go straight to the logits, and it is read once a token.
	Head nn.Precision
	// Table is the precision of the embedding table. "" is the decoder's, but int8
	// for int4; where the head is the table, it is the head's.
	Table   nn.Precision
	Exact   bool // quantised products do not round their input: for checks, many times slower
	Context int  // rows of the rotary tables; 0 is what the model was made for
}

// Build returns the decoder of a base model, with adapter where that is not nil,
// and its description, which lacks the graph's file name and the tokenizer's
// part. bundle.Decoder has the graph's inputs and outputs. Both checkpoints must
// stay open until the graph is saved.
//
// Heads whose width is no multiple of 16 are filled up with zeros to one, since
// onnxruntime rotates no others: HeadDim is the width in the cache.
func Build(base *checkpoint.LLaMA, adapter Adapter, o Options) (*graph.Graph, bundle.Decoder, error) {
	if err := o.fill(base.Config.TiedHead); err != nil {
		return nil, bundle.Decoder{}, err
	}
	if o.Context == 0 {
		o.Context = base.Config.Context
	}
	if o.Context < 1 {
		return nil, bundle.Decoder{}, imagebind.Errorf(imagebind.Invalid, "a context of %d tokens", o.Context)
	}
	w := weights{base: base}
	layers := 0
	if adapter != nil {
		a, err := checkpoint.ReadAdapter(adapter, base)
		if err != nil {
			return nil, bundle.Decoder{}, err
		}
		w.adapter, layers = a, a.Layers
	}
	m := newModel(&w, o)
	if w.err != nil {
		return nil, bundle.Decoder{}, fmt.Errorf("decoder: %w", w.err)
	}
	c := base.Config
	d := bundle.Decoder{
		Width: c.Width, Layers: c.Layers, Heads: c.Heads, KVHeads: c.KVHeads, HeadDim: m.headDim, Hidden: c.Hidden, Vocab: c.Vocab,
		NormEps: c.NormEps, RopeTheta: c.RopeTheta, Context: o.Context, AdaptedLayers: layers,
		Precision: string(o.Precision), HeadPrecision: string(o.Head), TablePrecision: string(o.Table), KVType: "float32",
	}
	if m.float == onnx.Float16 {
		d.KVType = "float16"
	}
	g, err := graph.Build(func(g *graph.Graph) {
		g.Name = "decoder"
		m.build(g, d)
	})
	if err != nil {
		return nil, bundle.Decoder{}, fmt.Errorf("decoder: %w", err)
	}
	return g, d, nil
}

// fill writes out the defaults and refuses what does not go together.
func (o *Options) fill(tied bool) error {
	if o.Precision == "" {
		o.Precision = nn.FP32
	}
	least := o.Precision // of what is not to be of 4 bits
	if o.Precision == nn.Int4 || o.Precision == nn.Int4A {
		least = nn.Int8
	}
	if o.Head == "" {
		o.Head = least
	}
	if o.Table == "" {
		o.Table = least
		if tied && o.Head != nn.Int4A && (o.Precision.Quantised() || o.Head.Quantised()) {
			o.Table = o.Head
		}
	}
	switch {
	case o.Table == nn.Int4A:
		return imagebind.Errorf(imagebind.Invalid, "an embedding table of int4a: it is fp32, fp16, int8 or int4")
	case !o.Head.Quantised() && o.Head.Activations() != o.Precision.Activations():
		return imagebind.Errorf(imagebind.Invalid, "a head of %s in a decoder of %s: what is not int8, int4 or int4a is of the type that the decoder computes in", o.Head, o.Precision)
	}
	return nil
}

// weights hands out the tensors of the adapted or the bare model, and keeps the
// first error.
type weights struct {
	base    *checkpoint.LLaMA
	adapter *checkpoint.Adapter // nil without one
	err     error
}

func (w *weights) get(name string) format.Tensor {
	var t format.Tensor
	var err error
	if w.adapter != nil {
		t, err = w.adapter.Weight(name)
	} else {
		t, err = w.base.Tensor(name)
	}
	if err != nil && w.err == nil {
		w.err = err
	}
	return t
}

// bias returns the adapter's bias on a tensor, a zero Tensor where it has none.
func (w *weights) bias(name string) format.Tensor {
	if w.adapter == nil {
		return format.Tensor{}
	}
	return w.adapter.Bias(name)
}

// A model mirrors the checkpoint.
type model struct {
	embed  *nn.Embedding
	layers []layer
	norm   nn.RMSNorm
	head   nn.Linear

	config  checkpoint.LLaMAConfig
	headDim int        // of a head in the graph, at least config.HeadDim
	float   onnx.DType // that it computes in
}

type layer struct {
	attentionNorm, ffnNorm nn.RMSNorm
	qkv, wo                nn.Linear
	w1, w2, w3             nn.Linear
}

func newModel(w *weights, o Options) *model {
	c := w.base.Config
	m := &model{config: c, headDim: (c.HeadDim + rotated - 1) / rotated * rotated, float: o.Precision.Activations()}
	accuracy := 4
	if o.Exact {
		accuracy = 0
	}
	linear := func(name string, weight, bias format.Tensor) nn.Linear {
		return nn.Linear{Name: name, Weight: []format.Tensor{weight}, Bias: []format.Tensor{bias}, Precision: o.Precision, Accuracy: accuracy}
	}
	norm := func(name, tensor string) nn.RMSNorm {
		return nn.RMSNorm{Name: name, Weight: w.get(tensor), Eps: c.NormEps}
	}
	for i := range c.Layers {
		p := fmt.Sprintf("layers.%d.", i)
		whole := func(name string) nn.Linear {
			t := p + "feed_forward." + name + ".weight"
			return linear(name, w.get(t), w.bias(t))
		}
		q, k, v, out := p+"attention.wq.weight", p+"attention.wk.weight", p+"attention.wv.weight", p+"attention.wo.weight"
		l := layer{
			attentionNorm: norm("attention_norm", p+"attention_norm.weight"),
			ffnNorm:       norm("ffn_norm", p+"ffn_norm.weight"),
			qkv: nn.Linear{
				Name:      "wqkv",
				Weight:    []format.Tensor{m.wider(w.get(q)), m.wider(w.get(k)), m.wider(w.get(v))},
				Bias:      []format.Tensor{m.wider(w.bias(q)), m.wider(w.bias(k)), m.wider(w.bias(v))},
				Precision: o.Precision, Accuracy: accuracy,
			},
			wo: linear("wo", m.widerInput(w.get(out)), w.bias(out)),
			w1: whole("w1"), w2: whole("w2"), w3: whole("w3"),
		}
		m.layers = append(m.layers, l)
	}
	m.embed = &nn.Embedding{Name: "tok_embeddings", Weight: w.get("tok_embeddings.weight"), Precision: o.Table}
	m.norm = norm("norm", "norm.weight")
	m.head = linear("output", w.get("output.weight"), format.Tensor{})
	m.head.Precision = o.Head
	if c.TiedHead {
		m.head.Table = m.embed
	}
	return m
}

// build adds the graph that d describes.
func (m *model) build(g *graph.Graph, d bundle.Decoder) {
	ids := g.Input("input_ids", onnx.Int64, "B", "S")
	seqlens := g.Input("seqlens_k", onnx.Int32, "B")
	total := g.Input("total_sequence_length", onnx.Int32)
	last := g.Input("logit_index", onnx.Int64, "B")
	add := make([]*graph.Value, d.Layers) // what a layer's attention adds, [B, 1, D]; nil below the adapted ones
	if n := d.AdaptedLayers; n > 0 {
		x := g.Cast(g.Input("injection", onnx.Float, "B", n, d.Width), m.float)
		copy(add[d.Layers-n:], g.Split(x, 1, n))
	}
	cos, sin := m.rotary(g, d.Context)

	x := m.embed.Apply(g, ids, m.float)
	var y *graph.Value // what the last layer adds to x; nil before the first
	for i, l := range m.layers {
		past := func(kind string) *graph.Value {
			return g.Input(fmt.Sprintf("past_key_values.%d.%s", i, kind), m.float, "B", d.KVHeads, "P", d.HeadDim)
		}
		attention := graph.GQA{
			PastKey: past("key"), PastVal: past("value"), Seqlens: seqlens, Total: total, Cos: cos, Sin: sin,
			Heads: d.Heads, KVHeads: d.KVHeads, Interleaved: true, Present: "T",
			Scale: 1 / math.Sqrt(float64(m.config.HeadDim)),
		}
		var key, value *graph.Value
		g.In(fmt.Sprintf("layers.%d", i), func() {
			x, y, key, value = l.apply(g, x, y, add[i], attention)
		})
		g.Output(fmt.Sprintf("present.%d.key", i), key)
		g.Output(fmt.Sprintf("present.%d.value", i), value)
	}
	at := g.Unsqueeze(last, 1)
	x = g.GatherND(g.Add(x, y), at, 1) // [B, D]: the head is for one token a row
	g.Output("logits", g.Cast(m.head.Apply(g, m.norm.Apply(g, x)), onnx.Float), "B", d.Vocab)
}

// apply adds a layer to x + y, which it sums; y is nil before the first layer.
// The result is again a sum of two.
func (l layer) apply(g *graph.Graph, x, y, add *graph.Value, a graph.GQA) (sum, more, key, value *graph.Value) {
	var n *graph.Value
	if y == nil {
		n = l.attentionNorm.Apply(g, x)
	} else {
		n, x = l.attentionNorm.Skip(g, y, x)
	}
	a.QKV = l.qkv.Apply(g, n)
	h, key, value := g.GroupQueryAttention(a)
	h = l.wo.Apply(g, h)
	if add != nil {
		h = g.Add(h, add)
	}
	n, x = l.ffnNorm.Skip(g, h, x)
	return x, l.w2.Apply(g, g.Mul(nn.SiLU(g, l.w1.Apply(g, n)), l.w3.Apply(g, n))), key, value
}
