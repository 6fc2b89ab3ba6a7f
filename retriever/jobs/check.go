package jobs

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	imagebind "imagebind-llm"
	"imagebind-llm/retriever/store"
)

// A hit is a row of the source near a check's query.
type hit struct {
	row   int
	score float64
}

// check holds the new generation to its source: as many rows, few left out,
// and searches for rows of the source that find what brute force finds.
func (m *Manager) check(ctx context.Context, j *job, src Source, b store.Builder) error {
	if err := m.update(j, true, func(j *job) { j.Phase, j.ETA = "check", nil }); err != nil {
		return err
	}
	total, dim := src.Rows(), src.Dim()
	if err := m.tooBad(j.Point, total); err != nil {
		return err
	}
	if b.Rows() != j.Point.Stored {
		return imagebind.Errorf(imagebind.Internal, "the generation holds %d rows, %d were stored", b.Rows(), j.Point.Stored)
	}
	n := max(1, min(checkQueries, total, int(checkWork/(float64(total)*float64(dim)))))
	var queries []imagebind.Embedding
	for i := range n {
		rows, err := src.Read(ctx, i*total/n, 1)
		if err != nil {
			return fmt.Errorf("read %s: %w", j.Source.Path, err)
		}
		if len(rows) > 0 && fault(rows[0], dim) == "" {
			queries = append(queries, rows[0].Vector)
		}
	}
	best := make([][]hit, len(queries))
	for at := 0; at < total && len(queries) > 0; {
		if err := ctx.Err(); err != nil {
			return err
		}
		rows, err := read(ctx, src, at)
		if err != nil {
			return err
		}
		for i, r := range rows {
			if fault(r, dim) != "" {
				continue
			}
			for q := range queries {
				keep(&best[q], hit{at + i, queries[q].Dot(r.Vector)})
			}
		}
		at += len(rows)
	}
	found, wanted := 0, 0
	if len(queries) > 0 {
		got, err := b.Search(ctx, store.Query{Vectors: queries, K: checkK})
		if err != nil {
			return fmt.Errorf("search the new generation: %w", err)
		}
		for q, list := range got {
			wanted += len(best[q])
			floor := best[q][len(best[q])-1].score - 1e-5 // fp32 rounding; ties may fall either way
			for _, nb := range list[:min(len(list), len(best[q]))] {
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
		j.Checks.Rows, j.Checks.Queries, j.Checks.Recall = b.Rows(), len(queries), recall
	}); err != nil {
		return err
	}
	if recall < m.o.MinRecall {
		return imagebind.Errorf(imagebind.Invalid, "recall@%d of the new generation is %.3f over %d searches, under %.3f; another index or other parameters are needed", checkK, recall, len(queries), m.o.MinRecall)
	}
	return nil
}

// keep puts h among the checkK best, best first.
func keep(best *[]hit, h hit) {
	if len(*best) == checkK && h.score <= (*best)[checkK-1].score {
		return
	}
	i, _ := slices.BinarySearchFunc(*best, h, func(a, b hit) int { return cmp.Compare(b.score, a.score) })
	*best = slices.Insert(*best, i, h)
	if len(*best) > checkK {
		*best = (*best)[:checkK]
	}
}
