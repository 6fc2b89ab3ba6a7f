package kernel

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
)

func random(r *rand.Rand, n, dim, stride int, scale float64) []float32 {
	v := make([]float32, n*stride)
	for i := range n {
		for j := range dim {
			v[i*stride+j] = float32(scale * r.NormFloat64())
		}
	}
	return v
}

// exact is the inner product and the product of the lengths, in float64.
func exact(a, b []float32) (dot, norms float64) {
	var aa, bb float64
	for i := range a {
		x, y := float64(a[i]), float64(b[i])
		dot, aa, bb = dot+x*y, aa+x*x, bb+y*y
	}
	return dot, math.Sqrt(aa * bb)
}

// TestKernels holds every kernel this machine runs to float64 sums within
// Error, for each way in which rows and queries can be left over from a tile.
func TestKernels(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for name, f := range kernels() {
		worst := 0.0 // share of Error that was needed
		for _, dim := range []int{1, 3, 16, 17, 64, 200, 1024} {
			stride := Pad(dim)
			for _, nr := range []int{1, 2, 3, 4, 5, 6, 7, 8, 13, 48} {
				for _, nq := range []int{1, 2, 3, 4, 5, 6, 7, 8, 17} {
					rows, queries := random(r, nr, dim, stride, 1), random(r, nq, dim, stride, 1e3)
					dst := make([]float32, nr*nq+1)
					for i := range dst {
						dst[i] = -7
					}
					f(dst[:nr*nq], rows, queries, stride)
					for i := range nr {
						for q := range nq {
							want, norms := exact(rows[i*stride:(i+1)*stride], queries[q*stride:(q+1)*stride])
							off := math.Abs(float64(dst[i*nq+q])-want) / Error(stride, norms)
							if worst = max(worst, off); !(off <= 1) {
								t.Fatalf("%s, dim %d, %d rows, %d queries: [%d][%d] is %v, want %v", name, dim, nr, nq, i, q, dst[i*nq+q], want)
							}
						}
					}
					if dst[nr*nq] != -7 {
						t.Fatalf("%s wrote behind dst", name)
					}
				}
			}
		}
		t.Logf("%s: off by at most %.3f of the bound", name, worst)
	}
	t.Logf("this machine runs %s", Name())
}

// Sums of values of one sign are where rounding adds up, and of tiny ones where
// products vanish.
func TestErrorBound(t *testing.T) {
	const stride = 4096
	a, b := make([]float32, stride), make([]float32, stride)
	for name, f := range kernels() {
		for _, scale := range []float32{1, 1e-19, 1e-23, 1e18} {
			for i := range a {
				a[i], b[i] = scale*(1+float32(i%7)/3), scale*(1+float32(i%11)/7)
			}
			want, norms := exact(a, b)
			var got [1]float32
			f(got[:], a, b, stride)
			if norms < Limit && !(math.Abs(float64(got[0])-want) <= Error(stride, norms)) {
				t.Errorf("%s, values near %v: %v, want %v ± %v", name, scale, got[0], want, Error(stride, norms))
			}
		}
	}
}

func TestScoresPanics(t *testing.T) {
	for _, tt := range []struct{ dst, rows, queries, stride int }{{1, 16, 16, 0}, {1, 8, 8, 8}, {1, 17, 16, 16}, {2, 16, 16, 16}, {1, 16, 15, 16}} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%+v went through", tt)
				}
			}()
			Scores(make([]float32, tt.dst), make([]float32, tt.rows), make([]float32, tt.queries), tt.stride)
		}()
	}
	Scores(nil, nil, make([]float32, 16), 16)
}

// BenchmarkScores reads rows from memory, 48 at a time, as a search does.
func BenchmarkScores(b *testing.B) {
	const dim, n, block = 1024, 24576, 48
	r := rand.New(rand.NewPCG(1, 2))
	rows := random(r, n, dim, dim, 1)
	for name, f := range kernels() {
		for _, nq := range []int{1, 4, 16} {
			b.Run(fmt.Sprintf("%s/B=%d", name, nq), func(b *testing.B) {
				queries, dst := random(r, nq, dim, dim, 1), make([]float32, block*nq)
				b.SetBytes(4 * n * dim)
				for b.Loop() {
					for i := 0; i < n; i += block {
						f(dst, rows[i*dim:(i+block)*dim], queries, dim)
					}
				}
				b.ReportMetric(2*float64(n*dim*nq)*float64(b.N)/b.Elapsed().Seconds()/1e9, "GFLOP/s")
			})
		}
	}
}
