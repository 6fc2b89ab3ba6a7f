package ort

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
)

// anonymous returns the private memory of the process, in MiB.
func anonymous(t *testing.T) int {
	t.Helper()
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(string(regexp.MustCompile(`RssAnon:\s+(\d+)`).FindSubmatch(b)[1]))
	if err != nil {
		t.Fatal(err)
	}
	return n >> 10
}

// TestShrink: what lies between two operators, 64 MiB here, is given back after a
// run, cancellable or not, and is kept where nobody asked.
func TestShrink(t *testing.T) {
	need(t)
	add := func(a, b, y string) []byte {
		node := message(message(nil, 1, []byte(a)), 1, []byte(b))
		return message(message(node, 2, []byte(y)), 4, []byte("Add"))
	}
	graph := message(message(nil, 1, add("a", "b", "t")), 1, add("t", "b", "y"))
	graph = message(message(message(graph, 2, []byte("g")), 11, valueInfo("a")), 11, valueInfo("b"))
	graph = message(graph, 12, valueInfo("y"))
	path := filepath.Join(t.TempDir(), "two.onnx")
	if err := os.WriteFile(path, message(message(number(nil, 1, 8), 7, graph), 8, number(nil, 2, 17)), 0o600); err != nil {
		t.Fatal(err)
	}
	const rows = 8 << 20
	v, err := Floats(make([]float32, 2*rows), rows, 2)
	if err != nil {
		t.Fatal(err)
	}
	small, err := Floats(make([]float32, 2), 1, 2)
	if err != nil {
		t.Fatal(err)
	}
	defer Destroy(v, small)
	for _, shrink := range []bool{false, true} {
		s, err := Open(path, Options{Threads: 1})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if shrink {
			if err := s.Shrink(); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Run(t.Context(), []Value{small, small}, []Value{small}); err != nil {
			t.Fatal(err)
		}
		before := anonymous(t)
		if err := s.Run(t.Context(), []Value{v, v}, []Value{v}); err != nil {
			t.Fatal(err)
		}
		if grown := anonymous(t) - before; (grown < 48) != shrink {
			t.Errorf("shrink %v: a run leaves %d MiB", shrink, grown)
		}
	}
}
