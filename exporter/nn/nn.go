// Package nn is layers on exporter/graph: a struct of tensors as they lie in a
// checkpoint, and an Apply that adds the operators and the weights, converted
// while they are written. Names of weights are prefixed by the graph's scope.
// It reads no values before the graph is saved.
package nn

import (
	"fmt"
	"io"
	"slices"

	imagebind "imagebind-llm"
	"imagebind-llm/exporter/graph"
	"imagebind-llm/exporter/onnx"
	"imagebind-llm/internal/format"
)

// A Linear is x·Wᵀ + b, or several of them on one x whose results lie side by
// side (queries, keys and values): one product is faster than three.
//
// Float weights are stored transposed, [in, out], for MatMul: onnxruntime packs
// a constant right operand once, when the session opens, and turns MatMul and
// Add of a bias into one Gemm. Quantised ones keep [out, in], for MatMulNBits.
type Linear struct {
	Name   string
	Weight []format.Tensor // [outᵢ, in]
	Bias   []format.Tensor // [outᵢ]: none at all, or one for each weight; a zero Tensor stands for zeros
	// Precision of the weight. fp32 and fp16 alike mean the type of x.
	Precision Precision
	// Half stores a float32 graph's weight in half precision and casts it each time
	// the graph runs: half the memory, for twice the time. It is for weights that
	// lose nothing by it and are used once a request.
	Half bool
	// Columns stores an int8 weight with a scale a column, in place of blocks, and
	// rounds x row by row: for many rows twice as fast as float32 on AVX2, where
	// blocks are slower than that. It is for [Products].
	Columns bool
	// Accuracy of the quantised product: 0 is exact, 4 rounds x to int8 in blocks
	// of 32 and is 2 to 20 times faster on the CPU.
	Accuracy int
	// Table, where set, is the same matrix, whose Apply came before: where both
	// store it alike, the file holds it once.
	Table *Embedding
}

// Apply returns [.., Σ outᵢ] of x [.., in].
func (l Linear) Apply(g *graph.Graph, x *graph.Value) *graph.Value {
	in, out := x.Dim(-1), 0
	for _, w := range l.Weight {
		if len(w.Shape) != 2 || w.Shape[1] != in {
			g.Fail(imagebind.Errorf(imagebind.Invalid, "tensor %s has shape %v, want [.. %d]", w.Name, w.Shape, in))
		}
		out += w.Shape[0]
	}
	var y *graph.Value
	if bits := l.Precision.bits(); bits == 0 {
		t := x.DType()
		if l.Half {
			t = onnx.Float16
		}
		w := g.Weight(l.Name+".weight", t, []int{in, out}, func(dst io.Writer) error { return writeTransposed(dst, t, l.Weight) })
		if l.Half {
			w = g.Cast(late(g, w, x), x.DType())
		}
		y = g.MatMul(x, w)
	} else {
		q, s, zeros := l.quantised(g, x.DType(), in, out)
		y = g.MatMulNBits(x, q, s, zeros, out, bits, Block, l.Accuracy)
	}
	if l.hasBias() {
		y = g.Add(y, l.bias(g, x.DType(), out))
	}
	return y
}

// late returns the matrix w in a way that onnxruntime cannot compute before the
// graph runs on x: reshaped to its own shape, plus a zero that it does not know.
// What follows is not folded into a constant, then.
func late(g *graph.Graph, w, x *graph.Value) *graph.Value {
	i := slices.IndexFunc(x.Shape(), func(d graph.Dim) bool { return d.Name != "" })
	if i < 0 {
		g.Fail(fmt.Errorf("%s: nothing of %s is open until the graph runs", w, x))
	}
	n := g.Size(x.Shape()[i].Name)
	shape := g.Add(g.Ints(w.Dim(0), w.Dim(1)), g.Sub(n, n))
	return g.Op("", "Reshape", []*graph.Value{w, shape}, graph.Out{DType: w.DType(), Shape: w.Shape()})[0]
}

func (l Linear) hasBias() bool {
	return slices.ContainsFunc(l.Bias, func(b format.Tensor) bool { return b.Read != nil })
}

func (l Linear) bias(g *graph.Graph, t onnx.DType, out int) *graph.Value {
	if len(l.Bias) != len(l.Weight) {
		g.Fail(fmt.Errorf("%s: %d biases for %d weights", l.Name, len(l.Bias), len(l.Weight)))
	}
	for i, b := range l.Bias {
		if n := l.Weight[i].Shape[0]; b.Read != nil && b.Len() != n {
			g.Fail(imagebind.Errorf(imagebind.Invalid, "tensor %s has shape %v, want [%d]", b.Name, b.Shape, n))
		}
	}
	return g.Weight(l.Name+".bias", t, []int{out}, func(w io.Writer) error {
		for i, b := range l.Bias {
			if b.Read == nil {
				b = zeros(l.Weight[i].Shape[0])
			}
			if err := write(w, t, b); err != nil {
				return err
			}
		}
		return nil
	})
}

func zeros(n int) format.Tensor {
	return format.Tensor{Shape: []int{n}, Read: func(dst []float32, _ int) error { clear(dst); return nil }}
}

// A LayerNorm is (x - mean)/√(variance + Eps) · w + b over the last axis.
type LayerNorm struct {
	Name         string
	Weight, Bias format.Tensor // [D]
	Eps          float64
}

// Apply normalises x [.., D].
func (l LayerNorm) Apply(g *graph.Graph, x *graph.Value) *graph.Value {
	w, b := l.weights(g, x)
	return g.LayerNormalization(x, w, b, l.Eps)
}

func (l LayerNorm) weights(g *graph.Graph, x *graph.Value) (w, b *graph.Value) {
	d := x.Dim(-1)
	return Weight(g, l.Name+".weight", x.DType(), l.Weight, d), Weight(g, l.Name+".bias", x.DType(), l.Bias, d)
}

// An RMSNorm is x/√(mean x² + Eps) · w over the last axis.
type RMSNorm struct {
	Name   string
	Weight format.Tensor // [D]
	Eps    float64
}

// Apply normalises x [.., D].
func (l RMSNorm) Apply(g *graph.Graph, x *graph.Value) *graph.Value {
	return g.RMSNormalization(x, Weight(g, l.Name+".weight", x.DType(), l.Weight, x.Dim(-1)), l.Eps)
}

// Skip returns the sum of x and residual, and that normalised, in one operator.
func (l RMSNorm) Skip(g *graph.Graph, x, residual *graph.Value) (norm, sum *graph.Value) {
	return g.SkipRMSNormalization(x, residual, Weight(g, l.Name+".weight", x.DType(), l.Weight, x.Dim(-1)), l.Eps)
}

// SiLU returns x·sigmoid(x); onnxruntime makes one operator of it.
func SiLU(g *graph.Graph, x *graph.Value) *graph.Value { return g.Mul(x, g.Sigmoid(x)) }

// An Attention is torch's nn.MultiheadAttention on itself, batch first.
type Attention struct {
	QKV    Linear // of one weight [3·D, D]: queries, keys and values below one another
	Out    Linear
	Heads  int
	Causal bool
	// BiasK and BiasV [1, 1, D], where set, are one more key and value, which
	// are not projected (add_bias_kv).
	BiasK, BiasV format.Tensor
}

// Attend returns what Out is for, [B, T, D], of the rows x [B·T, D].
func (l Attention) Attend(g *graph.Graph, x *graph.Value, batch any, tokens int) *graph.Value {
	d := x.Dim(1)
	parts := Products(g, x, l.QKV.rows("q", 0, d), l.QKV.rows("k", d, d), l.QKV.rows("v", 2*d, d))
	for i, p := range parts {
		parts[i] = g.Reshape(p, batch, tokens, d)
	}
	q, k, v := parts[0], parts[1], parts[2]
	if l.BiasK.Read != nil {
		k = g.Concat(1, k, each(g, "bias_k", k, l.BiasK))
		v = g.Concat(1, v, each(g, "bias_v", v, l.BiasV))
	}
	return g.MultiHeadAttention(q, k, v, l.Heads, l.Causal)
}

// rows is the layer that gives n of l's outputs, beginning with from.
func (l Linear) rows(name string, from, n int) Linear {
	cut := func(list []format.Tensor) []format.Tensor {
		if len(list) != 1 || list[0].Read == nil {
			return nil
		}
		t, whole := list[0], list[0].Read
		row := imagebind.Size(t.Shape[1:])
		t.Shape = append([]int{n}, t.Shape[1:]...)
		t.Read = func(dst []float32, at int) error { return whole(dst, from*row+at) }
		return []format.Tensor{t}
	}
	l.Name, l.Weight, l.Bias = name, cut(l.Weight), cut(l.Bias)
	return l
}

// each repeats t [1, 1, D] for every item of x [B, T, D].
func each(g *graph.Graph, name string, x *graph.Value, t format.Tensor) *graph.Value {
	d := x.Dim(2)
	return g.Expand(Weight(g, name, x.DType(), t, 1, 1, d), x.Shape()[0], 1, d)
}

// Weight adds t to the graph as type dt (Float or Float16), row-major as it is,
// in a shape of as many elements.
func Weight(g *graph.Graph, name string, dt onnx.DType, t format.Tensor, shape ...int) *graph.Value {
	if t.Read == nil {
		g.Fail(fmt.Errorf("weight %s has no tensor", name))
	}
	if t.Len() != imagebind.Size(shape) {
		g.Fail(imagebind.Errorf(imagebind.Invalid, "tensor %s has shape %v, want %v", t.Name, t.Shape, shape))
	}
	return g.Weight(name, dt, shape, func(w io.Writer) error { return write(w, dt, t) })
}
