package ort

/*
#include "shim.h"
*/
import "C"

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"

	imagebind "imagebind-llm"
)

// An Arena is memory outside of Go's heap for tensors that live as long as the
// program, a KV cache: host memory, whose pages cost nothing until they are
// written, or a device's, so that what a graph leaves there is never copied.
type Arena struct {
	n      int
	mem    []byte  // the host's
	device *device // nil: the host
}

// A device is memory of a session's allocator.
type device struct {
	memory, allocator handle
	at                handle // address on the device
	copier            *Session
}

// NewArena reserves n bytes of the host's memory, zero.
func NewArena(n int) (*Arena, error) {
	if n == 0 {
		return &Arena{}, nil
	}
	mem, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return nil, fmt.Errorf("reserve %d MiB: %w", n>>20, err)
	}
	return &Arena{n: n, mem: mem}, nil
}

// NewArena reserves n bytes, zero, where s computes: for cpu as [NewArena], for
// cuda from the allocator of the session's device.
func (s *Session) NewArena(n int) (*Arena, error) {
	if s.o.Provider != "cuda" || n == 0 {
		return NewArena(n)
	}
	return s.deviceArena(n, "Cuda", s.o.Device)
}

// deviceArena takes memory of s's allocator for a device by onnxruntime's name
// of it. Tests name "Cpu", which is all the same but for the place.
func (s *Session) deviceArena(n int, name string, id int) (_ *Arena, err error) {
	d := &device{}
	a := &Arena{n: n, device: d}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("reserve %d MiB on %s %d: %w", n>>20, name, id, err), a.Close())
		}
	}()
	if d.memory, err = describeMemory(name, id); err != nil {
		return nil, err
	}
	if err := check(C.ort_allocator(s.session, d.memory, &d.allocator)); err != nil {
		return nil, err
	}
	if err := check(C.ort_alloc(d.allocator, C.size_t(n), &d.at)); err != nil {
		return nil, err
	}
	if d.copier, err = openCopier(s.o); err != nil {
		return nil, err
	}
	return a, a.zero()
}

// zero writes zeros from the host: what an attention kernel reads beyond a
// sequence's end it multiplies by 0, which a NaN survives.
func (a *Arena) zero() error {
	block := make([]uint8, min(16<<20, a.n))
	for at := 0; at < a.n; at += len(block) {
		if err := a.Write(at, block[:min(len(block), a.n-at)]); err != nil {
			return err
		}
	}
	return nil
}

// Write copies bytes of the host's to offset.
func (a *Arena) Write(offset int, b []byte) error {
	a.inside("write", offset, len(b))
	if a.device == nil {
		copy(a.mem[offset:], b)
		return nil
	}
	src, err := over(b, "uint8", []int{len(b)})
	if err != nil {
		return err
	}
	defer Destroy(src)
	return a.copyTo(offset, src)
}

// View makes a value of a type ("float32", "float16") over the arena's bytes
// from offset.
func (a *Arena) View(offset int, typ string, shape ...int) (Value, error) {
	_, size := elem(typ)
	n := imagebind.Size(shape) * size
	a.inside("view", offset, n)
	if a.device != nil {
		return newTensor(a.device.memory, nil, uintptr(a.device.at)+uintptr(offset), n, typ, shape)
	}
	memory, err := hostMemory()
	if err != nil {
		return nil, err
	}
	return newTensor(memory, unsafe.Pointer(pointer(a.mem[offset:])), 0, n, typ, shape)
}

// Copy copies n bytes within the arena. Host memory may overlap.
func (a *Arena) Copy(dst, src, n int) error {
	a.inside("copy to", dst, n)
	a.inside("copy from", src, n)
	if a.device == nil {
		copy(a.mem[dst:dst+n], a.mem[src:src+n])
		return nil
	}
	if dst < src+n && src < dst+n {
		panic(fmt.Sprintf("ort: copy of %d bytes from %d to %d overlaps", n, src, dst))
	}
	from, err := a.View(src, "uint8", n)
	if err != nil {
		return err
	}
	defer Destroy(from)
	return a.copyTo(dst, from)
}

// copyTo copies src, a value of bytes anywhere, into the device at offset.
func (a *Arena) copyTo(offset int, src Value) error {
	to, err := a.View(offset, "uint8", src.ort().shape...)
	if err != nil {
		return err
	}
	defer Destroy(to)
	f := frame{[]handle{src.ort().value}, []handle{to.ort().value}}
	err = a.device.copier.run(0, &f)
	runtime.KeepAlive(src)
	return err
}

func (a *Arena) inside(what string, offset, n int) {
	if offset < 0 || n < 0 || offset+n > a.n {
		panic(fmt.Sprintf("ort: %s %d bytes at %d in an arena of %d", what, n, offset, a.n))
	}
}

// Device reports whether the memory is a device's, which the host cannot read.
func (a *Arena) Device() bool { return a.device != nil }

// Close gives the memory back. No value over it may be used afterwards.
func (a *Arena) Close() error {
	var errs []error
	if a.mem != nil {
		errs = append(errs, unix.Munmap(a.mem))
		a.mem = nil
	}
	if d := a.device; d != nil {
		if d.copier != nil {
			errs = append(errs, d.copier.Close())
		}
		if d.at != 0 {
			errs = append(errs, check(C.ort_free(d.allocator, d.at)))
		}
		if d.allocator != 0 {
			C.ort_release_allocator(d.allocator)
		}
		if d.memory != 0 {
			C.ort_release_memory(d.memory)
		}
		*d = device{}
	}
	a.n = 0
	return errors.Join(errs...)
}

// openCopier opens the graph y = Identity(x) over bytes [N]: onnxruntime's way
// of copying between any two places, whose run returns when all is there.
// CopyTensors of its C interface knows only devices whose provider was
// registered as a plug-in.
func openCopier(o Options) (*Session, error) {
	return OpenModel("copy", copyModel, o)
}

// copyModel is a ModelProto (onnx.proto): IR version 8, opset 17, one node.
var copyModel = []byte("\x08\x08" + // ir_version
	"\x3a\x3a" + // graph
	"\x0a\x10\x0a\x01x\x12\x01y\x22\x08Identity" + // node: input, output, op_type
	"\x12\x04copy" + // name
	"\x5a\x0f\x0a\x01x\x12\x0a\x0a\x08\x08\x02\x12\x04\x0a\x02\x12\x00" + // input x: uint8, one free dimension
	"\x62\x0f\x0a\x01y\x12\x0a\x0a\x08\x08\x02\x12\x04\x0a\x02\x12\x00" + // output y
	"\x42\x02\x10\x11") // opset_import
