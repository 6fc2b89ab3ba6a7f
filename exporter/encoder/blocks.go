package encoder

import (
	"fmt"

	"imagebind-llm/exporter/graph"
	"imagebind-llm/exporter/nn"
	"imagebind-llm/internal/format"
	"imagebind-llm/runner/modality"
)

// A block is a pre-norm transformer block.
type block struct {
	norm1, norm2 nn.LayerNorm
	attn         nn.Attention
	fc1, fc2     nn.Linear
}

type blocks []block

// blockNames are the names of a block's tensors in a checkpoint, where they
// differ, and the epsilon of its norms.
type blockNames struct {
	norm1, norm2, qkv string
	qkvBias           string // "": it has none
	out               string
	eps               float64
}

// blocks finds width, hidden width, number and heads of the blocks below prefix.
func (info *Info) blocks(t *tensors, prefix string, names blockNames, enc modality.Encoder) error {
	first := prefix + "0."
	info.Width = t.size(first+names.norm1+".weight", first+names.norm2+".weight")
	info.Hidden = t.size(first+"mlp.fc1.weight", first+"mlp.fc1.bias")
	info.Layers = t.count(prefix)
	if err := t.err(false); err != nil {
		return err
	}
	say := fmt.Sprintf("say how many heads it has with --heads-config (%s_num_heads)", enc.Name)
	if info.Heads == 0 {
		info.Heads = enc.Heads
		if info.Width/max(1, info.Heads) < minHead {
			return fmt.Errorf("it is %d wide, which is not the released size; %s", info.Width, say)
		}
	}
	if info.Heads < 1 || info.Width%info.Heads != 0 {
		return fmt.Errorf("%d heads do not divide its width of %d; %s", info.Heads, info.Width, say)
	}
	return nil
}

// minHead is less than the width of a head in any model seen: 48 in the
// released ones. A narrower one means that Heads is of another model.
const minHead = 32

func readBlocks(t *tensors, prefix string, names blockNames, info Info, o Options) (list blocks) {
	accuracy := 4
	if o.Exact {
		accuracy = 0
	}
	d := info.Width
	for i := range info.Layers {
		p := fmt.Sprintf("%s%d.", prefix, i)
		linear := func(name, weight, bias string, out, in int) nn.Linear {
			l := nn.Linear{Name: name, Precision: o.Precision, Columns: o.Precision == nn.Int8, Accuracy: accuracy, Weight: []format.Tensor{t.get(p+weight, out, in)}}
			if bias != "" {
				l.Bias = []format.Tensor{t.get(p+bias, out)}
			}
			return l
		}
		list = append(list, block{
			norm1: t.layerNorm("norm_1", p+names.norm1, d, names.eps),
			norm2: t.layerNorm("norm_2", p+names.norm2, d, names.eps),
			attn: nn.Attention{
				QKV:   linear("qkv", names.qkv, names.qkvBias, 3*d, d),
				Out:   linear("out", names.out+".weight", names.out+".bias", d, d),
				Heads: info.Heads,
			},
			fc1: linear("fc1", "mlp.fc1.weight", "mlp.fc1.bias", info.Hidden, d),
			fc2: linear("fc2", "mlp.fc2.weight", "mlp.fc2.bias", d, info.Hidden),
		})
	}
	return list
}

// apply runs the blocks on x [N, T, D] and returns [N, T, D], or where pool is
// not nil pool's [N, D] of it; pos [N, T, D], where there is one, is added before
// each. Tokens are rows [N·T, D], so that a product and its bias are one operator,
// and sums and norms are two: onnxruntime's one operator for both takes five
// times as long on the CPU. What the last block does after its attention is for
// the pooled token only.
func (bs blocks) apply(g *graph.Graph, x, pos *graph.Value, pool func(*graph.Value) *graph.Value) *graph.Value {
	tokens, d := x.Dim(1), x.Dim(2)
	rows := func(x *graph.Value) *graph.Value { return g.Reshape(x, -1, d) }
	x = rows(x)
	if pos != nil {
		pos = rows(pos)
	}
	for i, b := range bs {
		g.In(fmt.Sprintf("blocks.%d", i), func() {
			if pos != nil {
				x = g.Add(x, pos)
			}
			y := b.norm1.Apply(g, x)
			g.In("attn", func() {
				y = b.attn.Attend(g, y, "N", tokens)
				if pool != nil && i == len(bs)-1 {
					y, x = pool(y), pool(g.Reshape(x, "N", tokens, d))
				} else {
					y = rows(y)
				}
				x = g.Add(x, nn.Products(g, y, b.attn.Out)[0])
			})
			y = b.norm2.Apply(g, x)
			g.In("mlp", func() {
				y = nn.Products(g, y, b.fc1)[0]
				x = g.Add(x, nn.Products(g, g.Gelu(y), b.fc2)[0])
			})
		})
	}
	if pool != nil {
		return x
	}
	return g.Reshape(x, "N", tokens, d)
}
