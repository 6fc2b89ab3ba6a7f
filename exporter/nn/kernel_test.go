package nn

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"testing"

	imagebind "imagebind-llm"
	"imagebind-llm/exporter/graph"
	"imagebind-llm/exporter/onnx"
	"imagebind-llm/internal/format"
	"imagebind-llm/internal/golden"
	"imagebind-llm/internal/ort"
	"imagebind-llm/internal/ort/kernel"
)

// both runs a layer on x [N, D] with onnxruntime's own operators and with
// package kernel's. swapped is how many of the latter there were.
func both(t testing.TB, x format.Tensor, layer func(g *graph.Graph, x *graph.Value) []*graph.Value) (plain, ours []imagebind.Tensor, swapped int) {
	t.Helper()
	if _, err := ort.Load(""); err != nil {
		golden.Need(t, "ort", "wants onnxruntime: "+err.Error())
	}
	if !kernel.Supported() {
		t.Skip("wants a processor with AVX2")
	}
	var names []string
	g, err := graph.Build(func(g *graph.Graph) {
		for i, y := range layer(g, g.Input("x", onnx.Float, "N", x.Shape[1])) {
			names = append(names, fmt.Sprint("y", i))
			g.Output(names[i], y)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "g.onnx")
	if err := g.Save(path, nil); err != nil {
		t.Fatal(err)
	}
	model, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, swapped, err = kernel.Swap(model); err != nil {
		t.Fatal(err)
	}
	for _, o := range []ort.Options{{Threads: 2, Plain: true}, {Threads: 2}} {
		s, err := ort.Open(path, o)
		if err != nil {
			t.Fatal(err)
		}
		out, err := s.Compute(t.Context(), map[string]imagebind.Tensor{"x": {Shape: x.Shape, Floats: floats(t, x)}})
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range names {
			if o.Plain {
				plain = append(plain, out[n])
			} else {
				ours = append(ours, out[n])
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return plain, ours, swapped
}

// rounded is x as the kernels see it: 8 bits in blocks of 32, as floats.
func rounded(x []float32) []float64 {
	out := make([]float64, len(x))
	for from := 0; from < len(x); from += Block {
		block := x[from:min(from+Block, len(x))]
		most := float32(0)
		for _, v := range block {
			most = max(most, float32(math.Abs(float64(v))))
		}
		if most == 0 {
			continue
		}
		for i, v := range block {
			out[from+i] = math.RoundToEven(float64(v*(127/most))) * float64(most/127)
		}
	}
	return out
}

// weightsOf is a matrix as the graph holds it.
func weightsOf(w []float32, p Precision) []float64 {
	out := make([]float64, len(w))
	var q [Block]uint8
	for from := 0; from < len(w); from += Block {
		var scale float32
		zero := uint8(1 << (p.bits() - 1))
		if p == Int4A {
			scale, zero = QuantiseZero(q[:], w[from:from+Block])
		} else {
			scale = Quantise(q[:], w[from:from+Block], p.bits())
		}
		for i := range q {
			out[from+i] = float64(scale) * (float64(q[i]) - float64(zero))
		}
	}
	return out
}

// TestKernelMatMul: products, with and without a bias, of every number of rows
// that has a path of its own, and of widths that end within a tile.
func TestKernelMatMul(t *testing.T) {
	for _, bits := range []Precision{Int4, Int4A, Int8} {
		for _, size := range []struct{ rows, in, out int }{{1, 64, 8}, {2, 32, 24}, {3, 96, 20}, {4, 64, 3}, {5, 160, 40}, {70, 64, 48}, {1, 576, 1100}, {9, 4096, 16}} {
			for _, bias := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s %v bias %v", bits, size, bias), func(t *testing.T) {
					x, w, b := random(1, size.rows, size.in), random(2, size.out, size.in), random(3, size.out)
					l := Linear{Name: "w", Weight: []format.Tensor{w}, Precision: bits, Accuracy: 4}
					if bias {
						l.Bias = []format.Tensor{b}
					}
					plain, ours, n := both(t, x, func(g *graph.Graph, x *graph.Value) []*graph.Value { return []*graph.Value{l.Apply(g, x)} })
					if n != 1 {
						t.Fatalf("%d operators of ours", n)
					}
					xs, ws, bs := floats(t, x), weightsOf(floats(t, w), bits), floats(t, b)
					want := make([]float32, size.rows*size.out)
					for i := range size.rows {
						row := rounded(xs[i*size.in : (i+1)*size.in])
						for j := range size.out {
							sum := 0.0
							for k, v := range row {
								sum += v * ws[j*size.in+k]
							}
							if bias {
								sum += float64(bs[j])
							}
							want[i*size.out+j] = float32(sum)
						}
					}
					deviation := math.Sqrt(float64(size.in)) // of a value
					golden.Close(t, ours[0].Floats, want, 1e-6*deviation*4)
					golden.Close(t, ours[0].Floats, plain[0].Floats, 0.05*deviation) // which rounds x too, by another rule
				})
			}
		}
	}
}

// TestKernelRows: a row's result does not depend on the rows beside it.
func TestKernelRows(t *testing.T) {
	for _, bits := range []Precision{Int4, Int4A, Int8} {
		x, w := random(1, 11, 96), random(2, 40, 96)
		l := Linear{Name: "w", Weight: []format.Tensor{w}, Precision: bits, Accuracy: 4}
		layer := func(g *graph.Graph, x *graph.Value) []*graph.Value { return []*graph.Value{l.Apply(g, x)} }
		_, all, _ := both(t, x, layer)
		for _, n := range []int{1, 2, 3, 7} {
			_, some, _ := both(t, tensor(floats(t, x)[:n*96], n, 96), layer)
			golden.Close(t, some[0].Floats, all[0].Floats[:n*40], 0)
		}
	}
}

// TestKernelNaN: what is no number does not become one, and stays in its row.
func TestKernelNaN(t *testing.T) {
	values := floats(t, random(1, 3, 64))
	values[64+40] = float32(math.NaN())
	for _, bits := range []Precision{Int4, Int4A, Int8} {
		l := Linear{Name: "w", Weight: []format.Tensor{random(2, 9, 64)}, Precision: bits, Accuracy: 4}
		_, ours, _ := both(t, tensor(values, 3, 64), func(g *graph.Graph, x *graph.Value) []*graph.Value { return []*graph.Value{l.Apply(g, x)} })
		for i, v := range ours[0].Floats {
			if math.IsNaN(float64(v)) != (i/9 == 1) {
				t.Fatalf("%s: value %d of row %d is %v", bits, i%9, i/9, v)
			}
		}
	}
}

// TestKernelGate: silu(x·w1)·(x·w3), as LLaMA's layers have it, is one operator;
// where the halves are used elsewhere too, it is not.
func TestKernelGate(t *testing.T) {
	x, w1, w3 := random(1, 6, 64), random(2, 27, 64), random(3, 27, 64)
	for _, bits := range []Precision{Int4, Int4A, Int8} {
		for _, bias := range []bool{false, true} {
			for _, shared := range []bool{false, true} {
				linear := func(name string, w format.Tensor) Linear {
					l := Linear{Name: name, Weight: []format.Tensor{w}, Precision: bits, Accuracy: 4}
					if bias {
						l.Bias = []format.Tensor{random(9, 27)}
					}
					return l
				}
				plain, ours, n := both(t, x, func(g *graph.Graph, x *graph.Value) []*graph.Value {
					a, b := linear("w1", w1).Apply(g, x), linear("w3", w3).Apply(g, x)
					out := []*graph.Value{g.Mul(SiLU(g, a), b)}
					if shared {
						out = append(out, g.Tanh(b))
					}
					return out
				})
				want := 1
				if shared {
					want = 2
				}
				if n != want {
					t.Errorf("%s, bias %v, shared %v: %d operators of ours, want %d", bits, bias, shared, n, want)
				}
				golden.Close(t, ours[0].Floats, plain[0].Floats, 2) // of values to 100: both round x, by two rules
				_, halves, _ := both(t, x, func(g *graph.Graph, x *graph.Value) []*graph.Value {
					return []*graph.Value{linear("w1", w1).Apply(g, x), linear("w3", w3).Apply(g, x)}
				})
				for i, a := range halves[0].Floats {
					halves[1].Floats[i] *= a / float32(1+math.Exp(-float64(a)))
				}
				golden.Close(t, ours[0].Floats, halves[1].Floats, 1e-4)
			}
		}
	}
}

// TestKernelNorms: both norms are onnxruntime's to float32's last digits.
func TestKernelNorms(t *testing.T) {
	for _, width := range []int{8, 80, 83} {
		x, weight := random(1, 9, width), random(2, width)
		norm := RMSNorm{Name: "n", Weight: weight, Eps: 1e-5}
		plain, ours, n := both(t, x, func(g *graph.Graph, x *graph.Value) []*graph.Value {
			y, sum := norm.Skip(g, x, g.Tanh(x))
			return []*graph.Value{y, g.Tanh(sum), RMSNorm{Name: "m", Weight: weight, Eps: 1e-6}.Apply(g, g.Add(x, x))}
		})
		if n != 2 {
			t.Errorf("%d operators of ours", n)
		}
		for i := range plain {
			golden.Close(t, ours[i].Floats, plain[i].Floats, 4e-6)
		}
	}
}
