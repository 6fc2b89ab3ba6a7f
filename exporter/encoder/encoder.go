// Package encoder builds ImageBind's trunks as graphs from a checkpoint with
// the released key names (ImageBind, models/imagebind_model.py and
// models/transformer.py). A graph reads like its paper:
//
//	stem -> [class token, tokens] + positions -> blocks -> head -> unit length · scale
//
// Dims come from the tensors' shapes, what those cannot tell from a
// modality.Encoder. Each kind of stem is a file: patches.go and tokens.go are
// ImageBind's, on the trunk of transformer.go; groups.go is Point-Bind's point
// encoder, trunk and all. The clips of one input are averaged by whoever runs
// the graph, not in it.
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
	// Taps adds outputs for tests: of ImageBind's trunks tokens, the blocks' input,
	// and trunk, their output; of Point-Bind's groups, feature and projected.
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
		if Of(n) == enc.Name {
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
		return nil, Info{}, imagebind.Errorf(imagebind.NotFound, "the checkpoint has no %s encoder: no tensor of modality_trunks.%s.* or the like", enc.Name, enc.Name)
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
	enc   modality.Encoder
	trunk trunk
	norm  nn.LayerNorm // the head's
	head  nn.Linear
	embed int // E
	scale float64
	float onnx.DType // that it computes in
}

// A trunk turns the input into the one vector that the head reads.
type trunk interface {
	// read claims the trunk's tensors and says in info what their shapes tell.
	read(t *tensors, info *Info, o Options) error
	// width is that of the vector.
	width() int
	// heads returns the names that the head's norm and projection may have.
	heads() [][2]string
	// features returns [N, width] of the graph's input.
	features(g *graph.Graph, input *graph.Value, float onnx.DType, taps bool) *graph.Value
}

func newTrunk(enc modality.Encoder) (trunk, error) {
	switch s := enc.Stem.(type) {
	case modality.Patches:
		return &transformer{enc: enc, stem: &patches{enc: enc, Patches: s}}, nil
	case modality.Tokens:
		return &transformer{enc: enc, stem: &tokens{enc: enc}}, nil
	case modality.Groups:
		return &groups{enc: enc}, nil
	}
	return nil, fmt.Errorf("a stem of kind %T is not built here", enc.Stem)
}

func read(src Source, enc modality.Encoder, o Options) (*model, Info, error) {
	if o.Precision == "" {
		o.Precision = nn.FP32
	}
	if p := o.Precision; p != nn.FP32 && p != nn.FP16 && p != nn.Int8 {
		return nil, Info{}, fmt.Errorf("precision %q: an encoder's is fp32, fp16 or int8", p)
	}
	trunk, err := newTrunk(enc)
	if err != nil {
		return nil, Info{}, err
	}
	t := newTensors(src, enc.Name)
	info := Info{Heads: o.Heads, Scale: 1}
	if err := trunk.read(t, &info, o); err != nil {
		return nil, Info{}, err
	}
	m := &model{enc: enc, trunk: trunk, float: o.Precision.Activations()}
	m.readHead(t)
	m.embed = m.head.Weight[0].Shape[0]
	if m.scale, err = t.scale("modality_postprocessors." + enc.Name + ".1.log_logit_scale"); err != nil {
		return nil, Info{}, err
	}
	info.Embed, info.Scale = m.embed, m.scale
	return m, info, t.err(true)
}

// readHead reads norm and projection under the first pair of names that is there.
func (m *model) readHead(t *tensors) {
	width := m.trunk.width()
	p := "modality_heads." + m.enc.Name + "."
	names := m.trunk.heads()
	at := names[0]
	for _, n := range names {
		if t.has(p + n[1] + ".weight") {
			at = n
			break
		}
	}
	m.norm = t.layerNorm("head.norm", p+at[0], width, headEps)
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
	x := m.norm.Apply(g, m.trunk.features(g, input, m.float, o.Taps))
	prenorm := g.Cast(m.head.Apply(g, x), onnx.Float)
	// torch's normalize: x / max(|x|, 1e-12)
	unit := g.Div(prenorm, g.Max(g.ReduceL2(prenorm, 1), g.Const(onnx.Float, 1e-12)))
	if m.scale != 1 {
		unit = g.Mul(unit, g.Const(onnx.Float, float32(m.scale)))
	}
	g.Output("embedding", unit, "N", m.embed)
	g.Output("prenorm", prenorm, "N", m.embed)
}

// scale reads a learnt logarithm: min(exp(x), 100), or 1 where it is absent.
func (t *tensors) scale(name string) (float64, error) {
	if !t.has(name) {
		return 1, nil
	}
	w := t.get(name)
	if w.Read == nil { // no scalar, which is among the faults
		return 1, nil
	}
	x, err := w.Floats()
	if err != nil {
		return 0, err
	}
	if len(x) != 1 || math.IsNaN(float64(x[0])) {
		return 0, errors.New(name + " is no number")
	}
	return min(math.Exp(float64(x[0])), 100), nil
}
