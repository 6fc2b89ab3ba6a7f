package enhance_test

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	imagebind "imagebind-llm"
	"imagebind-llm/internal/golden"
	"imagebind-llm/retriever/enhance"
)

// prototypes reads the golden rows [500, 64] of a .npy file.
func prototypes(t *testing.T) []imagebind.Embedding {
	t.Helper()
	b := golden.Bytes(t, "testdata/golden/prototypes.npy")
	b = b[10+int(binary.LittleEndian.Uint16(b[8:])):]
	rows := make([]imagebind.Embedding, len(b)/(4*64))
	for i := range rows {
		rows[i] = make(imagebind.Embedding, 64)
		for j := range rows[i] {
			rows[i][j] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*(64*i+j):]))
		}
	}
	return rows
}

// nearest returns the k rows of the largest inner product with q, ids as row numbers.
func nearest(rows []imagebind.Embedding, q imagebind.Embedding, k int) []imagebind.Neighbour {
	all := make([]imagebind.Neighbour, len(rows))
	for i, r := range rows {
		all[i] = imagebind.Neighbour{ID: fmt.Sprint(i), Similarity: float32(q.Dot(r)), Prototype: r}
	}
	slices.SortStableFunc(all, func(a, b imagebind.Neighbour) int { return cmp.Compare(b.Similarity, a.Similarity) })
	return all[:min(k, len(all))]
}

func TestMixGolden(t *testing.T) {
	rows := prototypes(t)
	want := golden.Open(t, "testdata/golden/enhance.safetensors")
	cases := 0
	for _, name := range want.Names() {
		mix, setting, ok := strings.Cut(name, "/k")
		if !ok || strings.HasSuffix(name, "/ids") || strings.HasSuffix(name, "/sims") {
			continue
		}
		cases++
		t.Run(name, func(t *testing.T) {
			var p imagebind.EnhanceParams
			if _, err := fmt.Sscanf(strings.NewReplacer("_t", " ", "_w", " ").Replace(setting), "%d %f %f", &p.K, &p.Temperature, &p.Weight); err != nil {
				t.Fatal(err)
			}
			in, ids := want.Tensor(t, mix+"/off").Values, want.Tensor(t, name+"/ids").Values
			for row := range 2 {
				q := imagebind.Embedding(in[64*row : 64*row+64])
				near := nearest(rows, q, p.K)
				for i, n := range near {
					if n.ID != fmt.Sprint(int(ids[row*p.K+i])) {
						t.Fatalf("neighbour %d of row %d is %s, want %v", i, row, n.ID, ids[row*p.K+i])
					}
				}
				got, err := enhance.Mix(q, near, p)
				if err != nil {
					t.Fatal(err)
				}
				golden.Close(t, got, want.Tensor(t, name).Values[64*row:64*row+64], 1e-6) // the reference's own fp32 rounding is 3e-7
			}
		})
	}
	if cases != 42 {
		t.Errorf("%d cases in the golden file, want 42", cases)
	}
}

// TestMixProperties: weights sum to 1 and fall with similarity, the result is
// a unit vector, weight 0 keeps q's direction, weight 1 the prototypes'.
func TestMixProperties(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	rows := prototypes(t)
	for range 200 {
		q := make(imagebind.Embedding, 64)
		for i := range q {
			q[i] = float32(r.NormFloat64())
		}
		q.Normalize()
		for i := range q {
			q[i] *= float32(0.2 + 0.8*r.Float64()) // a mix
		}
		p := imagebind.EnhanceParams{K: 1 + r.IntN(20), Temperature: float32(r.Float64() * 1000), Weight: r.Float32()}
		near := nearest(rows, q, p.K)
		got, err := enhance.Mix(q, near, p)
		if err != nil {
			t.Fatal(err)
		}
		if n := got.Norm(); math.Abs(n-1) > 1e-6 {
			t.Fatalf("|out| = %v", n)
		}
		sum := 0.0
		for i, n := range near {
			sum += float64(n.Weight)
			if i > 0 && n.Weight > near[i-1].Weight {
				t.Fatalf("weight %v of a further neighbour than that of %v", n.Weight, near[i-1].Weight)
			}
		}
		if math.Abs(sum-1) > 1e-5 {
			t.Fatalf("weights sum to %v", sum)
		}
		p.Weight = 0
		if got, err = enhance.Mix(q, near, p); err != nil || math.Abs(got.Dot(q)/q.Norm()-1) > 1e-6 {
			t.Fatalf("weight 0: %v", err)
		}
		p.Weight = 1
		if got, err = enhance.Mix(q, near[:1], p); err != nil {
			t.Fatal(err)
		}
		golden.Close(t, got, near[0].Prototype, 1e-6)
	}
}

func TestMixEdges(t *testing.T) {
	nan := float32(math.NaN())
	east, west, north := imagebind.Embedding{1, 0}, imagebind.Embedding{-1, 0}, imagebind.Embedding{0, 1}
	near := func(s float32, p imagebind.Embedding) imagebind.Neighbour {
		return imagebind.Neighbour{ID: "n", Similarity: s, Prototype: p}
	}
	half := imagebind.EnhanceParams{K: 10, Temperature: 20, Weight: 0.5}
	tests := []struct {
		name string
		q    imagebind.Embedding
		near []imagebind.Neighbour
		p    imagebind.EnhanceParams
		want imagebind.Embedding // nil: an Invalid error
	}{
		{"no neighbours", imagebind.Embedding{0.5, 0}, nil, half, east},
		{"no neighbours, weight 1", imagebind.Embedding{0.5, 0}, nil, imagebind.EnhanceParams{K: 1, Weight: 1}, east},
		{"fewer than k", east, []imagebind.Neighbour{near(0, north)}, half, imagebind.Embedding{math.Sqrt2 / 2, math.Sqrt2 / 2}},
		{"a mix is moved further", imagebind.Embedding{0.5, 0}, []imagebind.Neighbour{near(0, north)}, half, imagebind.Embedding{0.4472136, 0.8944272}},
		{"temperature 0 weighs all alike", north, []imagebind.Neighbour{near(0.9, east), near(0.1, imagebind.Embedding{0, -1})}, imagebind.EnhanceParams{K: 2, Weight: 1}, imagebind.Embedding{math.Sqrt2 / 2, -math.Sqrt2 / 2}},
		{"large similarities", east, []imagebind.Neighbour{near(1e6, north), near(1e6, north)}, imagebind.EnhanceParams{K: 2, Temperature: 1000, Weight: 1}, north},
		{"neighbours cancel", north, []imagebind.Neighbour{near(0, east), near(0, west)}, half, nil},
		{"the result cancels", east, []imagebind.Neighbour{near(-1, west)}, half, nil},
		{"zero query, no neighbours", imagebind.Embedding{0, 0}, nil, half, nil},
		{"zero query", imagebind.Embedding{0, 0}, []imagebind.Neighbour{near(0, north)}, half, north},
		{"NaN in the query", imagebind.Embedding{nan, 0}, nil, half, nil},
		{"NaN similarity", east, []imagebind.Neighbour{near(nan, north)}, half, nil},
		{"NaN prototype", east, []imagebind.Neighbour{near(1, imagebind.Embedding{nan, 1})}, half, nil},
		{"another dim", east, []imagebind.Neighbour{near(1, imagebind.Embedding{1})}, half, nil},
		{"k 0", east, nil, imagebind.EnhanceParams{Weight: 0.5}, nil},
		{"weight over 1", east, nil, imagebind.EnhanceParams{K: 1, Weight: 1.5}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := enhance.Mix(tt.q, tt.near, tt.p)
			if tt.want == nil {
				if imagebind.KindOf(err) != imagebind.Invalid {
					t.Fatalf("%v, %v", got, err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			golden.Close(t, got, tt.want, 1e-6)
		})
	}
}

func BenchmarkMix(b *testing.B) {
	q := make(imagebind.Embedding, 1024)
	q[0] = 1
	near := make([]imagebind.Neighbour, 10)
	for i := range near {
		near[i] = imagebind.Neighbour{Similarity: float32(i) / 10, Prototype: q}
	}
	for b.Loop() {
		if _, err := enhance.Mix(q, near, imagebind.DefaultEnhance()); err != nil {
			b.Fatal(err)
		}
	}
}
