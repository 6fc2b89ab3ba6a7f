package imagebind

import "fmt"

// A Tensor is what preprocessing hands to a graph: row-major values and their
// shape. Exactly one of Floats and Ints is set.
type Tensor struct {
	Shape  []int
	Floats []float32
	Ints   []int64
}

// NewFloats returns a zero float tensor of the given shape.
func NewFloats(shape ...int) Tensor {
	return Tensor{Shape: shape, Floats: make([]float32, Size(shape))}
}

// NewInts returns a zero integer tensor of the given shape.
func NewInts(shape ...int) Tensor {
	return Tensor{Shape: shape, Ints: make([]int64, Size(shape))}
}

// Len returns the number of values that the shape asks for.
func (t Tensor) Len() int { return Size(t.Shape) }

// Size returns the product of the dimensions; 1 for a scalar. It panics on a
// negative one.
func Size(shape []int) int {
	n := 1
	for _, d := range shape {
		if d < 0 {
			panic(fmt.Sprintf("imagebind: negative dimension in %v", shape))
		}
		n *= d
	}
	return n
}
