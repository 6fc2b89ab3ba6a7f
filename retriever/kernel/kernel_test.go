package kernel

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// TestScores8 holds every kernel this machine runs to plain Go, bit for bit, for
// each way in which rows and queries can be left over from a tile.
func TestScores8(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, s := range sets() {
		for _, dim := range []int{1, 63, 64, 65, 200, 1024, 4096} {
			stride := Pad8(dim)
			most := MaxQuery(stride)
			for _, nr := range []int{1, 2, 3, 4, 5, 6, 7, 8, 13, 48} {
				for _, nq := range []int{1, 2, 3, 4, 5, 6, 7, 17} {
					rows, queries := make([]int8, nr*stride), make([]int16, nq*stride)
					for i := range rows {
						rows[i] = int8(r.IntN(255) - 127)
					}
					for i := range queries {
						queries[i] = int16(r.IntN(2*most+1) - most)
					}
					for i := range stride { // the largest sums there are
						rows[i], queries[i] = 127, int16(most)
						if nr > 1 {
							rows[stride+i] = -127
						}
					}
					dst, want := make([]int32, nr*nq+1), make([]int32, nr*nq)
					dst[nr*nq] = -7
					s.scores8(dst[:nr*nq], rows, queries, stride)
					plainScores8(want, rows, queries, stride)
					if !slices.Equal(dst[:nr*nq], want) {
						t.Fatalf("%s, dim %d, %d rows, %d queries: %v, want %v", s.name, dim, nr, nq, dst, want)
					}
					if dst[nr*nq] != -7 {
						t.Fatalf("%s wrote behind dst", s.name)
					}
					if want[0] != int32(127*most*stride) {
						t.Fatalf("the largest sum is %d", want[0])
					}
				}
			}
		}
	}
	t.Logf("this machine runs %s", Name())
}

// TestQuantise holds the kernels to plain Go: the same codes and scale, and a
// loss that is not less than it is.
func TestQuantise(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for _, s := range sets() {
		for _, dim := range []int{1, 3, 15, 16, 17, 64, 100, 1024, 1031} {
			for _, scale := range []float64{1, 1e-3, 1e30, 1e-38, 1e-44, 0} {
				row := make([]float32, dim)
				for i := range row {
					row[i] = float32(scale * r.NormFloat64())
				}
				row[r.IntN(dim)] *= 3
				got, want := make([]int8, Pad8(dim)), make([]int8, Pad8(dim))
				for i := range got {
					got[i], want[i] = 9, 9
				}
				step, loss := s.quantise(got, row)
				wantStep, wantLoss := plain.quantise(want, row)
				if !slices.Equal(got, want) || step != wantStep || math.Abs(float64(loss-wantLoss)) > 1e-6*float64(wantLoss) {
					t.Fatalf("%s, dim %d, scale %v: %v %v, want %v %v", s.name, dim, scale, step, loss, wantStep, wantLoss)
				}
				off := 0.0
				for i, v := range row {
					d := float64(v) - float64(step)*float64(got[i])
					off += d * d
				}
				if float64(loss) < math.Sqrt(off) {
					t.Fatalf("%s, dim %d, scale %v: a loss of %v, %v is lost", s.name, dim, scale, loss, math.Sqrt(off))
				}
			}
		}
	}
}

// Values half a step from two codes go to the even one; the largest is ±127.
func TestQuantiseTies(t *testing.T) {
	row := make([]float32, 16)
	row[0], row[1], row[2], row[3], row[4] = 127, 0.5, 1.5, -2.5, -127
	for _, s := range sets() {
		got := make([]int8, Align8)
		if scale, _ := s.quantise(got, row); scale != 1 || !slices.Equal(got[:5], []int8{127, 0, 2, -2, -127}) {
			t.Errorf("%s: %v", s.name, got[:5])
		}
	}
	q := make([]int16, Align8)
	if scale, loss := QuantiseQuery(q, row); q[0] != int16(MaxQuery(Align8)) || q[4] != -q[0] || loss > scale*4 {
		t.Errorf("%v %v, loss %v", scale, q[:5], loss)
	}
}

func TestSums(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for _, s := range sets() {
		for _, n := range []int{0, 1, 15, 16, 17, 200, 1024} {
			a, b := make([]float32, n), make([]float32, n)
			for i := range a {
				a[i], b[i] = float32(r.NormFloat64()), float32(r.NormFloat64())
			}
			if got, want := s.dot64(a, b), plainDot64(a, b); math.Abs(got-want) > 1e-12*float64(n+1) {
				t.Errorf("%s, %d values: %v, want %v", s.name, n, got, want)
			}
			for i := range a {
				for _, bad := range []float32{float32(math.NaN()), float32(math.Inf(-1))} {
					was := a[i]
					a[i] = bad
					if got := s.sumSquares(a); !math.IsNaN(got) && !math.IsInf(got, 0) {
						t.Errorf("%s: %v among %d values goes by", s.name, bad, n)
					}
					a[i] = was
				}
			}
			if got := s.sumSquares(a); math.Abs(got-plainDot64(a, a)) > 1e-12*float64(n+1) {
				t.Errorf("%s: %v", s.name, got)
			}
		}
		if got := s.sumSquares([]float32{math.MaxFloat32, math.MaxFloat32}); math.IsInf(got, 0) {
			t.Errorf("%s: large values", s.name)
		}
	}
}

// TestHalf goes there and back with every value of half precision, and with
// ties between them.
func TestHalf(t *testing.T) {
	var all []uint16
	for h := range 1 << 16 {
		if h>>10&31 != 31 { // finite
			all = append(all, uint16(h))
		}
	}
	wide, ties := make([]float32, len(all)), []float32{}
	plainFromHalf(wide, all)
	for i := range len(wide) - 1 {
		if wide[i]*wide[i+1] > 0 {
			ties = append(ties, (wide[i]+wide[i+1])/2, wide[i]*1.0003)
		}
	}
	ties = slices.DeleteFunc(ties, func(x float32) bool { return math.Abs(float64(x)) > MaxHalf })
	want := make([]uint16, len(ties))
	plainToHalf(want, ties)
	for _, s := range sets() {
		back, again := make([]float32, len(all)), make([]uint16, len(all))
		s.fromHalf(back, all)
		s.toHalf(again, back)
		if !slices.Equal(back, wide) || !slices.Equal(again, all) {
			t.Errorf("%s: halves do not come back", s.name)
		}
		got := make([]uint16, len(ties))
		s.toHalf(got, ties)
		for i := range got {
			if got[i] != want[i] {
				t.Fatalf("%s: %v is %#x, want %#x", s.name, ties[i], got[i], want[i])
			}
		}
	}
}

func TestPanics(t *testing.T) {
	for _, tt := range []struct{ dst, rows, queries, stride int }{{1, 64, 64, 0}, {1, 8, 8, 8}, {1, 65, 64, 64}, {2, 64, 64, 64}, {1, 64, 63, 64}} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%+v went through", tt)
				}
			}()
			Scores8(make([]int32, tt.dst), make([]int8, tt.rows), make([]int16, tt.queries), tt.stride)
		}()
	}
	Scores8(nil, nil, make([]int16, 64), 64)
}

// BenchmarkScores8 reads rows from memory, 128 at a time, as a search does.
func BenchmarkScores8(b *testing.B) {
	const dim, n, block = 1024, 1 << 18, 128
	r := rand.New(rand.NewPCG(1, 2))
	rows := make([]int8, n*dim)
	for i := range rows {
		rows[i] = int8(r.Uint32())
	}
	for _, s := range sets() {
		for _, nq := range []int{1, 3, 16} {
			if s.name == plain.name && nq > 1 {
				continue
			}
			b.Run(fmt.Sprintf("%s/B=%d", s.name, nq), func(b *testing.B) {
				queries, dst := make([]int16, nq*dim), make([]int32, block*nq)
				for i := range queries {
					queries[i] = int16(r.IntN(32767) - 16383)
				}
				b.SetBytes(n * dim)
				for b.Loop() {
					for i := 0; i < n; i += block {
						s.scores8(dst, rows[i*dim:(i+block)*dim], queries, dim)
					}
				}
				b.ReportMetric(float64(n*dim*nq)*float64(b.N)/b.Elapsed().Seconds()/1e9, "GMAC/s")
			})
		}
	}
}

func BenchmarkRows(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 2))
	row, half := make([]float32, 1024), make([]uint16, 1024)
	for i := range row {
		row[i] = float32(r.NormFloat64())
	}
	codes := make([]int8, 1024)
	for _, s := range sets() {
		for _, f := range []struct {
			name string
			do   func()
		}{{"quantise", func() { s.quantise(codes, row) }}, {"dot", func() { s.dot64(row, row) }},
			{"to half", func() { s.toHalf(half, row) }}, {"from half", func() { s.fromHalf(row, half) }}} {
			b.Run(s.name+"/"+f.name, func(b *testing.B) {
				for b.Loop() {
					f.do()
				}
			})
		}
	}
}
