package verify

import (
	"bytes"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"imagebind-llm/internal/golden"
	"imagebind-llm/internal/ort"
	"imagebind-llm/runner/bundle"
)

// The bundles that pass, and those that are damaged, are in exporter/model's
// tests: they need an export.

const testdata = "../../testdata/golden/"

// makeBundle writes a bundle of one file and no graphs.
func makeBundle(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "b")
	w, err := bundle.Create(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(w.Path("bpe.txt.gz"), golden.Bytes(t, "../../demo/bpe_simple_vocab_16e6.txt.gz"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := w.Commit(&bundle.Manifest{Name: "test"}); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestRun(t *testing.T) {
	dir := makeBundle(t)
	var out bytes.Buffer
	if err := Run(t.Context(), dir, "", ort.Options{}, &out); err != nil || !strings.Contains(out.String(), "all 1 checks passed") {
		t.Errorf("checksums: %v\n%s", err, out.String())
	}
	for _, tt := range []struct{ name, goldens, says string }{
		{"no folder", filepath.Join(dir, "none"), "none"},
		{"goldens of nothing in it", testdata, "no golden in"},
		{"no goldens", dir, "no golden in"},
	} {
		if err := Run(t.Context(), dir, tt.goldens, ort.Options{}, &out); err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	// CLIP's ids need no graph.
	out.Reset()
	if err := Run(t.Context(), dir, "../../runner/modality/text/testdata", ort.Options{}, &out); err != nil || !strings.Contains(out.String(), "ids of 24 texts") {
		t.Errorf("CLIP's ids: %v\n%s", err, out.String())
	}
	path := filepath.Join(dir, "bpe.txt.gz")
	raw := golden.Bytes(t, path)
	raw[len(raw)-1] ^= 1
	if err := os.WriteFile(path, raw, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := Run(t.Context(), dir, "", ort.Options{}, &out); err == nil || !strings.Contains(err.Error(), "1 of 1 checks failed: files") || !strings.Contains(out.String(), "bpe.txt.gz has sha256") {
		t.Errorf("a changed file: %v\n%s", err, out.String())
	}
}

func TestNumbers(t *testing.T) {
	nan := float32(math.NaN())
	a := []float32{1, 2, 3, 4}
	for _, tt := range []struct {
		name       string
		b          []float32
		diff, corr float64
	}{
		{"the same", a, 0, 1},
		{"shifted", []float32{2, 3, 4, 5}, 1, 1},
		{"turned", []float32{4, 3, 2, 1}, 3, -1},
		{"not a number", []float32{1, nan, 3, 4}, math.Inf(1), -1},
		{"constant", []float32{2, 2, 2, 2}, 2, -1},
		{"shorter", []float32{1}, math.Inf(1), -1},
	} {
		if d, c := diff(tt.b, a), correlation(tt.b, a); d != tt.diff || math.Abs(c-tt.corr) > 1e-12 {
			t.Errorf("%s: difference %v, correlation %v, want %v and %v", tt.name, d, c, tt.diff, tt.corr)
		}
	}
	if c := cosine([]float32{1, 0, 0, 2}, []float32{3, 0, 1, 1}, 2); math.Abs(c-math.Sqrt(0.5)) > 1e-7 {
		t.Errorf("the smaller cosine is %v", c)
	}
	if m := mean([]float32{1, 2, 3, 4, 10, 20, 30, 40}, 2, 2); !slices.Equal(m, []float32{2, 3, 20, 30}) {
		t.Errorf("means of clips are %v", m)
	}
	if r := repeated([]float32{1, 2, 3, 4}, 2, 2); !slices.Equal(r, []float32{1, 2, 1, 2, 3, 4, 3, 4}) {
		t.Errorf("repeated planes are %v", r)
	}
	if Argmax([]float32{1, 3, 3, 2}) != 1 {
		t.Error("the first largest is at 1")
	}
}

// TestCases: the goldens are read whole.
func TestCases(t *testing.T) {
	cases, err := Cases(testdata + "llama-adapter-tiny")
	if err != nil {
		t.Fatal(err)
	}
	count := map[string]int{}
	for _, c := range cases {
		count[c.Variant]++
		if len(c.Prefill) != 512 || len(c.Greedy) > 0 && len(c.Steps) < len(c.Greedy)-1 || (c.Injection != nil) != (len(c.Weights) > 0) {
			t.Errorf("case %s: %d logits, %d ids, %d steps", c.Name, len(c.Prefill), len(c.Greedy), len(c.Steps))
		}
		if len(c.Steps) > 0 && (diff(c.Steps[0], c.Prefill) > 0 || Argmax(c.Prefill) != c.Greedy[0]) {
			t.Errorf("case %s: its first step is not its prompt's", c.Name)
		}
	}
	if count[""] != 2 || count["finetune"] < 15 || count["legacy"] != 2 || count["pretrain"] != 3 {
		t.Errorf("cases by variant: %v", count)
	}
}
