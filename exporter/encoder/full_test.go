package encoder

import (
	"flag"
	"fmt"
	"math"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	imagebind "imagebind-llm"
	"imagebind-llm/exporter/nn"
	"imagebind-llm/internal/format"
	"imagebind-llm/runner/modality"
	"imagebind-llm/runner/modality/audio"
	"imagebind-llm/runner/modality/point"
	"imagebind-llm/runner/modality/vision"
)

var full = flag.Bool("full", false, "export vision and audio encoders of the released sizes: 3 GB in the temporary folder (or -full-dir)")
var fullDir = flag.String("full-dir", "", "keep it there")
var fullPrecision = flag.String("full-precision", "fp32", "its precision")

// add adds a tensor whose values are made when they are read: nearly normal, so
// that a matrix keeps the size of what it multiplies; a norm's weight is about 1,
// biases are small.
func (s source) add(name string, shape ...int) {
	scale, offset := float32(0.02), float32(0)
	switch {
	case len(shape) > 1:
		scale = 1 / float32(math.Sqrt(float64(imagebind.Size(shape[1:]))))
	case strings.HasSuffix(name, ".weight"):
		offset = 1
	}
	seed := uint64(len(s)) << 40
	s[name] = format.Tensor{Name: name, DType: format.F32, Shape: shape, Read: func(dst []float32, from int) error {
		for i := range dst {
			x := (seed + uint64(from+i)) * 0x9e3779b97f4a7c15
			x = (x ^ x>>29) * 0xbf58476d1ce4e5b9
			x ^= x >> 32
			sum := x&0xffff + x>>16&0xffff + x>>32&0xffff + x>>48 // of four even ones
			dst[i] = offset + (float32(sum)/(1<<16)-2)*1.732*scale
		}
		return nil
	}}
}

// released are the vision and audio encoders in the released sizes.
func released() source {
	s := source{}
	for _, e := range []struct {
		name, stem        string
		d, blocks, tokens int
		kernel            []int
		normed            bool
	}{
		{"vision", "rgbt_stem.proj.1.weight", 1280, 32, 257, []int{3, 2, 14, 14}, false},
		{"audio", "rgbt_stem.proj.weight", 768, 12, 229, []int{1, 16, 16}, true},
	} {
		norm := func(p string) { s.add(p+".weight", e.d); s.add(p+".bias", e.d) }
		p := "modality_preprocessors." + e.name + "."
		s.add(p+"cls_token", 1, 1, e.d)
		s.add(p+e.stem, append([]int{e.d}, e.kernel...)...)
		s.add(p+"pos_embedding_helper.pos_embed", 1, e.tokens, e.d)
		if e.normed {
			norm(p + "rgbt_stem.norm_layer")
		} else {
			norm("modality_trunks." + e.name + ".pre_transformer_layer.0")
		}
		norm("modality_heads." + e.name + ".0")
		s.add("modality_heads."+e.name+".2.weight", 1024, e.d)
		for i := range e.blocks {
			p := fmt.Sprintf("modality_trunks.%s.blocks.%d.", e.name, i)
			norm(p + "norm_1")
			norm(p + "norm_2")
			for _, x := range []struct {
				name    string
				out, in int
			}{{"attn.in_proj_", 3 * e.d, e.d}, {"attn.out_proj.", e.d, e.d}, {"mlp.fc1.", 4 * e.d, e.d}, {"mlp.fc2.", e.d, 4 * e.d}} {
				s.add(p+x.name+"weight", x.out, x.in)
				s.add(p+x.name+"bias", x.out)
			}
			if e.normed {
				s.add(p+"attn.bias_k", 1, 1, e.d)
				s.add(p+"attn.bias_v", 1, 1, e.d)
			}
		}
	}
	return s
}

// TestFullSize: memory stays near the largest tensor. By hand, and for make
// bench, which runs what it leaves in -full-dir:
//
//	go test ./exporter/encoder -run FullSize -full -v
func TestFullSize(t *testing.T) {
	if !*full {
		t.Skip("wants -full: it writes 3 GB")
	}
	dir := *fullDir
	if dir == "" {
		dir = t.TempDir()
	}
	start := time.Now()
	src := released()
	for _, enc := range []modality.Encoder{vision.Encoder, audio.Spec.Encoder} {
		g, info, err := Build(src, enc, Options{Precision: nn.Precision(*fullPrecision)})
		if err != nil {
			t.Fatal(err)
		}
		var total int64
		if err := g.Save(filepath.Join(dir, enc.Name+".onnx"), func(_, all int64) { total = all }); err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %+v, %d MB", enc.Name, info, total>>20)
	}
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	rss := int64(u.Maxrss)
	if !strings.HasPrefix(runtime.GOOS, "darwin") {
		rss *= 1024
	}
	t.Logf("written in %v, peak memory %d MB", time.Since(start).Round(time.Second), rss>>20)
	if rss > 256<<20 {
		t.Errorf("peak memory is %d MB", rss>>20)
	}
}

// hugePoint is the point encoder with the names and sizes of imagebind_w3D.pth.
func hugePoint() source {
	const d, blocks, feature, hidden, out, e = 384, 12, 256, 512, 512, 1024
	s := source{}
	both := func(p string, shape ...int) { s.add(p+".weight", shape...); s.add(p+".bias", shape[0]) }
	const p = "point_trunk.point_encoder."
	for _, c := range []struct {
		name    string
		in, mid int
	}{{p + "encoder.first_conv.", 3, 128}, {p + "encoder.second_conv.", 2 * feature, hidden}} {
		both(c.name+"0", c.mid, c.in, 1)
		both(c.name+"1", c.mid)
		s.add(c.name+"1.running_mean", c.mid)
		s[c.name+"1.running_var"] = format.Tensor{Name: "variance", Shape: []int{c.mid}, Read: func(dst []float32, _ int) error {
			for i := range dst {
				dst[i] = 1
			}
			return nil
		}}
		s.add(c.name + "1.num_batches_tracked")
		both(c.name+"3", feature, c.mid, 1)
	}
	both(p+"reduce_dim", d, feature)
	both(p+"pos_embed.0", 128, 3)
	both(p+"pos_embed.2", d, 128)
	s.add(p+"cls_token", 1, 1, d)
	s.add(p+"cls_pos", 1, 1, d)
	for i := range blocks {
		b := fmt.Sprintf("%sblocks.blocks.%d.", p, i)
		both(b+"norm1", d)
		both(b+"norm2", d)
		s.add(b+"attn.qkv.weight", 3*d, d)
		both(b+"attn.proj", d, d)
		both(b+"mlp.fc1", 4*d, d)
		both(b+"mlp.fc2", d, 4*d)
	}
	both(p+"norm", d)
	s.add("point_trunk.pc_projection", 2*d, out)
	both("modality_heads.point.0", out)
	s.add("modality_heads.point.2.weight", e, out)
	s["modality_postprocessors.point.1.log_logit_scale"] = format.Tensor{Name: "scale", Read: func(dst []float32, _ int) error { clear(dst); return nil }}
	return s
}

// TestReleasedPoint: what imagebind_w3D.pth has needs nothing said, and runs.
func TestReleasedPoint(t *testing.T) {
	path, info := export(t, hugePoint(), point.Spec.Encoder, Options{})
	if info.Width != 384 || info.Layers != 12 || info.Heads != 6 || info.Tokens != 513 || info.Embed != 1024 || info.Scale != 1 {
		t.Errorf("%+v", info)
	}
	s := session(t, path)
	in := imagebind.NewFloats(1, 512, 33, 3)
	for i := range in.Floats {
		in.Floats[i] = float32(i%97)/97 - 0.5
	}
	start := time.Now()
	out, err := s.Compute(t.Context(), map[string]imagebind.Tensor{"input": in}, "embedding")
	if err != nil || math.Abs(norm(out["embedding"].Floats)-1) > 1e-5 {
		t.Errorf("%v, length %v", err, norm(out["embedding"].Floats))
	}
	t.Logf("one cloud in %v", time.Since(start).Round(time.Millisecond))
}
