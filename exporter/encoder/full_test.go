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
	"imagebind-llm/runner/modality/vision"
)

var full = flag.Bool("full", false, "export a vision encoder of the released size: 2.5 GB in the temporary folder (or -full-dir)")
var fullDir = flag.String("full-dir", "", "keep it there")
var fullPrecision = flag.String("full-precision", "fp32", "its precision")

// huge is a checkpoint in the released sizes whose values are made when they
// are read: normal enough for times and memory, nothing else.
func huge() source {
	const d, blocks, hidden, e = 1280, 32, 5120, 1024
	s := source{}
	add := func(name string, shape ...int) {
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
