package ort

/*
#include <stdlib.h>
#include "shim.h"
*/
import "C"

import (
	"context"
	"fmt"
	"runtime"
	"unsafe"
)

// Run runs the graph on values that the caller owns, in the order of Inputs and
// Outputs. An output may be the very value of an input, where the graph allows
// it (a KV cache); a nil output is made. When ctx ends the run is stopped within
// one operator and its error is ctx's. A ctx without an end costs no allocation.
func (s *Session) Run(ctx context.Context, in, out []Value) error {
	f := s.frames.Get().(*frame)
	defer s.frames.Put(f)
	f.fill(s, in, out)
	err := s.runUntil(ctx, f)
	runtime.KeepAlive(in)
	runtime.KeepAlive(out)
	for i, v := range out {
		if v != nil || f.out[i] == 0 {
			continue
		}
		t, wrong := made(f.out[i])
		if wrong != nil {
			return wrong
		}
		out[i] = t
	}
	return err
}

// A frame is the arguments of a run.
type frame struct{ in, out []handle }

func newFrame(in, out int) *frame { return &frame{make([]handle, in), make([]handle, out)} }

func (f *frame) fill(s *Session, in, out []Value) {
	if len(in) != len(s.Inputs) || len(out) != len(s.Outputs) {
		panic(fmt.Sprintf("ort: %s takes %d inputs and gives %d outputs; got %d and %d", s.name, len(s.Inputs), len(s.Outputs), len(in), len(out)))
	}
	for i, v := range in {
		f.in[i] = v.ort().value
	}
	clear(f.out)
	for i, v := range out {
		if v != nil {
			f.out[i] = v.ort().value
		}
	}
}

// runUntil runs until the end of ctx.
func (s *Session) runUntil(ctx context.Context, f *frame) error {
	if ctx.Done() == nil {
		return s.run(s.base, f)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	x, err := s.stopper()
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, x.terminate)
	err = s.run(x.options, f)
	if !stop() {
		<-x.done // terminate runs, or has
		if e := check(C.ort_terminate(x.options, 0)); e != nil {
			return e
		}
		if err != nil {
			err = ctx.Err()
		}
	}
	s.mu.Lock()
	s.free = append(s.free, x)
	s.mu.Unlock()
	return err
}

func (s *Session) run(options handle, f *frame) error {
	return check(C.ort_run(s.session, options, s.inputs.at, pointer(f.in), C.size_t(len(f.in)), s.outputs.at, pointer(f.out), C.size_t(len(f.out))))
}

// A stopper ends a run from outside.
type stopper struct {
	options   handle
	done      chan struct{} // hears that terminate has run
	terminate func()
}

// stopper returns one that no run has.
func (s *Session) stopper() (*stopper, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.free); n > 0 {
		x := s.free[n-1]
		s.free = s.free[:n-1]
		return x, nil
	}
	x := &stopper{done: make(chan struct{}, 1)}
	x.terminate = func() {
		_ = check(C.ort_terminate(x.options, 1)) // it sets a flag
		x.done <- struct{}{}
	}
	return x, s.newRunOptions(&x.options)
}

// newRunOptions makes OrtRunOptions with what Shrink asked for.
func (s *Session) newRunOptions(to *handle) error {
	if err := check(C.ort_run_options(to)); err != nil || !s.shrink {
		return err
	}
	key, value := C.CString("memory.enable_memory_arena_shrinkage"), C.CString("cpu:0")
	defer C.free(unsafe.Pointer(key))
	defer C.free(unsafe.Pointer(value))
	return check(C.ort_run_entry(*to, key, value))
}

// Shrink has every run on the CPU give its workspace back when it is over, where
// the session would keep what its largest took: an encoder's is hundreds of MiB,
// and to take it again costs nothing beside the run. What the first run takes
// stays, so that is best a small one; a device's memory stays, for there it does
// cost. Shrink is called before any run.
func (s *Session) Shrink() error {
	if s.o.Provider == "cuda" {
		return nil
	}
	s.shrink = true
	return s.newRunOptions(&s.base)
}

func (x *stopper) destroy() { C.ort_release_run_options(x.options) }
