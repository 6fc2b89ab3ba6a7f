package encoder

import (
	"fmt"
	"math"
	"sync"

	"imagebind-llm/exporter/checkpoint"
	"imagebind-llm/exporter/graph"
	"imagebind-llm/exporter/nn"
	"imagebind-llm/exporter/onnx"
	"imagebind-llm/internal/format"
	"imagebind-llm/runner/modality"
)

// pointTrunk is where Point-Bind keeps its trunk, beside ImageBind's.
const pointTrunk = "point_trunk."

// groups is Point-Bind's encoder (pointbert/point_encoder.py, PointTransformer).
// Each group of K points becomes a token by a small PointNet, its centre becomes
// the token's position, which is added before every block:
//
//	points  [N, G, K, 3] -> first -> max over K: the group's feature
//	        [feature, points' features] -> second -> max over K -> reduce [N, G, D]
//	centres [N, G, 3] -> pos1 -> GELU -> pos2 [N, G, D]
//	blocks -> norm -> [class token, max over the others] -> projection
//
// Batch norms are folded into the products before them. Choosing centres and
// neighbours is preprocessing (runner/modality/point).
type groups struct {
	enc            modality.Encoder
	first          [2]nn.Linear
	whole, each    nn.Linear // of the second network's first product: the columns for the group's feature, and for the points'
	second, reduce nn.Linear
	pos            [2]nn.Linear
	cls, clsPos    format.Tensor // [1, 1, D]
	blocks         blocks
	norm           nn.LayerNorm
	projection     format.Tensor // [2·D, out]
	d              int
}

// groupEps is torch's default, in all norms of this trunk.
const groupEps = 1e-5

var pointBlock = blockNames{norm1: "norm1", norm2: "norm2", qkv: "attn.qkv.weight", out: "attn.proj", eps: groupEps}

func (x *groups) read(t *tensors, info *Info, o Options) error {
	if in := x.enc.Input; len(in) != 3 || in[0] < 1 || in[1] < 2 || in[2] != 3 {
		return fmt.Errorf("its input is %v, want [G, K+1, 3], G and K at least 1", in)
	}
	p := pointTrunk + "point_encoder."
	if err := info.blocks(t, p+"blocks.blocks.", pointBlock, x.enc); err != nil {
		return err
	}
	x.d = info.Width
	linear := func(name, prefix string, out, in int, kernel ...int) nn.Linear {
		w, b := t.get(prefix+".weight", append([]int{out, in}, kernel...)...), t.get(prefix+".bias", out)
		w.Shape = []int{out, in}
		return nn.Linear{Name: name, Weight: []format.Tensor{w}, Bias: []format.Tensor{b}}
	}
	size := func(prefix string) int { return t.size(prefix+".weight", prefix+".bias") }
	conv := func(name, prefix string, in int) nn.Linear { return linear(name, prefix, size(prefix), in, 1) }

	first, second := p+"encoder.first_conv.", p+"encoder.second_conv."
	feature := size(first + "3")
	x.first = [2]nn.Linear{t.normed(conv("first.0", first+"0", 3), first+"1"), conv("first.1", first+"3", size(first+"0"))}
	x.whole, x.each = split(t.normed(conv("second.0", second+"0", 2*feature), second+"1"), feature)
	x.second = conv("second.1", second+"3", size(second+"0"))
	x.reduce = linear("reduce", p+"reduce_dim", x.d, size(second+"3"))
	hidden := size(p + "pos_embed.0")
	x.pos = [2]nn.Linear{linear("pos.0", p+"pos_embed.0", hidden, 3), linear("pos.1", p+"pos_embed.2", x.d, hidden)}
	x.cls, x.clsPos = t.get(p+"cls_token", 1, 1, x.d), t.get(p+"cls_pos", 1, 1, x.d)
	x.blocks = readBlocks(t, p+"blocks.blocks.", pointBlock, *info, o)
	x.norm = t.layerNorm("norm", p+"norm", x.d, groupEps)
	if x.projection = t.get(pointTrunk+"pc_projection", 2*x.d, any1); x.projection.Shape == nil {
		x.projection.Shape = []int{2 * x.d, any1} // it is missing, and named in the error
	}
	info.Tokens = x.enc.Input[0] + 1
	return nil
}

func (x *groups) width() int         { return x.projection.Shape[1] }
func (x *groups) heads() [][2]string { return [][2]string{{"0", "2"}} }

func (x *groups) features(g *graph.Graph, input *graph.Value, float onnx.DType, taps bool) *graph.Value {
	count, size := x.enc.Input[0], x.enc.Input[1]-1
	v := g.Cast(input, float)
	centres := g.Reshape(g.Slice(v, 2, 0, 1), "N", count, 3)
	points := g.Slice(v, 2, 1, size+1)

	tokens := x.first[1].Apply(g, g.Relu(x.first[0].Apply(g, points))) // [N, G, K, feature]
	// Of the concatenated input the group's half is the same for all its points.
	tokens = g.Add(x.each.Apply(g, tokens), x.whole.Apply(g, g.ReduceMax(tokens, 2)))
	tokens = g.ReduceMax(x.second.Apply(g, g.Relu(tokens)), 2) // [N, G, 1, out]
	tokens = g.Reshape(tokens, "N", count, tokens.Dim(3))
	if taps {
		g.Output("groups", g.Cast(tokens, onnx.Float))
	}
	tokens = x.reduce.Apply(g, tokens)
	pos := x.pos[1].Apply(g, g.Gelu(x.pos[0].Apply(g, centres)))
	one := func(name string, w format.Tensor) *graph.Value {
		return g.Expand(nn.Weight(g, name, float, w, 1, 1, x.d), "N", 1, x.d)
	}
	tokens, pos = g.Concat(1, one("cls", x.cls), tokens), g.Concat(1, one("cls_pos", x.clsPos), pos)

	out := x.norm.Apply(g, x.blocks.apply(g, tokens, pos, nil))
	rest := g.Reshape(g.ReduceMax(g.Slice(out, 1, 1, count+1), 1), "N", x.d)
	feature := g.Concat(1, g.First(out, 1), rest)
	projected := g.MatMul(feature, nn.Weight(g, "projection", float, x.projection, x.projection.Shape...))
	if taps {
		g.Output("feature", g.Cast(feature, onnx.Float))
		g.Output("projected", g.Cast(projected, onnx.Float))
	}
	return projected
}

// normed folds a batch norm (with the statistics of training, eps 1e-5) into
// the product before it: both scale and shift each output.
func (t *tensors) normed(l nn.Linear, prefix string) nn.Linear {
	w, b := l.Weight[0], l.Bias[0]
	n := w.Shape[0]
	var stats [4]format.Tensor
	for i, name := range []string{"weight", "bias", "running_mean", "running_var"} {
		stats[i] = t.get(prefix+"."+name, n)
	}
	if counter := prefix + ".num_batches_tracked"; t.has(counter) {
		t.get(counter)
	}
	affine := sync.OnceValues(func() (a struct{ scale, shift []float64 }, err error) { // of y = scale·(w·x) + shift
		var v [5][]float32
		for i, s := range append(stats[:], b) {
			if v[i], err = s.Floats(); err != nil {
				return a, err
			}
		}
		a.scale, a.shift = make([]float64, n), make([]float64, n)
		for i := range n {
			if variance := float64(v[3][i]); !(variance >= 0) || math.IsInf(variance, 0) {
				return a, fmt.Errorf("tensor %s: value %d is %v, which is no variance", stats[3].Name, i, variance)
			}
			a.scale[i] = float64(v[0][i]) / math.Sqrt(float64(v[3][i])+groupEps)
			a.shift[i] = (float64(v[4][i])-float64(v[2][i]))*a.scale[i] + float64(v[1][i])
		}
		return a, nil
	})
	weight, bias := w, b
	weight.Read = func(dst []float32, from int) error {
		a, err := affine()
		if err != nil {
			return err
		}
		if err := w.Read(dst, from); err != nil {
			return err
		}
		for i := range dst {
			dst[i] = float32(float64(dst[i]) * a.scale[(from+i)/w.Shape[1]])
		}
		return nil
	}
	bias.Read = func(dst []float32, from int) error {
		a, err := affine()
		for i := range dst {
			if err == nil {
				dst[i] = float32(a.shift[from+i])
			}
		}
		return err
	}
	l.Weight, l.Bias = []format.Tensor{weight}, []format.Tensor{bias}
	return l
}

// split cuts a product after n columns of its weight; the bias stays with the first.
func split(l nn.Linear, n int) (first, second nn.Linear) {
	columns := make([]int, l.Weight[0].Shape[1])
	for i := range columns {
		columns[i] = i
	}
	first, second = l, l
	first.Weight = []format.Tensor{checkpoint.Columns(l.Weight[0], columns[:n])}
	second.Weight, second.Bias = []format.Tensor{checkpoint.Columns(l.Weight[0], columns[n:])}, nil
	first.Name, second.Name = l.Name+".group", l.Name+".point"
	return first, second
}
