package nn

import (
	"bytes"
	"math"
	"slices"
	"testing"

	"imagebind-llm/exporter/graph"
	"imagebind-llm/internal/format"
	"imagebind-llm/internal/golden"
)

// columns are those of w: by the graph in 8 bits, or exactly.
func columns(t *testing.T, x, w, b format.Tensor, accuracy int) []float32 {
	t.Helper()
	l := Linear{Name: "w", Weight: []format.Tensor{w}, Bias: []format.Tensor{b}, Precision: Int8, Columns: true, Accuracy: accuracy}
	return apply(t, x, func(g *graph.Graph, x *graph.Value) *graph.Value { return Products(g, x, l)[0] }).Floats
}

func TestColumns(t *testing.T) {
	for _, k := range []int{1, 31, 64, 515} {
		x, w, b := random(1, 9, k), random(2, 33, k), random(3, 33)
		want := affine(floats(t, x), floats(t, w), floats(t, b), k)
		for _, accuracy := range []int{0, 4} {
			got := columns(t, x, w, b, accuracy)
			var diff, all float64
			for i, v := range want {
				diff, all = diff+math.Pow(float64(v-got[i]), 2), all+float64(v*v)
			}
			if e := math.Sqrt(diff / all); e > 0.02 { // 0.015 is seen
				t.Errorf("%d inputs, accuracy %d: %.4f of the length", k, accuracy, e)
			}
		}
	}
}

// The extreme inputs, ±127 and 0, times weights that fill the limit of a pair:
// sums in 16 bits must not overflow on any path of the product, whatever the
// numbers of rows, inputs and outputs.
func TestColumnsDoNotOverflow(t *testing.T) {
	pairs := [][2]float32{{127, 1}, {1, 127}, {64, 64}, {-127, -1}, {-64, -64}, {127, -127}, {-127, 127}, {100, 28}}
	for _, m := range []int{1, 2, 3, 5, 6, 257} {
		for _, k := range []int{2, 4, 8, 30, 36, 64, 258} {
			for _, n := range []int{1, 7, 16, 35} {
				x, w := make([]float32, m*k), make([]float32, n*k)
				for i := range x {
					x[i] = []float32{127, 127, -127, 127}[(i/2+i/k)%4]
				}
				for i := range x[:m] {
					x[i*k] = 127 // each row's scale is 1
				}
				for i := range w {
					w[i] = pairs[(i/2+i/k)%len(pairs)][i%2]
				}
				for i := range n {
					w[i*k], w[i*k+1] = 127, 1 // each column's scale is 1
				}
				one, weight := tensor(x, m, k), tensor(w, n, k)
				want := affine(x, w, make([]float32, n), k)
				if got := columns(t, one, weight, zeros(n), 4); !closeTo(got, want) {
					t.Fatalf("[%d, %d] by [%d, %d]: %v, want %v", m, k, k, n, got[:min(8, len(got))], want[:min(8, len(want))])
				}
			}
		}
	}
}

// Weights that are all as large as any take a scale that leaves room.
func TestColumnsOfOneSize(t *testing.T) {
	x, w := make([]float32, 3*64), make([]float32, 16*64)
	for i := range x {
		x[i] = 2
	}
	for i := range w {
		w[i] = 3
	}
	for _, got := range columns(t, tensor(x, 3, 64), tensor(w, 16, 64), zeros(16), 4) {
		if math.Abs(float64(got)-2*3*64) > 1e-2 {
			t.Fatalf("%v, want %v", got, 2*3*64)
		}
	}
}

func closeTo(got, want []float32) bool {
	return slices.EqualFunc(got, want, func(g, w float32) bool {
		return math.Abs(float64(g-w)) <= 1e-5*math.Abs(float64(w))+1e-2
	})
}

// What was rounded fits: no weight beyond ±127, no pair of one sign beyond 128;
// and nothing is farther from its weight than rounding takes it.
func TestColumnScale(t *testing.T) {
	for seed := range uint64(20) {
		const out, in = 70, 37
		w := random(seed, out, in)
		values := floats(t, w)
		if seed == 0 {
			clear(values[:in])
			w = tensor(values, out, in)
		}
		var q bytes.Buffer
		scales, err := writeColumns(&q, w)
		if err != nil {
			t.Fatal(err)
		}
		for o := range out {
			for i := range in {
				got := int(int8(q.Bytes()[i*out+o]))
				if d := math.Abs(float64(values[o*in+i]) - float64(got)*float64(scales[o])); d > 1.01*float64(scales[o]) || d > 0.51*float64(scales[o]) && i%2 == 0 && i == in-1 {
					t.Fatalf("seed %d: weight %d %d is %v away", seed, o, i, d)
				}
				if i%2 == 0 {
					continue
				}
				before := int(int8(q.Bytes()[(i-1)*out+o]))
				if before*got > 0 && max(before+got, -before-got) > pairLimit {
					t.Fatalf("seed %d: a pair of %d and %d", seed, before, got)
				}
			}
		}
	}
}

// A row's result does not depend on the others, though one be NaN.
func TestColumnsApart(t *testing.T) {
	x, w := random(1, 5, 40), random(2, 24, 40)
	values := floats(t, x)
	want := columns(t, x, w, zeros(24), 4)
	for i := range 40 {
		values[2*40+i] = float32(math.NaN())
		values[3*40+i] = 0
		values[4*40+i] *= 1e6
	}
	got := columns(t, tensor(values, 5, 40), w, zeros(24), 4)
	if !slices.Equal(got[:2*24], want[:2*24]) {
		t.Error("rows 0 and 1 have changed")
	}
	if !math.IsNaN(float64(got[2*24])) {
		t.Errorf("NaN gives %v", got[2*24])
	}
	golden.Close(t, got[3*24:4*24], make([]float32, 24), 0)
}

func TestColumnsRefuse(t *testing.T) {
	for name, l := range map[string]Linear{
		"precision": {Name: "w", Weight: []format.Tensor{random(1, 2, 4)}, Columns: true},
		"width":     {Name: "w", Weight: []format.Tensor{random(1, 2, 5)}, Precision: Int8, Columns: true},
	} {
		_, err := graph.Build(func(g *graph.Graph) { g.Output("y", Products(g, g.Input("x", 1, "N", 4), l)[0]) })
		if err == nil {
			t.Errorf("%s: it is built", name)
		}
	}
}
