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

// array reads a golden, [rows, dim] or [rows].
func array(t *testing.T, path string) []float32 {
	t.Helper()
	f, err := npy.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	x, err := f.Tensors()[0].Floats()
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// How far values may be from faiss', absolute; the vectors are units.
const (
	exact = 0
	// faiss computes vmin + middle·vdiff with one rounding (FMA) where the
	// processor has it, and here there are two: some units in the last place.
	rounded = 3e-7
	// A rotation is a sum of 16 products, in another order.
	turned = 1e-6
)

// TestCodes: rows are those that faiss rebuilds (testdata/gen.py).
func TestCodes(t *testing.T) {
	for _, tt := range []struct {
		name, kind string
		loss       string // words of Lossy; "" for none
		tol        float64
	}{
		{"sq8", "SQ8", "8-bit codes", rounded},
		{"sq8_uniform", "SQ8_uniform", "8-bit codes", rounded},
		{"sq4", "SQ4", "4-bit codes", rounded},
		{"sq4_uniform", "SQ4_uniform", "4-bit codes", rounded},
		{"sq6", "SQ6", "6-bit codes", rounded},
		{"fp16", "SQfp16", "16-bit codes", exact},
		{"bf16", "SQbf16", "16-bit codes", exact},
		{"direct", "SQ8_direct", "8-bit codes", exact},
		{"signed", "SQ8_direct_signed", "8-bit codes", exact},
		{"odd_8bit", "SQ8", "8-bit codes", rounded},
		{"odd_4bit", "SQ4", "4-bit codes", rounded},
		{"odd_6bit", "SQ6", "6-bit codes", rounded},
		{"pq8", "PQ4x8", "4-byte product codes", exact},
		{"pq5", "PQ5x5", "4-byte product codes", exact},
		{"pq4", "PQ8x4", "4-byte product codes", exact},
		{"pq9", "PQ2x9", "3-byte product codes", exact},
		{"ivf_flat", "IVF4,Flat", "", exact},
		{"ivf_flat_ip", "IVF5,Flat", "", exact},
		{"ivf_array", "IVF4,Flat", "", exact},
		{"ivf_hash", "IVF4,Flat", "", exact},
		{"ivf_sparse", "IVF40,Flat", "", exact},
		{"ivf_hnsw", "IVF8(HNSW,Flat),Flat", "", exact},
		{"ivf_ids", "IVF4,Flat", "", exact},
		{"ivf_removed", "IVF4,SQ8", "8-bit codes", rounded},
		{"ivf_sq8", "IVF4,SQ8", "8-bit codes", rounded},
		{"ivf_fp16", "IVF4,SQfp16", "16-bit codes", exact},
		{"ivf_sq8_plain", "IVF4,SQ8", "8-bit codes", rounded},
		{"ivf_pq", "IVF4,PQ4x6", "3-byte product codes", exact},
		{"ivf_pq_plain", "IVF4,PQ8x4", "4-byte product codes", exact},
		{"ivf_pq_ip", "IVF4,PQ8x4", "4-byte product codes", exact},
		{"fs", "PQ8x4fs", "4-byte product codes", exact},
		{"fs_odd", "PQ5x4fs", "3-byte product codes", exact},
		{"ivf_fs", "IVF4,PQ8x4fs", "4-byte product codes", exact},
		{"ivf_fsr", "IVF4,PQ8x4fs", "4-byte product codes", exact},
		{"opq_fsr", "LT16,IVF3,PQ4x4fs", "2-byte product codes", turned},
		{"hnsw_sq", "HNSW,SQ8", "8-bit codes", rounded},
		{"hnsw_pq", "HNSW,PQ4x4", "2-byte product codes", exact},
		{"idmap_sq", "SQ8", "8-bit codes", rounded},
		{"idmap2_ivf_pq", "IVF4,PQ8x4", "4-byte product codes", exact},
		{"opq", "LT16,IVF4,PQ4x4", "2-byte product codes", turned},
		{"opq_smaller", "LT8,PQ4x4", "2-byte product codes and 8 of 16 dimensions", turned},
		{"idmap_opq", "LT16,IVF4,PQ4x4", "2-byte product codes", turned},
		{"pca", "PCA8,Flat", "8 of 16 dimensions", turned},
		{"rotated", "RR16,SQ8", "8-bit codes", turned},
		{"norm", "L2norm,Flat", "directions without their lengths", exact},
		{"centred", "Centering,Flat", "", exact},
		{"refine_flat", "PQ8x4,Refine(Flat)", "", exact},
		{"refine_sq", "IVF4,PQ8x4,Refine(SQ8)", "8-bit codes", rounded},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := "testdata/codes/" + tt.name
			f, err := Open(path + ".index")
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if f.Kind != tt.kind || (f.Lossy != "") != (tt.loss != "") || !strings.Contains(f.Lossy, tt.loss) || f.Lossy != "" && !strings.HasPrefix(f.Lossy, tt.kind+": ") {
				t.Errorf("%s, %q; want %s, %q", f.Kind, f.Lossy, tt.kind, tt.loss)
			}
			want := array(t, path+".npy")
			x := f.Tensors()[0]
			got, err := x.Floats()
			if err != nil || len(got) != len(want) {
				t.Fatalf("%v, want %d values (%v)", x, len(want), err)
			}
			for i := range got {
				if d := math.Abs(float64(got[i] - want[i])); !(d <= tt.tol) {
					t.Fatalf("value %d of row %d is %v, faiss has %v: %g off", i%x.Shape[1], i/x.Shape[1], got[i], want[i], d)
				}
			}
			// A part that is no whole rows is the same.
			from, to := 1, len(got)-x.Shape[1]/2
			part := make([]float32, to-from)
			if err := x.Read(part, from); err != nil || !slices.Equal(part, got[from:to]) {
				t.Errorf("values %d to %d differ (%v)", from, to, err)
			}
			ids := make([]int64, x.Shape[0])
			if err := f.ReadIDs(ids, 0); err != nil {
				t.Fatal(err)
			}
			own := make([]float32, len(ids))
			for i := range own {
				own[i] = float32(i)
			}
			if _, err := os.Stat(path + ".ids.npy"); err == nil {
				own = array(t, path+".ids.npy")
			} else if f.Mapped {
				t.Error("ids of its own")
			}
			for i := range ids {
				if float32(ids[i]) != own[i] {
					t.Fatalf("row %d has id %d, not %v", i, ids[i], own[i])
				}
			}
			if last := ids[1:]; f.ReadIDs(ids[:len(last)], 1) != nil || float32(ids[0]) != own[1] {
				t.Errorf("ids from 1: %d", ids[0])
			}
			// However it is cut, it is refused.
			raw, err := os.ReadFile(path + ".index")
			if err != nil {
				t.Fatal(err)
			}
			for n := 0; n < len(raw); n += 1 + n/2000 {
				if _, err := parsed(raw[:n]); err == nil {
					t.Errorf("its first %d bytes are read", n)
				}
			}
		})
	}
}

// TestCodesRefused: what is not read says what it is and what to do.
func TestCodesRefused(t *testing.T) {
	for name, want := range map[string]string{
		"fastscan_64": "in blocks of 64", "lsh": `"IxHe"`, "pqr": `"IwQR"`, "rq": `"IxRq"`,
		"whitened": "no rotation", "hadamard": `transform of type "HRot"`,
	} {
		_, err := Open("testdata/codes/no_" + name + ".index")
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "reconstruct_n") {
			t.Errorf("%s: %v, want %s", name, err, want)
		}
	}
}

// TestLies: an index whose numbers do not fit each other, or the file, is
// refused before memory is taken for them.
func TestLies(t *testing.T) {
	u32 := func(v uint32) []byte { return binary.LittleEndian.AppendUint32(nil, v) }
	u64 := func(v uint64) []byte { return binary.LittleEndian.AppendUint64(nil, v) }
	for _, tt := range []struct {
		name, file string
		after      string // what stands before the number
		skip       int    // bytes behind that
		number     []byte
		want       string
	}{
		{"more vectors than codes", "sq8", "IxSQ", 4, u64(1 << 40), "vectors of 16 bytes"},
		{"another kind of scalar", "sq8", "IxSQ", 33, u32(9), "type number 9"},
		{"a scalar quantizer of other values", "sq8", "IxSQ", 33 + 12, u64(15), "not of the index's 16"},
		{"codes of another size", "sq8", "IxSQ", 33 + 20, u64(15), "codes of 15 bytes"},
		{"too many ranges", "sq8", "IxSQ", 33 + 28, u64(30), "has 30 values of ranges"},
		{"endless ranges", "sq8", "IxSQ", 33 + 28, u64(1 << 61), "cut"},
		{"pieces that do not fit", "pq8", "IxPq", 33 + 8, u64(5), "16 values in 5 pieces"},
		{"no pieces", "pq8", "IxPq", 33 + 8, u64(0), "in 0 pieces"},
		{"too many bits", "pq8", "IxPq", 33 + 16, u64(24), "1 to 16 bits"},
		{"a codebook that is not there", "pq8", "IxPq", 33 + 16, u64(12), "values of the codebook"},
		{"more lists than centroids", "ivf_flat", "IwFl", 33, u64(5), "4 centroids of 16 values for 5 lists"},
		{"lists of more", "ivf_flat", "ilar", 0, u64(1 << 50), "and there are 1125899906842624"},
		{"codes of another size in lists", "ivf_flat", "ilar", 8, u64(63), "of 63"},
		{"sizes that are missing", "ivf_flat", "full", 0, u64(3), `3 sizes of its lists`},
		{"a list that is too long", "ivf_flat", "full", 8, u64(1 << 40), "list 0 says"},
		{"a list of fewer than none", "ivf_flat", "full", 8, u64(1 << 63), "list 0 says"},
		{"a list behind the last", "ivf_sparse", "sprs", 8, u64(40), "list 40 of 40"},
		{"sizes without their lists", "ivf_sparse", "sprs", 0, u64(3), `form "sprs"`},
		{"fewer vectors than in the lists", "ivf_flat", "IwFl", 4, u64(39), "says 39 vectors and its lists hold 40"},
		{"more vectors than blocks", "fs", "IPfs", 4, u64(1 << 40), "vectors, padded to 64"},
		{"blocks of other codes", "fs", "IPfs", 33 + 24 + 8 + 4*16*16 + 4, u32(16), "in blocks of 16"},
		{"lists of other blocks", "ivf_fs", "ilbl", 16, u64(16), "of 16 vectors"},
		{"a list without its blocks", "ivf_fs", "ilbl", 32, u64(1), "bytes of codes"},
		{"more lists than in the index", "ivf_fs", "ilbl", 0, u64(1 << 60), "and there are 1152921504606846976"},
		{"transforms without end", "opq", "IxPT", 33, u32(1 << 20), "transforms of its vectors"},
		{"a rotation of other values", "opq", "IxPT", 0, u64(8 | 40<<32), "of 16 values behind one that gives 8"},
		{"a rotation that is not there", "opq", "LTra", 1, u64(255), "cut"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			raw, err := os.ReadFile("testdata/codes/" + tt.file + ".index")
			if err != nil {
				t.Fatal(err)
			}
			at := bytes.Index(raw, []byte(tt.after)) + len(tt.after) + tt.skip
			copy(raw[at:], tt.number)
			if _, err := parsed(raw); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error is %v, want %q in it", err, tt.want)
			}
		})
	}
}

// TestIDsTwice: lists whose ids are not the numbers from 0 on, each once, give
// their rows list by list, with those ids.
func TestIDsTwice(t *testing.T) {
	raw, err := os.ReadFile("testdata/codes/ivf_flat.index")
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []uint64{0, 40, math.MaxUint64} { // there already, behind the last, -1
		binary.LittleEndian.PutUint64(raw[len(raw)-8:], id) // the last of the last list
		f, err := parsed(raw)
		if err != nil || !f.Mapped {
			t.Fatalf("id %d: %v, mapped %v", id, err, f.Mapped)
		}
		ids := make([]int64, 1)
		if err := f.ReadIDs(ids, 39); err != nil || ids[0] != int64(id) {
			t.Errorf("the last row has id %d, not %d (%v)", ids[0], int64(id), err)
		}
		row := make([]float32, 16)
		if err := f.Tensors()[0].Read(row, 39*16); err != nil {
			t.Fatal(err)
		}
		want := raw[len(raw)-8-8*int(lastList(t, raw))-64:] // behind it are the ids of its list
		for i, v := range row {
			if math.Float32bits(v) != binary.LittleEndian.Uint32(want[4*i:]) {
				t.Fatalf("value %d of the last row is %v", i, v)
			}
		}
	}
}

// lastList is how many ids the last list has, less the last one.
func lastList(t *testing.T, raw []byte) uint64 {
	t.Helper()
	at := bytes.Index(raw, []byte("full")) + 4 + 8 + 3*8
	return binary.LittleEndian.Uint64(raw[at:]) - 1
}
