// Package format holds what the readers of weight files share: element types
// and a [Tensor] whose values are read on demand, so that a file of any size
// costs only what is looked at. The readers are packages below: torch,
// safetensors, gguf, npy and faiss.
package format

import (
	"fmt"
	"strings"

	imagebind "imagebind-llm"
)

// A DType is the type of a stored element or block of elements.
type DType uint8

// Element types, and ggml's block types with their number of elements a block.
const (
	Unknown DType = iota
	F64
	F32
	F16
	BF16
	I64
	I32
	I16
	I8
	U8
	Bool
	Q4_0 // 32 elements in 18 bytes
	Q4_1 // 32 in 20
	Q8_0 // 32 in 34
	Q4_K // 256 in 144
	Q6_K // 256 in 210
)

var dtypes = [...]struct {
	name         string
	block, bytes int
}{
	Unknown: {"unknown", 1, 0},
	F64:     {"F64", 1, 8}, F32: {"F32", 1, 4}, F16: {"F16", 1, 2}, BF16: {"BF16", 1, 2},
	I64: {"I64", 1, 8}, I32: {"I32", 1, 4}, I16: {"I16", 1, 2}, I8: {"I8", 1, 1}, U8: {"U8", 1, 1}, Bool: {"BOOL", 1, 1},
	Q4_0: {"Q4_0", 32, 18}, Q4_1: {"Q4_1", 32, 20}, Q8_0: {"Q8_0", 32, 34}, Q4_K: {"Q4_K", 256, 144}, Q6_K: {"Q6_K", 256, 210},
}

// String returns the name as safetensors and ggml spell it.
func (d DType) String() string { return dtypes[d].name }

// Block returns how many elements a stored block holds: 1, but for ggml's quantised types.
func (d DType) Block() int { return dtypes[d].block }

// BlockBytes returns the size of a block in bytes.
func (d DType) BlockBytes() int { return dtypes[d].bytes }

// Parse returns the type of that name, in any case, or Unknown.
func Parse(name string) DType {
	for d, t := range dtypes {
		if strings.EqualFold(t.name, name) {
			return DType(d)
		}
	}
	return Unknown
}

// A Tensor is a named array in a file. Its values are row-major whatever the
// strides of the file.
type Tensor struct {
	Name  string
	DType DType
	Shape []int
	// Read fills dst with the elements from, from+1, … from+len(dst)-1 as float32.
	// Concurrent calls are allowed. It fails on a truncated or unreadable file.
	Read func(dst []float32, from int) error
}

// Len returns the number of elements.
func (t Tensor) Len() int { return imagebind.Size(t.Shape) }

// Floats reads the whole tensor.
func (t Tensor) Floats() ([]float32, error) {
	dst := make([]float32, t.Len())
	if err := t.Read(dst, 0); err != nil {
		return nil, fmt.Errorf("tensor %s: %w", t.Name, err)
	}
	return dst, nil
}

// String describes the tensor in a line: name, type, shape.
func (t Tensor) String() string { return fmt.Sprintf("%s %s %v", t.Name, t.DType, t.Shape) }

// A File is an open collection of tensors. Close releases the mapping; no
// Tensor of it may be read afterwards.
type File interface {
	// Tensors returns all of them in the order of the file.
	Tensors() []Tensor
	Close() error
}
