package encoder

import (
	"fmt"

	"imagebind-llm/exporter/graph"
	"imagebind-llm/exporter/nn"
	"imagebind-llm/exporter/onnx"
	"imagebind-llm/runner/modality"
)

// Epsilons of the norms: torch's default in the stems, 1e-6 in trunks and heads
// (imagebind_model.py).
const (
	stemEps  = 1e-5
	trunkEps = 1e-6
	headEps  = 1e-6
)

// A transformer is ImageBind's trunk: a stem, blocks, and one token of theirs
// that stands for the whole.
type transformer struct {
	enc    modality.Encoder
	stem   stem
	pre    *nn.LayerNorm // vision: before the blocks
	blocks blocks
	d      int // the width
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

// imagebindBlock names a block's tensors (transformer.py, BlockWithMasking).
var imagebindBlock = blockNames{
	norm1: "norm_1", norm2: "norm_2", qkv: "attn.in_proj_weight", qkvBias: "attn.in_proj_bias", out: "attn.out_proj", eps: trunkEps,
}

func (x *transformer) read(t *tensors, info *Info, o Options) error {
	p := "modality_trunks." + x.enc.Name + "."
	if err := info.blocks(t, p+"blocks.", imagebindBlock, x.enc); err != nil {
		return err
	}
	x.d = info.Width
	x.stem.read(t, x.d)
	// Of the trunks only vision's stem has no norm; it has one before the blocks.
	if _, isPatches := x.stem.(*patches); isPatches && !x.stem.normed() {
		n := t.layerNorm("pre_norm", p+"pre_transformer_layer.0", x.d, trunkEps)
		x.pre = &n
	}
	x.blocks = readBlocks(t, p+"blocks.", imagebindBlock, *info, o)
	for i := range x.blocks {
		a := &x.blocks[i].attn
		a.Causal = x.stem.causal()
		if x.stem.normed() { // audio, depth, thermal, imu: add_bias_kv
			b := fmt.Sprintf("%sblocks.%d.attn.bias_", p, i)
			a.BiasK, a.BiasV = t.get(b+"k", 1, 1, x.d), t.get(b+"v", 1, 1, x.d)
		}
	}
	info.Tokens = x.stem.length()
	return nil
}

func (x *transformer) width() int         { return x.d }
func (x *transformer) heads() [][2]string { return x.stem.heads() }

func (x *transformer) features(g *graph.Graph, input *graph.Value, float onnx.DType, taps bool) *graph.Value {
	v := x.stem.tokens(g, input, float)
	if taps {
		g.Output("tokens", g.Cast(v, onnx.Float))
	}
	if x.pre != nil {
		v = x.pre.Apply(g, v)
	}
	if taps {
		v = x.blocks.apply(g, v, nil, nil)
		g.Output("trunk", g.Cast(v, onnx.Float))
		return x.stem.pool(g, input, v)
	}
	// The head's norm is of one token: pooling before it is the same.
	return x.blocks.apply(g, v, nil, func(v *graph.Value) *graph.Value { return x.stem.pool(g, input, v) })
}
