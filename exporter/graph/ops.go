package graph

import (
	"fmt"
	"slices"
	"strings"

	"imagebind-llm/exporter/onnx"
)

// Arithmetic, broadcasting as numpy does.

// Add returns a + b.
func (g *Graph) Add(a, b *Value) *Value { return g.binary("Add", a, b) }

// Sub returns a - b.
func (g *Graph) Sub(a, b *Value) *Value { return g.binary("Sub", a, b) }

// Mul returns a · b, element by element.
func (g *Graph) Mul(a, b *Value) *Value { return g.binary("Mul", a, b) }

// Div returns a / b.
func (g *Graph) Div(a, b *Value) *Value { return g.binary("Div", a, b) }

// Max returns the larger of each two elements.
func (g *Graph) Max(a, b *Value) *Value { return g.binary("Max", a, b) }

func (g *Graph) binary(op string, a, b *Value) *Value {
	g.begin(op, a, b)
	g.sameType(a, b)
	return g.Op("", op, []*Value{a, b}, Out{a.dtype, g.broadcast(a.shape, b.shape)})[0]
}

// Tanh returns tanh x.
func (g *Graph) Tanh(x *Value) *Value { return g.unary("", "Tanh", x) }

// Sigmoid returns 1/(1+exp(-x)).
func (g *Graph) Sigmoid(x *Value) *Value { return g.unary("", "Sigmoid", x) }

// Sqrt returns √x.
func (g *Graph) Sqrt(x *Value) *Value { return g.unary("", "Sqrt", x) }

// Erf returns the error function of x.
func (g *Graph) Erf(x *Value) *Value { return g.unary("", "Erf", x) }

// Relu returns max(x, 0).
func (g *Graph) Relu(x *Value) *Value { return g.unary("", "Relu", x) }

// Gelu returns x·Φ(x) by the error function, not by tanh.
func (g *Graph) Gelu(x *Value) *Value { return g.unary(onnx.Microsoft, "Gelu", x) }

func (g *Graph) unary(domain, op string, x *Value) *Value {
	g.begin(op, x)
	return g.Op(domain, op, []*Value{x}, Out{x.dtype, x.shape})[0]
}

// Cast converts x to type t; x itself when it has that type.
func (g *Graph) Cast(x *Value, t onnx.DType) *Value {
	g.begin("Cast", x)
	if x.dtype == t {
		return x
	}
	return g.Op("", "Cast", []*Value{x}, Out{t, x.shape}, Int("to", int(t)))[0]
}

// Softmax is along axis.
func (g *Graph) Softmax(x *Value, axis int) *Value {
	g.begin("Softmax", x)
	g.axis(x, axis)
	return g.Op("", "Softmax", []*Value{x}, Out{x.dtype, x.shape}, Int("axis", axis))[0]
}

// Products.

// MatMul returns a·b over the last two axes, the others broadcast.
func (g *Graph) MatMul(a, b *Value) *Value {
	g.begin("MatMul", a, b)
	g.sameType(a, b)
	if a.Rank() < 2 || b.Rank() < 2 {
		g.failf("%s and %s: fewer than two axes", a, b)
	}
	ra, rb := a.Rank(), b.Rank()
	g.same(a, ra-1, b, rb-2)
	shape := g.broadcast(a.shape[:ra-2], b.shape[:rb-2])
	shape = append(slices.Clone(shape), a.shape[ra-2], b.shape[rb-1])
	return g.Op("", "MatMul", []*Value{a, b}, Out{a.dtype, shape})[0]
}

// Gemm returns a [M, K] times b, which is [N, K] where transB and else [K, N],
// plus c, which broadcasts to [M, N]; c may be nil.
func (g *Graph) Gemm(a, b, c *Value, transB bool) *Value {
	g.begin("Gemm", a, b)
	g.sameType(a, b)
	g.rank(a, 2)
	g.rank(b, 2)
	k, n, trans := 0, 1, 0
	if transB {
		k, n, trans = 1, 0, 1
	}
	g.same(a, 1, b, k)
	shape := []Dim{a.shape[0], b.shape[n]}
	in := []*Value{a, b}
	if c != nil {
		g.sameType(a, c)
		if got := g.broadcast(shape, c.shape); !slices.Equal(got, shape) {
			g.failf("%s does not broadcast to %v", c, shape)
		}
		in = append(in, c)
	}
	return g.Op("", "Gemm", in, Out{a.dtype, shape}, Int("transB", trans))[0]
}

// MatMulNBits returns x [.., K] times the transpose of a quantised weight
// [n, K] (com.microsoft). b is uint8 [n, ⌈K/block⌉, block·bits/8], low nibble
// first; scales, of x's type, [n, ⌈K/block⌉]; zeros, the zero points, uint8
// [n, ⌈⌈K/block⌉·bits/8⌉], are 2^(bits-1) where nil.
// accuracy 0 multiplies exactly; 4 rounds x to int8 in blocks, and is far faster.
func (g *Graph) MatMulNBits(x, b, scales, zeros *Value, n, bits, block, accuracy int) *Value {
	g.begin("MatMulNBits", x, b, scales)
	g.sameType(x, scales)
	k := x.Dim(-1)
	blocks := (k + block - 1) / block
	if !slices.Equal(b.shape, fixed([]int{n, blocks, block * bits / 8})) || b.dtype != onnx.Uint8 {
		g.failf("weight %s, want uint8[%d %d %d]", b, n, blocks, block*bits/8)
	}
	if !slices.Equal(scales.shape, fixed([]int{n, blocks})) {
		g.failf("scales %s, want [%d %d]", scales, n, blocks)
	}
	in := []*Value{x, b, scales}
	if zeros != nil {
		if size := (blocks*bits + 7) / 8; zeros.dtype != onnx.Uint8 || !slices.Equal(zeros.shape, fixed([]int{n, size})) {
			g.failf("zero points %s, want uint8[%d %d]", zeros, n, size)
		}
		in = append(in, zeros)
	}
	shape := slices.Clone(x.shape)
	shape[len(shape)-1] = Dim{N: n}
	return g.Op(onnx.Microsoft, "MatMulNBits", in, Out{x.dtype, shape},
		Int("K", k), Int("N", n), Int("bits", bits), Int("block_size", block), Int("accuracy_level", accuracy))[0]
}

// Conv convolves x [N, C, …] with w [O, C, …kernel], without padding; strides
// has one entry a kernel axis. b [O] may be nil.
func (g *Graph) Conv(x, w, b *Value, strides ...int) *Value {
	g.begin("Conv", x, w)
	g.sameType(x, w)
	n := len(strides)
	g.rank(x, n+2)
	g.rank(w, n+2)
	g.same(x, 1, w, 1)
	shape := []Dim{x.shape[0], w.shape[0]}
	var kernel []int
	for i, s := range strides {
		k, size := w.Dim(2+i), x.Dim(2+i)
		if k > size {
			g.failf("kernel %s is larger than %s", w, x)
		}
		kernel = append(kernel, k)
		shape = append(shape, Dim{N: (size-k)/s + 1})
	}
	in := []*Value{x, w}
	if b != nil {
		g.sameType(x, b)
		g.shape(b, w.shape[0])
		in = append(in, b)
	}
	return g.Op("", "Conv", in, Out{x.dtype, shape}, IntList("kernel_shape", kernel...), IntList("strides", strides...))[0]
}

// Shapes.

// Split cuts x into n equal parts along axis.
func (g *Graph) Split(x *Value, axis, n int) []*Value {
	g.begin("Split", x)
	axis = g.axis(x, axis)
	size := x.Dim(axis)
	if size%n != 0 {
		g.failf("%s into %d parts along axis %d", x, n, axis)
	}
	outs := make([]Out, n)
	for i := range outs {
		outs[i] = Out{x.dtype, with(x.shape, axis, Dim{N: size / n})}
	}
	return g.OpN("", "Split", []*Value{x}, outs, Int("axis", axis), Int("num_outputs", n))
}

// SplitSizes cuts x into parts of those sizes along axis.
func (g *Graph) SplitSizes(x *Value, axis int, sizes ...int) []*Value {
	g.begin("Split", x)
	axis = g.axis(x, axis)
	sum := 0
	outs := make([]Out, len(sizes))
	for i, n := range sizes {
		sum += n
		outs[i] = Out{x.dtype, with(x.shape, axis, Dim{N: n})}
	}
	if sum != x.Dim(axis) {
		g.failf("%s into %v along axis %d", x, sizes, axis)
	}
	return g.OpN("", "Split", []*Value{x, g.Ints(sizes...)}, outs, Int("axis", axis))
}

// Concat joins values along axis.
func (g *Graph) Concat(axis int, values ...*Value) *Value {
	g.begin("Concat", values...)
	first := values[0]
	axis = g.axis(first, axis)
	n, names := 0, []string(nil)
	for _, v := range values {
		g.sameType(first, v)
		g.rank(v, first.Rank())
		for i := range v.shape {
			if i != axis {
				g.same(first, i, v, i)
			}
		}
		if d := v.shape[axis]; d.Name != "" {
			names = append(names, d.Name)
		} else {
			n += d.N
		}
	}
	d := Dim{N: n}
	if len(names) > 0 {
		if n > 0 {
			names = append(names, fmt.Sprint(n))
		}
		d = Dim{Name: strings.Join(names, "+")}
	}
	return g.Op("", "Concat", values, Out{first.dtype, with(first.shape, axis, d)}, Int("axis", axis))[0]
}

// Reshape gives x the dimensions dims: ints, names that x's shape has, and at
// most one -1 for what is left. At most one of them may be neither an int nor
// where it was.
func (g *Graph) Reshape(x *Value, dims ...any) *Value {
	g.begin("Reshape", x)
	shape := Dims(dims...)
	have, want, left := product(x.shape), product(shape), slices.Index(shape, Dim{N: -1})
	if left >= 0 {
		want = product(slices.Delete(slices.Clone(shape), left, left+1))
		d, ok := have.over(want)
		if !ok {
			g.failf("%s to %v", x, dims)
		}
		shape[left] = d
	} else if !have.equal(want) {
		g.failf("%s to %v", x, dims)
	}
	target, inferred := make([]int, len(shape)), 0
	for i, d := range shape {
		switch {
		case d.Name == "":
			target[i] = d.N
			if d.N == 0 {
				g.failf("%s to %v: a dimension of 0", x, dims)
			}
		case i < x.Rank() && x.shape[i] == d:
			target[i] = 0 // ONNX: as it was
		default:
			target[i] = -1
			inferred++
		}
	}
	if inferred > 1 {
		g.failf("%s to %v: more than one dimension is unknown", x, dims)
	}
	return g.Op("", "Reshape", []*Value{x, g.Ints(target...)}, Out{x.dtype, shape})[0]
}

// Transpose puts axis perm[i] of x at i.
func (g *Graph) Transpose(x *Value, perm ...int) *Value {
	g.begin("Transpose", x)
	g.rank(x, len(perm))
	shape := make([]Dim, len(perm))
	seen := make([]bool, len(perm))
	for i, p := range perm {
		if p < 0 || p >= len(perm) || seen[p] {
			g.failf("%v is no order of %d axes", perm, len(perm))
		}
		seen[p] = true
		shape[i] = x.shape[p]
	}
	return g.Op("", "Transpose", []*Value{x}, Out{x.dtype, shape}, IntList("perm", perm...))[0]
}

// Gather returns the entries of x along axis that index names: the axis is
// replaced by index's shape.
func (g *Graph) Gather(x, index *Value, axis int) *Value {
	g.begin("Gather", x, index)
	g.index(index)
	axis = g.axis(x, axis)
	shape := slices.Concat(x.shape[:axis], index.shape, x.shape[axis+1:])
	return g.Op("", "Gather", []*Value{x, index}, Out{x.dtype, shape}, Int("axis", axis))[0]
}

// GatherBlockQuantized returns rows of a quantised table (com.microsoft): the
// entries of b, uint8 [V, D·bits/8], that index names, as floats of scales' type.
// scales is [V, ⌈D/block⌉], the zero point 2^(bits-1), low nibble first.
func (g *Graph) GatherBlockQuantized(b, index, scales *Value, bits, block int) *Value {
	g.begin("GatherBlockQuantized", b, index, scales)
	g.index(index)
	g.rank(b, 2)
	d := b.Dim(1) * 8 / bits
	if want := fixed([]int{b.Dim(0), (d + block - 1) / block}); b.dtype != onnx.Uint8 || !slices.Equal(scales.shape, want) {
		g.failf("table %s with scales %s, want %v", b, scales, want)
	}
	shape := append(slices.Clone(index.shape), Dim{N: d})
	return g.Op(onnx.Microsoft, "GatherBlockQuantized", []*Value{b, index, scales}, Out{scales.dtype, shape},
		Int("gather_axis", 0), Int("quantize_axis", 1), Int("block_size", block), Int("bits", bits))[0]
}

// GatherND returns the parts of x that the last axis of index names, after
// batch leading axes that both have.
func (g *Graph) GatherND(x, index *Value, batch int) *Value {
	g.begin("GatherND", x, index)
	if index.dtype != onnx.Int64 || index.Rank() <= batch {
		g.failf("index %s", index)
	}
	for i := range batch {
		g.same(x, i, index, i)
	}
	q := index.Rank()
	depth := index.Dim(-1)
	if batch+depth > x.Rank() {
		g.failf("%s by %s", x, index)
	}
	shape := slices.Concat(index.shape[:q-1], x.shape[batch+depth:])
	return g.Op("", "GatherND", []*Value{x, index}, Out{x.dtype, shape}, Int("batch_dims", batch))[0]
}

// Slice returns elements from to to-1 along axis, whose size is fixed.
func (g *Graph) Slice(x *Value, axis, from, to int) *Value {
	g.begin("Slice", x)
	axis = g.axis(x, axis)
	if from < 0 || to <= from || to > x.Dim(axis) {
		g.failf("%d to %d of axis %d of %s", from, to, axis, x)
	}
	in := []*Value{x, g.Ints(from), g.Ints(to), g.Ints(axis)}
	return g.Op("", "Slice", in, Out{x.dtype, with(x.shape, axis, Dim{N: to - from})})[0]
}

// First returns the entry at 0 of an axis, which is dropped. The size of the
// axis may have a name.
func (g *Graph) First(x *Value, axis int) *Value {
	g.begin("First", x)
	axis = g.axis(x, axis)
	in := []*Value{x, g.Ints(0), g.Ints(1), g.Ints(axis)}
	s := g.Op("", "Slice", in, Out{x.dtype, with(x.shape, axis, Dim{N: 1})})[0]
	return g.Squeeze(s, axis)
}

// Unsqueeze inserts axes of size 1, counted in the result.
func (g *Graph) Unsqueeze(x *Value, axes ...int) *Value {
	g.begin("Unsqueeze", x)
	shape := slices.Clone(x.shape)
	sorted := slices.Sorted(slices.Values(axes))
	for _, a := range sorted {
		if a < 0 || a > len(shape) {
			g.failf("axis %d of %s", a, x)
		}
		shape = slices.Insert(shape, a, Dim{N: 1})
	}
	return g.Op("", "Unsqueeze", []*Value{x, g.Ints(sorted...)}, Out{x.dtype, shape})[0]
}

// Squeeze drops axes of size 1.
func (g *Graph) Squeeze(x *Value, axes ...int) *Value {
	g.begin("Squeeze", x)
	var shape []Dim
	for i, d := range x.shape {
		if !slices.Contains(axes, i) {
			shape = append(shape, d)
		} else if d != (Dim{N: 1}) {
			g.failf("axis %d of %s", i, x)
		}
	}
	return g.Op("", "Squeeze", []*Value{x, g.Ints(axes...)}, Out{x.dtype, shape})[0]
}

// Shape returns the dimensions of x as int64 [rank].
func (g *Graph) Shape(x *Value) *Value {
	g.begin("Shape", x)
	return g.Op("", "Shape", []*Value{x}, Out{onnx.Int64, fixed([]int{x.Rank()})})[0]
}

// Size returns the size of a named dimension of the graph's inputs as int64 [1].
func (g *Graph) Size(name string) *Value {
	if v := g.sizes[name]; v != nil {
		return v
	}
	g.at = "Size"
	for _, in := range g.inputs {
		if i := slices.Index(in.shape, Dim{Name: name}); i >= 0 {
			v := g.Op("", "Shape", []*Value{in}, Out{onnx.Int64, fixed([]int{1})}, Int("start", i), Int("end", i+1))[0]
			g.sizes[name] = v
			return v
		}
	}
	g.failf("no input has a dimension %s", name)
	return nil
}

// Expand repeats x's axes of size 1 so that its shape becomes dims: ints, and
// names that an input of the graph has.
func (g *Graph) Expand(x *Value, dims ...any) *Value {
	g.begin("Expand", x)
	shape := Dims(dims...)
	if got := g.broadcast(x.shape, shape); !slices.Equal(got, shape) {
		g.failf("%s to %v", x, dims)
	}
	var parts []*Value
	var run []int
	flush := func() {
		if len(run) > 0 {
			parts = append(parts, g.Ints(run...))
			run = nil
		}
	}
	for _, d := range shape {
		if d.Name == "" {
			run = append(run, d.N)
			continue
		}
		flush()
		parts = append(parts, g.Size(d.Name))
	}
	flush()
	target := parts[0]
	if len(parts) > 1 {
		target = g.Concat(0, parts...)
	}
	return g.Op("", "Expand", []*Value{x, target}, Out{x.dtype, shape})[0]
}

// Tile repeats x as a whole: repeats[i] times along axis i. A named dimension
// can be repeated once only.
func (g *Graph) Tile(x *Value, repeats ...int) *Value {
	g.begin("Tile", x)
	g.rank(x, len(repeats))
	shape := slices.Clone(x.shape)
	for i, n := range repeats {
		if n != 1 {
			shape[i] = Dim{N: x.Dim(i) * n}
		}
	}
	return g.Op("", "Tile", []*Value{x, g.Ints(repeats...)}, Out{x.dtype, shape})[0]
}

// Reductions.

// ArgMax returns the index of the first largest element along axis, which is dropped.
func (g *Graph) ArgMax(x *Value, axis int) *Value {
	g.begin("ArgMax", x)
	axis = g.axis(x, axis)
	shape := slices.Delete(slices.Clone(x.shape), axis, axis+1)
	return g.Op("", "ArgMax", []*Value{x}, Out{onnx.Int64, shape}, Int("axis", axis), Int("keepdims", 0))[0]
}

// ReduceSum sums along axis, which stays with size 1.
func (g *Graph) ReduceSum(x *Value, axis int) *Value { return g.reduce("ReduceSum", x, axis) }

// ReduceMax takes the largest along axis, which stays with size 1.
func (g *Graph) ReduceMax(x *Value, axis int) *Value { return g.reduce("ReduceMax", x, axis) }

// ReduceL2 takes the length along axis, which stays with size 1.
func (g *Graph) ReduceL2(x *Value, axis int) *Value { return g.reduce("ReduceL2", x, axis) }

func (g *Graph) reduce(op string, x *Value, axis int) *Value {
	g.begin(op, x)
	axis = g.axis(x, axis)
	return g.Op("", op, []*Value{x, g.Ints(axis)}, Out{x.dtype, with(x.shape, axis, Dim{N: 1})}, Int("keepdims", 1))[0]
}

// Norms, over the last axis.

// LayerNormalization returns (x - mean)/√(variance + eps) · w + b.
func (g *Graph) LayerNormalization(x, w, b *Value, eps float64) *Value {
	g.begin("LayerNormalization", x, w, b)
	g.sameType(x, w, b)
	g.shape(w, last(x))
	g.shape(b, last(x))
	return g.Op("", "LayerNormalization", []*Value{x, w, b}, Out{x.dtype, x.shape}, Int("axis", -1), Flt("epsilon", eps))[0]
}

// RMSNormalization returns x/√(mean x² + eps) · w (onnxruntime's
// SimplifiedLayerNormalization, which it keeps in the default domain).
func (g *Graph) RMSNormalization(x, w *Value, eps float64) *Value {
	g.begin("SimplifiedLayerNormalization", x, w)
	g.sameType(x, w)
	g.shape(w, last(x))
	return g.Op("", "SimplifiedLayerNormalization", []*Value{x, w}, Out{x.dtype, x.shape},
		Int("axis", -1), Flt("epsilon", eps), Int("stash_type", 1))[0]
}

// SkipRMSNormalization returns sum = x + skip and its RMSNormalization
// (com.microsoft). The shapes of x and skip are equal.
func (g *Graph) SkipRMSNormalization(x, skip, w *Value, eps float64) (norm, sum *Value) {
	g.begin("SkipSimplifiedLayerNormalization", x, skip, w)
	g.sameType(x, skip, w)
	g.shape(skip, x.shape...)
	g.shape(w, last(x))
	o := Out{x.dtype, x.shape}
	outs := g.OpN(onnx.Microsoft, "SkipSimplifiedLayerNormalization", []*Value{x, skip, w}, []Out{o, {}, {}, o}, Flt("epsilon", eps))
	return outs[0], outs[3]
}

// Attention.

// MultiHeadAttention is softmax(q·k/√Dh)·v over heads (com.microsoft): q
// [B, S, D], k and v [B, P, D]. causal hides later positions.
func (g *Graph) MultiHeadAttention(q, k, v *Value, heads int, causal bool) *Value {
	g.begin("MultiHeadAttention", q, k, v)
	g.sameType(q, k, v)
	g.rank(q, 3)
	g.shape(v, k.shape...)
	g.same(q, 0, k, 0)
	g.same(q, 2, k, 2)
	if d := q.Dim(2); heads < 1 || d%heads != 0 {
		g.failf("%d heads do not divide %d", heads, d)
	}
	attrs := []onnx.Attr{Int("num_heads", heads)}
	if causal {
		attrs = append(attrs, Int("unidirectional", 1))
	}
	return g.Op(onnx.Microsoft, "MultiHeadAttention", []*Value{q, k, v}, Out{q.dtype, q.shape}, attrs...)[0]
}

// GQA are the arguments of GroupQueryAttention.
type GQA struct {
	QKV              *Value // [B, S, (NH+2·KH)·Dh]: queries, keys, values
	PastKey, PastVal *Value // [B, KH, P, Dh]
	Seqlens          *Value // int32 [B]: tokens in the cache after the run, less 1
	Total            *Value // int32 []: the largest of those, plus 1
	Cos, Sin         *Value // [positions, Dh/2]
	Heads, KVHeads   int
	Interleaved      bool    // rotary pairs are neighbours (Meta, GGUF), not halves (Hugging Face)
	Scale            float64 // of the scores; 0 means 1/√Dh
	Present          string  // name of the present length in shapes, as in "T"
}

// GroupQueryAttention rotates queries and keys, appends keys and values to the
// cache and attends to it (com.microsoft). out is [B, S, NH·Dh]; the presents
// are [B, KH, Present, Dh] and may share the pasts' memory.
func (g *Graph) GroupQueryAttention(a GQA) (out, key, value *Value) {
	g.begin("GroupQueryAttention", a.QKV, a.PastKey, a.PastVal, a.Seqlens, a.Total, a.Cos, a.Sin)
	g.sameType(a.QKV, a.PastKey, a.PastVal, a.Cos, a.Sin)
	g.rank(a.QKV, 3)
	g.rank(a.PastKey, 4)
	g.shape(a.PastVal, a.PastKey.shape...)
	g.same(a.QKV, 0, a.PastKey, 0)
	g.shape(a.Seqlens, a.QKV.shape[0])
	g.rank(a.Total, 0)
	if a.Seqlens.dtype != onnx.Int32 || a.Total.dtype != onnx.Int32 {
		g.failf("%s and %s, want int32", a.Seqlens, a.Total)
	}
	dh := a.PastKey.Dim(3)
	if a.KVHeads < 1 || a.Heads%a.KVHeads != 0 || a.PastKey.Dim(1) != a.KVHeads || a.QKV.Dim(2) != (a.Heads+2*a.KVHeads)*dh {
		g.failf("%s and %s with %d heads and %d of keys", a.QKV, a.PastKey, a.Heads, a.KVHeads)
	}
	if dh%16 != 0 {
		g.failf("heads of %d: onnxruntime rotates multiples of 16 only", dh)
	}
	g.rank(a.Cos, 2)
	g.shape(a.Sin, a.Cos.shape...)
	if a.Cos.Dim(1) != dh/2 {
		g.failf("rotary table %s, want [.. %d]", a.Cos, dh/2)
	}
	interleaved := 0
	if a.Interleaved {
		interleaved = 1
	}
	present := Out{a.PastKey.dtype, with(a.PastKey.shape, 2, Dim{Name: a.Present})}
	attrs := []onnx.Attr{Int("num_heads", a.Heads), Int("kv_num_heads", a.KVHeads), Int("do_rotary", 1), Int("rotary_interleaved", interleaved)}
	if a.Scale != 0 {
		attrs = append(attrs, Flt("scale", a.Scale))
	}
	outs := g.OpN(onnx.Microsoft, "GroupQueryAttention",
		[]*Value{a.QKV, nil, nil, a.PastKey, a.PastVal, a.Seqlens, a.Total, a.Cos, a.Sin},
		[]Out{{a.QKV.dtype, with(a.QKV.shape, 2, Dim{N: a.Heads * dh})}, present, present}, attrs...)
	return outs[0], outs[1], outs[2]
}
