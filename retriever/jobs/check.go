package jobs

import (
	"cmp"
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync"

	imagebind "imagebind-llm"
	"imagebind-llm/retriever/kernel"
	"imagebind-llm/retriever/store"
)

// A probe is some of a source's rows, and for each the scores of the checkK rows
// of the source that brute force finds nearest. It sees the rows as they are
// copied, so that the source is read once.
type probe struct {
	queries []imagebind.Embedding
	best    [][]float64 // of each query, best first
	from    int         // rows of the source before it were not seen
}

// newProbe picks queries all over the source.
func newProbe(ctx context.Context, src Source) (*probe, error) {
	total, dim := src.Rows(), src.Dim()
	n := max(1, min(checkQueries, total, int(checkWork/(float64(total)*float64(dim)))))
	p := &probe{}
	for i := range n {
		rows, err := src.Read(ctx, i*total/n, 1)
		if err != nil {
			return nil, fmt.Errorf("read a row to check with: %w", err)
		}
		if len(rows) == 0 {
			continue
		}
		if why, _ := fault(rows[0], dim); why == "" {
			p.queries = append(p.queries, slices.Clone(rows[0].Vector))
		}
	}
	p.best = make([][]float64, len(p.queries))
	return p, nil
}

// see takes good rows into account.
func (p *probe) see(rows []store.Row) {
	workers := min(runtime.GOMAXPROCS(0), len(p.queries))
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for q := w; q < len(p.queries); q += workers {
				for _, r := range rows {
					keep(&p.best[q], kernel.Dot(p.queries[q], r.Vector))
				}
			}
		})
	}
	wg.Wait()
}

// catchUp sees the rows before to, from the source.
func (p *probe) catchUp(ctx context.Context, src Source, to int) error {
	for at := 0; at < to && len(p.queries) > 0; {
		if err := ctx.Err(); err != nil {
			return err
		}
		rows, err := read(ctx, src, at)
		if err != nil {
			return err
		}
		at += len(rows)
		rows = rows[:max(0, len(rows)-max(0, at-to))]
		p.see(slices.DeleteFunc(rows, func(r store.Row) bool { why, _ := fault(r, src.Dim()); return why != "" }))
	}
	return nil
}

// check holds the new generation to its source: as many rows, few left out,
// and searches for rows of the source that find what brute force finds.
func (m *Manager) check(ctx context.Context, j *job, src Source, b store.Builder, p *probe) error {
	if err := m.update(j, true, func(j *job) { j.Phase, j.ETA = "check", nil }); err != nil {
		return err
	}
	if err := m.tooBad(j.Point, src.Rows()); err != nil {
		return err
	}
	if b.Rows() != j.Point.Stored {
		return imagebind.Errorf(imagebind.Internal, "the generation holds %d rows, %d were stored", b.Rows(), j.Point.Stored)
	}
	if p == nil { // rows that were made could not be read ahead
		var err error
		if p, err = newProbe(ctx, src); err != nil {
			return err
		}
		p.from = src.Rows()
	}
	if err := p.catchUp(ctx, src, p.from); err != nil {
		return err
	}
	found, wanted := 0, 0
	if len(p.queries) > 0 {
		got, err := b.Search(ctx, store.Query{Vectors: p.queries, K: checkK})
		if err != nil {
			return fmt.Errorf("search the new generation: %w", err)
		}
		for q, list := range got {
			best := p.best[q]
			if len(best) == 0 {
				return imagebind.Errorf(imagebind.Conflict, "%s changed while the job was at it; start another", j.Source.Path)
			}
			wanted += len(best)
			floor := best[len(best)-1] - 1e-5 // fp32 rounding; ties may fall either way
			for _, nb := range list[:min(len(list), len(best))] {
				if float64(nb.Similarity) >= floor {
					found++
				}
			}
		}
	}
	recall := 1.0
	if wanted > 0 {
		recall = float64(found) / float64(wanted)
	}
	if err := m.update(j, true, func(j *job) {
		j.Checks.Rows, j.Checks.Queries, j.Checks.Recall = b.Rows(), len(p.queries), recall
	}); err != nil {
		return err
	}
	if recall < m.o.MinRecall {
		return imagebind.Errorf(imagebind.Invalid, "recall@%d of the new generation is %.3f over %d searches, under %.3f; another index or other parameters are needed", checkK, recall, len(p.queries), m.o.MinRecall)
	}
	return nil
}

// keep puts a score among the checkK best, best first.
func keep(best *[]float64, score float64) {
	if len(*best) == checkK && score <= (*best)[checkK-1] {
		return
	}
	i, _ := slices.BinarySearchFunc(*best, score, func(a, b float64) int { return cmp.Compare(b, a) })
	*best = slices.Insert(*best, i, score)
	if len(*best) > checkK {
		*best = (*best)[:checkK]
	}
}
