package main

import (
	"math"
	"path/filepath"
	"testing"

	"imagebind-llm/internal/format/gguf"
)

// What is written reads back: every tensor with its shape and type, values of
// the deviation that is meant, and a vocabulary as long as the embedding.
func TestWriteGGUF(t *testing.T) {
	s := shape{width: 64, layers: 2, heads: 2, hidden: 96, vocab: 300, context: 32}
	for quant, list := range map[string]uint32{"Q4_0": typeQ4, "Q8_0": typeQ8} {
		path := filepath.Join(t.TempDir(), "x.gguf")
		if err := writeGGUF(path, s, quant); err != nil {
			t.Fatal(err)
		}
		f, err := gguf.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if n := len(f.Metadata()["tokenizer.ggml.tokens"].([]string)); n != s.vocab {
			t.Errorf("%s: %d words", quant, n)
		}
		for _, want := range s.tensors(list) {
			got, ok := f.Tensor(want.name)
			if !ok || got.Shape[len(got.Shape)-1] != want.row || want.rows > 0 && got.Shape[0] != want.rows {
				t.Fatalf("%s: %s is %v, want [%d, %d]", quant, want.name, got.Shape, want.rows, want.row)
			}
			v := make([]float32, max(1, want.rows)*want.row)
			if err := got.Read(v, 0); err != nil {
				t.Fatal(err)
			}
			square := 0.0
			for _, x := range v {
				square += float64(x) * float64(x)
			}
			deviation, expected := math.Sqrt(square/float64(len(v))), 1/64.
			if want.rows == 0 {
				expected = 1
			}
			if math.Abs(deviation-expected) > 0.05*expected {
				t.Errorf("%s: %s has a deviation of %g, want %g", quant, want.name, deviation, expected)
			}
		}
	}
	if err := writeGGUF(filepath.Join(t.TempDir(), "x.gguf"), s, "Q5_0"); err == nil {
		t.Error("a type that is not known was written")
	}
}
