package ort

import (
	"fmt"
	"reflect"
	"slices"

	onnx "github.com/yalue/onnxruntime_go"
	"golang.org/x/sys/unix"

	imagebind "imagebind-llm"
)

// A Value is a tensor that a run reads or writes in place. Destroy frees its
// handle, not the memory that it was made over.
type Value = onnx.Value

// Floats makes a value over data, which stays the caller's.
func Floats(data []float32, shape ...int) (Value, error) {
	return onnx.NewTensor(shape64(shape), data)
}

// Int64s makes a value over data, which stays the caller's.
func Int64s(data []int64, shape ...int) (Value, error) {
	return onnx.NewTensor(shape64(shape), data)
}

// Int32s makes a value over data, which stays the caller's.
func Int32s(data []int32, shape ...int) (Value, error) {
	return onnx.NewTensor(shape64(shape), data)
}

// A Scalar is an int32 value of rank 0.
type Scalar struct {
	Value
	at *int32 // in the memory that the value was made over, which Value keeps alive
}

// NewScalar makes a scalar that Set changes in place. The library's own Set does
// not: it puts another slice in place of the one that onnxruntime reads.
func NewScalar() (Scalar, error) {
	s, err := onnx.NewEmptyScalar[int32]()
	if err != nil {
		return Scalar{}, err
	}
	data := reflect.ValueOf(s).Elem().FieldByName("data")
	return Scalar{s, (*int32)(data.UnsafePointer())}, nil
}

// Set changes the scalar.
func (s Scalar) Set(v int32) { *s.at = v }

// An Arena is memory outside of Go's heap for tensors that live as long as the
// program: a KV cache does not count for the garbage collector, and its pages
// cost nothing until they are written.
type Arena struct{ mem []byte }

// NewArena reserves n bytes, zero.
func NewArena(n int) (*Arena, error) {
	if n == 0 {
		return &Arena{}, nil
	}
	mem, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return nil, fmt.Errorf("reserve %d bytes: %w", n, err)
	}
	return &Arena{mem}, nil
}

// View makes a value of a type ("float32" or "float16") over the arena's bytes
// from offset.
func (a *Arena) View(offset int, typ string, shape ...int) (Value, error) {
	elem, size := onnx.TensorElementDataType(onnx.TensorElementDataTypeFloat), 4
	if typ == "float16" {
		elem, size = onnx.TensorElementDataTypeFloat16, 2
	}
	n := imagebind.Size(shape) * size
	if offset < 0 || offset+n > len(a.mem) {
		panic(fmt.Sprintf("ort: view of %d bytes at %d in an arena of %d", n, offset, len(a.mem)))
	}
	return onnx.NewCustomDataTensor(shape64(shape), a.mem[offset:offset+n:offset+n], elem)
}

// Copy moves n bytes inside the arena.
func (a *Arena) Copy(dst, src, n int) error {
	copy(a.mem[dst:dst+n], a.mem[src:src+n])
	return nil
}

// Close gives the memory back. No value over it may be used afterwards.
func (a *Arena) Close() error {
	if a.mem == nil {
		return nil
	}
	mem := a.mem
	a.mem = nil
	return unix.Munmap(mem)
}

func shape64(shape []int) onnx.Shape {
	s := make(onnx.Shape, len(shape))
	for i, d := range shape {
		s[i] = int64(d)
	}
	return s
}

// newInput makes the value of an input of a graph from t, checking its type and
// every fixed dimension.
func newInput(x Info, t imagebind.Tensor) (Value, error) {
	if len(t.Shape) != len(x.Shape) {
		return nil, fmt.Errorf("shape %v, the graph takes %v", t.Shape, x.Shape)
	}
	for i, d := range x.Shape {
		if d >= 0 && t.Shape[i] != d {
			return nil, fmt.Errorf("shape %v, the graph takes %v", t.Shape, x.Shape)
		}
	}
	switch {
	case x.Type == "int64" && len(t.Ints) == t.Len():
		return Int64s(t.Ints, t.Shape...)
	case x.Type == "int32" && len(t.Ints) == t.Len():
		ints := make([]int32, len(t.Ints))
		for i, v := range t.Ints {
			ints[i] = int32(v)
		}
		if len(t.Shape) == 0 {
			return onnx.NewScalar(ints[0])
		}
		return Int32s(ints, t.Shape...)
	case x.Type == "float32" && len(t.Floats) == t.Len():
		return Floats(t.Floats, t.Shape...)
	}
	return nil, fmt.Errorf("the graph takes %s, got %d floats and %d ints for shape %v", x.Type, len(t.Floats), len(t.Ints), t.Shape)
}

// tensorOf copies a value that onnxruntime made.
func tensorOf(v Value) (imagebind.Tensor, error) {
	var shape []int
	for _, d := range v.GetShape() {
		shape = append(shape, int(d))
	}
	switch v := v.(type) {
	case *onnx.Tensor[float32]:
		return imagebind.Tensor{Shape: shape, Floats: slices.Clone(v.GetData())}, nil
	case *onnx.Tensor[int64]:
		return imagebind.Tensor{Shape: shape, Ints: slices.Clone(v.GetData())}, nil
	}
	return imagebind.Tensor{}, fmt.Errorf("a %T cannot be copied", v)
}

func destroy(values []Value) {
	for _, v := range values {
		if v != nil {
			_ = v.Destroy()
		}
	}
}

// Destroy frees the handles of values, nil ones aside.
func Destroy(values ...Value) { destroy(values) }
