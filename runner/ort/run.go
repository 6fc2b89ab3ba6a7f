package ort

/*
#include "shim.h"
*/
import "C"

import (
	"context"
	"fmt"
	"runtime"
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

// A Binding is inputs and outputs prepared once, for a run that is repeated
// every token. It is for one goroutine at a time.
type Binding struct {
	s    *Session
	f    *frame
	keep []Value
}

// Bind prepares a run on values that the caller owns and destroys after Close.
// All outputs are given.
func (s *Session) Bind(in, out []Value) *Binding {
	b := &Binding{s, newFrame(len(s.Inputs), len(s.Outputs)), append(append([]Value{}, in...), out...)}
	b.f.fill(s, in, out)
	for i, v := range out {
		if v == nil {
			panic(fmt.Sprintf("ort: output %s is not bound", s.Outputs[i].Name))
		}
	}
	return b
}

// Run is [Session.Run] on what is bound.
func (b *Binding) Run(ctx context.Context) error {
	err := b.s.runUntil(ctx, b.f)
	runtime.KeepAlive(b)
	return err
}

// Close lets go of the values.
func (b *Binding) Close() { *b = Binding{} }

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
		return s.run(0, f)
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
	return x, check(C.ort_run_options(&x.options))
}

func (x *stopper) destroy() { C.ort_release_run_options(x.options) }
