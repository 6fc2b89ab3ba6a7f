package bridge

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
	"imagebind-llm/internal/golden"
	"imagebind-llm/internal/ort"
)

var (
	full          = flag.Bool("full", false, "export and run a bridge of 7B's shapes: 2.7 GB in the temporary folder (or -full-dir) for 4 layers, 4.6 for all")
	fullDir       = flag.String("full-dir", "", "keep it there")
	fullPrecision = flag.String("full-precision", "", "its precision: fp32, fp16, int8, mixed")
	fullLayers    = flag.Int("full-layers", 4, "how many of the 32 layers")
)

// sevenB returns LLaMA-7B up to a layer and its adapter.
func sevenB(t testing.TB, variant string, layers int) (*checkpoint.LLaMA, *checkpoint.Checkpoint) {
	base := &checkpoint.LLaMA{
		Checkpoint: checkpoint.New(fake.Keys(t, "llama_7B_consolidated", layers)...), Layout: checkpoint.Meta,
		Config: checkpoint.LLaMAConfig{
			Width: 4096, Layers: layers, Heads: 32, KVHeads: 32, HeadDim: 128, Hidden: 11008, Vocab: 32000,
			NormEps: 1e-6, RopeTheta: 10000, RopeScale: 1, Context: 2048,
		},
	}
	return base, checkpoint.New(fake.Keys(t, "adapter_7B_"+variant, layers)...)
}

// TestBuildFullSize: the released adapters build, in the sizes that are expected.
func TestBuildFullSize(t *testing.T) {
	for _, tt := range []struct {
		variant string
		nn.Precision
		gigabytes float64
	}{
		{"finetune", "", 4.62}, {"legacy", "", 4.62}, {"pretrain", "", 4.60},
		{"finetune", nn.FP32, 6.77}, {"finetune", nn.FP16, 3.39}, {"finetune", nn.Int8, 1.91}, {"finetune", Mixed, 2.44},
	} {
		variant := tt.variant
		base, adapter := sevenB(t, variant, 32)
		g, b, err := Build(base, adapter, 32, Options{Precision: tt.Precision})
		if err != nil {
			t.Fatal(err)
		}
		if b.Embed != 1024 || b.Width != 4096 || b.Layers != 32 || (b.Variant == checkpoint.Legacy) != (variant == "legacy") {
			t.Errorf("%s: it is %+v", variant, b)
		}
		var bytes int64
		for _, x := range g.Tensors() {
			bytes += x.Bytes
		}
		if got := float64(bytes) / 1e9; math.Abs(got-tt.gigabytes) > 0.005*tt.gigabytes {
			t.Errorf("%s, %q: %.2f GB, want %.2f", variant, tt.Precision, got, tt.gigabytes)
		}
	}
}

// TestFullSize: memory stays near the largest tensor while it is written. By hand:
//
//	go test ./exporter/bridge -run TestFullSize -full -v
func TestFullSize(t *testing.T) {
	if !*full {
		t.Skip("wants -full: it writes up to 4.6 GB")
	}
	dir := *fullDir
	if dir == "" {
		dir = t.TempDir()
	}
	start := time.Now()
	base, adapter := sevenB(t, "finetune", *fullLayers)
	g, b, err := Build(base, adapter, *fullLayers, Options{Precision: nn.Precision(*fullPrecision)})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "bridge.onnx")
	if err := g.Save(path, nil); err != nil {
		t.Fatal(err)
	}
	t.Logf("written in %v, peak memory %d MB", time.Since(start).Round(time.Second), peak(t)>>20)
	if rss := peak(t); rss > 1200<<20 {
		t.Errorf("peak memory is %d MB", rss>>20)
	}
	start = time.Now()
	s, err := ort.Open(path, ort.Options{Threads: 1})
	if err != nil {
		golden.Need(t, "ort", "wants onnxruntime to run it: "+err.Error())
	}
	defer s.Close()
	t.Logf("opened in %v, peak memory %d MB", time.Since(start).Round(time.Second/10), peak(t)>>20)
	in := imagebind.NewFloats(1, b.Embed)
	for range 3 {
		start = time.Now()
		if _, err := s.Compute(t.Context(), map[string]imagebind.Tensor{"embedding": in}); err != nil {
			t.Fatal(err)
		}
		t.Logf("run in %v, peak memory %d MB", time.Since(start).Round(time.Millisecond), peak(t)>>20)
	}
}

// peak returns the largest memory of the process so far, in bytes.
func peak(t testing.TB) int64 {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	if strings.HasPrefix(runtime.GOOS, "darwin") {
		return u.Maxrss
	}
	return u.Maxrss * 1024
}
