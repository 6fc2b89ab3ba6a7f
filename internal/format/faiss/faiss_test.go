package faiss

import (
	"bytes"
	"encoding/binary"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	imagebind "imagebind-llm"
	"imagebind-llm/internal/format/npy"
)

// TestGolden: the rows are those of the array that faiss was given, bit for bit.
func TestGolden(t *testing.T) {
	n, err := npy.Open("testdata/knn.npy")
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	want, err := n.Tensors()[0].Floats()
	if err != nil {
		t.Fatal(err)
	}
	for name, kind := range map[string]string{"knn.index": "Flat", "knn_hnsw.index": "HNSW,Flat"} {
		f, err := Open("testdata/" + name)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if f.Kind != kind || f.Metric != "ip" || f.Mapped {
			t.Errorf("%s: %s, %s", name, f.Kind, f.Metric)
		}
		x, ok := f.Tensor("vectors")
		if !ok || !slices.Equal(x.Shape, []int{500, 64}) {
			t.Fatalf("%s: %v", name, x)
		}
		got, err := x.Floats()
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: rows differ (%v)", name, err)
		}
	}
}

// TestFaiss holds indexes of every kind, by faiss itself, against the array
// that it was given.
func TestFaiss(t *testing.T) {
	n, err := npy.Open("testdata/kinds/x.npy")
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	want, err := n.Tensors()[0].Floats()
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, kind, metric string
		mapped             bool
		refused            string // what the error names
	}{
		{"flat_ip", "Flat", "ip", false, ""},
		{"flat_l2", "Flat", "l2", false, ""},
		{"hnsw_ip", "HNSW,Flat", "ip", false, ""},
		{"hnsw_l2", "HNSW,Flat", "l2", false, ""},
		{"idmap", "Flat", "ip", true, ""},
		{"idmap2", "Flat", "l2", true, ""},
		{"idmap_hnsw", "HNSW,Flat", "l2", true, ""},
		{"flat_l1", "", "", false, "metric is number 2"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := "testdata/kinds/" + tt.name + ".index"
			f, err := Open(path)
			if tt.refused != "" {
				if imagebind.KindOf(err) != imagebind.Invalid || !strings.Contains(err.Error(), tt.refused) || !strings.Contains(err.Error(), path) {
					t.Errorf("error is %v, want %s in it", err, tt.refused)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if f.Kind != tt.kind || f.Metric != tt.metric || f.Mapped != tt.mapped {
				t.Errorf("%s %s mapped %v", f.Kind, f.Metric, f.Mapped)
			}
			x := f.Tensors()[0]
			got, err := x.Floats()
			if err != nil || !slices.Equal(x.Shape, []int{12, 4}) || !slices.Equal(got, want) {
				t.Errorf("%v: rows differ (%v)", x, err)
			}
			part := make([]float32, 9)
			if err := x.Read(part, 13); err != nil || !slices.Equal(part, want[13:22]) {
				t.Errorf("elements 13 to 22 differ (%v)", err)
			}
			ids := make([]int64, 12)
			if err := f.ReadIDs(ids, 0); err != nil || ids[11] != map[bool]int64{true: 497, false: 11}[tt.mapped] {
				t.Errorf("ids %v (%v)", ids, err)
			}
			if err := f.ReadIDs(ids[:3], 4); err != nil || ids[0] != map[bool]int64{true: 743, false: 4}[tt.mapped] {
				t.Errorf("ids from 4: %v (%v)", ids[:3], err)
			}
			if err := f.ReadIDs(ids, 1); err == nil {
				t.Error("ids behind the end")
			}
			// However it is cut, it is refused.
			raw, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			for n := range len(raw) {
				if _, err := parsed(raw[:n]); err == nil {
					t.Errorf("its first %d bytes are read", n)
				}
			}
		})
	}
	empty, err := Open("testdata/kinds/empty.index")
	if err != nil {
		t.Fatal(err)
	}
	defer empty.Close()
	if x := empty.Tensors()[0]; !slices.Equal(x.Shape, []int{0, 4}) {
		t.Errorf("%v", x)
	}
}

// TestFullSize reads the last row of an index as large as the released one:
// 12 GB, of which this file has holes for all but that row.
func TestFullSize(t *testing.T) {
	const rows, dim = 3_000_000, 1024
	path := filepath.Join(t.TempDir(), "knn.index")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	head, last := flatIndex("IxFI", dim, rows, 0, rows*dim), make([]byte, 4*dim)
	binary.LittleEndian.PutUint32(last[4*(dim-1):], math.Float32bits(0.5))
	if _, err := f.Write(head); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(last, int64(len(head))+4*dim*(rows-1)); err != nil {
		t.Skipf("wants a file system with holes: %v", err)
	}
	x, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	row := make([]float32, dim)
	if err := x.Tensors()[0].Read(row, (rows-1)*dim); err != nil || row[0] != 0 || row[dim-1] != 0.5 {
		t.Errorf("the last row ends with %v (%v)", row[dim-1], err)
	}
	if err := x.Tensors()[0].Read(row, (rows-1)*dim+1); err == nil {
		t.Error("reads behind the last row")
	}
}

// flatIndex makes a flat index of a type around its vectors.
func flatIndex(kind string, dim uint32, total uint64, metric uint32, words uint64, values ...float32) []byte {
	b := header4(kind, dim, total, metric)
	b = binary.LittleEndian.AppendUint64(b, words)
	for _, v := range values {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(v))
	}
	return b
}

func header4(kind string, dim uint32, total uint64, metric uint32) []byte {
	le := binary.LittleEndian
	b := le.AppendUint32([]byte(kind), dim)
	b = le.AppendUint64(b, total)
	b = le.AppendUint64(le.AppendUint64(b, 1<<20), 1<<20)
	return le.AppendUint32(append(b, 1), metric)
}

func parsed(raw []byte) (*File, error) {
	var f File
	return &f, f.parse(bytes.NewReader(raw), int64(len(raw)))
}

func TestKinds(t *testing.T) {
	mapped := append(header4("IxMp", 2, 1, 0), append(flatIndex("IxFI", 2, 1, 0, 2, 3, 4), ids(1)...)...)
	for _, tt := range []struct {
		raw          []byte
		kind, metric string
	}{
		{flatIndex("IxFI", 2, 1, 0, 2, 3, 4), "Flat", "ip"},
		{flatIndex("IxF2", 2, 1, 1, 2, 3, 4), "Flat", "l2"},
		{flatIndex("IxFl", 2, 1, 0, 2, 3, 4), "Flat", "ip"},
		{flatIndex("IxFl", 2, 1, 1, 2, 3, 4), "Flat", "l2"},
		{mapped, "Flat", "ip"},
	} {
		f, err := parsed(tt.raw)
		if err != nil {
			t.Fatal(err)
		}
		got, err := f.Tensors()[0].Floats()
		if err != nil || !slices.Equal(got, []float32{3, 4}) || f.Kind != tt.kind || f.Metric != tt.metric {
			t.Errorf("%s %s %v, want %s %s (%v)", f.Kind, f.Metric, got, tt.kind, tt.metric, err)
		}
	}
}

// ids is a list of n ids.
func ids(n uint64) []byte {
	return append(binary.LittleEndian.AppendUint64(nil, n), make([]byte, 8*n)...)
}

func TestRefused(t *testing.T) {
	hnsw, err := os.ReadFile("testdata/knn_hnsw.index")
	if err != nil {
		t.Fatal(err)
	}
	mapped := append(append(header4("IxMp", 2, 1, 0), flatIndex("IxFI", 2, 1, 0, 2, 3, 4)...), ids(1)...)
	hnswEnd := bytes.LastIndex(hnsw, []byte("IxFI"))
	for _, tt := range []struct {
		name string
		raw  []byte
		want string
	}{
		{"nothing", nil, "no faiss index"},
		{"text", []byte("hello, this is text"), `type "hell"`},
		{"of another kind", header4("IxHe", 64, 5, 0), `type "IxHe"`},
		{"cut", flatIndex("IxFI", 2, 2, 0, 4, 1, 2, 3), "cut"},
		{"counts that lie", flatIndex("IxFI", 2, 1<<50, 0, 2, 1, 2), "2 values"},
		{"a metric below the first", flatIndex("IxFl", 2, 1, 1<<31, 2, 1, 2), "metric is number -"},
		{"negative", flatIndex("IxFI", 2, 1<<63, 0, 2, 1, 2), "claims"},
		{"no dims", flatIndex("IxFI", 0, 1, 0, 0), "claims"},
		{"an endless list", flatIndex("IxFI", 2, 1, 0, 1<<60, 1, 2), "cut"},
		{"a map of other vectors", append(header4("IxMp", 2, 2, 0), append(flatIndex("IxFI", 2, 1, 0, 2, 3, 4), ids(2)...)...), "map of ids is over 2"},
		{"a map of other dims", append(header4("IxMp", 3, 1, 0), append(flatIndex("IxFI", 2, 1, 0, 2, 3, 4), ids(1)...)...), "map of ids is over 1"},
		{"a map of too few ids", append(header4("IxM2", 2, 1, 0), append(flatIndex("IxFI", 2, 1, 0, 2, 3, 4), ids(0)...)...), "has 0 of them"},
		{"a map without its ids", append(header4("IxMp", 2, 1, 0), flatIndex("IxFI", 2, 1, 0, 2, 3, 4)...), "cut"},
		{"a map of a map", append(append(header4("IxMp", 2, 1, 0), mapped...), ids(1)...), "ids of its own"},
		{"a map of a map of a map", bytes.Repeat(header4("IxMp", 2, 1, 0), 100), "in each other"},
		{"a map of nothing", header4("IxMp", 2, 1, 0), "cut"},
		{"HNSW without vectors", append(hnsw[:hnswEnd:hnswEnd], "null"...), `type "null"`},
		{"HNSW over other vectors", append(hnsw[:hnswEnd:hnswEnd], flatIndex("IxFI", 2, 1, 0, 2, 3, 4)...), "HNSW is over 500 vectors of 64 values, and 1 of 2"},
		{"HNSW cut in its graph", hnsw[:5000], "cut"},
		{"HNSW cut in its vectors", hnsw[:len(hnsw)-1], "cut"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := parsed(tt.raw); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error is %v, want %q in it", err, tt.want)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add(flatIndex("IxFI", 2, 1, 0, 2, 3, 4))
	names, err := filepath.Glob("testdata/[ck]*/*.index")
	if err != nil || len(names) < 50 {
		f.Fatal("no seeds: ", err)
	}
	for _, name := range names {
		raw, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		f, err := parsed(raw)
		if err != nil {
			return
		}
		x := f.Tensors()[0]
		if x.Len() > 1<<24 { // few bytes of codes may be many vectors
			return
		}
		if _, err := x.Floats(); err != nil {
			t.Error(err)
		}
		if err := f.ReadIDs(make([]int64, x.Shape[0]), 0); err != nil {
			t.Error(err)
		}
	})
}
