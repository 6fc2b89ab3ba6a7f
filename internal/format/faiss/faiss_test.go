package faiss

import (
	"bytes"
	"encoding/binary"
	"math"
	"os"
	"slices"
	"strings"
	"testing"

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
	for name, kind := range map[string]string{"knn.index": "IndexFlatIP", "knn_hnsw.index": "IndexHNSWFlat"} {
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

// index makes a flat index of a type around its vectors.
func index(kind string, dim uint32, total uint64, metric uint32, words uint64, values ...float32) []byte {
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
	mapped := append(header4("IxMp", 2, 1, 0), index("IxFI", 2, 1, 0, 2, 3, 4)...)
	for _, tt := range []struct {
		raw          []byte
		kind, metric string
	}{
		{index("IxFI", 2, 1, 0, 2, 3, 4), "IndexFlatIP", "ip"},
		{index("IxF2", 2, 1, 1, 2, 3, 4), "IndexFlatL2", "l2"},
		{index("IxFl", 2, 1, 0, 2, 3, 4), "IndexFlatIP", "ip"},
		{index("IxFl", 2, 1, 1, 2, 3, 4), "IndexFlatL2", "l2"},
		{mapped, "IndexFlatIP", "ip"},
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

func TestRefused(t *testing.T) {
	hnsw, err := os.ReadFile("testdata/knn_hnsw.index")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		raw  []byte
		want string
	}{
		{"nothing", nil, "no faiss index"},
		{"text", []byte("hello, this is text"), `type "hell"`},
		{"compressed", header4("IwPQ", 64, 5, 0), `type "IwPQ"`},
		{"cut", index("IxFI", 2, 2, 0, 4, 1, 2, 3), "cut"},
		{"counts that lie", index("IxFI", 2, 1<<50, 0, 2, 1, 2), "2 values"},
		{"negative", index("IxFI", 2, 1<<63, 0, 2, 1, 2), "claims"},
		{"no dims", index("IxFI", 0, 1, 0, 0), "claims"},
		{"an endless list", index("IxFI", 2, 1, 0, 1<<60, 1, 2), "cut"},
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
	f.Add(index("IxFI", 2, 1, 0, 2, 3, 4))
	f.Add(append(header4("IxMp", 2, 1, 0), index("IxF2", 2, 1, 1, 2, 3, 4)...))
	f.Add(header4("IHNf", 2, 1, 0))
	f.Fuzz(func(t *testing.T, raw []byte) {
		f, err := parsed(raw)
		if err != nil {
			return
		}
		if _, err := f.Tensors()[0].Floats(); err != nil {
			t.Error(err)
		}
	})
}
