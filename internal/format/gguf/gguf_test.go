package gguf

import (
	"bytes"
	"encoding/binary"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"imagebind-llm/internal/golden"
)

// TestTypes holds every type against the Python package gguf, whole and from
// every place of a row: bit for bit, the products being the same.
func TestTypes(t *testing.T) {
	f, err := Open("testdata/types.gguf")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	n := 0
	for _, x := range f.Tensors() {
		want, ok := f.Tensor(x.Name + "/want")
		if !ok {
			continue
		}
		n++
		if !slices.Equal(x.Shape, []int{3, 512}) || x.DType.String() != x.Name {
			t.Errorf("%v", x)
		}
		w, err := want.Floats()
		if err != nil {
			t.Fatal(err)
		}
		got, err := x.Floats()
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: off by %.2g", x.Name, golden.Close(t, got, w, 0))
		for from := 0; from < len(w); from += 37 {
			for _, size := range []int{0, 1, 31, 300, len(w) - from} {
				part := make([]float32, min(size, len(w)-from))
				if err := x.Read(part, from); err != nil || !slices.Equal(part, got[from:from+len(part)]) {
					t.Fatalf("%s: %d elements from %d differ (%v)", x.Name, len(part), from, err)
				}
			}
		}
		if err := x.Read(make([]float32, 2), len(w)-1); err == nil {
			t.Errorf("%s: reads behind the end", x.Name)
		}
	}
	if n != 7 {
		t.Errorf("%d types", n)
	}
}

func TestMetadata(t *testing.T) {
	f, err := Open("testdata/types.gguf")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for key, want := range map[string]any{
		"general.architecture": "test", "n": uint32(7), "f": float32(0.5), "s": "héllo", "b": true, "big": uint64(1 << 40),
		"list": []any{"a", "bc", ""}, "ints": []any{int32(1), int32(-2), int32(3)},
	} {
		if got := f.Metadata()[key]; !reflect.DeepEqual(got, want) {
			t.Errorf("%s is %#v, want %#v", key, got, want)
		}
	}
}

// A writer makes small files.
type writer struct{ bytes.Buffer }

func (w *writer) put(values ...any) {
	for _, v := range values {
		if s, ok := v.(string); ok {
			w.put(uint64(len(s)))
			w.WriteString(s)
			continue
		}
		if err := binary.Write(w, binary.LittleEndian, v); err != nil {
			panic(err)
		}
	}
}

// one is a file of one tensor [32] of a type, with data bytes of data.
func one(typ uint32, axes []uint64, offset uint64, data int) []byte {
	var w writer
	w.WriteString("GGUF")
	w.put(uint32(3), uint64(1), uint64(0), "x", uint32(len(axes)))
	for _, d := range axes {
		w.put(d)
	}
	w.put(typ, offset)
	w.Write(make([]byte, (32-w.Len()%32)%32+data))
	return w.Bytes()
}

func TestRefused(t *testing.T) {
	var deep, long, twice, lies writer
	for _, w := range []*writer{&deep, &long, &lies} {
		w.WriteString("GGUF")
		w.put(uint32(3), uint64(0), uint64(1), "k")
	}
	deep.put(uint32(9))
	for range 10 {
		deep.put(uint32(9), uint64(1))
	}
	long.put(uint32(9), uint32(0), uint64(1<<60))
	lies.put(uint32(8), uint64(1<<40))
	twice.WriteString("GGUF")
	twice.put(uint32(3), uint64(0), uint64(2), "k", uint32(0), uint8(1), "k", uint32(0), uint8(1))
	for _, tt := range []struct {
		name string
		raw  []byte
		want string
	}{
		{"nothing", nil, "no GGUF"},
		{"text", []byte("hello, world"), "no GGUF"},
		{"version 1", append([]byte("GGUF\x01\x00\x00\x00"), make([]byte, 16)...), "version is 1"},
		{"big endian", append([]byte("GGUF\x00\x00\x00\x03"), make([]byte, 16)...), "big-endian"},
		{"counts that lie", append([]byte("GGUF\x03\x00\x00\x00"), bytes.Repeat([]byte{0xff}, 16)...), "claims"},
		{"header cut", one(0, []uint64{32}, 0, 128)[:40], "ends within its header"},
		{"data cut", one(0, []uint64{32}, 0, 100), "the file is cut"},
		{"offset behind the end", one(0, []uint64{32}, 1<<40, 128), "the file is cut"},
		{"offset between", one(0, []uint64{32}, 7, 256), "the file is cut"},
		{"axes that overflow", one(0, []uint64{1 << 34, 1 << 34, 1 << 34}, 0, 128), "has an axis"},
		{"too many axes", one(0, []uint64{1, 1, 1, 1, 1}, 0, 128), "has 5 axes"},
		{"rows of part blocks", one(2, []uint64{16, 2}, 0, 128), "no whole blocks"},
		{"arrays in arrays", deep.Bytes(), "an array of"},
		{"an endless array", long.Bytes(), "an array of"},
		{"a text that lies", lies.Bytes(), "a text of"},
		{"a key twice", twice.Bytes(), "comes twice"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := parse(bytes.NewReader(tt.raw), int64(len(tt.raw))); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error is %v, want %q in it", err, tt.want)
			}
		})
	}
	// A type that is not read is listed, and named when it is wanted.
	raw := one(13, []uint64{256}, 0, 256)
	f, err := parse(bytes.NewReader(raw), int64(len(raw)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Tensors()[0].Floats(); err == nil || !strings.Contains(err.Error(), "Q5_K") {
		t.Errorf("error is %v", err)
	}
}

func FuzzParse(f *testing.F) {
	raw, err := os.ReadFile("testdata/types.gguf")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw[:1024])
	f.Add(one(0, []uint64{8, 4}, 0, 128))
	f.Add(one(12, []uint64{256}, 0, 144))
	f.Fuzz(func(t *testing.T, raw []byte) {
		f, err := parse(bytes.NewReader(raw), int64(len(raw)))
		if err != nil {
			return
		}
		for _, x := range f.Tensors() {
			if x.DType.String() == "unknown" {
				continue
			}
			if _, err := x.Floats(); err != nil {
				t.Errorf("%v: %v", x, err)
			}
		}
	})
}
