package ort

// #include "shim.h"
import "C"

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"

	onnx "github.com/yalue/onnxruntime_go"

	imagebind "imagebind-llm"
	"imagebind-llm/internal/ort/kernel"
)

// Options say where and how a session runs.
type Options struct {
	Provider string `koanf:"provider" help:"where graphs run: cpu or cuda"`
	Device   int    `koanf:"device" help:"which CUDA device"`
	Threads  int    `koanf:"threads" help:"threads of one operator on the CPU; 0 means one a core"`
	// Spin keeps idle threads busy-waiting: faster alone on the machine, far
	// slower beside other work (facts: 80 against 140 tokens/s).
	Spin bool `koanf:"spin" help:"let idle threads spin: faster on a machine of its own"`
	// Plain leaves the CPU's graphs as they are: onnxruntime's own operators, in
	// place of package kernel's.
	Plain bool `koanf:"plain" help:"run onnxruntime's own operators only, for comparison"`
	// GPUMemory bounds the device arena of a session, in MiB; 0 means no bound.
	GPUMemory int `koanf:"gpu_memory" help:"limit of a session's device memory in MiB; 0 means none"`
	// TF32 lets a CUDA device round the factors of float32 products to 10 bits.
	TF32 bool `koanf:"tf32" help:"on CUDA, faster float32 products with 10 bits of precision: not the reference's numbers"`
}

// An Info describes an input or output of a graph; -1 is a free dimension.
type Info struct {
	Name  string
	Type  string // float32, float16, int64, int32, …
	Shape []int
}

// A Session is an open graph. Its methods may be called concurrently.
type Session struct {
	Inputs, Outputs []Info
	Kernels         int // operators that are package kernel's

	name            string
	o               Options
	s               *onnx.DynamicAdvancedSession
	session         handle // the same
	inputs, outputs names
	frames          sync.Pool // *frame

	shrink bool
	base   handle // options of a run without an end; 0: onnxruntime's

	mu   sync.Mutex
	free []*stopper
}

// Open opens the graph at path; its external weights are memory-mapped. Load
// comes first, by itself where the caller has not.
func Open(path string, o Options) (*Session, error) {
	ours := 0
	s, err := open(path, o, func(so *onnx.SessionOptions) (*onnx.DynamicAdvancedSession, error) {
		model, n, err := swapped(path, o, so)
		ours = n
		if err != nil {
			return nil, err
		}
		if model != nil {
			return onnx.NewDynamicAdvancedSessionWithONNXData(model, nil, nil, so)
		}
		return onnx.NewDynamicAdvancedSession(path, nil, nil, so)
	})
	if err != nil {
		return nil, fmt.Errorf("open graph %s: %w", path, err)
	}
	s.Kernels = ours
	return s, nil
}

// OpenModel opens a graph that is in memory whole, by a name for messages. Its
// operators are onnxruntime's.
func OpenModel(name string, model []byte, o Options) (*Session, error) {
	return open(name, o, func(so *onnx.SessionOptions) (*onnx.DynamicAdvancedSession, error) {
		return onnx.NewDynamicAdvancedSessionWithONNXData(model, nil, nil, so)
	})
}

// swapped returns the graph at path with package kernel's operators in place of
// onnxruntime's, and how many, and makes so ready for it. Where there are none
// it returns nil.
func swapped(path string, o Options, so *onnx.SessionOptions) ([]byte, int, error) {
	if o.Plain || o.Provider == "cuda" || !kernel.Supported() {
		return nil, 0, nil
	}
	model, err := os.ReadFile(path)
	if err != nil {
		return nil, 0, err
	}
	model, n, err := kernel.Swap(model)
	if n == 0 || err != nil {
		return nil, 0, err
	}
	if err := check(handle(kernel.Register(uintptr(C.ort_table()), uintptr(optionsOf(so))))); err != nil {
		return nil, 0, err
	}
	dir, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return nil, 0, err
	}
	return model, n, so.AddSessionConfigEntry("session.model_external_initializers_file_folder_path", dir)
}

func open(name string, o Options, create func(*onnx.SessionOptions) (*onnx.DynamicAdvancedSession, error)) (*Session, error) {
	if _, err := Load(""); err != nil {
		return nil, err
	}
	so, err := sessionOptions(o)
	if err != nil {
		return nil, err
	}
	defer so.Destroy()
	s := &Session{name: name, o: o}
	if s.s, err = create(so); err != nil {
		return nil, err
	}
	s.session = sessionOf(s.s)
	var err1, err2 error
	s.Inputs, s.inputs, err1 = ports(s.session, false)
	s.Outputs, s.outputs, err2 = ports(s.session, true)
	if err := errors.Join(err1, err2); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	s.frames.New = func() any { return newFrame(len(s.Inputs), len(s.Outputs)) }
	return s, nil
}

func sessionOptions(o Options) (*onnx.SessionOptions, error) {
	so, err := onnx.NewSessionOptions()
	if err != nil {
		return nil, err
	}
	spin := "0"
	if o.Spin {
		spin = "1"
	}
	for _, err := range []error{
		so.SetIntraOpNumThreads(o.Threads),
		so.AddSessionConfigEntry("session.intra_op.allow_spinning", spin),
	} {
		if err != nil {
			so.Destroy()
			return nil, err
		}
	}
	switch o.Provider {
	case "", "cpu":
		return so, nil
	case "cuda":
		if err := appendCUDA(so, o); err != nil {
			so.Destroy()
			return nil, fmt.Errorf("the CUDA provider (install it with ORT_FLAVOUR=cuda make ort): %w", err)
		}
		return so, nil
	}
	so.Destroy()
	return nil, fmt.Errorf("provider %q: it is cpu or cuda", o.Provider)
}

// Input returns the index of the input of that name, or -1.
func (s *Session) Input(name string) int {
	return slices.IndexFunc(s.Inputs, func(x Info) bool { return x.Name == name })
}

// Output returns the index of the output of that name, or -1.
func (s *Session) Output(name string) int {
	return slices.IndexFunc(s.Outputs, func(x Info) bool { return x.Name == name })
}

// Compute runs the graph once on float32 and int64 tensors by name and returns
// the outputs asked for, or all. Outputs must be float32 or int64.
func (s *Session) Compute(ctx context.Context, in map[string]imagebind.Tensor, want ...string) (map[string]imagebind.Tensor, error) {
	values := make([]Value, len(s.Inputs))
	defer func() { destroy(values) }()
	for i, x := range s.Inputs {
		t, ok := in[x.Name]
		if !ok {
			return nil, fmt.Errorf("graph %s: input %s is not given", s.name, x.Name)
		}
		v, err := newInput(x, t)
		if err != nil {
			return nil, fmt.Errorf("graph %s: input %s: %w", s.name, x.Name, err)
		}
		values[i] = v
	}
	outs := make([]Value, len(s.Outputs))
	defer func() { destroy(outs) }()
	if err := s.Run(ctx, values, outs); err != nil {
		return nil, fmt.Errorf("graph %s: %w", s.name, err)
	}
	result := map[string]imagebind.Tensor{}
	for i, x := range s.Outputs {
		if len(want) > 0 && !slices.Contains(want, x.Name) {
			continue
		}
		t, err := tensorOf(outs[i])
		if err != nil {
			return nil, fmt.Errorf("graph %s: output %s: %w", s.name, x.Name, err)
		}
		result[x.Name] = t
	}
	return result, nil
}

// Close frees the session. No run may be under way.
func (s *Session) Close() error {
	for _, x := range s.free {
		x.destroy()
	}
	s.free = nil
	if s.base != 0 {
		C.ort_release_run_options(s.base)
		s.base = 0
	}
	s.inputs.free()
	s.outputs.free()
	s.inputs, s.outputs = names{}, names{}
	return s.s.Destroy()
}
