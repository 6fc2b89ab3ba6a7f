package encoder

import (
	"imagebind-llm/exporter/graph"
	"imagebind-llm/exporter/nn"
	"imagebind-llm/exporter/onnx"
	"imagebind-llm/internal/format"
	"imagebind-llm/runner/modality"
)

// tokens is CLIP's text stem (multimodal_preprocessors.py, TextPreprocessor): a
// table and positions. The token that stands for the text is the one with the
// largest id (SelectEOSAndProject), the first of equals.
type tokens struct {
	enc        modality.Encoder
	width      int
	table, pos format.Tensor // [V, D], [1, T, D]
}

func (s *tokens) read(t *tensors, width int) {
	p := "modality_preprocessors." + s.enc.Name + "."
	s.width = width
	s.table = t.get(p+"token_embedding.weight", any1, width)
	s.pos = t.get(p+"pos_embed", 1, s.length(), width)
	if t.has(p + "mask") { // a buffer: -inf above the diagonal, as causal makes it
		t.get(p+"mask", s.length(), s.length())
	}
}

func (s *tokens) length() int        { return s.enc.Input[0] }
func (s *tokens) normed() bool       { return false }
func (s *tokens) causal() bool       { return true }
func (s *tokens) heads() [][2]string { return [][2]string{{"proj.0", "proj.1"}} }

func (s *tokens) tokens(g *graph.Graph, input *graph.Value, float onnx.DType) *graph.Value {
	x := (&nn.Embedding{Name: "stem.table", Weight: s.table}).Apply(g, input, float)
	return g.Add(x, nn.Weight(g, "stem.pos", float, s.pos, 1, s.length(), s.width))
}

func (s *tokens) pool(g *graph.Graph, input, x *graph.Value) *graph.Value {
	at := g.ArgMax(g.Cast(input, onnx.Int32), 1) // onnxruntime has no ArgMax of int64
	return g.GatherND(x, g.Unsqueeze(at, 1), 1)
}
