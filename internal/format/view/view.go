// Package view reads arrays whose elements lie at any strides in a file: the
// views that torch.save writes, and the columns of a Fortran-ordered .npy.
// Elements come out row-major and as float32, in pieces, so that an array of
// gigabytes costs a quarter of a megabyte.
package view

import (
	"errors"
	"fmt"
	"io"
	"sync"

	imagebind "imagebind-llm"
	"imagebind-llm/internal/format"
)

// MaxRepeated is how many elements a view may have that has more of them than
// its storage (an expanded tensor has stride 0): a file of a few bytes must
// not ask for terabytes.
const MaxRepeated = 1 << 24

// MaxAxes is the most axes an array may have, as in PyTorch.
const MaxAxes = 64

// One read of the file: dense bytes when the elements wanted are at least one
// in sparsity, else sparse bytes, when most of what is read would be thrown away.
const (
	dense    = 256 << 10
	sparse   = 4 << 10
	sparsity = 8
)

// A View is an array over part of a file, its storage.
type View struct {
	File   io.ReaderAt
	Start  int64 // of the storage, in bytes from the start of the file
	DType  format.DType
	Offset int   // of the first element, in elements from Start
	Shape  []int // of any length; none is a scalar
	Stride []int // elements between neighbours along each axis, none negative
}

// Contiguous returns the row-major strides of a shape.
func Contiguous(shape []int) []int {
	stride := make([]int, len(shape))
	n := 1
	for i := len(shape) - 1; i >= 0; i-- {
		stride[i] = n
		n *= shape[i]
	}
	return stride
}

// Check returns an error unless every element lies within a storage of n
// elements, and their number fits an int and is no more than n or MaxRepeated.
func (v View) Check(n int) error {
	if len(v.Shape) != len(v.Stride) {
		return imagebind.Errorf(imagebind.Invalid, "shape %v with strides %v", v.Shape, v.Stride)
	}
	if len(v.Shape) > MaxAxes {
		return imagebind.Errorf(imagebind.Invalid, "%d axes, at most %d are allowed", len(v.Shape), MaxAxes)
	}
	if v.Offset < 0 || v.Offset > n {
		return imagebind.Errorf(imagebind.Invalid, "offset %d in a storage of %d elements", v.Offset, n)
	}
	empty := false
	for i, d := range v.Shape {
		if d < 0 || v.Stride[i] < 0 {
			return imagebind.Errorf(imagebind.Invalid, "shape %v with strides %v", v.Shape, v.Stride)
		}
		empty = empty || d == 0
	}
	// The product leaves zeros out: consumers multiply axes in any order.
	limit, count, room := max(n, MaxRepeated), 1, n-v.Offset-1
	for i, d := range v.Shape {
		if d == 0 {
			continue
		}
		if d > limit/count {
			return imagebind.Errorf(imagebind.Invalid, "shape %v has more elements than its storage of %d", v.Shape, n)
		}
		count *= d
		if s := v.Stride[i]; !empty && d > 1 && s > 0 {
			if room < 0 || d-1 > room/s {
				return imagebind.Errorf(imagebind.Invalid, "shape %v with strides %v and offset %d leaves its storage of %d elements", v.Shape, v.Stride, v.Offset, n)
			}
			room -= (d - 1) * s
		}
	}
	if !empty && room < 0 {
		return imagebind.Errorf(imagebind.Invalid, "an element at offset %d in a storage of %d elements", v.Offset, n)
	}
	return nil
}

// Tensor returns the view as a tensor. The view must have passed Check.
func (v View) Tensor(name string) format.Tensor {
	shape, stride := merge(v.Shape, v.Stride)
	r := &reader{v.File, v.Start + int64(v.Offset)*int64(v.DType.BlockBytes()), v.DType, shape, stride}
	n := imagebind.Size(v.Shape)
	return format.Tensor{Name: name, DType: v.DType, Shape: v.Shape, Read: func(dst []float32, from int) error {
		if from < 0 || from > n || len(dst) > n-from {
			return fmt.Errorf("elements %d to %d of %d", from, from+len(dst), n)
		}
		if len(dst) == 0 {
			return nil
		}
		return r.slice(dst, 0, 0, from)
	}}
}

// merge drops axes of one element and joins those that lie one after the other,
// so that a contiguous array of any shape has one axis.
func merge(shape, stride []int) (s, t []int) {
	for i, d := range shape {
		last := len(s) - 1
		switch {
		case d == 1:
		case last >= 0 && t[last] == d*stride[i]:
			s[last], t[last] = s[last]*d, stride[i]
		default:
			s, t = append(s, d), append(t, stride[i])
		}
	}
	if len(s) == 0 {
		return []int{1}, []int{1}
	}
	return s, t
}

// A reader is a View with merged axes.
type reader struct {
	file          io.ReaderAt
	start         int64 // of the first element, in bytes
	dtype         format.DType
	shape, stride []int
}

// slice reads len(dst) elements from the row-major index from of the array
// over the axes from axis on, which starts off elements behind the first. It
// cuts the range into boxes: whole sub-arrays in the middle, parts at the ends.
func (r *reader) slice(dst []float32, axis, off, from int) error {
	inner := imagebind.Size(r.shape[axis+1:]) // elements of a sub-array
	for len(dst) > 0 {
		i, rest := from/inner, from%inner
		at := off + i*r.stride[axis]
		var n int
		var err error
		if rest == 0 && len(dst) >= inner {
			whole := len(dst) / inner
			n = whole * inner
			shape := append([]int{whole}, r.shape[axis+1:]...)
			err = r.box(dst[:n], at, shape, r.stride[axis:], Contiguous(shape))
		} else {
			n = min(inner-rest, len(dst))
			err = r.slice(dst[:n], axis+1, at, rest)
		}
		if err != nil {
			return err
		}
		dst, from = dst[n:], from+n
	}
	return nil
}

// box reads the array of a shape that starts off elements behind the first, to
// dst at the strides to. What spans too many bytes for one read is cut along
// its longest stride.
func (r *reader) box(dst []float32, off int, shape, stride, to []int) error {
	span, longest := 1, 0
	for i, d := range shape {
		if d > 1 {
			span += (d - 1) * stride[i]
			if shape[longest] == 1 || stride[i] > stride[longest] {
				longest = i
			}
		}
	}
	bytes := dense
	if imagebind.Size(shape) < span/sparsity {
		bytes = sparse
	}
	budget := bytes / r.dtype.BlockBytes()
	if span <= budget {
		return r.load(dst, off, span, shape, stride, to)
	}
	d, s := shape[longest], stride[longest]
	part := 1 + max(0, budget-(span-(d-1)*s))/s // fewer than d
	shape = append([]int(nil), shape...)
	for i := 0; i < d; i += part {
		shape[longest] = min(part, d-i)
		if err := r.box(dst[i*to[longest]:], off+i*s, shape, stride, to); err != nil {
			return err
		}
	}
	return nil
}

type buffer struct {
	bytes  []byte
	floats []float32
}

var buffers = sync.Pool{New: func() any { return &buffer{bytes: make([]byte, dense)} }}

// load reads the span elements behind off at once and spreads them over dst.
func (r *reader) load(dst []float32, off, span int, shape, stride, to []int) error {
	b := buffers.Get().(*buffer)
	defer buffers.Put(b)
	size := r.dtype.BlockBytes()
	raw, at := b.bytes[:span*size], r.start+int64(off)*int64(size)
	if n, err := r.file.ReadAt(raw, at); n < len(raw) {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("%d bytes at offset %d: %w", len(raw), at, err)
	}
	if len(shape) == 1 && stride[0] == 1 && to[0] == 1 {
		Decode(dst[:span], raw, r.dtype)
		return nil
	}
	if len(b.floats) < span {
		b.floats = make([]float32, dense)
	}
	Decode(b.floats[:span], raw, r.dtype)
	spread(dst, b.floats[:span], shape, stride, to)
	return nil
}

// spread copies an array from src at the strides from to dst at the strides to.
func spread(dst, src []float32, shape, from, to []int) {
	n, f, t := shape[0], from[0], to[0]
	switch {
	case len(shape) > 1:
		for i := range n {
			spread(dst[i*t:], src[i*f:], shape[1:], from[1:], to[1:])
		}
	case f == 1 && t == 1:
		copy(dst[:n], src)
	default:
		for i := range n {
			dst[i*t] = src[i*f]
		}
	}
}
