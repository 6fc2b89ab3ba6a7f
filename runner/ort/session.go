package ort

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	onnx "github.com/yalue/onnxruntime_go"

	imagebind "imagebind-llm"
)

// Options say where and how a session runs.
type Options struct {
	Provider string `koanf:"provider" help:"where graphs run: cpu or cuda"`
	Device   int    `koanf:"device" help:"which CUDA device"`
	Threads  int    `koanf:"threads" help:"threads of one operator on the CPU; 0 means one a core"`
	// Spin keeps idle threads busy-waiting: faster alone on the machine, far
	// slower beside other work (facts: 80 against 140 tokens/s).
	Spin bool `koanf:"spin" help:"let idle threads spin: faster on a machine of its own"`
	// GPUMemory bounds the device arena of a session, in MiB; 0 means no bound.
	GPUMemory int `koanf:"gpu_memory" help:"limit of a session's device memory in MiB; 0 means none"`
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
	s               *onnx.DynamicAdvancedSession
	options         sync.Pool // *onnx.RunOptions
	name            string
}

// Open opens the graph at path; its external weights are memory-mapped. Load
// comes first, by itself where the caller has not.
func Open(path string, o Options) (*Session, error) {
	if _, err := Load(""); err != nil {
		return nil, err
	}
	so, err := sessionOptions(o)
	if err != nil {
		return nil, err
	}
	defer so.Destroy()
	ins, outs, err := onnx.GetInputOutputInfoWithOptions(path, so)
	if err != nil {
		return nil, fmt.Errorf("open graph %s: %w", path, err)
	}
	s := &Session{Inputs: infos(ins), Outputs: infos(outs), name: path}
	s.s, err = onnx.NewDynamicAdvancedSession(path, names(s.Inputs), names(s.Outputs), so)
	if err != nil {
		return nil, fmt.Errorf("open graph %s: %w", path, err)
	}
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

func appendCUDA(so *onnx.SessionOptions, o Options) error {
	cuda, err := onnx.NewCUDAProviderOptions()
	if err != nil {
		return err
	}
	defer cuda.Destroy()
	set := map[string]string{"device_id": strconv.Itoa(o.Device), "arena_extend_strategy": "kSameAsRequested"}
	if o.GPUMemory > 0 {
		set["gpu_mem_limit"] = strconv.Itoa(o.GPUMemory << 20)
	}
	if err := cuda.Update(set); err != nil {
		return err
	}
	return so.AppendExecutionProviderCUDA(cuda)
}

func infos(list []onnx.InputOutputInfo) []Info {
	out := make([]Info, len(list))
	for i, x := range list {
		out[i] = Info{Name: x.Name, Type: typeName(x.DataType)}
		for _, d := range x.Dimensions {
			out[i].Shape = append(out[i].Shape, int(d))
		}
	}
	return out
}

func typeName(t onnx.TensorElementDataType) string {
	switch t {
	case onnx.TensorElementDataTypeFloat:
		return "float32"
	case onnx.TensorElementDataTypeFloat16:
		return "float16"
	case onnx.TensorElementDataTypeInt64:
		return "int64"
	case onnx.TensorElementDataTypeInt32:
		return "int32"
	}
	return strings.ToLower(t.String())
}

func names(list []Info) []string {
	out := make([]string, len(list))
	for i, x := range list {
		out[i] = x.Name
	}
	return out
}

// Input returns the index of the input of that name, or -1.
func (s *Session) Input(name string) int {
	return slices.IndexFunc(s.Inputs, func(x Info) bool { return x.Name == name })
}

// Output returns the index of the output of that name, or -1.
func (s *Session) Output(name string) int {
	return slices.IndexFunc(s.Outputs, func(x Info) bool { return x.Name == name })
}

// Run runs the graph on values that the caller owns, in the order of Inputs and
// Outputs. An output may be the very value of an input, where the graph allows
// it (a KV cache). When ctx ends the run is stopped within one operator and its
// error is ctx's.
func (s *Session) Run(ctx context.Context, in, out []Value) error {
	if len(in) != len(s.Inputs) || len(out) != len(s.Outputs) {
		panic(fmt.Sprintf("ort: %s takes %d inputs and gives %d outputs; got %d and %d", s.name, len(s.Inputs), len(s.Outputs), len(in), len(out)))
	}
	if ctx.Done() == nil {
		return s.s.RunWithOptions(in, out, nil)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	ro, _ := s.options.Get().(*onnx.RunOptions)
	if ro == nil {
		var err error
		if ro, err = onnx.NewRunOptions(); err != nil {
			return err
		}
	}
	stop := context.AfterFunc(ctx, func() { _ = ro.Terminate() })
	err := s.s.RunWithOptions(in, out, ro)
	if stop() {
		s.options.Put(ro)
	} // else Terminate has run or is running: ro is left to the collector, which is rare
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	return err
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
func (s *Session) Close() error { return s.s.Destroy() }
