package graph

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	imagebind "imagebind-llm"
	"imagebind-llm/exporter/onnx"
	"imagebind-llm/internal/golden"
	"imagebind-llm/internal/ort"
)

func save(t testing.TB, g *Graph) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "g.onnx")
	if err := g.Save(path, nil); err != nil {
		t.Fatal(err)
	}
	return path
}

func compute(t testing.TB, g *Graph, in map[string]imagebind.Tensor) map[string]imagebind.Tensor {
	t.Helper()
	if _, err := ort.Load(""); err != nil {
		golden.Need(t, "ort", "wants onnxruntime: "+err.Error())
	}
	s, err := ort.Open(save(t, g), ort.Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	out, err := s.Compute(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// count is 0, 1, 2, … in that shape.
func count(shape ...int) imagebind.Tensor {
	x := imagebind.NewFloats(shape...)
	for i := range x.Floats {
		x.Floats[i] = float32(i)
	}
	return x
}

// TestOps runs operators in onnxruntime: the shape must be the one that was
// declared, with N=2, and the values those of want where given.
func TestOps(t *testing.T) {
	ones := func(n int) []float32 { return slices.Repeat([]float32{1}, n) }
	for _, tt := range []struct {
		name  string
		shape []any // of the input, which counts
		op    func(g *Graph, x *Value) *Value
		want  []float32
	}{
		{"Add", []any{"N", 2}, func(g *Graph, x *Value) *Value { return g.Add(x, g.Floats("b", []float32{10, 20}, 2)) }, []float32{10, 21, 12, 23}},
		{"Sub", []any{"N"}, func(g *Graph, x *Value) *Value { return g.Sub(x, g.Const(onnx.Float, 1)) }, []float32{-1, 0}},
		{"Mul", []any{"N", 1}, func(g *Graph, x *Value) *Value { return g.Mul(x, g.Floats("b", []float32{1, 2, 3}, 1, 3)) }, []float32{0, 0, 0, 1, 2, 3}},
		{"Div", []any{"N"}, func(g *Graph, x *Value) *Value { return g.Div(x, g.Const(onnx.Float, 4)) }, []float32{0, 0.25}},
		{"Max", []any{"N"}, func(g *Graph, x *Value) *Value { return g.Max(x, g.Const(onnx.Float, 0.5)) }, []float32{0.5, 1}},
		{"Tanh", []any{"N"}, (*Graph).Tanh, []float32{0, 0.7615942}},
		{"Sigmoid", []any{"N"}, (*Graph).Sigmoid, []float32{0.5, 0.7310586}},
		{"Sqrt", []any{"N", 2}, (*Graph).Sqrt, []float32{0, 1, 1.4142135, 1.7320508}},
		{"Erf", []any{"N"}, (*Graph).Erf, []float32{0, 0.8427008}},
		{"Gelu", []any{"N", 2}, (*Graph).Gelu, []float32{0, 0.84134474, 1.9544997, 2.9959502}},
		{"Relu", []any{"N"}, func(g *Graph, x *Value) *Value { return g.Relu(g.Sub(x, g.Const(onnx.Float, 2))) }, []float32{0, 0}},
		{"Cast", []any{"N"}, func(g *Graph, x *Value) *Value { return g.Cast(g.Cast(x, onnx.Float16), onnx.Float) }, []float32{0, 1}},
		{"Softmax", []any{"N", 2}, func(g *Graph, x *Value) *Value { return g.Softmax(x, -1) }, []float32{0.26894143, 0.7310586, 0.26894143, 0.7310586}},
		{"MatMul", []any{"N", 2}, func(g *Graph, x *Value) *Value { return g.MatMul(x, g.Floats("w", []float32{1, 2, 3, 4, 5, 6}, 2, 3)) }, []float32{4, 5, 6, 14, 19, 24}},
		{"Gemm", []any{"N", 2}, func(g *Graph, x *Value) *Value {
			return g.Gemm(x, g.Floats("w", []float32{1, 4, 2, 5, 3, 6}, 3, 2), g.Floats("c", ones(3), 3), true)
		}, []float32{5, 6, 7, 15, 20, 25}},
		{"Gemm without c", []any{"N", 2}, func(g *Graph, x *Value) *Value { return g.Gemm(x, g.Floats("w", ones(4), 2, 2), nil, false) }, []float32{1, 1, 5, 5}},
		{"Conv", []any{"N", 1, 5}, func(g *Graph, x *Value) *Value {
			return g.Conv(x, g.Floats("w", []float32{1, 1}, 1, 1, 2), g.Floats("b", []float32{100}, 1), 2)
		}, []float32{101, 105, 111, 115}},
		{"Split", []any{"N", 4}, func(g *Graph, x *Value) *Value { return g.Split(x, 1, 2)[1] }, []float32{2, 3, 6, 7}},
		{"SplitSizes", []any{"N", 4}, func(g *Graph, x *Value) *Value { return g.SplitSizes(x, -1, 1, 3)[1] }, []float32{1, 2, 3, 5, 6, 7}},
		{"Concat", []any{"N", 1}, func(g *Graph, x *Value) *Value { return g.Concat(1, x, x) }, []float32{0, 0, 1, 1}},
		{"Concat of N", []any{"N", 1}, func(g *Graph, x *Value) *Value { return g.Concat(0, x, g.Floats("more", []float32{7}, 1, 1)) }, []float32{0, 1, 7}},
		{"Reshape in place", []any{"N", 6}, func(g *Graph, x *Value) *Value { return g.Reshape(x, "N", 3, 2) }, nil},
		{"Reshape flat", []any{"N", 3, 2}, func(g *Graph, x *Value) *Value { return g.Reshape(x, -1, 2) }, nil},
		{"Reshape the rest", []any{"N", 3, 4}, func(g *Graph, x *Value) *Value { return g.Reshape(x, "N", -1) }, nil},
		{"Reshape there and back", []any{"N", 3, 2}, func(g *Graph, x *Value) *Value { return g.Reshape(g.Reshape(x, -1, 2), "N", 3, 2) }, nil},
		{"Reshape moved", []any{3, "N"}, func(g *Graph, x *Value) *Value { return g.Reshape(x, "N", 3) }, nil},
		{"Transpose", []any{"N", 3}, func(g *Graph, x *Value) *Value { return g.Transpose(x, 1, 0) }, []float32{0, 3, 1, 4, 2, 5}},
		{"Gather", []any{"N", 3}, func(g *Graph, x *Value) *Value { return g.Gather(x, g.Ints(2, 0), 1) }, []float32{2, 0, 5, 3}},
		{"GatherND", []any{"N", 3}, func(g *Graph, x *Value) *Value { return g.GatherND(x, g.Unsqueeze(g.ArgMax(x, 1), 1), 1) }, []float32{2, 5}},
		{"Slice", []any{"N", 4}, func(g *Graph, x *Value) *Value { return g.Slice(x, 1, 1, 3) }, []float32{1, 2, 5, 6}},
		{"First", []any{"N", 3, 2}, func(g *Graph, x *Value) *Value { return g.First(x, 1) }, []float32{0, 1, 6, 7}},
		{"Unsqueeze, Squeeze", []any{"N"}, func(g *Graph, x *Value) *Value { return g.Squeeze(g.Unsqueeze(x, 0, 2), 0) }, []float32{0, 1}},
		{"Shape", []any{"N", 3}, func(g *Graph, x *Value) *Value { return g.Cast(g.Shape(x), onnx.Float) }, []float32{2, 3}},
		{"Expand", []any{"N", 3}, func(g *Graph, x *Value) *Value { return g.Expand(g.Floats("c", []float32{5, 6}, 1, 1, 2), 1, "N", 2) }, []float32{5, 6, 5, 6}},
		{"Expand to N alone", []any{"N"}, func(g *Graph, _ *Value) *Value { return g.Expand(g.Floats("c", []float32{5}, 1), "N") }, []float32{5, 5}},
		{"Tile", []any{"N", 2}, func(g *Graph, x *Value) *Value { return g.Tile(x, 1, 2) }, []float32{0, 1, 0, 1, 2, 3, 2, 3}},
		{"ArgMax", []any{"N", 2}, func(g *Graph, x *Value) *Value { return g.Cast(g.ArgMax(x, -1), onnx.Float) }, []float32{1, 1}},
		{"ReduceSum", []any{"N", 2}, func(g *Graph, x *Value) *Value { return g.ReduceSum(x, 1) }, []float32{1, 5}},
		{"ReduceMax", []any{"N", 2}, func(g *Graph, x *Value) *Value { return g.ReduceMax(x, 1) }, []float32{1, 3}},
		{"ReduceMin", []any{"N", 2}, func(g *Graph, x *Value) *Value { return g.ReduceMin(x, 1) }, []float32{0, 2}},
		{"MatMulIntegerToFloat", []any{"N", 2}, func(g *Graph, x *Value) *Value {
			w := g.Weight("w", onnx.Int8, []int{2, 2}, func(w io.Writer) error { _, err := w.Write([]byte{1, 255, 3, 4}); return err })
			s := g.Floats("s", []float32{1, 10}, 2)
			q := g.QuantizeLinear(x, g.Const(onnx.Float, 0.5), g.Byte(128)) // 2x
			return g.Sub(g.MatMulIntegerToFloat(q, w, g.Const(onnx.Float, 0.5), s, g.Byte(128)), g.MatMul(x, g.DequantizeLinear(w, s)))
		}, []float32{0, 0, 0, 0}},
		{"ReduceL2", []any{"N", 2}, func(g *Graph, x *Value) *Value { return g.ReduceL2(x, 1) }, []float32{1, 3.6055512}},
		{"LayerNormalization", []any{"N", 2}, func(g *Graph, x *Value) *Value {
			return g.LayerNormalization(x, g.Floats("w", []float32{1, 2}, 2), g.Floats("b", []float32{0, 1}, 2), 0.75)
		}, []float32{-0.5, 2, -0.5, 2}},
		{"RMSNormalization", []any{"N", 2}, func(g *Graph, x *Value) *Value {
			return g.RMSNormalization(x, g.Floats("w", []float32{1, 2}, 2), 3.5)
		}, []float32{0, 1, 0.6324555, 1.8973665}},
		{"SkipRMSNormalization", []any{"N", 2}, func(g *Graph, x *Value) *Value {
			n, s := g.SkipRMSNormalization(x, x, g.Floats("w", ones(2), 2), 2)
			return g.Add(n, s)
		}, []float32{0, 3, 4.755929, 7.1338935}},
		{"MultiHeadAttention", []any{"N", 2, 2}, func(g *Graph, x *Value) *Value { return g.MultiHeadAttention(x, x, x, 1, true) }, []float32{0, 1, 1.9983027, 2.9983027, 4, 5, 6, 7}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var y *Value
			g, err := Build(func(g *Graph) {
				y = tt.op(g, g.Input("x", onnx.Float, tt.shape...))
				g.Output("y", y)
			})
			if err != nil {
				t.Fatal(err)
			}
			in := make([]int, len(tt.shape))
			for i, d := range Dims(tt.shape...) {
				in[i] = d.N + 2*len(d.Name) // N is 2
			}
			x := count(in...)
			got := compute(t, g, map[string]imagebind.Tensor{"x": x})["y"]
			for i, d := range y.shape {
				size := d.N
				switch {
				case d.Name == "N":
					size = 2
				case strings.Contains(d.Name, "+"), strings.Contains(d.Name, "*"):
					var n int
					if _, err := fmt.Sscanf(d.Name[2:], "%d", &n); err != nil {
						t.Fatal(d.Name)
					}
					size = 2 + n
					if d.Name[1] == '*' {
						size = 2 * n
					}
				}
				if len(got.Shape) != len(y.shape) || got.Shape[i] != size {
					t.Fatalf("shape is %v, declared %v", got.Shape, y.shape)
				}
			}
			want := tt.want
			if want == nil {
				want = x.Floats
			}
			golden.Close(t, got.Floats, want, 1e-6)
		})
	}
}

// TestChecks: wrong arguments are an error that names the operator, its scope
// and the shapes.
func TestChecks(t *testing.T) {
	for _, tt := range []struct {
		name string
		f    func(g *Graph, x *Value) // x is [N, 3, 4]
		want string
	}{
		{"broadcast", func(g *Graph, x *Value) { g.Add(x, g.Floats("b", make([]float32, 3), 3)) }, "Add: shapes [N 3 4] and [3] do not go together"},
		{"names", func(g *Graph, x *Value) { g.Add(x, g.Input("z", onnx.Float, "M", 3, 4)) }, "shapes [N 3 4] and [M 3 4]"},
		{"types", func(g *Graph, x *Value) { g.Mul(x, g.Ints(1)) }, "of two types"},
		{"nil", func(g *Graph, x *Value) { g.MatMul(x, nil) }, "MatMul: argument 1 is nil"},
		{"inner", func(g *Graph, x *Value) { g.MatMul(x, x) }, "dimensions 2 and 1 differ"},
		{"axis", func(g *Graph, x *Value) { g.Softmax(x, 3) }, "axis 3 of x"},
		{"split", func(g *Graph, x *Value) { g.Split(x, 1, 2) }, "into 2 parts"},
		{"split sizes", func(g *Graph, x *Value) { g.SplitSizes(x, 1, 1, 1) }, "into [1 1]"},
		{"split of N", func(g *Graph, x *Value) { g.Split(x, 0, 2) }, "dimension 0 is N"},
		{"reshape", func(g *Graph, x *Value) { g.Reshape(x, "N", 13) }, "to [N 13]"},
		{"reshape, unknown name", func(g *Graph, x *Value) { g.Reshape(x, "M", -1) }, "to [M -1]"},
		{"reshape, rest", func(g *Graph, x *Value) { g.Reshape(x, "N", 5, -1) }, "to [N 5 -1]"},
		{"perm", func(g *Graph, x *Value) { g.Transpose(x, 0, 0, 1) }, "no order of 3 axes"},
		{"slice", func(g *Graph, x *Value) { g.Slice(x, 1, 2, 4) }, "2 to 4"},
		{"squeeze", func(g *Graph, x *Value) { g.Squeeze(x, 1) }, "axis 1"},
		{"expand", func(g *Graph, x *Value) { g.Expand(x, "N", 6, 4) }, "shapes [N 3 4]"},
		{"size", func(g *Graph, _ *Value) { g.Size("Q") }, "no input has a dimension Q"},
		{"index", func(g *Graph, x *Value) { g.Gather(x, x, 0) }, "want int64"},
		{"norm", func(g *Graph, x *Value) {
			g.RMSNormalization(x, g.Floats("w", make([]float32, 3), 3), 1e-6)
		}, "has shape [3], want [4]"},
		{"heads", func(g *Graph, x *Value) { g.MultiHeadAttention(x, x, x, 3, false) }, "3 heads do not divide 4"},
		{"kernel", func(g *Graph, x *Value) { g.Conv(x, g.Floats("w", make([]float32, 15), 1, 3, 5), nil, 1) }, "larger"},
		{"taken", func(g *Graph, _ *Value) { g.Input("x", onnx.Float) }, "input x: the name is taken"},
		{"weight taken", func(g *Graph, _ *Value) { g.Floats("w", nil, 0); g.Floats("w", nil, 0) }, "name is taken"},
		{"declared", func(g *Graph, x *Value) { g.Output("y", g.Tanh(x), "N", 3, 5) }, "declared [N 3 5]"},
		{"no output", func(*Graph, *Value) {}, "no output"},
		{"fail", func(g *Graph, _ *Value) { g.Fail(errors.New("no tensor")) }, "no tensor"},
		{"rank", func(g *Graph, _ *Value) { g.Input("s", onnx.Int32).Dim(-1) }, "no axis"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g, err := Build(func(g *Graph) {
				x := g.Input("x", onnx.Float, "N", 3, 4)
				g.In("a", func() { g.In("b", func() { tt.f(g, x) }) })
			})
			if g != nil || err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("error is %v, want %q", err, tt.want)
			}
			if tt.name == "broadcast" && !strings.HasPrefix(err.Error(), "a.b: ") {
				t.Errorf("the scope is missing: %v", err)
			}
		})
	}
	defer func() {
		if recover() == nil {
			t.Error("Build hides a defect")
		}
	}()
	_, _ = Build(func(*Graph) { panic("a defect") })
}

// TestSave: what lies where, hashed, with sums and alignment.
func TestSave(t *testing.T) {
	g, err := Build(func(g *Graph) {
		x := g.Input("x", onnx.Float, "N", 4)
		g.In("layer", func() {
			x = g.Add(x, g.Floats("small", []float32{1, 2, 3, 4}, 4))
			x = g.MatMul(x, g.Floats("middle", slices.Repeat([]float32{1}, 4*300), 4, 300))
			x = g.Slice(x, 1, 0, 299)
			x = g.MatMul(x, g.Floats("odd", slices.Repeat([]float32{1}, 299*3), 299, 3))
			x = g.MatMul(x, g.FloatsAs("large", onnx.Float, slices.Repeat([]float32{1}, 3*20000), 3, 20000))
		})
		g.Output("y", x)
		g.Output("same", x)
		g.Output("input", g.Input("direct", onnx.Float, "N"))
	})
	if err != nil {
		t.Fatal(err)
	}
	var last, all int64
	path := filepath.Join(t.TempDir(), "g.onnx")
	if err := g.Save(path, func(done, total int64) { last, all = done, total }); err != nil {
		t.Fatal(err)
	}
	if last != all || all < 240000 {
		t.Errorf("progress ended at %d of %d", last, all)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path + ".data")
	if err != nil {
		t.Fatal(err)
	}
	m, err := onnx.Unmarshal(raw)
	if err != nil {
		t.Fatal(err)
	}
	sums := map[string]Tensor{}
	for _, w := range g.Tensors() {
		sums[w.Name] = w
	}
	for _, w := range m.Graph.Initialisers {
		bytes := w.Raw
		if x := w.External; x != nil {
			if x.Location != "g.onnx.data" || x.Length <= inline || x.Offset%64 != 0 || x.Length >= large && x.Offset%4096 != 0 {
				t.Errorf("%s lies at %+v", w.Name, x)
			}
			bytes = data[x.Offset : x.Offset+x.Length]
		} else if len(bytes) > inline {
			t.Errorf("%s: %d bytes in the graph", w.Name, len(bytes))
		}
		sum := sha256.Sum256(bytes)
		if got := sums[w.Name]; got.SHA256 != hex.EncodeToString(sum[:]) || got.Bytes != int64(len(bytes)) {
			t.Errorf("%s: recorded as %+v", w.Name, got)
		}
	}
	for _, name := range []string{"layer.small", "layer.middle", "layer.odd", "layer.large"} {
		if sums[name].Name == "" {
			t.Errorf("no weight %s", name)
		}
	}
	out := compute(t, g, map[string]imagebind.Tensor{"x": count(1, 4), "direct": count(3)})
	if y := out["y"]; y.Shape[1] != 20000 || y.Floats[19999] != 16*299*3 || !reflect.DeepEqual(out["same"], y) {
		t.Errorf("y is %v, %v", y.Shape, y.Floats[19999])
	}
	golden.Close(t, out["input"].Floats, []float32{0, 1, 2}, 0)
}

// TestNoData: small graphs are one file.
func TestNoData(t *testing.T) {
	g, err := Build(func(g *Graph) { g.Output("y", g.Tanh(g.Input("x", onnx.Float, 1))) })
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(save(t, g) + ".data"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a data file: %v", err)
	}
}

// TestSaveFails: weights of another length than their shape, and those that
// cannot be written.
func TestSaveFails(t *testing.T) {
	for name, write := range map[string]func(io.Writer) error{
		"short": func(w io.Writer) error { _, err := w.Write(make([]byte, 3)); return err },
		"long":  func(w io.Writer) error { _, err := w.Write(make([]byte, 8000)); return err },
		"fails": func(io.Writer) error { return errors.New("disk on fire") },
	} {
		for _, n := range []int{1, 1000} {
			g, err := Build(func(g *Graph) {
				g.Output("y", g.Tanh(g.Weight("wanted", onnx.Float, []int{n}, write)))
			})
			if err != nil {
				t.Fatal(err)
			}
			if err := g.Save(filepath.Join(t.TempDir(), "g.onnx"), nil); err == nil || !strings.Contains(err.Error(), "weight wanted") {
				t.Errorf("%s, %d: error is %v", name, n, err)
			}
		}
	}
}

// TestSaveCanceled: a canceled save ends in the middle of a weight.
func TestSaveCanceled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	written := 0
	g, err := Build(func(g *Graph) {
		g.Output("y", g.Tanh(g.Weight("w", onnx.Float, []int{1000}, func(w io.Writer) error {
			for range 1000 {
				if _, err := w.Write(make([]byte, 4)); err != nil {
					return err
				}
				if written++; written == 10 {
					cancel()
				}
			}
			return nil
		})))
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := g.SaveContext(ctx, filepath.Join(t.TempDir(), "g.onnx"), nil); !errors.Is(err, context.Canceled) || written != 10 {
		t.Errorf("error is %v after %d values", err, written)
	}
}
