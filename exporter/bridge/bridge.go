// Package bridge builds the graph between ImageBind and LLaMA: the paper's bind
// network, and from its output what each adapted layer's attention adds. Both
// depend on the request's condition only, so the graph runs once a request
// (docs/adr/0001).
package bridge

import (
	"fmt"
	"io"
	"math"
	"slices"

	imagebind "imagebind-llm"
	"imagebind-llm/exporter/checkpoint"
	"imagebind-llm/exporter/graph"
	"imagebind-llm/exporter/nn"
	"imagebind-llm/exporter/onnx"
	"imagebind-llm/internal/format"
	"imagebind-llm/runner/bundle"
)

// Mixed stores the bind network as fp16 and the base model's wv and wo as int8:
// rounding adds up over the network's ten products, and two more cost little.
const Mixed nn.Precision = "mixed"

// Precisions are those that a bridge can have; see Options.
var Precisions = []nn.Precision{nn.FP32, nn.FP16, nn.Int8, Mixed}

// Options of Build.
type Options struct {
	// Precision of the large matrices, one of Precisions. "" stores the bind network
	// as float32, and wv and wo as the base model does. LoRA, gates and queries are
	// float32 always, and so is what is computed.
	Precision nn.Precision
	Exact     bool // quantised products do not round their input: for checks, slow
}

// Build returns the bridge of an adapter on its base model and its description, which lacks the graph's file name. layers is how many of the decoder's layers are
// adapted, as llama.Build returned it. bundle.Bridge has the graph's input and
// outputs. Both checkpoints must stay open until the graph is saved.
//
// For an adapted layer the reference (llama.py, Attention) takes wv without its
// LoRA of the bind network's output plus the layer's prefix query, times tanh of
// each head's gate; wo and its LoRA act on that, wo's bias does not.
func Build(base *checkpoint.LLaMA, adapter *checkpoint.Checkpoint, layers int, o Options) (*graph.Graph, bundle.Bridge, error) {
	a, err := checkpoint.ReadAdapter(adapter, base)
	if err != nil {
		return nil, bundle.Bridge{}, err
	}
	if a.Layers != layers {
		return nil, bundle.Bridge{}, imagebind.Errorf(imagebind.Invalid, "the adapter has %d prefix queries, the decoder %d adapted layers", a.Layers, layers)
	}
	if o.Precision != "" && !slices.Contains(Precisions, o.Precision) {
		return nil, bundle.Bridge{}, imagebind.Errorf(imagebind.Invalid, "a bridge of %s: it is one of %v", o.Precision, Precisions)
	}
	m, err := newModel(base, a, o)
	if err != nil {
		return nil, bundle.Bridge{}, fmt.Errorf("bridge: %w", err)
	}
	b := bundle.Bridge{Embed: a.Embed, Width: base.Config.Width, Layers: layers, Variant: a.Variant, Precision: string(o.Precision)}
	g, err := graph.Build(func(g *graph.Graph) {
		g.Name = "bridge"
		m.build(g, b)
	})
	if err != nil {
		return nil, bundle.Bridge{}, fmt.Errorf("bridge: %w", err)
	}
	return g, b, nil
}

// Epsilons of the bind network's norms: RMSNorm's default in the reference
// (llama.py; not the base model's), and torch's of a LayerNorm.
const (
	rmsEps    = 1e-6
	legacyEps = 1e-5
)

// A model mirrors the checkpoint.
type model struct {
	proj   nn.Linear
	blocks []block
	layers []layer
}

// A block is x + f2(silu(f1(n)) · f3(n)), n being the norm of x.
type block struct {
	norm interface {
		Apply(*graph.Graph, *graph.Value) *graph.Value
	}
	f1, f2, f3 nn.Linear
}

// A layer is wo(tanh(gate) · wv(x + prefix)).
type layer struct {
	wv, wo nn.Linear
	l1, l2 nn.Linear     // LoRA on wo; without weights where there is none
	gate   format.Tensor // one a head
	heads  int
	prefix format.Tensor // [D]
}

func newModel(base *checkpoint.LLaMA, a *checkpoint.Adapter, o Options) (*model, error) {
	m := &model{proj: o.stored(linear("image_bind_proj", a.Proj))}
	for _, b := range a.Blocks {
		l := block{f1: o.stored(linear("f1", b.F1)), f2: o.stored(linear("f2", b.F2)), f3: o.stored(linear("f3", b.F3))}
		if a.Variant == checkpoint.Legacy {
			l.norm = nn.LayerNorm{Name: "norm", Weight: b.Norm.Weight, Bias: b.Norm.Bias, Eps: legacyEps}
		} else {
			l.norm = nn.RMSNorm{Name: "norm", Weight: b.Norm.Weight, Eps: rmsEps}
		}
		m.blocks = append(m.blocks, l)
	}
	c := base.Config
	for i := range a.Layers {
		p := fmt.Sprintf("layers.%d.attention.", c.Layers-a.Layers+i)
		wv, err := base.Tensor(p + "wv.weight")
		if err != nil {
			return nil, err
		}
		wo, err := base.Tensor(p + "wo.weight")
		if err != nil {
			return nil, err
		}
		l := layer{
			wv: o.matrix("wv", spread(wv, c)), wo: o.matrix("wo", wo),
			gate: a.Gates[i], heads: c.Heads, prefix: row(a.Prefix, i),
		}
		if l1, l2, ok := a.LoRA(p + "wo.weight"); ok {
			l.l1, l.l2 = linear("lora_wo_l1", checkpoint.Affine{Weight: l1}), linear("lora_wo_l2", checkpoint.Affine{Weight: l2})
		}
		m.layers = append(m.layers, l)
	}
	return m, nil
}

func linear(name string, a checkpoint.Affine) nn.Linear {
	return nn.Linear{Name: name, Weight: []format.Tensor{a.Weight}, Bias: []format.Tensor{a.Bias}}
}

// stored is a layer of the bind network in o's precision.
func (o Options) stored(l nn.Linear) nn.Linear {
	l.Precision = o.Precision
	if o.Precision == Mixed {
		l.Precision = nn.FP16
	}
	l.Half = l.Precision == nn.FP16
	if !o.Exact {
		l.Accuracy = 4
	}
	return l
}

// matrix is one of the base model, as small as it is there where o says nothing.
func (o Options) matrix(name string, w format.Tensor) nn.Linear {
	if o.Precision == Mixed {
		o.Precision = nn.Int8
	}
	l := o.stored(nn.Linear{Name: name, Weight: []format.Tensor{w}})
	l.Half = l.Half || o.Precision == "" && w.DType == format.F16
	return l
}

// spread repeats the rows of wv where heads share them, so that each query head
// has its own.
func spread(wv format.Tensor, c checkpoint.LLaMAConfig) format.Tensor {
	if c.KVHeads == c.Heads {
		return wv
	}
	var rows []int
	for h := range c.Heads {
		for i := range c.HeadDim {
			rows = append(rows, h/(c.Heads/c.KVHeads)*c.HeadDim+i)
		}
	}
	return checkpoint.Rows(wv, rows)
}

// row returns row i of a matrix.
func row(t format.Tensor, i int) format.Tensor {
	read, n := t.Read, t.Shape[1]
	t.Shape = []int{n}
	t.Read = func(dst []float32, from int) error { return read(dst, i*n+from) }
	return t
}

// build adds the graph that b describes.
func (m *model) build(g *graph.Graph, b bundle.Bridge) {
	x := m.proj.Apply(g, g.Input("embedding", onnx.Float, "B", b.Embed))
	for i, l := range m.blocks {
		g.In(fmt.Sprintf("image_bind.%d", i+1), func() {
			n := l.norm.Apply(g, x)
			x = g.Add(x, l.f2.Apply(g, g.Mul(nn.SiLU(g, l.f1.Apply(g, n)), l.f3.Apply(g, n))))
		})
	}
	var added []*graph.Value
	for i, l := range m.layers {
		g.In(fmt.Sprintf("adapted.%d", i), func() {
			added = append(added, g.Unsqueeze(l.apply(g, x), 1))
		})
	}
	g.Output("visual_query", x, "B", b.Width)
	g.Output("injection", g.Concat(1, added...), "B", b.Layers, b.Width)
}

// apply returns [B, D] of the bind network's output x [B, D].
func (l layer) apply(g *graph.Graph, x *graph.Value) *graph.Value {
	v := l.wv.Apply(g, g.Add(x, nn.Weight(g, "prefix_query", onnx.Float, l.prefix, x.Dim(1))))
	v = g.Mul(v, l.gates(g, v.Dim(1)))
	y := l.wo.Apply(g, v)
	if len(l.l1.Weight) > 0 {
		y = g.Add(y, l.l2.Apply(g, l.l1.Apply(g, v)))
	}
	return y
}

// gates adds the vector [n] of tanh(gate), each head's repeated over its width.
func (l layer) gates(g *graph.Graph, n int) *graph.Value {
	return g.Weight("gate", onnx.Float, []int{n}, func(w io.Writer) error {
		gate, err := l.gate.Floats()
		if err != nil {
			return err
		}
		values := make([]float32, n)
		for i := range values {
			values[i] = float32(math.Tanh(float64(gate[i*l.heads/n])))
		}
		_, err = w.Write(onnx.Float.AppendFloats(nil, values))
		return err
	})
}
