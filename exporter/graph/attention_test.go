package graph

import (
	"slices"
	"testing"

	imagebind "imagebind-llm"
	"imagebind-llm/exporter/onnx"
	"imagebind-llm/internal/golden"
)

// TestGroupQueryAttention: unrotated, with a key head for each query head, the
// first prompt is causal attention, and its keys are the cache. A scale of its
// own acts as if the queries were that much larger.
func TestGroupQueryAttention(t *testing.T) {
	for _, scale := range []float64{0, 0.5} {
		testGroupQueryAttention(t, scale)
	}
}

func testGroupQueryAttention(t *testing.T, scale float64) {
	const heads, dh, width, length = 2, 16, 32, 3
	var q, present *Value
	g, err := Build(func(g *Graph) {
		x := g.Input("x", onnx.Float, "B", "S", 3*width)
		ones, zeros := make([]float32, 10*dh/2), make([]float32, 10*dh/2)
		for i := range ones {
			ones[i] = 1
		}
		q, present, _ = g.GroupQueryAttention(GQA{
			QKV: x, PastKey: g.Input("pk", onnx.Float, "B", heads, "P", dh), PastVal: g.Input("pv", onnx.Float, "B", heads, "P", dh),
			Seqlens: g.Input("n", onnx.Int32, "B"), Total: g.Input("total", onnx.Int32),
			Cos: g.Floats("cos", ones, 10, dh/2), Sin: g.Floats("sin", zeros, 10, dh/2),
			Heads: heads, KVHeads: heads, Interleaved: true, Scale: scale, Present: "T",
		})
		parts := g.Split(x, 2, 3)
		if scale != 0 { // MultiHeadAttention has 1/√Dh = 1/4
			parts[0] = g.Mul(parts[0], g.Const(onnx.Float, float32(4*scale)))
		}
		g.Output("plain", g.MultiHeadAttention(parts[0], parts[1], parts[2], heads, true))
		g.Output("keys", g.Transpose(g.Reshape(parts[1], "B", "S", heads, dh), 0, 2, 1, 3))
		g.Output("attention", q)
		g.Output("present", present)
	})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(q.Shape(), Dims("B", "S", width)) || !slices.Equal(present.Shape(), Dims("B", heads, "T", dh)) {
		t.Errorf("declared %v and %v", q, present)
	}
	x := count(2, length, 3*width)
	for i := range x.Floats {
		x.Floats[i] = float32(i*i%7) / 7
	}
	out := compute(t, g, map[string]imagebind.Tensor{
		"x": x, "pk": imagebind.NewFloats(2, heads, 0, dh), "pv": imagebind.NewFloats(2, heads, 0, dh),
		"n": {Shape: []int{2}, Ints: []int64{length - 1, length - 1}}, "total": {Ints: []int64{length}},
	})
	golden.Close(t, out["attention"].Floats, out["plain"].Floats, 1e-6)
	golden.Close(t, out["present"].Floats, out["keys"].Floats, 0)
}

func TestGroupQueryAttentionChecks(t *testing.T) {
	for name, change := range map[string]func(*GQA, *Graph){
		"right":  func(*GQA, *Graph) {},
		"heads":  func(a *GQA, _ *Graph) { a.Heads = 3 },
		"groups": func(a *GQA, _ *Graph) { a.KVHeads = 4 },
		"lists":  func(a *GQA, g *Graph) { a.Seqlens = g.Input("m", onnx.Int64, "B") },
		"width": func(a *GQA, g *Graph) {
			a.PastKey, a.QKV = g.Input("k8", onnx.Float, "B", 2, "P", 8), g.Input("x8", onnx.Float, "B", "S", 48)
			a.PastVal, a.Cos, a.Sin = a.PastKey, g.Floats("c", make([]float32, 40), 10, 4), g.Floats("s", make([]float32, 40), 10, 4)
		},
		"rotary": func(a *GQA, g *Graph) {
			a.Cos = g.Floats("c", make([]float32, 10), 2, 5)
			a.Sin = a.Cos
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Build(func(g *Graph) {
				table := g.Floats("cos", make([]float32, 80), 10, 8)
				a := GQA{
					QKV: g.Input("x", onnx.Float, "B", "S", 96), PastKey: g.Input("pk", onnx.Float, "B", 2, "P", 16), PastVal: g.Input("pv", onnx.Float, "B", 2, "P", 16),
					Seqlens: g.Input("n", onnx.Int32, "B"), Total: g.Input("total", onnx.Int32), Cos: table, Sin: table,
					Heads: 2, KVHeads: 2, Present: "T",
				}
				change(&a, g)
				out, _, _ := g.GroupQueryAttention(a)
				g.Output("y", out)
			})
			if (err == nil) != (name == "right") {
				t.Errorf("error is %v", err)
			}
		})
	}
}
