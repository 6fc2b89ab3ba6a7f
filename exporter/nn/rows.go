package nn

import (
	"fmt"
	"io"
	"math"

	"imagebind-llm/exporter/graph"
	"imagebind-llm/exporter/onnx"
	"imagebind-llm/internal/format"
)

// pairLimit bounds the sum of two int8 weights of one sign that are neighbours
// along the input: a processor without VNNI adds their products with inputs of
// up to 255 in 16 bits, and 255·128 fits.
const pairLimit = 128

// Products applies layers to one x [R, in] and returns each one's [R, out]. What
// int8 columns ([Linear.Columns]) need of x is made once for all.
func Products(g *graph.Graph, x *graph.Value, layers ...Linear) []*graph.Value {
	var q, largest *graph.Value
	out := make([]*graph.Value, len(layers))
	for i, l := range layers {
		if !l.Columns {
			out[i] = l.Apply(g, x)
			continue
		}
		w, s := l.columns(g, x)
		if l.Accuracy == 0 {
			out[i] = g.MatMul(x, g.DequantizeLinear(w, s))
		} else {
			if q == nil {
				q, largest = roundRows(g, x)
			}
			out[i] = g.Mul(g.MatMulIntegerToFloat(q, w, g.Const(onnx.Float, 1./127), s, g.Byte(128)), largest)
		}
		if l.hasBias() {
			out[i] = g.Add(out[i], l.bias(g, x.DType(), w.Dim(1)))
		}
	}
	return out
}

// roundRows returns 128 + round(127·x/largest) of x [R, D] as uint8, and largest
// [R, 1], each row's largest |x|. A row has its own scale, so that what is in a
// batch does not depend on the rest of it.
func roundRows(g *graph.Graph, x *graph.Value) (q, largest *graph.Value) {
	low := g.Mul(g.ReduceMin(x, 1), g.Const(onnx.Float, -1))
	largest = g.Max(g.Max(g.ReduceMax(x, 1), low), g.Const(onnx.Float, 1e-30)) // a row of zeros is not divided by 0
	x = g.Mul(x, g.Div(g.Const(onnx.Float, 127), largest))
	return g.QuantizeLinear(x, g.Const(onnx.Float, 1), g.Byte(128)), largest
}

// columns adds the one weight [out, in] of l as int8 [in, out] and the scales
// [out] of its columns.
func (l Linear) columns(g *graph.Graph, x *graph.Value) (w, scales *graph.Value) {
	if len(l.Weight) != 1 || l.Precision != Int8 || x.DType() != onnx.Float {
		g.Fail(fmt.Errorf("%s: columns are of one int8 weight in a float32 graph", l.Name))
	}
	t := l.Weight[0]
	if len(t.Shape) != 2 || t.Shape[1] != x.Dim(-1) {
		g.Fail(fmt.Errorf("tensor %s has shape %v, want [.. %d]", t.Name, t.Shape, x.Dim(-1)))
	}
	out, in := t.Shape[0], t.Shape[1]
	var kept []float32 // from the first weight to the second
	run := func(w io.Writer) (err error) {
		kept, err = writeColumns(w, t)
		return err
	}
	w = g.Weight(l.Name+".weight.int8", onnx.Int8, []int{in, out}, run)
	scales = g.Weight(l.Name+".weight.scales", onnx.Float, []int{out}, func(w io.Writer) error {
		if kept == nil {
			if err := run(io.Discard); err != nil {
				return err
			}
		}
		_, err := w.Write(onnx.Float.AppendFloats(nil, kept))
		kept = nil
		return err
	})
	return w, scales
}

// writeColumns writes t [out, in] as int8 [in, out], each column by its own
// scale, and returns the scales [out]. The tensor is read whole.
func writeColumns(w io.Writer, t format.Tensor) ([]float32, error) {
	out, in := t.Shape[0], t.Shape[1]
	values, q := make([]float32, out*in), make([]byte, out*in)
	if err := t.Read(values, 0); err != nil {
		return nil, fmt.Errorf("tensor %s: %w", t.Name, err)
	}
	scales := make([]float32, out)
	parallel((out+tile-1)/tile, func(from, to int) {
		for first := from * tile; first < min(to*tile, out); first += tile {
			last := min(first+tile, out)
			for o := first; o < last; o++ {
				row := values[o*in : (o+1)*in]
				if scales[o] = columnScale(row); scales[o] > 0 {
					roundColumn(row, scales[o])
				}
			}
			for i := range in { // a tile's columns lie side by side
				for o := first; o < last; o++ {
					q[i*out+o] = byte(int8(values[o*in+i]))
				}
			}
		}
	})
	_, err := w.Write(q)
	return scales, err
}

// columnScale is the smallest scale with which w fits into int8 and its pairs
// into pairLimit.
func columnScale(w []float32) float32 {
	var one, two float32
	for i, x := range w {
		one = max(one, x, -x)
		if i%2 == 1 {
			y := w[i-1]
			two = max(two, max(x, 0)+max(y, 0), max(-x, 0)+max(-y, 0))
		}
	}
	return max(one/127, two/pairLimit)
}

// roundColumn replaces w by the integers nearest to w/scale, but for pairs that
// rounding takes over the limit by one.
func roundColumn(w []float32, scale float32) {
	for i, x := range w {
		w[i] = max(-127, min(127, float32(math.RoundToEven(float64(x/scale)))))
		if i%2 == 1 {
			a, b := &w[i-1], &w[i]
			if math.Abs(float64(*b)) > math.Abs(float64(*a)) {
				a, b = b, a
			}
			switch {
			case *a > 0 && *b > 0 && *a+*b > pairLimit:
				*a = pairLimit - *b
			case *a < 0 && *b < 0 && *a+*b < -pairLimit:
				*a = -pairLimit - *b
			}
		}
	}
}
