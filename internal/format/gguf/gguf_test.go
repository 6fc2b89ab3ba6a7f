package gguf

import (
	"bytes"
	"encoding/binary"
	"math"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	imagebind "imagebind-llm"
	"imagebind-llm/internal/format"
	"imagebind-llm/internal/golden"
)

// TestTypes holds every type against the Python package gguf, whole and from
// every place of a row: bit for bit, the products being the same.
func TestTypes(t *testing.T) {
	for _, tt := range []struct {
		file  string
		rows  int
		types int
	}{{"types.gguf", 3, 7}, {"more.gguf", 2, 5}} {
		f, err := Open("testdata/" + tt.file)
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
			if !slices.Equal(x.Shape, []int{tt.rows, 512}) || x.DType.String() != x.Name {
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
			var work sync.WaitGroup // Read is safe for concurrent use
			for from := 0; from < len(w); from += 37 {
				work.Go(func() {
					for _, size := range []int{0, 1, 31, 300, len(w) - from} {
						part := make([]float32, min(size, len(w)-from))
						if err := x.Read(part, from); err != nil || !slices.Equal(part, got[from:from+len(part)]) {
							t.Errorf("%s: %d elements from %d differ (%v)", x.Name, len(part), from, err)
						}
					}
				})
			}
			work.Wait()
			for _, from := range []int{-1, len(w) - 1, len(w) + 1} {
				if err := x.Read(make([]float32, 2), from); err == nil {
					t.Errorf("%s: reads two elements from %d", x.Name, from)
				}
			}
		}
		if n != tt.types {
			t.Errorf("%s: %d types", tt.file, n)
		}
	}
}

// TestLarge reads a tensor that takes several chunks, from within a block.
func TestLarge(t *testing.T) {
	const n = 3*chunk + 64
	raw := one(8, []uint64{n}, 0, n/32*34)
	data := raw[len(raw)-n/32*34:]
	for i := range n / 32 {
		data[34*i+1] = 0x3c // a scale of 1
		for j := range 32 {
			data[34*i+2+j] = byte(i + 3*j)
		}
	}
	f, err := parse(bytes.NewReader(raw), int64(len(raw)))
	if err != nil {
		t.Fatal(err)
	}
	for _, from := range []int{0, 5, chunk - 1} {
		got := make([]float32, n-from-7)
		if err := f.Tensors()[0].Read(got, from); err != nil {
			t.Fatal(err)
		}
		for k, v := range got {
			if i := from + k; v != float32(int8(i/32+3*(i%32))) {
				t.Fatalf("element %d is %v", i, v)
			}
		}
	}
}

func TestMetadata(t *testing.T) {
	for file, values := range map[string]map[string]any{
		"types.gguf": {
			"general.architecture": "test", "n": uint32(7), "f": float32(0.5), "s": "héllo", "b": true, "big": uint64(1 << 40),
			"list": []string{"a", "bc", ""}, "ints": []int32{1, -2, 3},
		},
		"more.gguf": {
			"general.alignment": uint32(64), "bools": []bool{true, false}, "bytes": []uint8{1, 255}, "doubles": []float64{0.1, -2},
			"longs": []int64{-1, 1 << 40}, "nested": []any{[]int32{1, 2}, []int32{3}},
		},
	} {
		f, err := Open("testdata/" + file)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		for key, want := range values {
			if got := f.Metadata()[key]; !reflect.DeepEqual(got, want) {
				t.Errorf("%s is %#v, want %#v", key, got, want)
			}
		}
	}
}

// TestUnread: a type that is not read is listed, and named when it is wanted;
// one that is not even known must not make anyone allocate what it claims.
func TestUnread(t *testing.T) {
	for _, tt := range []struct {
		typ    uint32
		axes   []uint64
		dtype  format.DType
		within string
	}{
		{23, []uint64{256, 2}, format.IQ4_XS, "IQ4_XS"},
		{99, []uint64{1 << 34, 1 << 20}, format.Unknown, "number 99"},
	} {
		raw := one(tt.typ, tt.axes, 0, 272)
		f, err := parse(bytes.NewReader(raw), int64(len(raw)))
		if err != nil {
			t.Fatal(err)
		}
		x := f.Tensors()[0]
		if _, err := x.Floats(); imagebind.KindOf(err) != imagebind.Unsupported || !strings.Contains(err.Error(), tt.within) || x.DType != tt.dtype {
			t.Errorf("%v: error is %v, want %q in it", x, err, tt.within)
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
	var deep, long, twice, lies, texts, many, strange, kind, align, double writer
	for _, w := range []*writer{&deep, &long, &lies, &texts, &many, &strange, &kind} {
		w.WriteString("GGUF")
		w.put(uint32(3), uint64(0), uint64(1), "k")
	}
	deep.put(uint32(9))
	for range 10 {
		deep.put(uint32(9), uint64(1))
	}
	long.put(uint32(9), uint32(0), uint64(1<<60))
	lies.put(uint32(8), uint64(1<<40))
	texts.put(uint32(9), uint32(8), uint64(1000), "a", "b")
	many.put(uint32(9), uint32(7), uint64(maxValues+1))
	many.Write(make([]byte, maxValues+1))
	strange.put(uint32(9), uint32(77), uint64(1), uint64(0))
	kind.put(uint32(77), uint64(0))
	align.WriteString("GGUF")
	align.put(uint32(3), uint64(0), uint64(1), "general.alignment", uint32(4), uint32(3))
	double.WriteString("GGUF")
	double.put(uint32(3), uint64(2), uint64(0), "x", uint32(0), uint32(0), uint64(0), "x", uint32(0), uint32(0), uint64(0))
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
		{"arrays in arrays", deep.Bytes(), "arrays in arrays"},
		{"an endless array", long.Bytes(), "an array of"},
		{"an endless array of texts", texts.Bytes(), "an array of"},
		{"more values than allowed", many.Bytes(), "more than"},
		{"a type of arrays", strange.Bytes(), "an array of type 77"},
		{"a type not known", kind.Bytes(), "type 77 is not known"},
		{"an IQ4_XS cut", one(23, []uint64{256, 2}, 0, 200), "the file is cut"},
		{"an alignment", align.Bytes(), "general.alignment is 3"},
		{"a tensor twice", double.Bytes(), "two tensors"},
		{"a text that lies", lies.Bytes(), "a text of"},
		{"a key twice", twice.Bytes(), "comes twice"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := parse(bytes.NewReader(tt.raw), int64(len(tt.raw))); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error is %v, want %q in it", err, tt.want)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	raw, err := os.ReadFile("testdata/types.gguf")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw[:1024])
	if raw, err = os.ReadFile("testdata/more.gguf"); err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add(one(0, []uint64{8, 4}, 0, 128))
	f.Add(one(12, []uint64{256}, 0, 144))
	f.Fuzz(func(t *testing.T, raw []byte) {
		f, err := parse(bytes.NewReader(raw), int64(len(raw)))
		if err != nil {
			return
		}
		for _, x := range f.Tensors() {
			whole, err := x.Floats()
			if imagebind.KindOf(err) == imagebind.Unsupported {
				continue // a type that is not read
			}
			if err != nil {
				t.Fatalf("%v: %v", x, err)
			}
			from := len(whole) / 3
			part := make([]float32, len(whole)-from)
			if err := x.Read(part, from); err != nil {
				t.Fatalf("%v from %d: %v", x, from, err)
			}
			for i, v := range part {
				if math.Float32bits(v) != math.Float32bits(whole[from+i]) && v == v {
					t.Fatalf("%v: element %d is %v, and %v from %d on", x, from+i, whole[from+i], v, from)
				}
			}
		}
	})
}
