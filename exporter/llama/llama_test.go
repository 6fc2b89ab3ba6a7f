package llama

import (
	"fmt"
	"path/filepath"
	"slices"
	"testing"

	"imagebind-llm/exporter/checkpoint"
	"imagebind-llm/exporter/nn"
	"imagebind-llm/exporter/verify"
	"imagebind-llm/internal/golden"
	"imagebind-llm/internal/ort"
	"imagebind-llm/runner/bundle"
)

// tiny is the folder of the reference's numbers for a small LLaMA and its three
// kinds of adapters; its README says what made them.
const tiny = "../../testdata/golden/llama-adapter-tiny"

const capacity = 128 // tokens; the longest case has 99

func openBase(t testing.TB, path string) *checkpoint.LLaMA {
	t.Helper()
	m, err := checkpoint.OpenLLaMA(path, "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

// openAdapter opens the adapter of a variant; "" is none.
func openAdapter(t testing.TB, variant string) Adapter {
	t.Helper()
	if variant == "" {
		return nil
	}
	c, err := checkpoint.Open(filepath.Join(tiny, "adapter-"+variant+".pth"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func needORT(t testing.TB) {
	t.Helper()
	if _, err := ort.Load(""); err != nil {
		golden.Need(t, "ort", "wants onnxruntime: "+err.Error())
	}
}

// export builds and saves a decoder.
func export(t testing.TB, base *checkpoint.LLaMA, adapter Adapter, o Options) (path string, d bundle.Decoder) {
	t.Helper()
	g, d, err := Build(base, adapter, o)
	if err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(t.TempDir(), "decoder.onnx")
	if err := g.Save(path, nil); err != nil {
		t.Fatal(err)
	}
	return path, d
}

func open(t testing.TB, path string, d bundle.Decoder, rows int) *verify.Decoder {
	t.Helper()
	x, err := verify.OpenDecoder(path, d, rows, capacity, ort.Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { x.Close() })
	return x
}

func decoder(t testing.TB, base *checkpoint.LLaMA, adapter Adapter, o Options, rows int) *verify.Decoder {
	t.Helper()
	needORT(t)
	path, d := export(t, base, adapter, o)
	return open(t, path, d, rows)
}

func cases(t testing.TB, variant string) []verify.Case {
	t.Helper()
	all, err := verify.Cases(tiny)
	if err != nil {
		t.Fatal(err)
	}
	all = slices.DeleteFunc(all, func(c verify.Case) bool { return c.Variant != variant })
	if len(all) == 0 {
		t.Fatalf("no cases of %q", variant)
	}
	return all
}

var variants = []string{"", "finetune", "legacy", "pretrain"}

// TestGolden: every case of the reference, under its own injection: the logits
// at every step, and the ids that greedy decoding takes.
func TestGolden(t *testing.T) {
	base := openBase(t, filepath.Join(tiny, "7B"))
	for _, variant := range variants {
		t.Run("variant "+variant, func(t *testing.T) {
			d := decoder(t, base, openAdapter(t, variant), Options{}, 1)
			for _, c := range cases(t, variant) {
				f, err := d.Force(t.Context(), c)
				if err != nil {
					t.Fatal(err)
				}
				t.Logf("%s: off by %.2g over %d steps", c.Name, f.Diff, f.Total)
				if f.Diff > 1e-4 || f.Agree != f.Total {
					t.Errorf("%s: off by %.2g, argmax %d of %d", c.Name, f.Diff, f.Agree, f.Total)
				}
				if got := greedy(t, d, c); !slices.Equal(got, c.Greedy) {
					t.Errorf("%s: greedy ids are %v, want %v", c.Name, got, c.Greedy)
				}
			}
		})
	}
}

// greedy decodes as many ids as the case has.
func greedy(t testing.TB, d *verify.Decoder, c verify.Case) []int {
	t.Helper()
	d.Reset()
	ids, next := []int(nil), c.Prompt
	for range c.Greedy {
		logits, err := d.Run(t.Context(), [][]int{next}, c.Injection)
		if err != nil {
			t.Fatal(err)
		}
		id := verify.Argmax(logits[0])
		ids, next = append(ids, id), []int{id}
	}
	return ids
}

// TestPrecisions: what the smaller weights cost, and that nothing is wrong with
// their graphs. Bounds are some twice what is measured; of int4, six layers of
// random weights are a hard case: a trained model of 7B loses far less.
func TestPrecisions(t *testing.T) {
	base := openBase(t, filepath.Join(tiny, "7B"))
	for _, tt := range []struct {
		Options
		worst float64 // of a logit; they have a deviation of 4
		agree float64 // share of the steps with the same argmax
		alike float64 // correlation of a step's logits
	}{
		{Options{Precision: nn.FP16}, 0.2, 0.99, 0.9999},
		{Options{Precision: nn.Int8, Exact: true}, 2.5, 0.9, 0.99},
		{Options{Precision: nn.Int8}, 2.5, 0.9, 0.99},
		{Options{Precision: nn.Int4, Exact: true}, 16, 0.45, 0.6},
		{Options{Precision: nn.Int4}, 16, 0.45, 0.6},
		{Options{Precision: nn.Int4A}, 16, 0.45, 0.6},
		{Options{Precision: nn.Int4, Head: nn.Int4A}, 16, 0.4, 0.6},
		{Options{Precision: nn.Int8, Head: nn.FP32, Table: nn.Int4}, 16, 0.45, 0.6},
	} {
		t.Run(fmt.Sprintf("%s, exact %v", tt.Precision, tt.Exact), func(t *testing.T) {
			d := decoder(t, base, openAdapter(t, "finetune"), tt.Options, 1)
			all := verify.Forced{Correlation: 1}
			for _, c := range cases(t, "finetune") {
				f, err := d.Force(t.Context(), c)
				if err != nil {
					t.Fatal(err)
				}
				all.Diff, all.Correlation = max(all.Diff, f.Diff), min(all.Correlation, f.Correlation)
				all.Agree, all.Total = all.Agree+f.Agree, all.Total+f.Total
			}
			t.Logf("off by %.3g, argmax %d of %d, correlation at least %.4f", all.Diff, all.Agree, all.Total, all.Correlation)
			if all.Diff > tt.worst || float64(all.Agree) < tt.agree*float64(all.Total) || all.Correlation < tt.alike {
				t.Errorf("want at most %v, a share of %v, %v", tt.worst, tt.agree, tt.alike)
			}
		})
	}
}

// TestPrefillIsDecoding: a prompt in one pass, in pieces, and token by token.
func TestPrefillIsDecoding(t *testing.T) {
	base := openBase(t, filepath.Join(tiny, "7B"))
	d := decoder(t, base, openAdapter(t, "finetune"), Options{}, 1)
	for _, c := range cases(t, "finetune") {
		for _, size := range []int{1, 3} {
			d.Reset()
			var logits [][]float32
			for part := range slices.Chunk(c.Prompt, size) {
				var err error
				if logits, err = d.Run(t.Context(), [][]int{part}, c.Injection); err != nil {
					t.Fatal(err)
				}
			}
			golden.Close(t, logits[0], c.Prefill, 1e-4)
			if verify.Argmax(logits[0]) != verify.Argmax(c.Prefill) {
				t.Errorf("%s in pieces of %d: another argmax", c.Name, size)
			}
		}
	}
}

// TestBatch: prompts of different lengths and injections in one batch are each
// what they are alone, and go on together.
func TestBatch(t *testing.T) {
	var batch []verify.Case
	lengths := map[int]bool{}
	for _, c := range cases(t, "finetune") {
		if n := len(c.Prompt); !lengths[n] && c.Injection != nil && len(c.Greedy) > 5 {
			lengths[n] = true
			batch = append(batch, c)
		}
	}
	if len(batch) < 2 {
		t.Fatalf("%d lengths", len(batch))
	}
	base := openBase(t, filepath.Join(tiny, "7B"))
	d := decoder(t, base, openAdapter(t, "finetune"), Options{}, len(batch))
	var ids [][]int
	var injection []float32
	for _, c := range batch {
		ids, injection = append(ids, c.Prompt), append(injection, c.Injection...)
	}
	for step := range 5 {
		logits, err := d.Run(t.Context(), ids, injection)
		if err != nil {
			t.Fatal(err)
		}
		for i, c := range batch {
			golden.Close(t, logits[i], c.Steps[step], 1e-4)
			ids[i] = []int{c.Greedy[step]}
		}
	}
}
