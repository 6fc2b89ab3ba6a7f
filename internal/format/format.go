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
	U16
	I8
	U8
	Bool
	Q4_0 // 32 elements in 18 bytes
	Q4_1 // 32 in 20
	Q8_0 // 32 in 34
	Q4_K // 256 in 144
	Q6_K // 256 in 210
	Q5_0 // 32 in 22
	Q5_1 // 32 in 24
	Q2_K // 256 in 84
	Q3_K // 256 in 110
	Q5_K // 256 in 176
	// Those of ggml that are listed with their name and size, and not read.
	Q8_K
	IQ1_S
	IQ1_M
	IQ2_XXS
	IQ2_XS
	IQ2_S
	IQ3_XXS
	IQ3_S
	IQ4_NL
	IQ4_XS
	TQ1_0
	TQ2_0
	MXFP4
	NVFP4
)

var dtypes = [...]struct {
	name         string
	block, bytes int
}{
	Unknown: {"unknown", 1, 0},
	F64:     {"F64", 1, 8}, F32: {"F32", 1, 4}, F16: {"F16", 1, 2}, BF16: {"BF16", 1, 2},
	I64: {"I64", 1, 8}, I32: {"I32", 1, 4}, I16: {"I16", 1, 2}, U16: {"U16", 1, 2}, I8: {"I8", 1, 1}, U8: {"U8", 1, 1}, Bool: {"BOOL", 1, 1},
	Q4_0: {"Q4_0", 32, 18}, Q4_1: {"Q4_1", 32, 20}, Q8_0: {"Q8_0", 32, 34}, Q4_K: {"Q4_K", 256, 144}, Q6_K: {"Q6_K", 256, 210},
	Q5_0: {"Q5_0", 32, 22}, Q5_1: {"Q5_1", 32, 24}, Q2_K: {"Q2_K", 256, 84}, Q3_K: {"Q3_K", 256, 110}, Q5_K: {"Q5_K", 256, 176},
	Q8_K: {"Q8_K", 256, 292}, IQ1_S: {"IQ1_S", 256, 50}, IQ1_M: {"IQ1_M", 256, 56}, IQ2_XXS: {"IQ2_XXS", 256, 66}, IQ2_XS: {"IQ2_XS", 256, 74},
	IQ2_S: {"IQ2_S", 256, 82}, IQ3_XXS: {"IQ3_XXS", 256, 98}, IQ3_S: {"IQ3_S", 256, 110}, IQ4_NL: {"IQ4_NL", 32, 18}, IQ4_XS: {"IQ4_XS", 256, 136},
	TQ1_0: {"TQ1_0", 256, 54}, TQ2_0: {"TQ2_0", 256, 66}, MXFP4: {"MXFP4", 32, 17}, NVFP4: {"NVFP4", 64, 36},
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
	if t.DType == Unknown { // its size was not held against the file's
		if err := t.Read(nil, 0); err != nil {
			return nil, fmt.Errorf("tensor %s: %w", t.Name, err)
		}
	}
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
