package encoder

import (
	"slices"
	"strings"

	imagebind "imagebind-llm"
	"imagebind-llm/exporter/graph"
	"imagebind-llm/exporter/nn"
	"imagebind-llm/exporter/onnx"
	"imagebind-llm/internal/format"
	"imagebind-llm/runner/modality"
)

// patches is a strided convolution without bias, a norm (but in vision), a
// class token and learnt positions (multimodal_preprocessors.py,
// PatchEmbedGeneric and RGBDTPreprocessor). It also reads IMU signals: cutting
// a signal in windows, channel by channel, and projecting them
// (IMUPreprocessor) is a convolution of one axis whose weight is stored flat.
type patches struct {
	modality.Patches
	enc      modality.Encoder
	width    int
	kernel   []int // sizes along the axes of Stride
	out      []int // windows along them
	weight   format.Tensor
	norm     *nn.LayerNorm
	cls, pos format.Tensor // [1, 1, D], [1, T, D]
}

func (s *patches) read(t *tensors, width int) {
	p := "modality_preprocessors." + s.enc.Name + "."
	s.width = width
	in := s.enc.Input // [C, …]
	w, ok := t.lookup(p + s.Weight)
	switch {
	case !ok:
		s.kernel = slices.Clone(s.Stride) // to go on with
	case len(w.Shape) == len(in)+1 && w.Shape[0] == width && w.Shape[1] == in[0]:
		s.kernel = w.Shape[2:]
	case slices.Equal(w.Shape, []int{width, in[0] * imagebind.Size(s.Stride)}):
		s.kernel = slices.Clone(s.Stride)
	default:
		t.faultf("tensor %s has shape %v, want [%d %d] and a kernel for each axis of %v", w.Name, w.Shape, width, in[0], in[1:])
		s.kernel = slices.Clone(s.Stride)
	}
	s.weight = w
	for i, k := range s.kernel {
		if k < 1 || k > in[1+i] {
			t.faultf("tensor %s has shape %v, larger than the input %v", w.Name, w.Shape, in)
			k = in[1+i]
		}
		s.out = append(s.out, (in[1+i]-k)/s.Stride[i]+1)
	}
	part, _, _ := strings.Cut(s.Weight, ".")
	// Vision's norm is before the blocks instead: see read.
	if name := p + part + ".norm_layer"; t.has(name+".weight") || !t.has("modality_trunks."+s.enc.Name+".pre_transformer_layer.0.weight") {
		n := t.layerNorm("stem.norm", name, width, stemEps)
		s.norm = &n
	}
	s.cls = t.get(p+"cls_token", 1, 1, width)
	pos := p + "pos_embedding_helper.pos_embed"
	if own := p + "pos_embed"; t.has(own) {
		pos = own
	}
	s.pos = t.get(pos, 1, s.length(), width)
}

func (s *patches) length() int  { return imagebind.Size(s.out) + 1 }
func (s *patches) normed() bool { return s.norm != nil }
func (s *patches) causal() bool { return false }

// heads: ImageBind puts a Dropout before the IMU's projection.
func (s *patches) heads() [][2]string { return [][2]string{{"0", "2"}, {"0", "3"}} }

func (s *patches) tokens(g *graph.Graph, input *graph.Value, float onnx.DType) *graph.Value {
	x := g.Cast(input, float)
	if slices.Equal(s.kernel, s.Stride) {
		x = s.project(g, x)
	} else {
		x = s.convolve(g, x)
	}
	if s.norm != nil {
		x = s.norm.Apply(g, x)
	}
	cls := g.Expand(nn.Weight(g, "stem.cls", float, s.cls, 1, 1, s.width), "N", 1, s.width)
	return g.Add(g.Concat(1, cls, x), nn.Weight(g, "stem.pos", float, s.pos, 1, s.length(), s.width))
}

func (s *patches) pool(g *graph.Graph, _, x *graph.Value) *graph.Value { return g.First(x, 1) }

// convolve is for windows that overlap.
func (s *patches) convolve(g *graph.Graph, x *graph.Value) *graph.Value {
	shape := append([]int{s.width, s.enc.Input[0]}, s.kernel...)
	x = g.Conv(x, nn.Weight(g, "stem.weight", x.DType(), s.weight, shape...), nil, s.Stride...)
	return g.Transpose(g.Reshape(x, "N", s.width, -1), 0, 2, 1)
}

// project is the same for windows side by side: they are cut out, and it is
// one product.
func (s *patches) project(g *graph.Graph, x *graph.Value) *graph.Value {
	// [N, C, O·K, O'·K', …] -> [N, C, O, K, O', K', …] -> [N, O, O', …, C, K, K', …]
	cut, perm, tail := []any{"N", s.enc.Input[0]}, []int{0}, []int{1}
	for i, k := range s.kernel {
		cut = append(cut, s.out[i], k)
		perm = append(perm, 2+2*i)
		tail = append(tail, 3+2*i)
		if rest := s.enc.Input[1+i] - s.out[i]*k; rest > 0 {
			x = g.Slice(x, 2+i, 0, s.out[i]*k) // as a convolution leaves the rest out
		}
	}
	x = g.Transpose(g.Reshape(x, cut...), append(perm, tail...)...)
	in := s.enc.Input[0] * imagebind.Size(s.kernel)
	x = g.Reshape(x, "N", imagebind.Size(s.out), in)
	w := s.weight
	w.Shape = []int{s.width, in}
	return nn.Linear{Name: "stem", Weight: []format.Tensor{w}}.Apply(g, x)
}
