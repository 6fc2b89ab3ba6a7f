package torch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/x448/float16"

	"imagebind-llm/internal/format"
)

// storages are torch's names of typed storages.
var storages = map[string]format.DType{
	"DoubleStorage": format.F64, "FloatStorage": format.F32, "HalfStorage": format.F16, "BFloat16Storage": format.BF16,
	"LongStorage": format.I64, "IntStorage": format.I32, "ShortStorage": format.I16, "CharStorage": format.I8,
	"ByteStorage": format.U8, "BoolStorage": format.Bool,
}

// A storage is what a persistent id names: elements of one type.
type storage struct {
	key   string
	dtype format.DType
	count int64
}

// A tensor is a view of a storage.
type tensor struct {
	storage *storage
	offset  int64 // elements
	shape   []int
	strides []int64 // elements
}

// open checks the view and returns it as a readable tensor.
func (t *tensor) open(name string, a *archive) (format.Tensor, error) {
	offset, bytes, err := a.storage(t.storage.key)
	if err != nil {
		return format.Tensor{}, err
	}
	size := int64(t.storage.dtype.BlockBytes())
	if bytes/size < t.storage.count {
		return format.Tensor{}, fmt.Errorf("its storage data/%s has %d bytes for %d elements of %s", t.storage.key, bytes, t.storage.count, t.storage.dtype)
	}
	n, last := int64(1), t.offset
	for i, d := range t.shape {
		if d > 0 && n > math.MaxInt64/8/int64(d) {
			return format.Tensor{}, fmt.Errorf("shape %v is too large", t.shape)
		}
		n *= int64(d)
		if d > 1 {
			if s := t.strides[i]; s < 0 || s > 0 && int64(d-1) > (math.MaxInt64/8-last)/s {
				return format.Tensor{}, fmt.Errorf("strides %v", t.strides)
			}
			last += int64(d-1) * t.strides[i]
		}
	}
	if t.offset < 0 || n > 0 && last >= t.storage.count {
		return format.Tensor{}, fmt.Errorf("shape %v with strides %v from %d leaves its storage of %d elements", t.shape, t.strides, t.offset, t.storage.count)
	}
	// A broadcast view repeats elements without end; no checkpoint has one that large.
	if n > t.storage.count && n > maxBroadcast {
		return format.Tensor{}, fmt.Errorf("shape %v repeats a storage of %d elements", t.shape, t.storage.count)
	}
	view := *t
	out := format.Tensor{Name: name, DType: t.storage.dtype, Shape: t.shape}
	out.Read = func(dst []float32, from int) error {
		if from < 0 || int64(from) > n || int64(len(dst)) > n-int64(from) {
			return fmt.Errorf("elements %d to %d of %d", from, from+len(dst), n)
		}
		return view.read(a.r, offset, dst, from)
	}
	return out, nil
}

const (
	maxBroadcast = 1 << 24 // elements
	chunk        = 1 << 16 // elements read at once
)

// read fills dst with the elements from, … in row-major order. Runs of elements
// that lie side by side are read together; others span by span, since a row of
// a transposed matrix touches all of it.
func (t *tensor) read(r io.ReaderAt, base int64, dst []float32, from int) error {
	if len(dst) == 0 {
		return nil
	}
	d := t.storage.dtype
	size := int64(d.BlockBytes())
	inner, run := len(t.shape), 1 // the axes from inner on are contiguous: runs of run elements
	for inner > 0 && (t.shape[inner-1] == 1 || t.strides[inner-1] == int64(run)) {
		inner--
		run *= t.shape[inner]
	}
	if inner > 0 && run == 1 {
		return t.gather(r, base, dst, from)
	}
	buf := make([]byte, min(len(dst), chunk)*int(size))
	for len(dst) > 0 {
		at := t.offset + t.place(from/run, inner)
		within := from % run
		n := min(len(dst), run-within, chunk)
		b := buf[:n*int(size)]
		if _, err := r.ReadAt(b, base+(at+int64(within))*size); err != nil {
			return err
		}
		floats(dst[:n], b, d)
		dst, from = dst[n:], from+n
	}
	return nil
}

// place returns the storage offset, less t.offset, of the i-th index tuple over
// the axes before inner.
func (t *tensor) place(i, inner int) int64 {
	var at int64
	for axis := inner - 1; axis >= 0; axis-- {
		at += int64(i%t.shape[axis]) * t.strides[axis]
		i /= t.shape[axis]
	}
	return at
}

// window is how much of a storage gather holds at once, in bytes.
const window = 4 << 20

// gather reads single elements through a window of the storage that moves
// forward; elements of dst that lie in it are filled in one pass.
func (t *tensor) gather(r io.ReaderAt, base int64, dst []float32, from int) error {
	d := t.storage.dtype
	size := int64(d.BlockBytes())
	places := make([]int64, len(dst))
	lo, hi := int64(math.MaxInt64), int64(0)
	for i := range places {
		places[i] = t.offset + t.place(from+i, len(t.shape))
		lo, hi = min(lo, places[i]), max(hi, places[i])
	}
	width := max(window/size, (hi-lo)/16+1) // at most 17 passes over places
	for ; lo <= hi; lo += width {
		n := min(width, hi-lo+1)
		buf := make([]byte, n*size)
		if _, err := r.ReadAt(buf, base+lo*size); err != nil {
			return err
		}
		for i, p := range places {
			if p >= lo && p < lo+n {
				floats(dst[i:i+1], buf[(p-lo)*size:], d)
			}
		}
	}
	return nil
}

// floats converts len(dst) elements.
func floats(dst []float32, b []byte, d format.DType) {
	le := binary.LittleEndian
	switch d {
	case format.F32:
		for i := range dst {
			dst[i] = math.Float32frombits(le.Uint32(b[4*i:]))
		}
	case format.F16:
		for i := range dst {
			dst[i] = float16.Frombits(le.Uint16(b[2*i:])).Float32()
		}
	case format.BF16:
		for i := range dst {
			dst[i] = math.Float32frombits(uint32(le.Uint16(b[2*i:])) << 16)
		}
	case format.F64:
		for i := range dst {
			dst[i] = float32(math.Float64frombits(le.Uint64(b[8*i:])))
		}
	case format.I64:
		for i := range dst {
			dst[i] = float32(int64(le.Uint64(b[8*i:])))
		}
	case format.I32:
		for i := range dst {
			dst[i] = float32(int32(le.Uint32(b[4*i:])))
		}
	case format.I16:
		for i := range dst {
			dst[i] = float32(int16(le.Uint16(b[2*i:])))
		}
	case format.I8:
		for i := range dst {
			dst[i] = float32(int8(b[i]))
		}
	default: // U8, Bool
		for i := range dst {
			dst[i] = float32(b[i])
		}
	}
}

// rebuild is torch._utils._rebuild_tensor_v2(storage, offset, size, stride, …).
func rebuild(args tuple) (*tensor, error) {
	if len(args) < 4 {
		return nil, errors.New("a tensor is rebuilt from too little")
	}
	s, ok := args[0].(*storage)
	offset, isInt := args[1].(int64)
	shape, isShape := args[2].(tuple)
	strides, isStrides := args[3].(tuple)
	if !ok || !isInt || !isShape || !isStrides || len(shape) != len(strides) || len(shape) > maxRank || offset < 0 {
		return nil, errors.New("a tensor is rebuilt from the wrong things")
	}
	t := &tensor{storage: s, offset: offset, shape: make([]int, len(shape)), strides: make([]int64, len(shape))}
	for i := range shape {
		n, ok := shape[i].(int64)
		stride, isInt := strides[i].(int64)
		if !ok || !isInt || n < 0 || n > math.MaxInt32*8 {
			return nil, errors.New("a tensor's shape is no list of sizes")
		}
		t.shape[i], t.strides[i] = int(n), stride
	}
	return t, nil
}

const maxRank = 32
