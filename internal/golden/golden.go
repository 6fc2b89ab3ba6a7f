// Package golden helps tests hold results against tensors of the reference.
package golden

import (
	"encoding/json"
	"math"
	"os"
	"slices"
	"strings"
	"testing"

	"imagebind-llm/internal/format"
	"imagebind-llm/internal/format/safetensors"
)

// A File is an open .safetensors file of expected tensors.
type File struct{ f *safetensors.File }

// Open opens the file at path for the length of the test.
func Open(t testing.TB, path string) File {
	t.Helper()
	f, err := safetensors.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return File{f}
}

// Names returns the names of all tensors.
func (f File) Names() []string {
	var names []string
	for _, t := range f.f.Tensors() {
		names = append(names, t.Name)
	}
	return names
}

// Tensor returns a tensor with its values and shape. Integers come as floats;
// those of the goldens are small enough to be exact.
func (f File) Tensor(t testing.TB, name string) Tensor {
	t.Helper()
	x, ok := f.f.Tensor(name)
	if !ok {
		t.Fatalf("golden tensor %s: not in the file", name)
	}
	v, err := x.Floats()
	if err != nil {
		t.Fatal(err)
	}
	return Tensor{x, v}
}

// A Tensor is an expected tensor, in memory.
type Tensor struct {
	format.Tensor
	Values []float32
}

// Bytes returns the content of the file at path.
func Bytes(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// JSON decodes the file at path into v.
func JSON(t testing.TB, path string, v any) {
	t.Helper()
	if err := json.Unmarshal(Bytes(t, path), v); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

// Close fails the test when got and want differ in length or anywhere by more
// than tol, or got is not finite. It returns the largest difference.
func Close(t testing.TB, got, want []float32, tol float64) float64 {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d values, want %d", len(got), len(want))
	}
	worst, at := 0.0, 0
	for i := range got {
		d := math.Abs(float64(got[i]) - float64(want[i]))
		if math.IsNaN(d) {
			t.Fatalf("value %d is %v, want %v", i, got[i], want[i])
		}
		if d > worst {
			worst, at = d, i
		}
	}
	if worst > tol {
		t.Errorf("value %d is %v, want %v: off by %.2g, tolerance %.2g", at, got[at], want[at], worst, tol)
	}
	return worst
}

// Need skips the test for want of something, in a sentence, unless the
// environment variable IMAGEBIND_NEED (a comma-separated list, as in
// "ort,milvus,ffmpeg") promises that it is at hand: then the test fails.
func Need(t testing.TB, what, sentence string) {
	t.Helper()
	if slices.Contains(strings.Split(os.Getenv("IMAGEBIND_NEED"), ","), what) {
		t.Fatalf("IMAGEBIND_NEED promises %s: %s", what, sentence)
	}
	t.Skip(sentence)
}

// Every returns each n-th row and column of rows of the given width: what is
// kept of a large array in a small golden.
func Every(n int, values []float32, width int) (kept []float32) {
	for row := 0; row < len(values); row += n * width {
		for i := 0; i < width; i += n {
			kept = append(kept, values[row+i])
		}
	}
	return kept
}
