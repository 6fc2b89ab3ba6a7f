package llama

import (
	"flag"
	"math"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	imagebind "imagebind-llm"
	"imagebind-llm/exporter/checkpoint"
	"imagebind-llm/exporter/internal/fake"
	"imagebind-llm/exporter/nn"
)

var (
	full          = flag.Bool("full", false, "export a decoder of 7B's shapes: int4 takes 0.6 GB for 4 layers, 3.7 for all, in the temporary folder (or -full-dir)")
	fullDir       = flag.String("full-dir", "", "keep it there")
	fullPrecision = flag.String("full-precision", "int4", "its precision")
	fullLayers    = flag.Int("full-layers", 4, "how many of the 32 layers")
)

// keys returns a full-size state dict up to a layer, its values made when read.
func keys(t testing.TB, name string, layers int) *checkpoint.Checkpoint {
	return checkpoint.New(fake.Keys(t, name, layers)...)
}

func base7B(t testing.TB, layers int) *checkpoint.LLaMA {
	return &checkpoint.LLaMA{Checkpoint: keys(t, "llama_7B_consolidated", layers), Layout: checkpoint.Meta, Config: checkpoint.LLaMAConfig{
		Width: 4096, Layers: layers, Heads: 32, KVHeads: 32, HeadDim: 128, Hidden: 11008, Vocab: 32000,
		NormEps: 1e-6, RopeTheta: 10000, RopeScale: 1, Context: 2048,
	}}
}

// TestBuildFullSize: the released model and adapters build, in the sizes that
// are expected.
func TestBuildFullSize(t *testing.T) {
	base := base7B(t, 32)
	for _, variant := range variants {
		var adapter Adapter
		layers := 0
		if variant != "" {
			adapter, layers = keys(t, "adapter_7B_"+variant, 32), 32
		}
		for p, gigabytes := range map[nn.Precision]float64{nn.FP32: 26.96, nn.FP16: 13.48, nn.Int8: 7.57, nn.Int4: 4.34, nn.Int4A: 4.45} {
			g, d, err := Build(base, adapter, Options{Precision: p})
			if err != nil {
				t.Fatalf("%q, %s: %v", variant, p, err)
			}
			if d.HeadDim != 128 || d.AdaptedLayers != layers || d.Context != 2048 {
				t.Errorf("%q, %s: it is %+v", variant, p, d)
			}
			var bytes int64
			for _, x := range g.Tensors() {
				bytes += x.Bytes
			}
			if got := float64(bytes) / 1e9; math.Abs(got-gigabytes) > 0.005*gigabytes {
				t.Errorf("%q, %s: %.2f GB, want %.2f", variant, p, got, gigabytes)
			}
		}
	}
}

// TestFullSize: memory stays near the largest tensor. By hand:
//
//	go test ./exporter/llama -run TestFullSize -full -v
func TestFullSize(t *testing.T) {
	if !*full {
		t.Skip("wants -full: it writes up to 27 GB")
	}
	dir := *fullDir
	if dir == "" {
		dir = t.TempDir()
	}
	start := time.Now()
	g, d, err := Build(base7B(t, *fullLayers), keys(t, "adapter_7B_finetune", *fullLayers), Options{Precision: nn.Precision(*fullPrecision)})
	if err != nil {
		t.Fatal(err)
	}
	var total int64
	if err := g.Save(filepath.Join(dir, "decoder.onnx"), func(_, all int64) { total = all }); err != nil {
		t.Fatal(err)
	}
	rss := peak(t)
	t.Logf("%d layers, %s: %d MB written in %v, peak memory %d MB", d.Layers, d.Precision, total>>20, time.Since(start).Round(time.Second), rss>>20)
	if rss > 1500<<20 { // the head as float32, transposed: 0.5 GB and what the collector leaves
		t.Errorf("peak memory is %d MB", rss>>20)
	}
}

// peak returns the largest memory of the process so far, in bytes.
func peak(t testing.TB) int64 {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	if runtime.GOOS == "darwin" {
		return u.Maxrss
	}
	return u.Maxrss * 1024
}

// TestBuildErrors: what is refused before anything is written.
func TestBuildErrors(t *testing.T) {
	base := openBase(t, filepath.Join(tiny, "7B"))
	for _, tt := range []struct {
		name    string
		base    *checkpoint.LLaMA
		adapter Adapter
		o       Options
		want    string
	}{
		{"context", base, nil, Options{Context: -1}, "a context of -1 tokens"},
		{"adapter", base, keys(t, "adapter_7B_finetune", 32), Options{}, "width 4096 for 80"},
		{"incomplete base", &checkpoint.LLaMA{Checkpoint: checkpoint.New(), Config: base.Config}, nil, Options{}, "tensor layers.0.attention_norm.weight is missing"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, _, err := Build(tt.base, tt.adapter, tt.o)
			if err == nil || !strings.Contains(err.Error(), tt.want) || imagebind.KindOf(err) == imagebind.Internal {
				t.Errorf("error is %v, want %q", err, tt.want)
			}
		})
	}
}

// sums returns the hash of every weight, by name, of a decoder that is saved.
func sums(t testing.TB, base *checkpoint.LLaMA, adapter Adapter, o Options) map[string]string {
	t.Helper()
	g, _, err := Build(base, adapter, o)
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Save(filepath.Join(t.TempDir(), "decoder.onnx"), nil); err != nil {
		t.Fatal(err)
	}
	list := map[string]string{}
	for _, x := range g.Tensors() {
		list[x.Name] = x.SHA256
	}
	return list
}
