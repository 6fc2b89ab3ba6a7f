// Package encoder builds ImageBind's trunks as graphs from a checkpoint with
// the released key names (ImageBind, models/imagebind_model.py and
// models/transformer.py). A graph reads like its paper:
//
//	stem -> [class token, tokens] + positions -> blocks -> head -> unit length · scale
//
// Dims come from the tensors' shapes, what those cannot tell from a
// modality.Encoder. Each kind of stem is a file: patches.go, tokens.go. The
// clips of one input are averaged by whoever runs the graph, not in it.
package encoder

import (
	"errors"
	"fmt"
	"math"

	imagebind "imagebind-llm"
	"imagebind-llm/exporter/graph"
	"imagebind-llm/exporter/nn"
	"imagebind-llm/exporter/onnx"
	"imagebind-llm/internal/format"
	"imagebind-llm/runner/modality"
)

// A Source is an open checkpoint. Package checkpoint has one.
type Source interface {
	// Tensor returns the tensor of that name; the error says that there is none.
	Tensor(name string) (format.Tensor, error)
	// Names returns the names of all tensors.
	Names() []string
}

// Options of Build.
type Options struct {
	// Heads is the number of attention heads; 0 means the released model's.
	Heads int
	// Precision is fp32, fp16 or int8; "" is fp32. int8 is for the blocks' products;
	// stem, positions, norms and head stay float32.
	Precision nn.Precision
	// Exact makes quantised products exact (and many times slower on the CPU); else
	// they round their input to 8 bits too.
	Exact bool
	// Taps adds outputs for tests: tokens, the trunk's input, and trunk, its output.
	Taps bool
}

// Info is what the checkpoint's shapes said.
type Info struct {
	Width, Layers, Heads, Hidden int
	Tokens                       int     // with the class token
	Embed                        int     // E
	Scale                        float64 // that the unit vector is multiplied by; 1 where the file has none
}

// Has reports whether the checkpoint holds anything of an encoder. All are optional.
func Has(src Source, enc modality.Encoder) bool {
	for _, n := range src.Names() {
		if owned(n, enc.Name) {
			return true
		}
	}
	return false
}

// Build returns the graph of one encoder, for N clips at a time:
//
//	input      [N, …enc.Input]  float32, or int64 where enc.Ints
//	embedding  [N, E]           unit length times the logit scale
//	prenorm    [N, E]           before normalisation
//
// Tensors that are missing, of another shape, or not of this encoder though
// their names say so, are all named in the one error. src must stay open until
// the graph is saved.
func Build(src Source, enc modality.Encoder, o Options) (*graph.Graph, Info, error) {
	if !Has(src, enc) {
		return nil, Info{}, imagebind.Errorf(imagebind.NotFound, "the checkpoint has no %s encoder: no tensor modality_trunks.%s.*", enc.Name, enc.Name)
	}
	m, info, err := read(src, enc, o)
	if err != nil {
		return nil, Info{}, imagebind.Errorf(imagebind.Invalid, "encoder %s: %w", enc.Name, err)
	}
	g, err := graph.Build(func(g *graph.Graph) {
		g.Name = enc.Name
		m.build(g, o)
	})
	if err != nil {
		return nil, Info{}, fmt.Errorf("encoder %s: %w", enc.Name, err)
	}
	return g, info, nil
}

// A model mirrors the checkpoint.
type model struct {
	enc    modality.Encoder
	stem   stem
	pre    *nn.LayerNorm // vision: before the blocks
	blocks []block
	norm   nn.LayerNorm // the head's
	head   nn.Linear
	embed  int // E
	scale  float64
	float  onnx.DType // that it computes in
}

// A stem turns the input into the trunk's tokens, and picks the token that
// stands for the whole at the trunk's end. Each kind of modality.Stem has one.
type stem interface {
	// read claims the stem's tensors; width is the trunk's.
	read(t *tensors, width int)
	// tokens returns [N, T, D] of the graph's input, positions added.
	tokens(g *graph.Graph, input *graph.Value, float onnx.DType) *graph.Value
	// pool returns [N, D] of the trunk's output x [N, T, D].
	pool(g *graph.Graph, input, x *graph.Value) *graph.Value
	// length returns T.
	length() int
	// heads returns the names that the head's norm and projection may have.
	heads() [][2]string
	// normed reports whether the stem has a norm of its own.
	normed() bool
	causal() bool
}

func newStem(enc modality.Encoder) (stem, error) {
	switch s := enc.Stem.(type) {
	case modality.Patches:
		return &patches{enc: enc, Patches: s}, nil
	case modality.Tokens:
		return &tokens{enc: enc}, nil
	}
	return nil, fmt.Errorf("a stem of kind %T is not built here", enc.Stem)
}

// Epsilons of the norms: torch's default in the stems, 1e-6 in trunks and heads
// (imagebind_model.py).
const (
	stemEps  = 1e-5
	trunkEps = 1e-6
)

// A block is a pre-norm transformer block (transformer.py, BlockWithMasking).
type block struct {
	norm1, norm2 nn.LayerNorm
	attn         nn.Attention
	fc1, fc2     nn.Linear
}

func read(src Source, enc modality.Encoder, o Options) (*model, Info, error) {
	if o.Precision == "" {
		o.Precision = nn.FP32
	}
	if p := o.Precision; p != nn.FP32 && p != nn.FP16 && p != nn.Int8 {
		return nil, Info{}, fmt.Errorf("precision %q: an encoder's is fp32, fp16 or int8", p)
	}
	s, err := newStem(enc)
	if err != nil {
		return nil, Info{}, err
	}
	t := newTensors(src, enc.Name)
	trunk := "modality_trunks." + enc.Name + "."
	width := t.size(trunk+"blocks.0.norm_1.weight", trunk+"blocks.0.norm_2.weight")
	hidden := t.size(trunk+"blocks.0.mlp.fc1.weight", trunk+"blocks.0.mlp.fc1.bias")
	info := Info{Width: width, Layers: t.count(trunk + "blocks."), Heads: o.Heads, Hidden: hidden, Scale: 1}
	if err := t.err(false); err != nil {
		return nil, Info{}, err
	}
	if info.Heads == 0 {
		info.Heads = enc.Heads
		if width/max(1, info.Heads) < minHead {
			return nil, Info{}, fmt.Errorf("it is %d wide, which is not the released size; say how many heads it has with --heads-config (%s_num_heads)", width, enc.Name)
		}
	}
	if info.Heads < 1 || width%info.Heads != 0 {
		return nil, Info{}, fmt.Errorf("%d heads do not divide its width of %d; say how many it has with --heads-config (%s_num_heads)", info.Heads, width, enc.Name)
	}
	s.read(t, width)
	m := &model{enc: enc, stem: s, float: o.Precision.Activations()}
	// Of the trunks only vision's stem has no norm; it has one before the blocks.
	if _, isPatches := s.(*patches); isPatches && !s.normed() {
		n := t.layerNorm("pre_norm", trunk+"pre_transformer_layer.0", width, trunkEps)
		m.pre = &n
	}
	for i := range info.Layers {
		m.blocks = append(m.blocks, readBlock(t, fmt.Sprintf("%sblocks.%d.", trunk, i), s, info, o))
	}
	m.readHead(t, width)
	m.embed = m.head.Weight[0].Shape[0]
	if m.scale, err = t.scale("modality_postprocessors." + enc.Name + ".1.log_logit_scale"); err != nil {
		return nil, Info{}, err
	}
	info.Tokens, info.Embed, info.Scale = s.length(), m.embed, m.scale
	return m, info, t.err(true)
}

// minHead is less than the width of a head in any model seen: 48 in the
// released ones. A narrower one means that Heads is of another model.
const minHead = 32

func readBlock(t *tensors, p string, s stem, info Info, o Options) block {
	accuracy := 4
	if o.Exact {
		accuracy = 0
	}
	d := info.Width
	linear := func(name, weight, bias string, out, in int) nn.Linear {
		return nn.Linear{
			Name: name, Precision: o.Precision, Accuracy: accuracy,
			Weight: []format.Tensor{t.get(p+weight, out, in)},
			Bias:   []format.Tensor{t.get(p+bias, out)},
		}
	}
	b := block{
		norm1: t.layerNorm("norm_1", p+"norm_1", d, trunkEps),
		norm2: t.layerNorm("norm_2", p+"norm_2", d, trunkEps),
		attn: nn.Attention{
			QKV:   linear("qkv", "attn.in_proj_weight", "attn.in_proj_bias", 3*d, d),
			Out:   linear("out", "attn.out_proj.weight", "attn.out_proj.bias", d, d),
			Heads: info.Heads, Causal: s.causal(),
		},
		fc1: linear("fc1", "mlp.fc1.weight", "mlp.fc1.bias", info.Hidden, d),
		fc2: linear("fc2", "mlp.fc2.weight", "mlp.fc2.bias", d, info.Hidden),
	}
	if s.normed() { // audio, depth, thermal, imu: add_bias_kv
		b.attn.BiasK = t.get(p+"attn.bias_k", 1, 1, d)
		b.attn.BiasV = t.get(p+"attn.bias_v", 1, 1, d)
	}
	return b
}

// readHead reads norm and projection under the first pair of names that is there.
func (m *model) readHead(t *tensors, width int) {
	p := "modality_heads." + m.enc.Name + "."
	names := m.stem.heads()
	at := names[0]
	for _, n := range names {
		if t.has(p + n[1] + ".weight") {
			at = n
			break
		}
	}
	m.norm = t.layerNorm("head.norm", p+at[0], width, trunkEps)
	w := t.get(p+at[1]+".weight", any1, width)
	if len(w.Shape) == 0 {
		w.Shape = []int{0, width} // it is missing, and named in the error
	}
	m.head = nn.Linear{Name: "head.proj", Weight: []format.Tensor{w}}
}

func (m *model) build(g *graph.Graph, o Options) {
	dims := []any{"N"}
	for _, d := range m.enc.Input {
		dims = append(dims, d)
	}
	typ := onnx.Float
	if m.enc.Ints {
		typ = onnx.Int64
	}
	input := g.Input("input", typ, dims...)
	x := m.stem.tokens(g, input, m.float)
	if o.Taps {
		g.Output("tokens", g.Cast(x, onnx.Float))
	}
	if m.pre != nil {
		x = m.pre.Apply(g, x)
	}
	x = m.trunk(g, x)
	if o.Taps {
		g.Output("trunk", g.Cast(x, onnx.Float))
	}
	x = m.norm.Apply(g, m.stem.pool(g, input, x)) // a norm is of one token: pooling first is the same
	prenorm := g.Cast(m.head.Apply(g, x), onnx.Float)
	// torch's normalize: x / max(|x|, 1e-12)
	unit := g.Div(prenorm, g.Max(g.ReduceL2(prenorm, 1), g.Const(onnx.Float, 1e-12)))
	if m.scale != 1 {
		unit = g.Mul(unit, g.Const(onnx.Float, float32(m.scale)))
	}
	g.Output("embedding", unit, "N", m.embed)
	g.Output("prenorm", prenorm, "N", m.embed)
}

// trunk runs the blocks. A block's last sum and the next one's norm are one operator.
func (m *model) trunk(g *graph.Graph, x *graph.Value) *graph.Value {
	var y *graph.Value // what the last block adds to x; nil before the first
	for i, b := range m.blocks {
		g.In(fmt.Sprintf("blocks.%d", i), func() {
			var n *graph.Value
			if y == nil {
				n = b.norm1.Apply(g, x)
			} else {
				n, x = b.norm1.Skip(g, y, x)
			}
			g.In("attn", func() { y = b.attn.Apply(g, n) })
			n, x = b.norm2.Skip(g, y, x)
			g.In("mlp", func() { y = b.fc2.Apply(g, g.Gelu(b.fc1.Apply(g, n))) })
		})
	}
	return g.Add(y, x)
}

// scale reads a learnt logarithm: min(exp(x), 100), or 1 where it is absent.
func (t *tensors) scale(name string) (float64, error) {
	if !t.has(name) {
		return 1, nil
	}
	x, err := t.get(name).Floats()
	if err != nil {
		return 0, err
	}
	if len(x) != 1 || math.IsNaN(float64(x[0])) {
		return 0, errors.New(name + " is no number")
	}
	return min(math.Exp(float64(x[0])), 100), nil
}
