package torch

import (
	"errors"
	"fmt"

	"imagebind-llm/internal/format"
	"imagebind-llm/internal/format/view"
)

// storages are torch's names of typed storages.
var storages = map[string]format.DType{
	"DoubleStorage": format.F64, "FloatStorage": format.F32, "HalfStorage": format.F16, "BFloat16Storage": format.BF16,
	"LongStorage": format.I64, "IntStorage": format.I32, "ShortStorage": format.I16, "CharStorage": format.I8,
	"ByteStorage": format.U8, "BoolStorage": format.Bool, "storage.UntypedStorage": format.U8,
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
	strides []int // elements
}

// open checks the view and returns it as a readable tensor.
func (t *tensor) open(name string, a *archive) (format.Tensor, error) {
	start, bytes, err := a.storage(t.storage.key)
	if err != nil {
		return format.Tensor{}, err
	}
	if bytes/int64(t.storage.dtype.BlockBytes()) < t.storage.count {
		return format.Tensor{}, fmt.Errorf("its storage data/%s has %d bytes for %d elements of %s", t.storage.key, bytes, t.storage.count, t.storage.dtype)
	}
	v := view.View{File: a.r, Start: start, DType: t.storage.dtype, Offset: int(t.offset), Shape: t.shape, Stride: t.strides}
	if err := v.Check(int(t.storage.count)); err != nil {
		return format.Tensor{}, err
	}
	return v.Tensor(name), nil
}

// rebuild is torch._utils._rebuild_tensor_v2(storage, offset, size, stride,
// requires_grad, backward_hooks, metadata); the last is often absent.
func rebuild(args tuple) (*tensor, error) {
	if len(args) < 4 {
		return nil, errors.New("a tensor is rebuilt from too little")
	}
	s, ok := args[0].(*storage)
	offset, isInt := args[1].(int64)
	shape, isShape := args[2].(tuple)
	strides, isStrides := args[3].(tuple)
	if !ok || !isInt || !isShape || !isStrides || len(shape) != len(strides) || len(shape) > view.MaxAxes || offset < 0 {
		return nil, errors.New("a tensor is rebuilt from the wrong things")
	}
	if len(args) > 6 {
		// {"neg": True}: the values stored are to be negated.
		if d, ok := args[6].(*dict); args[6] != nil && (!ok || len(d.keys) > 0) {
			return nil, errors.New("a tensor is a lazy view (conjugated or negated), which is not read: save its contiguous clone")
		}
	}
	t := &tensor{storage: s, offset: offset, shape: make([]int, len(shape)), strides: make([]int, len(shape))}
	for i := range shape {
		n, ok := shape[i].(int64)
		stride, isInt := strides[i].(int64)
		if !ok || !isInt {
			return nil, errors.New("a tensor's shape is no list of sizes")
		}
		t.shape[i], t.strides[i] = int(n), int(stride)
	}
	return t, nil
}
