//go:build cgo

package device

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"imagebind-llm/internal/golden"
	"imagebind-llm/internal/ort"
	"imagebind-llm/retriever/kernel"
)

func open(t testing.TB, chunkBytes int) *Device {
	t.Helper()
	if _, err := ort.Load(""); err != nil {
		golden.Need(t, "ort", "wants onnxruntime: "+err.Error())
	}
	d, err := Open(Options{Provider: "cpu", ChunkBytes: chunkBytes})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// units are n vectors of length 1, rounded to half precision: their bits, and
// their values.
func units(rng *rand.Rand, n, dim int) ([]uint16, []float32) {
	bits, values := make([]uint16, n*dim), make([]float32, n*dim)
	for r := range n {
		row, sum := values[r*dim:][:dim], 0.0
		for i := range row {
			row[i] = float32(rng.NormFloat64())
			sum += float64(row[i]) * float64(row[i])
		}
		for i := range row {
			row[i] /= float32(math.Sqrt(sum))
		}
	}
	kernel.ToHalf(bits, values)
	kernel.FromHalf(values, bits)
	return bits, values
}

func load(t testing.TB, d *Device, rows []uint16, dim int) *Matrix {
	t.Helper()
	m, err := d.Load(t.Context(), len(rows)/dim, dim, func(first int, dst []uint16) error {
		if copy(dst, rows[first*dim:]) != len(dst) {
			return errors.New("read behind the end")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

// TestSearch holds the candidates against an exhaustive search: in one chunk and
// in many, with rows left out and with so many that too few are left.
func TestSearch(t *testing.T) {
	const n, dim, nq, k = 1000, 48, 70, 20
	const tol = 0x1p-11 + 0x1p-20 // scores up to 1, rounded to 11 bits, and float32's sums
	rng := rand.New(rand.NewPCG(1, 2))
	rows, values := units(rng, n, dim)
	queries, asked := units(rng, nq, dim)
	some, most := make([]uint64, 10), make([]uint64, n/64+1) // the last rows have no bit in some
	for i := range 640 {
		if rng.IntN(3) == 0 {
			some[i>>6] |= 1 << (i & 63)
		}
	}
	for i := range n {
		if i%100 != 7 {
			most[i>>6] |= 1 << (i & 63)
		}
	}
	for name, chunk := range map[string]int{"one chunk": 0, "many chunks": 192 * 2 * dim} {
		t.Run(name, func(t *testing.T) {
			m := load(t, open(t, chunk), rows, dim)
			for _, dead := range [][]uint64{nil, some, most, slices.Clone(some), nil} {
				slots, scores, rest, err := m.Search(t.Context(), queries, k, dead)
				if err != nil {
					t.Fatal(err)
				}
				if len(slots) != nq || len(scores) != nq || len(rest) != nq {
					t.Fatalf("answers for %d, %d and %d queries", len(slots), len(scores), len(rest))
				}
				for q := range nq {
					left := map[uint32]bool{}
					for i := range n {
						if i>>6 >= len(dead) || dead[i>>6]>>(i&63)&1 == 0 {
							left[uint32(i)] = true
						}
					}
					if len(slots[q]) != min(k, len(left)) {
						t.Fatalf("%d of %d rows", len(slots[q]), len(left))
					}
					if last := len(left) <= k; last != math.IsInf(float64(rest[q]), -1) {
						t.Errorf("rest is %v, all were found: %v", rest[q], last)
					}
					if best := reversed(slices.Clone(scores[q])); !slices.IsSorted(best) {
						t.Errorf("not best first: %v", best)
					}
					for i, s := range slots[q] {
						if !left[s] {
							t.Fatalf("row %d is dead, or there twice", s)
						}
						delete(left, s)
						if d := kernel.Dot(asked[q*dim:][:dim], values[int(s)*dim:][:dim]) - float64(scores[q][i]); math.Abs(d) > tol {
							t.Errorf("row %d scores %v, off by %v", s, scores[q][i], d)
						}
					}
					for s := range left {
						if d := kernel.Dot(asked[q*dim:][:dim], values[int(s)*dim:][:dim]); d > float64(rest[q])+tol {
							t.Errorf("row %d was not found, and scores %v; the rest was to have %v", s, d, rest[q])
						}
					}
				}
			}
		})
	}
}

func reversed(v []float32) []float32 {
	slices.Reverse(v)
	return v
}

// TestErrors: a source that fails, callers that left, and a closed matrix.
func TestErrors(t *testing.T) {
	d := open(t, 0)
	broken := errors.New("broken")
	if _, err := d.Load(t.Context(), 10, 4, func(int, []uint16) error { return broken }); !errors.Is(err, broken) {
		t.Errorf("a broken source: %v", err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := d.Load(gone, 10, 4, func(int, []uint16) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("a load that nobody waits for: %v", err)
	}
	if _, err := d.Load(t.Context(), 1<<40, 1<<14, func(int, []uint16) error { return nil }); err == nil {
		t.Error("2^55 bytes were there")
	}
	m := load(t, d, make([]uint16, 40), 4)
	if _, _, _, err := m.Search(gone, make([]uint16, 4), 1, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("a search that nobody waits for: %v", err)
	}
	if _, _, _, err := m.Search(t.Context(), make([]uint16, 4), 1, nil); err != nil {
		t.Errorf("the one after: %v", err)
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := m.Search(t.Context(), make([]uint16, 4), 1, nil); err == nil {
		t.Error("a closed matrix was searched")
	}
}

// TestOpenErrors: what is not there is said when the device is opened.
func TestOpenErrors(t *testing.T) {
	open(t, 0)
	for _, o := range []Options{{Provider: "cuda", Device: 999}, {Provider: "tpu"}} {
		if _, err := Open(o); err == nil {
			t.Errorf("%+v was opened", o)
		}
	}
}
