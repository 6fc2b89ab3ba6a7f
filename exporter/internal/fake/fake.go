// Package fake makes checkpoints for tests: state dicts of the released sizes,
// whose values are computed when they are read, and .safetensors files.
package fake

import (
	"embed"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/x448/float16"

	"imagebind-llm/internal/format"
)

//go:embed testdata/keys
var files embed.FS // testdata/README.md says what made them

// Keys returns the tensors of a full-size state dict up to a number of layers,
// sorted by name: llama_7B_consolidated, adapter_7B_finetune, adapter_7B_legacy
// or adapter_7B_pretrain. Norms are ones, all else is [Tensor]'s.
func Keys(t testing.TB, name string, layers int) []format.Tensor {
	t.Helper()
	raw, err := files.ReadFile("testdata/keys/" + name + ".json")
	if err != nil {
		t.Fatal(err)
	}
	var list map[string][2]json.RawMessage // shape, dtype
	if err := json.Unmarshal(raw, &list); err != nil {
		t.Fatal(err)
	}
	var tensors []format.Tensor
	for name, v := range list {
		var shape []int
		var dtype string
		if err := json.Unmarshal(v[0], &shape); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(v[1], &dtype); err != nil {
			t.Fatal(err)
		}
		var layer int
		if _, err := fmt.Sscanf(strings.TrimPrefix(name, "llama."), "layers.%d.", &layer); err == nil && layer >= layers {
			continue
		}
		if name == "prefix_query.weight" {
			shape[0] = min(shape[0], layers)
		}
		x := Tensor(name, uint64(len(name)+7*len(tensors)), shape...)
		if dtype == "float16" {
			x.DType = format.F16
		}
		if strings.HasSuffix(name, "norm.weight") {
			x = Constant(x, 1)
		}
		tensors = append(tensors, x)
	}
	slices.SortFunc(tensors, func(a, b format.Tensor) int { return strings.Compare(a.Name, b.Name) })
	return tensors
}

// Tensor returns a tensor whose values are drawn when they are read, the same
// for the same seed: evenly around 0, those of a matrix so that it keeps the
// size of what it multiplies.
func Tensor(name string, seed uint64, shape ...int) format.Tensor {
	scale := float32(1.7)
	if len(shape) == 2 {
		scale /= float32(math.Sqrt(float64(shape[1])))
	}
	return format.Tensor{Name: name, DType: format.F32, Shape: shape, Read: func(dst []float32, from int) error {
		for i := range dst {
			x := (seed<<40 + uint64(from+i)) * 0x9e3779b97f4a7c15
			x ^= x >> 29
			dst[i] = (float32(x>>40)/(1<<23) - 1) * scale
		}
		return nil
	}}
}

// Constant returns x with every value v.
func Constant(x format.Tensor, v float32) format.Tensor {
	x.Read = func(dst []float32, _ int) error {
		for i := range dst {
			dst[i] = v
		}
		return nil
	}
	return x
}

// Save writes tensors as a .safetensors file of half precision.
func Save(t testing.TB, path string, tensors ...format.Tensor) {
	t.Helper()
	header, data := map[string]any{}, []byte(nil)
	for _, x := range tensors {
		v, err := x.Floats()
		if err != nil {
			t.Fatal(err)
		}
		from := len(data)
		for _, f := range v {
			data = binary.LittleEndian.AppendUint16(data, float16.Fromfloat32(f).Bits())
		}
		header[x.Name] = map[string]any{"dtype": "F16", "shape": x.Shape, "data_offsets": []int{from, len(data)}}
	}
	raw, err := json.Marshal(header)
	if err != nil {
		t.Fatal(err)
	}
	file := slices.Concat(binary.LittleEndian.AppendUint64(nil, uint64(len(raw))), raw, data)
	if err := os.WriteFile(path, file, 0o644); err != nil {
		t.Fatal(err)
	}
}

// SaveJSON writes v as a JSON file.
func SaveJSON(t testing.TB, path string, v any) {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, raw, 0o644); err != nil {
		t.Fatal(err)
	}
}
