// Nearest writes the graph that the retriever finds neighbours with on a device
// (retriever/device embeds it: a product and the largest of its results).
package main

import (
	"flag"
	"log"
	"math"

	"imagebind-llm/exporter/graph"
	"imagebind-llm/exporter/onnx"
)

func main() {
	log.SetFlags(0)
	out := flag.String("out", "nearest.onnx", "file to write")
	flag.Parse()
	g, err := nearest()
	if err == nil {
		err = g.Save(*out, nil)
	}
	if err != nil {
		log.Fatal(err)
	}
}

// nearest is the graph: of rows [N, D] and queries [D, B] it gives for each query
// the k largest inner products among the rows that live, best first, and the
// indices of these rows. Dead rows score -Inf. 1 ≤ k ≤ N.
//
// The product is float16, as its factors: one pass over half the bytes of
// float32. Everything behind it is float32, which every provider has.
func nearest() (*graph.Graph, error) {
	return graph.Build(func(g *graph.Graph) {
		g.Name = "nearest"
		rows := g.Input("rows", onnx.Float16, "N", "D")
		queries := g.Input("queries", onnx.Float16, "D", "B")
		live := g.Input("live", onnx.Bool, "N")
		k := g.Input("k", onnx.Int64, 1)

		scores := g.Cast(g.Transpose(g.MatMul(rows, queries), 1, 0), onnx.Float) // [B, N]
		scores = g.Op("", "Where", []*graph.Value{live, scores, g.Const(onnx.Float, float32(math.Inf(-1)))}, graph.Out{DType: onnx.Float, Shape: scores.Shape()})[0]
		best := graph.Dims("B", "K")
		top := g.OpN("", "TopK", []*graph.Value{scores, k}, []graph.Out{{DType: onnx.Float, Shape: best}, {DType: onnx.Int64, Shape: best}}, graph.Int("axis", -1))
		g.Output("scores", top[0])
		g.Output("indices", top[1])
	})
}
