package faiss

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"

	"imagebind-llm/internal/format"
	"imagebind-llm/internal/format/view"
)

// maxMemory bounds what an open index keeps in memory of codebooks and
// rotations, bytes: a PQ of 16-bit codes at 1024 values takes 256 MiB.
const maxMemory = 512 << 20

// A reader walks through the file and remembers the first failure.
type reader struct {
	r      io.ReaderAt
	at     int64
	size   int64
	memory int64 // that may still be taken, bytes
	err    error
}

func (r *reader) bytes(n int) []byte {
	b := make([]byte, n)
	if r.err == nil && int64(n) > r.size-r.at {
		r.err = errors.New("it is cut")
	}
	if r.err == nil {
		_, r.err = r.r.ReadAt(b, r.at)
	}
	if errors.Is(r.err, io.EOF) {
		r.err = nil // the last bytes of the file
	}
	r.at += int64(n)
	return b
}

func (r *reader) bool() bool   { return r.bytes(1)[0] != 0 }
func (r *reader) i32() int32   { return int32(binary.LittleEndian.Uint32(r.bytes(4))) }
func (r *reader) i64() int64   { return int64(binary.LittleEndian.Uint64(r.bytes(8))) }
func (r *reader) four() string { return string(r.bytes(4)) }

// vector skips a std::vector of elements of some size.
func (r *reader) vector(element int64) (start, count int64) {
	n := r.i64()
	if r.err == nil && (n < 0 || n > (r.size-r.at)/element) {
		r.err = fmt.Errorf("it is cut: a list of %d elements in the %d bytes that are left", n, r.size-r.at)
	}
	start = r.at
	if r.err == nil {
		r.at += n * element
	}
	return start, n
}

// floats reads a vector of as many values, or of any number where want is below
// 0, into memory.
func (r *reader) floats(want int64, what string) []float32 {
	start, n := r.vector(4)
	switch {
	case r.err != nil:
	case want >= 0 && n != want:
		r.err = fmt.Errorf("it has %d values of %s, not %d", n, what, want)
	case 4*n > r.memory:
		r.err = fmt.Errorf("its codebooks and rotations take over %d MiB", maxMemory>>20)
	}
	if r.err != nil {
		return nil
	}
	r.memory -= 4 * n
	dst := make([]float32, n)
	r.err = matrix(r.r, start, 1, n).Read(dst, 0)
	return dst
}

// matrix is the array [rows, dim] of float32 at start.
func matrix(in io.ReaderAt, start, rows, dim int64) format.Tensor {
	shape := []int{int(rows), int(dim)}
	v := view.View{File: in, Start: start, DType: format.F32, Shape: shape, Stride: view.Contiguous(shape)}
	return v.Tensor("vectors")
}

// A header begins every index (write_index_header).
type header struct {
	dim    int64
	total  int64
	metric int32 // 0 inner product, 1 L2
}

func (r *reader) header() header {
	h := header{dim: int64(r.i32()), total: r.i64()}
	r.bytes(8 + 8 + 1) // two unused numbers; whether it is trained
	h.metric = r.i32()
	if h.metric > 1 {
		r.bytes(4) // the metric's argument
	}
	if r.err == nil && (h.dim < 1 || h.dim > MaxDim || h.total < 0 || h.total > math.MaxInt64/(4*h.dim)) {
		r.err = fmt.Errorf("it claims %d vectors of %d values", h.total, h.dim)
	}
	return h
}
