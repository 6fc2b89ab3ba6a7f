package ort

import (
	"fmt"
	"slices"
	"unsafe"

	imagebind "imagebind-llm"
)

/*
#include "shim.h"
*/
import "C"

// A Value is a tensor that a run reads or writes in place. Destroy frees its
// handle, not the memory that it was made over.
type Value interface {
	Shape() []int
	Destroy() error
	ort() *tensor
}

// A tensor is an OrtValue over memory of Go's, of an arena, or of its own.
type tensor struct {
	value handle
	typ   string
	shape []int
	// keep is the Go memory that onnxruntime reads and writes: alive for as long
	// as the value is. It holds no pointers and Go moves nothing on its heap.
	keep any
}

// Shape returns the dimensions.
func (t *tensor) Shape() []int { return slices.Clone(t.shape) }

// Destroy frees the handle.
func (t *tensor) Destroy() error {
	C.ort_release_value(t.value)
	t.value, t.keep = 0, nil
	return nil
}

func (t *tensor) ort() *tensor { return t }

// newTensor makes a value over bytes at data, or where that is nil at the address at.
func newTensor(memory handle, data unsafe.Pointer, at uintptr, bytes int, typ string, shape []int) (*tensor, error) {
	dims := make([]C.int64_t, len(shape))
	for i, d := range shape {
		dims[i] = C.int64_t(d)
	}
	number, size := elem(typ)
	if n := imagebind.Size(shape) * size; n > bytes {
		panic(fmt.Sprintf("ort: a %s tensor of shape %v takes %d bytes, there are %d", typ, shape, n, bytes))
	}
	t := &tensor{typ: typ, shape: slices.Clone(shape)}
	if err := check(C.ort_value(memory, data, C.uintptr_t(at), C.size_t(bytes), pointer(dims), C.size_t(len(dims)), number, &t.value)); err != nil {
		return nil, fmt.Errorf("a tensor of shape %v: %w", shape, err)
	}
	return t, nil
}

// over makes a value over Go's memory.
func over[T float32 | int64 | int32 | uint16 | uint8](data []T, typ string, shape []int) (Value, error) {
	memory, err := hostMemory()
	if err != nil {
		return nil, err
	}
	t, err := newTensor(memory, unsafe.Pointer(pointer(data)), 0, len(data)*int(unsafe.Sizeof(*new(T))), typ, shape)
	if err != nil {
		return nil, err
	}
	t.keep = data
	return t, nil
}

// Floats makes a value over data, which stays the caller's.
func Floats(data []float32, shape ...int) (Value, error) { return over(data, "float32", shape) }

// Int64s makes a value over data, which stays the caller's.
func Int64s(data []int64, shape ...int) (Value, error) { return over(data, "int64", shape) }

// Int32s makes a value over data, which stays the caller's.
func Int32s(data []int32, shape ...int) (Value, error) { return over(data, "int32", shape) }

// Halfs makes a value of float16 over data, their bits, which stays the caller's.
func Halfs(data []uint16, shape ...int) (Value, error) { return over(data, "float16", shape) }

// A Scalar is an int32 value of rank 0.
type Scalar struct {
	Value
	at *int32
}

// NewScalar makes a scalar, 0, that Set changes in place.
func NewScalar() (Scalar, error) {
	data := make([]int32, 1)
	v, err := Int32s(data)
	return Scalar{v, &data[0]}, err
}

// Set changes the scalar.
func (s Scalar) Set(v int32) { *s.at = v }

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
		return Int32s(ints, t.Shape...)
	case x.Type == "float32" && len(t.Floats) == t.Len():
		return Floats(t.Floats, t.Shape...)
	}
	return nil, fmt.Errorf("the graph takes %s, got %d floats and %d ints for shape %v", x.Type, len(t.Floats), len(t.Ints), t.Shape)
}

// made wraps a value that onnxruntime made for an output.
func made(value handle) (*tensor, error) {
	t := &tensor{value: value}
	var d C.struct_ort_tensor
	if err := check(C.ort_describe(value, &d)); err != nil {
		_ = t.Destroy()
		return nil, err
	}
	t.typ, t.shape = typeName(d._type), shapeOf(&d)
	return t, nil
}

// tensorOf copies a value in the host's memory.
func tensorOf(v Value) (imagebind.Tensor, error) {
	t := v.ort()
	var d C.struct_ort_tensor
	if err := check(C.ort_describe(t.value, &d)); err != nil {
		return imagebind.Tensor{}, err
	}
	n := imagebind.Size(t.shape)
	out := imagebind.Tensor{Shape: t.Shape()}
	switch t.typ {
	case "float32":
		out.Floats = slices.Clone(unsafe.Slice((*float32)(d.data), n))
	case "int64":
		out.Ints = slices.Clone(unsafe.Slice((*int64)(d.data), n))
	default:
		return imagebind.Tensor{}, fmt.Errorf("a tensor of %s is not read", t.typ)
	}
	return out, nil
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
