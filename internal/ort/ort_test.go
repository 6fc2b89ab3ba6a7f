package ort

import (
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	imagebind "imagebind-llm"
	"imagebind-llm/internal/golden"
)

func need(t testing.TB) {
	t.Helper()
	if _, err := Load(""); err != nil {
		golden.Need(t, "ort", "wants onnxruntime: "+err.Error())
	}
}

// message appends a field that holds a message or a string.
func message(b []byte, field protowire.Number, v []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, field, protowire.BytesType), v)
}

func number(b []byte, field protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.VarintType), v)
}

// valueInfo is a float tensor [N, 2].
func valueInfo(name string) []byte {
	dims := message(nil, 1, message(nil, 2, []byte("N")))
	dims = message(dims, 1, number(nil, 1, 2))
	tensor := message(number(nil, 1, 1), 2, dims)
	return message(message(nil, 1, []byte(name)), 2, message(nil, 1, tensor))
}

// model writes the graph y = a + b over float [N, 2].
func model(t testing.TB) string {
	node := message(nil, 1, []byte("a"))
	node = message(node, 1, []byte("b"))
	node = message(node, 2, []byte("y"))
	node = message(node, 4, []byte("Add"))
	graph := message(nil, 1, node)
	graph = message(graph, 2, []byte("g"))
	graph = message(graph, 11, valueInfo("a"))
	graph = message(graph, 11, valueInfo("b"))
	graph = message(graph, 12, valueInfo("y"))
	m := number(nil, 1, 8)
	m = message(m, 7, graph)
	m = message(m, 8, number(nil, 2, 17))
	path := filepath.Join(t.TempDir(), "add.onnx")
	if err := os.WriteFile(path, m, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func openAdd(t testing.TB) *Session {
	t.Helper()
	need(t)
	s, err := Open(model(t), Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func floats(v ...float32) imagebind.Tensor {
	return imagebind.Tensor{Shape: []int{len(v) / 2, 2}, Floats: v}
}

func TestCompute(t *testing.T) {
	s := openAdd(t)
	if got := (Info{Name: "a", Type: "float32", Shape: []int{-1, 2}}); !reflect.DeepEqual(s.Inputs[0], got) {
		t.Errorf("input is %+v", s.Inputs[0])
	}
	out, err := s.Compute(t.Context(), map[string]imagebind.Tensor{"a": floats(1, 2, 3, 4), "b": floats(10, 20, 30, 40)})
	if err != nil {
		t.Fatal(err)
	}
	if y := out["y"]; !reflect.DeepEqual(y, floats(11, 22, 33, 44)) {
		t.Errorf("y = %+v", y)
	}
}

func TestComputeErrors(t *testing.T) {
	s := openAdd(t)
	for _, tt := range []struct {
		name string
		in   map[string]imagebind.Tensor
		want string
	}{
		{"missing", map[string]imagebind.Tensor{"a": floats(1, 2)}, "input b is not given"},
		{"rank", map[string]imagebind.Tensor{"a": {Shape: []int{2}, Floats: []float32{1, 2}}, "b": floats(1, 2)}, "the graph takes [-1 2]"},
		{"dim", map[string]imagebind.Tensor{"a": {Shape: []int{1, 3}, Floats: []float32{1, 2, 3}}, "b": floats(1, 2)}, "the graph takes [-1 2]"},
		{"type", map[string]imagebind.Tensor{"a": {Shape: []int{1, 2}, Ints: []int64{1, 2}}, "b": floats(1, 2)}, "the graph takes float32"},
		{"no broadcast", map[string]imagebind.Tensor{"a": floats(1, 2, 3, 4), "b": floats(1, 2, 3, 4, 5, 6)}, "add.onnx"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := s.Compute(t.Context(), tt.in); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q in it", err, tt.want)
			}
		})
	}
}

func TestOpenErrors(t *testing.T) {
	need(t)
	if _, err := Open(model(t), Options{Provider: "tpu"}); err == nil || !strings.Contains(err.Error(), "cpu or cuda") {
		t.Errorf("unknown provider: %v", err)
	}
	if _, err := Open(filepath.Join(t.TempDir(), "none.onnx"), Options{}); err == nil || !strings.Contains(err.Error(), "none.onnx") {
		t.Errorf("no file: %v", err)
	}
	if _, err := find(filepath.Join(t.TempDir(), "none.so")); err == nil {
		t.Error("a named library that is not there was found")
	}
}

// TestScalar: the graph reads what Set wrote last.
func TestScalar(t *testing.T) {
	need(t)
	info := func(name string) []byte { // int32, rank 0
		tensor := message(number(nil, 1, 6), 2, nil)
		return message(message(nil, 1, []byte(name)), 2, message(nil, 1, tensor))
	}
	node := message(message(nil, 1, []byte("x")), 1, []byte("x"))
	node = message(message(node, 2, []byte("y")), 4, []byte("Add"))
	graph := message(message(message(message(nil, 1, node), 2, []byte("g")), 11, info("x")), 12, info("y"))
	path := filepath.Join(t.TempDir(), "twice.onnx")
	if err := os.WriteFile(path, message(message(number(nil, 1, 8), 7, graph), 8, number(nil, 2, 17)), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := Open(path, Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	x, err := NewScalar()
	if err != nil {
		t.Fatal(err)
	}
	y, err := NewScalar()
	if err != nil {
		t.Fatal(err)
	}
	defer Destroy(x.Value, y.Value)
	for _, v := range []int32{7, -3} {
		x.Set(v)
		runtime.GC()
		if err := s.Run(t.Context(), []Value{x.Value}, []Value{y.Value}); err != nil {
			t.Fatal(err)
		}
		if *y.at != 2*v {
			t.Errorf("twice %d is %d", v, *y.at)
		}
	}
}
