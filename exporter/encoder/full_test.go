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
	"imagebind-llm/runner/modality/point"
	"imagebind-llm/runner/modality/vision"
)

var full = flag.Bool("full", false, "export a vision encoder of the released size: 2.5 GB in the temporary folder (or -full-dir)")
var fullDir = flag.String("full-dir", "", "keep it there")
var fullPrecision = flag.String("full-precision", "fp32", "its precision")

// add adds a tensor whose values are made when they are read: normal enough
// for times and memory, nothing else.
func (s source) add(name string, shape ...int) {
	scale := float32(1)
	if len(shape) > 1 {
		scale = 1 / float32(math.Sqrt(float64(imagebind.Size(shape[1:]))))
	}
	seed := uint64(len(s)) << 40
	s[name] = format.Tensor{Name: name, DType: format.F32, Shape: shape, Read: func(dst []float32, from int) error {
		for i := range dst {
			x := (seed + uint64(from+i)) * 0x9e3779b97f4a7c15
			x ^= x >> 29
			dst[i] = (float32(x>>40)/(1<<23) - 1) * 1.7 * scale
		}
		return nil
	}}
}

// huge is the vision encoder in the released sizes.
func huge() source {
	const d, blocks, hidden, e = 1280, 32, 5120, 1024
	s := source{}
	add := s.add
	add("modality_preprocessors.vision.cls_token", 1, 1, d)
	add("modality_preprocessors.vision.rgbt_stem.proj.1.weight", d, 3, 2, 14, 14)
	add("modality_preprocessors.vision.pos_embedding_helper.pos_embed", 1, 257, d)
	norm := func(p string) { add(p+".weight", d); add(p+".bias", d) }
	norm("modality_trunks.vision.pre_transformer_layer.0")
	norm("modality_heads.vision.0")
	add("modality_heads.vision.2.weight", e, d)
	for i := range blocks {
		p := fmt.Sprintf("modality_trunks.vision.blocks.%d.", i)
		norm(p + "norm_1")
		norm(p + "norm_2")
		for name, shape := range map[string][]int{
			"attn.in_proj_": {3 * d, d}, "attn.out_proj.": {d, d}, "mlp.fc1.": {hidden, d}, "mlp.fc2.": {d, hidden},
		} {
			add(p+name+"weight", shape...)
			add(p+name+"bias", shape[0])
		}
	}
	return s
}

// TestFullSize: memory stays near the largest tensor. By hand:
//
//	go test ./exporter/encoder -run FullSize -full -v
func TestFullSize(t *testing.T) {
	if !*full {
		t.Skip("wants -full: it writes 2.5 GB")
	}
	dir := *fullDir
	if dir == "" {
		dir = t.TempDir()
	}
	start := time.Now()
	g, info, err := Build(huge(), vision.Encoder, Options{Precision: nn.Precision(*fullPrecision)})
	if err != nil {
		t.Fatal(err)
	}
	var total int64
	if err := g.Save(filepath.Join(dir, "vision.onnx"), func(_, all int64) { total = all }); err != nil {
		t.Fatal(err)
	}
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	rss := int64(u.Maxrss)
	if !strings.HasPrefix(runtime.GOOS, "darwin") {
		rss *= 1024
	}
	t.Logf("%+v: %d MB written in %v, peak memory %d MB", info, total>>20, time.Since(start).Round(time.Second), rss>>20)
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
