package flat

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"

	imagebind "imagebind-llm"
	"imagebind-llm/retriever/store"
)

// BenchmarkSearch searches 100k rows of 1024 values for the 10 best, as the
// service does for one question and for a batch.
func BenchmarkSearch(b *testing.B) {
	const n, dim, batch = 100_000, 1024, 2000
	s, r := open(b, b.TempDir(), Options{}), rand.New(rand.NewPCG(1, 2))
	unit := func() imagebind.Embedding {
		v := make(imagebind.Embedding, dim)
		for i := range v {
			v[i] = float32(r.NormFloat64())
		}
		v.Normalize()
		return v
	}
	ctx := context.Background()
	build, err := s.Build(ctx, name, store.Spec{Dim: dim}, "job")
	if err != nil {
		b.Fatal(err)
	}
	for at := 0; at < n; at += batch {
		rows := make([]store.Row, batch)
		for i := range rows {
			rows[i] = store.Row{ID: fmt.Sprint(at + i), Vector: unit(), Caption: fmt.Sprint("row ", at+i), Metadata: map[string]any{"tenth": (at + i) % 10}}
		}
		if err := build.Append(ctx, rows); err != nil {
			b.Fatal(err)
		}
	}
	if _, err := build.Commit(ctx); err != nil {
		b.Fatal(err)
	}
	for _, bb := range []struct {
		queries, k int
		filter     map[string]any
	}{{1, 10, nil}, {4, 10, nil}, {16, 10, nil}, {64, 10, nil}, {1, 1000, nil}, {1, 10, map[string]any{"tenth": 3}}} {
		b.Run(fmt.Sprintf("B=%d/k=%d/filter=%v", bb.queries, bb.k, bb.filter != nil), func(b *testing.B) {
			q := store.Query{K: bb.k, Filter: bb.filter}
			for range bb.queries {
				q.Vectors = append(q.Vectors, unit())
			}
			for b.Loop() {
				if _, err := s.Search(ctx, name, q); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(bb.queries)*float64(b.N)/b.Elapsed().Seconds(), "queries/s")
		})
	}
}

// BenchmarkUpsert writes one row a call, from one side and from many.
func BenchmarkUpsert(b *testing.B) {
	for _, side := range []int{1, 32} {
		b.Run(fmt.Sprintf("writers=%d", side), func(b *testing.B) {
			s := open(b, b.TempDir(), Options{})
			v := make(imagebind.Embedding, 1024)
			v[0] = 1
			fill(b, s, []store.Row{{ID: "a", Vector: v}})
			b.SetParallelism(side)
			b.RunParallel(func(pb *testing.PB) {
				for i := 0; pb.Next(); i++ {
					if err := s.Upsert(context.Background(), name, []store.Row{{ID: fmt.Sprint(rand.Uint64()), Vector: v}}); err != nil {
						b.Error(err)
					}
				}
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "rows/s")
		})
	}
}
