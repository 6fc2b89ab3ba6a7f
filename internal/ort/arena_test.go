package ort

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// arenas are the kinds of memory: the device's is the CPU provider's own here,
// which goes all the way of a GPU's.
var arenas = []struct {
	name   string
	device bool
	make   func(s *Session, n int) (*Arena, error)
}{
	{"host", false, (*Session).NewArena},
	{"device", true, func(s *Session, n int) (*Arena, error) { return s.deviceArena(n, "Cpu", 0) }},
}

// read returns what a value holds.
func read(t testing.TB, v Value) []float32 {
	t.Helper()
	x, err := tensorOf(v)
	if err != nil {
		t.Fatal(err)
	}
	return x.Floats
}

// TestArena: a graph works in place on views of an arena, and rows are copied
// within it.
func TestArena(t *testing.T) {
	for _, tt := range arenas {
		t.Run(tt.name, func(t *testing.T) {
			s := openAdd(t)
			const n = 20 << 20 // more than one block of zeros
			a, err := tt.make(s, n)
			if err != nil {
				t.Fatal(err)
			}
			if a.Device() != tt.device {
				t.Errorf("device: %v", a.Device())
			}
			view := func(offset int) Value {
				v, err := a.View(offset, "float32", 1, 2)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { Destroy(v) })
				return v
			}
			sum, last := view(8), view(n-8)
			one, err := Floats([]float32{1, 2}, 1, 2)
			if err != nil {
				t.Fatal(err)
			}
			defer Destroy(one)
			for range 3 { // y goes where a was
				if err := s.Run(t.Context(), []Value{sum, one}, []Value{sum}); err != nil {
					t.Fatal(err)
				}
			}
			if err := a.Copy(n-8, 8, 8); err != nil {
				t.Fatal(err)
			}
			if err := a.Write(24, []byte{0, 0, 0x80, 0x3f, 0, 0, 0, 0x40}); err != nil {
				t.Fatal(err)
			}
			for i, want := range map[Value][]float32{sum: {3, 6}, last: {3, 6}, view(0): {0, 0}, view(16): {0, 0}, view(24): {1, 2}, view(32): {0, 0}, view(n - 16): {0, 0}} {
				if got := read(t, i); !reflect.DeepEqual(got, want) {
					t.Errorf("a view holds %v, want %v", got, want)
				}
			}
			half, err := a.View(0, "float16", 3, 4)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(half.Shape(), []int{3, 4}) {
				t.Errorf("shape %v", half.Shape())
			}
			Destroy(half)
			if err := s.Close(); err != nil { // the arena outlives the session
				t.Fatal(err)
			}
			if err := errors.Join(a.Close(), a.Close()); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestArenaBounds: what does not lie inside is a bug of the caller's.
func TestArenaBounds(t *testing.T) {
	s := openAdd(t)
	for _, tt := range arenas {
		a, err := tt.make(s, 64)
		if err != nil {
			t.Fatal(err)
		}
		defer a.Close()
		for name, f := range map[string]func(){
			"view":    func() { _, _ = a.View(32, "float32", 3, 3) },
			"before":  func() { _, _ = a.View(-4, "float32", 1) },
			"type":    func() { _, _ = a.View(0, "float8", 1) },
			"copy":    func() { _ = a.Copy(0, 60, 8) },
			"overlap": func() { _ = a.Copy(0, 4, 8) },
		} {
			func() {
				defer func() {
					if r := recover(); (r == nil) != (name == "overlap" && !tt.device) {
						t.Errorf("%s, %s: %v", tt.name, name, r)
					}
				}()
				f()
			}()
		}
	}
}

// TestArenaErrors: memory that is not there is said with how much was wanted, and where.
func TestArenaErrors(t *testing.T) {
	s := openAdd(t)
	if _, err := s.deviceArena(64, "Cuda", 0); err == nil || !strings.Contains(err.Error(), "on Cuda 0") {
		t.Errorf("a device that the session has not: %v", err)
	}
	if _, err := s.deviceArena(1<<60, "Cpu", 0); err == nil || !strings.Contains(err.Error(), "reserve") {
		t.Errorf("too much: %v", err)
	}
	if _, err := NewArena(1 << 60); err == nil || !strings.Contains(err.Error(), "MiB") {
		t.Errorf("too much of the host: %v", err)
	}
	if a, err := s.NewArena(0); err != nil || a.Close() != nil {
		t.Errorf("an empty arena: %v", err)
	}
}

// TestCancel: a run under a context that has ended is not begun, and a session
// may be used after one that was stopped.
func TestCancel(t *testing.T) {
	s := openAdd(t)
	a, _ := Floats([]float32{1, 2}, 1, 2)
	y, err := Floats([]float32{0, 0}, 1, 2)
	if err != nil {
		t.Fatal(err)
	}
	defer Destroy(a, y)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Run(ctx, []Value{a, a}, []Value{y}); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled run: %v", err)
	}
	x, err := s.stopper()
	if err != nil {
		t.Fatal(err)
	}
	x.terminate()
	if err := s.run(x.options, &frame{[]handle{a.ort().value, a.ort().value}, []handle{y.ort().value}}); err == nil {
		t.Error("a run that was stopped ended well")
	}
	<-x.done
	s.free = append(s.free, x) // as it is: its next run fails
	if err := s.Run(t.Context(), []Value{a, a}, []Value{y}); err == nil {
		t.Error("t's context has an end, so the stopper was used")
	}
	if err := s.Run(context.Background(), []Value{a, a}, []Value{y}); err != nil || read(t, y)[1] != 4 {
		t.Errorf("a run without an end: %v, %v", err, read(t, y))
	}
}

// TestRunAllocs: a run without an end makes no garbage, and reads its inputs anew.
func TestRunAllocs(t *testing.T) {
	s := openAdd(t)
	data := []float32{1, 2}
	a, _ := Floats(data, 1, 2)
	y, err := Floats([]float32{0, 0}, 1, 2)
	if err != nil {
		t.Fatal(err)
	}
	defer Destroy(a, y)
	in, out := []Value{a, y}, []Value{y}
	for range 2 {
		if err := s.Run(context.Background(), in, out); err != nil {
			t.Fatal(err)
		}
		data[0] = 5
	}
	if got := read(t, y); !reflect.DeepEqual(got, []float32{6, 4}) {
		t.Errorf("two sums: %v", got)
	}
	if n := testing.AllocsPerRun(100, func() {
		if err := s.Run(context.Background(), in, out); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations a run, want none", n)
	}
}

// wide opens a graph of n inputs and n outputs, yᵢ = aᵢ + aᵢ, and values for a
// run in place.
func wide(t testing.TB, n int) (*Session, []Value) {
	need(t)
	var graph []byte
	for i := range n {
		a, y := fmt.Sprintf("a%d", i), fmt.Sprintf("y%d", i)
		node := message(message(nil, 1, []byte(a)), 1, []byte(a))
		graph = message(graph, 1, message(message(node, 2, []byte(y)), 4, []byte("Add")))
		graph = message(message(graph, 11, valueInfo(a)), 12, valueInfo(y))
	}
	graph = message(graph, 2, []byte("g"))
	path := filepath.Join(t.TempDir(), "wide.onnx")
	if err := os.WriteFile(path, message(message(number(nil, 1, 8), 7, graph), 8, number(nil, 2, 17)), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := Open(path, Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	a, err := s.NewArena(8 * n)
	if err != nil {
		t.Fatal(err)
	}
	values := make([]Value, n)
	for i := range values {
		if values[i], err = a.View(8*i, "float32", 1, 2); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		Destroy(values...)
		if err := errors.Join(s.Close(), a.Close()); err != nil {
			t.Error(err)
		}
	})
	return s, values
}

// TestManyValues: a decoder of many layers has more values than a small array.
func TestManyValues(t *testing.T) {
	s, v := wide(t, 1100)
	one, err := Floats([]float32{1, 2}, 1, 2)
	if err != nil {
		t.Fatal(err)
	}
	defer Destroy(one)
	in := slices.Clone(v)
	for i := range in {
		in[i] = one
	}
	if err := s.Run(t.Context(), in, v); err != nil {
		t.Fatal(err)
	}
	if err := s.Run(context.Background(), v, v); err != nil {
		t.Fatal(err)
	}
	for i := range v {
		if got := read(t, v[i]); got[0] != 4 || got[1] != 8 {
			t.Fatalf("output %d is %v", i, got)
		}
	}
}

// BenchmarkRun is the cost of a run beside its operators: a graph of 64 inputs
// and outputs, as many small additions.
func BenchmarkRun(b *testing.B) {
	s, v := wide(b, 64)
	for name, ctx := range map[string]context.Context{"plain": context.Background(), "cancellable": b.Context()} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := s.Run(ctx, v, v); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
