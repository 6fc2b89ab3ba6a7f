package torch

import (
	"archive/zip"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"imagebind-llm/internal/format"
	"imagebind-llm/internal/golden"
)

// sum is type, shape and a hash of the values as little-endian float32, as in testdata/want.json.
func sum(t *testing.T, x format.Tensor) string {
	t.Helper()
	v, err := x.Floats()
	if err != nil {
		t.Fatal(err)
	}
	h := sha256.New()
	if err := binary.Write(h, binary.LittleEndian, v); err != nil {
		t.Fatal(err)
	}
	kind := ""
	for name, d := range storages {
		if base, ok := strings.CutSuffix(name, "Storage"); ok && d == x.DType && !strings.Contains(base, ".") {
			kind = base
		}
	}
	return fmt.Sprintf("%s %v %.16x", kind, x.Shape, h.Sum(nil)[:8])
}

// TestValues holds every value, to the bit, against what Python's own pickle
// and numpy make of the same files (testdata/README.md): all types, views,
// shared storages, each pickle protocol, and the golden checkpoints of torch.
func TestValues(t *testing.T) {
	var want map[string]map[string]string
	golden.JSON(t, "testdata/want.json", &want)
	for _, p := range []string{"protocol3.pth", "protocol4.pth", "protocol5.pth"} {
		want[p] = want["protocol2.pth"]
	}
	for path, sums := range want {
		t.Run(path, func(t *testing.T) {
			dir := goldens
			if filepath.Dir(path) == "." {
				dir = "testdata/"
			}
			f := open(t, dir+path)
			for _, x := range f.Tensors() {
				if got := sum(t, x); got != sums[x.Name] {
					t.Errorf("%s is %s, want %q", x.Name, got, sums[x.Name])
				}
			}
			if len(f.Tensors()) != len(sums) {
				t.Errorf("%d tensors, want %d", len(f.Tensors()), len(sums))
			}
		})
	}
}

// TestPythonValues reads what is no tensor, from each protocol.
func TestPythonValues(t *testing.T) {
	for _, p := range []string{"2", "3", "4", "5"} {
		v := open(t, "testdata/protocol"+p+".pth").Values()
		for name, want := range map[string]any{
			"epoch": int64(3), "name": "naïve 模型", "flag": true, "off": false, "none": nil, "long": strings.Repeat("x", 300),
			"loss": math.Inf(-1), "four.3": int64(4), "optimizer.param_groups.0.lr": 1.5e-3, "optimizer.param_groups.0.betas.1": 0.95,
			"optimizer.param_groups.0.params.2": int64(300), "optimizer.param_groups.0.params.3": int64(-5),
			"optimizer.param_groups.0.params.4": int64(1 << 40), "optimizer.param_groups.0.params.5": int64(-1 << 40),
		} {
			if got, ok := v[name]; !ok || got != want {
				t.Errorf("protocol %s: %s is %v, want %v", p, name, got, want)
			}
		}
		if len(v) != 20 {
			t.Errorf("protocol %s: %d values, want 20: %v", p, len(v), v)
		}
	}
}

// TestArchive refuses zips that are not as torch.save writes them.
func TestArchive(t *testing.T) {
	if _, err := Open("testdata/deflated.pth"); err == nil || !strings.Contains(err.Error(), "compressed") || !strings.Contains(err.Error(), "deflated.pth") {
		t.Errorf("compressed: error is %v", err)
	}
	raw := golden.Bytes(t, "testdata/protocol2.pth")
	twice := bytes.ReplaceAll(raw, []byte("x/data/1"), []byte("x/data/0"))
	if _, err := parsed(twice); err == nil || !strings.Contains(err.Error(), `two "x/data/0"`) {
		t.Errorf("twice: error is %v", err)
	}
	torn := bytes.Replace(raw, []byte("float.weight"), []byte("flout.weight"), 1)
	if _, err := parsed(torn); err == nil || !strings.Contains(err.Error(), "checksum") {
		t.Errorf("torn pickle: error is %v", err)
	}
	for n := range len(raw) {
		if _, err := parsed(raw[:n]); err == nil {
			t.Fatalf("the first %d bytes of %d are read", n, len(raw))
		}
	}
}

// TestNegated: a view that torch negates when it is used must not lose its sign here.
func TestNegated(t *testing.T) {
	for _, tt := range []struct {
		key  string // of the metadata; "" is none
		fail bool
	}{{"", false}, {"neg", true}} {
		var p pickler
		p.op(opProto, 2, opEmptyDict)
		p.str("x")
		p.tensor("FloatStorage", "0", 2, 0, []int{2}, []int{1})
		b := p.Bytes()
		p.Truncate(len(b) - 2) // its TUPLE and REDUCE
		p.op(opEmptyDict)
		if tt.key != "" {
			p.str(tt.key)
			p.op(opTrue, opSetItem)
		}
		p.op(opTuple, opReduce, opSetItem, opStop)
		_, err := parsed(file(t, p.Bytes(), map[string][]byte{"0": f32(2)}))
		if fail := err != nil && strings.Contains(err.Error(), "lazy view"); fail != tt.fail || !fail && err != nil {
			t.Errorf("metadata %q: error is %v", tt.key, err)
		}
	}
}

// A sparse writer leaves a hole for every write from the one buffer of zeros.
type sparse struct {
	*os.File
	zeros []byte
}

func (s sparse) Write(b []byte) (int, error) {
	if &b[0] == &s.zeros[0] {
		_, err := s.Seek(int64(len(b)), 1)
		return len(b), err
	}
	return s.File.Write(b)
}

// TestLarge reads a storage that is larger than 4 GiB and one that lies behind
// it: the zip has 64-bit records.
func TestLarge(t *testing.T) {
	if testing.Short() {
		t.Skip("wants a sparse file of 5 GiB")
	}
	const n = 5 << 29 // halves
	path := filepath.Join(t.TempDir(), "large.pth")
	out, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	zeros := make([]byte, 1<<20)
	z := zip.NewWriter(sparse{out, zeros})
	var p pickler
	p.op(opProto, 2, opEmptyDict)
	p.str("last")
	p.tensor("HalfStorage", "0", n-1, n-3, []int{2}, []int{1})
	// n does not fit BININT: torch writes LONG1.
	pickle := bytes.ReplaceAll(p.Bytes(), binInt(n-1), long1(n-1))
	pickle = bytes.ReplaceAll(pickle, binInt(n-3), long1(n-3))
	p.Reset()
	p.Write(pickle)
	p.op(opSetItem)
	p.str("behind")
	p.tensor("FloatStorage", "1", 3, 0, []int{3}, []int{1})
	p.op(opSetItem, opStop)
	for name, data := range map[string][]byte{"x/data.pkl": p.Bytes(), "x/byteorder": []byte("little")} {
		w, err := z.CreateHeader(&zip.FileHeader{Name: name, Method: zip.Store})
		if err == nil {
			_, err = w.Write(data)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	w, err := z.CreateRaw(&zip.FileHeader{Name: "x/data/0", Method: zip.Store, CompressedSize64: 2 * n, UncompressedSize64: 2 * n})
	if err != nil {
		t.Fatal(err)
	}
	for left := int64(2 * n); left > 1<<20; left -= 1 << 20 {
		if _, err := w.Write(zeros); err != nil {
			t.Fatal(err)
		}
	}
	tail := make([]byte, 1<<20)
	copy(tail[len(tail)-6:], "\x00\x3c\x00\xc0\xff\xff") // 1, -2 and one behind the storage's end
	if _, err := w.Write(tail); err != nil {
		t.Fatal(err)
	}
	w, err = z.CreateHeader(&zip.FileHeader{Name: "x/data/1", Method: zip.Store})
	if err == nil {
		_, err = w.Write(f32(3))
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	f := open(t, path)
	for name, want := range map[string][]float32{"last": {1, -2}, "behind": {0, 1, 2}} {
		x, ok := f.Tensor(name)
		if !ok {
			t.Fatalf("no tensor %s", name)
		}
		got, err := x.Floats()
		if err != nil {
			t.Fatal(err)
		}
		golden.Close(t, got, want, 0)
	}
}

func binInt(n int64) []byte {
	return binary.LittleEndian.AppendUint32([]byte{opBinInt}, uint32(n))
}

func long1(n int64) []byte {
	return binary.LittleEndian.AppendUint64([]byte{opLong1, 8}, uint64(n))
}
