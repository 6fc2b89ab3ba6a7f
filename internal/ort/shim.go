package ort

/*
#cgo LDFLAGS: -ldl
#include <stdlib.h>
#include "shim.h"
*/
import "C"

import (
	"errors"
	"fmt"
	"reflect"
	"unsafe"

	onnx "github.com/yalue/onnxruntime_go"
)

// A handle is the address of something of onnxruntime's. It is an integer since
// it means nothing to Go's collector, and arrays of it pass to C unlooked at.
type handle = C.uintptr_t

// shim makes the C functions of shim.h ready, once library is loaded.
func shim(library string) error {
	name := C.CString(library)
	defer C.free(unsafe.Pointer(name))
	if r := C.ort_init(name); r != 0 {
		return fmt.Errorf("%s is no onnxruntime library of version 1.27 or newer (%d): install one with `make ort`, or name one with %s", library, r, LibraryEnv)
	}
	return nil
}

// check turns a status into an error.
func check(status handle) error {
	if status == 0 {
		return nil
	}
	text := C.ort_error(status)
	defer C.free(unsafe.Pointer(text))
	return errors.New(C.GoString(text))
}

// describeMemory returns an OrtMemoryInfo of a device's memory, "Cpu" or "Cuda".
func describeMemory(device string, id int) (handle, error) {
	name := C.CString(device)
	defer C.free(unsafe.Pointer(name))
	var m handle
	err := check(C.ort_memory(name, C.int(id), &m))
	return m, err
}

// sessionOf returns the OrtSession of the binding's session. TestLayout holds
// the names of its fields.
func sessionOf(s *onnx.DynamicAdvancedSession) handle {
	return handle(reflect.ValueOf(s).Elem().FieldByName("s").Elem().FieldByName("ortSession").Pointer())
}

// optionsOf returns the OrtSessionOptions of the binding's.
func optionsOf(so *onnx.SessionOptions) handle {
	return handle(reflect.ValueOf(so).Elem().FieldByName("o").Pointer())
}

// names are those of a session's inputs or outputs, in C's memory.
type names struct {
	at **C.char
	n  int
}

func newNames(n int) names {
	return names{(**C.char)(C.calloc(C.size_t(n)+1, C.size_t(unsafe.Sizeof(uintptr(0))))), n}
}

func (n names) list() []*C.char { return unsafe.Slice(n.at, n.n) }

func (n names) free() {
	for _, x := range n.list() {
		C.free(unsafe.Pointer(x))
	}
	C.free(unsafe.Pointer(n.at))
}

// ports describes the inputs or outputs of a session. The names are to be freed.
func ports(session handle, outputs bool) ([]Info, names, error) {
	which := C.int(0)
	if outputs {
		which = 1
	}
	var count C.size_t
	if err := check(C.ort_ports(session, which, &count)); err != nil {
		return nil, names{}, err
	}
	list, n := make([]Info, count), newNames(int(count))
	for i := range list {
		var t C.struct_ort_tensor
		if err := check(C.ort_port(session, which, C.size_t(i), &n.list()[i], &t)); err != nil {
			return nil, n, err
		}
		list[i] = Info{Name: C.GoString(n.list()[i]), Type: typeName(t._type), Shape: shapeOf(&t)}
	}
	return list, n, nil
}

func shapeOf(t *C.struct_ort_tensor) []int {
	if t.rank > C.ORT_RANK {
		panic(fmt.Sprintf("ort: a tensor of %d dimensions; %d are read", t.rank, C.ORT_RANK))
	}
	var shape []int
	for _, d := range t.dims[:t.rank] {
		shape = append(shape, int(d))
	}
	return shape
}

// types are the element types that graphs of this project have: ONNX's number
// and bytes (onnx.proto, TensorProto.DataType).
var types = []struct {
	name string
	onnx C.int
	size int
}{
	{"float32", 1, 4}, {"uint8", 2, 1}, {"int8", 3, 1}, {"int32", 6, 4}, {"int64", 7, 8}, {"bool", 9, 1}, {"float16", 10, 2},
}

func typeName(t C.int) string {
	for _, x := range types {
		if x.onnx == t {
			return x.name
		}
	}
	return fmt.Sprintf("type %d", t)
}

// elem returns the number and size of a type.
func elem(name string) (onnx C.int, size int) {
	for _, x := range types {
		if x.name == name {
			return x.onnx, x.size
		}
	}
	panic("ort: no type " + name)
}

// pointer returns the address of the first element, for C; nil for none.
func pointer[T any](list []T) *T { return unsafe.SliceData(list) }
