package torch

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	imagebind "imagebind-llm"
	"imagebind-llm/internal/format"
	"imagebind-llm/internal/golden"
)

const goldens = "../../../testdata/golden/"

func open(t testing.TB, path string) *File {
	t.Helper()
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// TestGoldenKeys holds names, shapes and types of every golden checkpoint
// against what torch says of them.
func TestGoldenKeys(t *testing.T) {
	var keys map[string]json.RawMessage
	golden.JSON(t, goldens+"llama-adapter-tiny/keys.json", &keys)
	for _, tt := range []struct{ file, key, prefix string }{
		{"adapter-finetune.pth", "finetune", "model."},
		{"adapter-pretrain.pth", "pretrain", "model."},
		{"adapter-legacy.pth", "legacy", "model."},
	} {
		t.Run(tt.file, func(t *testing.T) {
			raw, ok := keys[tt.key]
			if !ok {
				t.Fatalf("keys.json has no %s", tt.key)
			}
			var want map[string][2]json.RawMessage // shape, type
			if err := json.Unmarshal(raw, &want); err != nil {
				t.Fatal(err)
			}
			f := open(t, goldens+"llama-adapter-tiny/"+tt.file)
			if len(f.Tensors()) != len(want) {
				t.Errorf("%d tensors, want %d", len(f.Tensors()), len(want))
			}
			types := map[string]format.DType{"float32": format.F32, "float16": format.F16, "int64": format.I64}
			for name, w := range want {
				var shape []int
				var dtype string
				if err := errors.Join(json.Unmarshal(w[0], &shape), json.Unmarshal(w[1], &dtype)); err != nil {
					t.Fatal(err)
				}
				got, ok := f.Tensor(tt.prefix + name)
				if !ok || !slices.Equal(got.Shape, shape) || got.DType != types[dtype] {
					t.Errorf("%s is %v, want %v %s", name, got, shape, dtype)
				}
			}
		})
	}
}

// A pickler writes what torch.save writes.
type pickler struct{ bytes.Buffer }

func (p *pickler) op(b ...byte) { p.Write(b) }
func (p *pickler) str(s string) {
	p.op(opBinUnicode)
	p.Write(binary.LittleEndian.AppendUint32(nil, uint32(len(s))))
	p.WriteString(s)
}
func (p *pickler) int(n int) {
	p.op(opBinInt)
	p.Write(binary.LittleEndian.AppendUint32(nil, uint32(n)))
}
func (p *pickler) global(module, name string) { p.WriteString("c" + module + "\n" + name + "\n") }
func (p *pickler) ints(n []int) {
	p.op(opMark)
	for _, x := range n {
		p.int(x)
	}
	p.op(opTuple)
}

// tensor writes a view of data/key.
func (p *pickler) tensor(typ, key string, count, offset int, shape, strides []int) {
	p.global("torch._utils", "_rebuild_tensor_v2")
	p.op(opMark)
	p.op(opMark)
	p.str("storage")
	p.global("torch", typ)
	p.str(key)
	p.str("cpu")
	p.int(count)
	p.op(opTuple, opBinPersID)
	p.int(offset)
	p.ints(shape)
	p.ints(strides)
	p.op(opFalse)
	p.global("collections", "OrderedDict")
	p.op(opEmptyTuple, opReduce, opTuple, opReduce)
}

// file makes the zip around a pickle.
func file(t testing.TB, pickle []byte, storages map[string][]byte) []byte {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	add := func(name string, data []byte) {
		w, err := z.CreateHeader(&zip.FileHeader{Name: name, Method: zip.Store})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	add("archive/data.pkl", pickle)
	add("archive/byteorder", []byte("little"))
	for key, data := range storages {
		add("archive/data/"+key, data)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func parsed(raw []byte) (*File, error) { return parse(bytes.NewReader(raw), int64(len(raw))) }

// f32 is 0, 1, 2, … as a storage.
func f32(n int) []byte {
	var b []byte
	for i := range n {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(float32(i)))
	}
	return b
}

// TestViews reads views of one storage: offsets, transposes, gaps, broadcasts,
// scalars, nothing at all, and from the middle.
func TestViews(t *testing.T) {
	for _, tt := range []struct {
		name           string
		offset         int
		shape, strides []int
		want           []float32
	}{
		{"plain", 0, []int{2, 3}, []int{3, 1}, []float32{0, 1, 2, 3, 4, 5}},
		{"offset", 5, []int{2, 2}, []int{2, 1}, []float32{5, 6, 7, 8}},
		{"transposed", 1, []int{3, 2}, []int{1, 3}, []float32{1, 4, 2, 5, 3, 6}},
		{"rows with a gap", 0, []int{2, 2}, []int{5, 1}, []float32{0, 1, 5, 6}},
		{"every third", 2, []int{4}, []int{3}, []float32{2, 5, 8, 11}},
		{"broadcast", 3, []int{3, 2}, []int{0, 1}, []float32{3, 4, 3, 4, 3, 4}},
		{"three axes turned", 0, []int{2, 2, 3}, []int{1, 6, 2}, []float32{0, 2, 4, 6, 8, 10, 1, 3, 5, 7, 9, 11}},
		{"a single axis of one", 4, []int{1, 3}, []int{99, 1}, []float32{4, 5, 6}},
		{"scalar", 7, nil, nil, []float32{7}},
		{"empty", 12, []int{0, 4}, []int{4, 1}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var p pickler
			p.op(opProto, 2, opEmptyDict)
			p.str("x")
			p.tensor("FloatStorage", "0", 12, tt.offset, tt.shape, tt.strides)
			p.op(opSetItem, opStop)
			f, err := parsed(file(t, p.Bytes(), map[string][]byte{"0": f32(12)}))
			if err != nil {
				t.Fatal(err)
			}
			x, ok := f.Tensor("x")
			if !ok {
				t.Fatal("no tensor x")
			}
			got, err := x.Floats()
			if err != nil || !slices.Equal(got, tt.want) {
				t.Fatalf("%v, want %v (%v)", got, tt.want, err)
			}
			for from := range tt.want {
				part := make([]float32, len(tt.want)-from)
				if err := x.Read(part, from); err != nil || !slices.Equal(part, tt.want[from:]) {
					t.Errorf("from %d: %v (%v)", from, part, err)
				}
			}
			if err := x.Read(make([]float32, 2), len(tt.want)-1); err == nil {
				t.Error("reads behind the end")
			}
		})
	}
}

// TestTypes reads 1 and -2 in every type.
func TestTypes(t *testing.T) {
	for typ, data := range map[string][]byte{
		"DoubleStorage": {0, 0, 0, 0, 0, 0, 0xf0, 0x3f, 0, 0, 0, 0, 0, 0, 0, 0xc0}, "FloatStorage": {0, 0, 0x80, 0x3f, 0, 0, 0, 0xc0},
		"HalfStorage": {0, 0x3c, 0, 0xc0}, "BFloat16Storage": {0x80, 0x3f, 0, 0xc0},
		"LongStorage": {1, 0, 0, 0, 0, 0, 0, 0, 0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, "IntStorage": {1, 0, 0, 0, 0xfe, 0xff, 0xff, 0xff},
		"ShortStorage": {1, 0, 0xfe, 0xff}, "CharStorage": {1, 0xfe},
	} {
		var p pickler
		p.op(opProto, 2)
		p.op(opEmptyDict)
		p.str("x")
		p.tensor(typ, "a", 2, 0, []int{2}, []int{1})
		p.op(opSetItem, opStop)
		f, err := parsed(file(t, p.Bytes(), map[string][]byte{"a": data}))
		if err != nil {
			t.Errorf("%s: %v", typ, err)
			continue
		}
		if got, err := f.Tensors()[0].Floats(); err != nil || !slices.Equal(got, []float32{1, -2}) {
			t.Errorf("%s: %v (%v)", typ, got, err)
		}
	}
}

// TestParse reads a tensor alone from memory, and refuses a pickle that its zip
// makes larger than the whole file.
func TestParse(t *testing.T) {
	var p pickler
	p.op(opProto, 2)
	p.tensor("FloatStorage", "0", 6, 0, []int{2, 3}, []int{3, 1})
	p.op(opStop)
	f, err := Parse(file(t, p.Bytes(), map[string][]byte{"0": f32(6)}))
	if err != nil {
		t.Fatal(err)
	}
	x, ok := f.Tensor("")
	if !ok || len(f.Tensors()) != 1 {
		t.Fatalf("tensors %v", f.Tensors())
	}
	if got, err := x.Floats(); err != nil || !slices.Equal(got, []float32{0, 1, 2, 3, 4, 5}) {
		t.Errorf("%v (%v)", got, err)
	}

	bomb := append(bytes.Repeat([]byte{opNone, opPop}, 1<<16), opStop)
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	w, err := z.Create("x/data.pkl") // compressed
	if err == nil {
		_, err = w.Write(bomb)
	}
	if err := errors.Join(err, z.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := Parse(b.Bytes()); imagebind.KindOf(err) != imagebind.Invalid || !strings.Contains(err.Error(), "more than the") {
		t.Errorf("a pickle of %d bytes in %d: %v", len(bomb), b.Len(), err)
	}
}

// TestNested reads dicts in dicts, lists, and leaves that are no tensors.
func TestNested(t *testing.T) {
	var p pickler
	p.op(opProto, 2, opEmptyDict, opMark)
	p.str("model")
	p.global("collections", "OrderedDict")
	p.op(opEmptyTuple, opReduce, opBinPut, 7, opMark)
	p.str("a.weight")
	p.tensor("FloatStorage", "0", 2, 0, []int{2}, []int{1})
	p.op(opSetItems)
	p.op(opEmptyDict) // its _metadata
	p.str("_metadata")
	p.op(opEmptyDict, opSetItem, opBuild)
	p.str("epoch")
	p.int(-3)
	p.str("same")
	p.op(opBinGet, 7)
	p.str("list")
	p.op(opEmptyList, opMark, opNone, opTrue)
	p.str("text")
	p.op(opAppends, opSetItems, opStop)
	f, err := parsed(file(t, p.Bytes(), map[string][]byte{"0": f32(2)}))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, x := range f.Tensors() {
		names = append(names, x.Name)
	}
	if !slices.Equal(names, []string{"model.a.weight", "same.a.weight"}) {
		t.Errorf("tensors %v", names)
	}
	v := f.Values()
	if v["epoch"] != int64(-3) || v["list.0"] != nil || v["list.1"] != true || v["list.2"] != "text" || len(v) != 4 {
		t.Errorf("values %v", v)
	}
}

func TestRefused(t *testing.T) {
	one := func(f func(p *pickler)) []byte {
		var p pickler
		p.op(opProto, 2, opEmptyDict)
		p.str("x")
		f(&p)
		p.op(opSetItem, opStop)
		return file(t, p.Bytes(), map[string][]byte{"0": f32(12)})
	}
	view := func(typ string, count, offset int, shape, strides []int) []byte {
		return one(func(p *pickler) { p.tensor(typ, "0", count, offset, shape, strides) })
	}
	good := view("FloatStorage", 12, 0, []int{2, 3}, []int{3, 1})
	var itself pickler
	itself.op(opProto, 2, opEmptyList, opBinPut, 0, opBinGet, 0, opAppend, opStop)
	var many pickler // each list holds the one before ten times
	many.op(opProto, 2, opEmptyList)
	for range 40 {
		many.op(opBinPut, 1, opPop, opEmptyList, opMark)
		for range 10 {
			many.op(opBinGet, 1)
		}
		many.op(opAppends)
	}
	many.op(opStop)
	var big bytes.Buffer
	z := zip.NewWriter(&big)
	for name, data := range map[string]string{"a/data.pkl": "N.", "a/byteorder": "big"} {
		w, _ := z.Create(name)
		if _, err := w.Write([]byte(data)); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		raw  []byte
		want string
	}{
		{"text", []byte("hello"), "no PyTorch checkpoint"},
		{"nothing", nil, "no PyTorch checkpoint"},
		{"before 1.6", []byte{0x80, 2, 0x8a, 10}, "before 1.6"},
		{"cut", good[:len(good)-30], "no PyTorch checkpoint"},
		{"byte order", big.Bytes(), `"big"`},
		{"os.system", one(func(p *pickler) { p.global("os", "system"); p.str("true"); p.op(opTuple1, opReduce) }), `"os.system"`},
		{"builtins.eval", one(func(p *pickler) { p.str("builtins"); p.str("eval"); p.op(opStackGlobal) }), `"builtins.eval"`},
		{"torch.load", one(func(p *pickler) { p.global("torch", "load") }), `"torch.load"`},
		{"Namespace", one(func(p *pickler) { p.global("argparse", "Namespace") }), `"argparse.Namespace"`},
		{"behind the storage", view("FloatStorage", 12, 7, []int{2, 3}, []int{3, 1}), "leaves its storage"},
		{"strides", view("FloatStorage", 12, 0, []int{2, 3}, []int{10, 1}), "leaves its storage"},
		{"negative stride", view("FloatStorage", 12, 6, []int{3}, []int{-1}), "strides"},
		{"a storage that lies", view("FloatStorage", 13, 0, []int{13}, []int{1}), "48 bytes for 13"},
		{"a wider type", view("DoubleStorage", 12, 0, []int{12}, []int{1}), "48 bytes for 12"},
		{"endless broadcast", view("FloatStorage", 12, 0, []int{1 << 20, 1 << 20}, []int{0, 0}), "more elements than its storage"},
		{"overflow", view("FloatStorage", 12, 0, []int{1 << 30, 1 << 30, 1 << 30}, []int{0, 0, 0}), "more elements than its storage"},
		{"missing storage", one(func(p *pickler) { p.tensor("FloatStorage", "9", 1, 0, []int{1}, []int{1}) }), "data/9 is missing"},
		{"complex", one(func(p *pickler) { p.tensor("ComplexFloatStorage", "0", 1, 0, []int{1}, []int{1}) }), "ComplexFloatStorage"},
		{"a list in itself", file(t, itself.Bytes(), nil), "nested too deep"},
		{"too many", file(t, many.Bytes(), nil), "too many"},
		{"ends early", file(t, []byte{opProto, 2, opEmptyDict}, nil), "too early"},
		{"unknown opcode", file(t, []byte{opProto, 2, 0x92, opStop}, nil), "opcode 0x92"},
		{"empty stack", file(t, []byte{opProto, 2, opReduce, opStop}, nil), "stack"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := parsed(tt.raw); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error is %v, want %q in it", err, tt.want)
			}
		})
	}
	if _, err := Open(filepath.Join(t.TempDir(), "none.pth")); !os.IsNotExist(err) {
		t.Errorf("error is %v", err)
	}
	if _, err := parsed(good); err != nil {
		t.Error(err)
	}
}

// TestLargeTranspose reads a transposed matrix in parts, each against its place.
func TestLargeTranspose(t *testing.T) {
	const n, m = 300, 700
	var p pickler
	p.op(opProto, 2, opEmptyDict)
	p.str("x")
	p.tensor("FloatStorage", "0", n*m, 0, []int{n, m}, []int{1, n})
	p.op(opSetItem, opStop)
	f, err := parsed(file(t, p.Bytes(), map[string][]byte{"0": f32(n * m)}))
	if err != nil {
		t.Fatal(err)
	}
	dst := make([]float32, 1234)
	for from := 0; from < n*m; from += len(dst) {
		part := dst[:min(len(dst), n*m-from)]
		if err := f.Tensors()[0].Read(part, from); err != nil {
			t.Fatal(err)
		}
		for i, v := range part {
			r, c := (from+i)/m, (from+i)%m
			if v != float32(c*n+r) {
				t.Fatalf("element %d is %v", from+i, v)
			}
		}
	}
}

func FuzzParse(f *testing.F) {
	raw, err := os.ReadFile(goldens + "llama-adapter-tiny/7B/params.json")
	if err == nil {
		f.Add(raw, true)
	}
	var p pickler
	p.op(opProto, 2, opEmptyDict)
	p.str("x")
	p.tensor("HalfStorage", "0", 12, 2, []int{2, 3}, []int{1, 2})
	p.op(opSetItem, opStop)
	f.Add(p.Bytes(), true)
	f.Add(file(f, p.Bytes(), map[string][]byte{"0": f32(12)}), false)
	for _, name := range []string{"protocol2", "protocol4"} {
		raw := golden.Bytes(f, "testdata/"+name+".pth")
		f.Add(raw, false)
		z, err := zip.NewReader(bytes.NewReader(raw), int64(len(raw)))
		if err != nil {
			f.Fatal(err)
		}
		r, err := z.Open("x/data.pkl")
		if err != nil {
			f.Fatal(err)
		}
		pickle, err := io.ReadAll(r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(pickle, true)
	}
	f.Fuzz(func(t *testing.T, raw []byte, pickle bool) {
		if pickle {
			raw = file(t, raw, map[string][]byte{"0": f32(12)})
		}
		file, err := parsed(raw)
		if err != nil {
			return
		}
		for _, x := range file.Tensors() {
			if x.Len() <= 1<<16 {
				if _, err := x.Floats(); err != nil {
					t.Errorf("%v: %v", x, err)
				}
			}
		}
	})
}

// BenchmarkRead reads the demo's F16 LLaMA.
func BenchmarkRead(b *testing.B) {
	f := open(b, "../../../demo/llama/consolidated.00.pth")
	n := 0
	for b.Loop() {
		n = 0
		for _, x := range f.Tensors() {
			v, err := x.Floats()
			if err != nil {
				b.Fatal(err)
			}
			n += 2 * len(v)
		}
	}
	b.SetBytes(int64(n))
}
