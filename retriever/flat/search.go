package flat

import (
	"bytes"
	"cmp"
	"context"
	"hash/crc32"
	"math"
	"path/filepath"
	"slices"

	imagebind "imagebind-llm"
	"imagebind-llm/retriever/kernel"
	"imagebind-llm/retriever/store"
)

// fetchBytes of rows may well not be all in memory: a search then asks for those
// that it will score before it does, so that the disk has them to do at once.
const fetchBytes = 1 << 30

// maxAnswer is how many bytes of vectors one search may return.
const maxAnswer = 2 << 30

// search finds, for each query, the k rows of the largest inner product: a
// scan of the codes leaves those that may be among them, whose products with
// the rows themselves are summed in float64.
func (p *part) search(ctx context.Context, q store.Query) ([][]imagebind.Neighbour, error) {
	v := p.shown.Load()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if q.K < 1 || q.K > imagebind.MaxNeighbours {
		return nil, imagebind.Errorf(imagebind.Invalid, "k is %d; it is 1 to %d", q.K, imagebind.MaxNeighbours)
	}
	nq := len(q.Vectors)
	for i, e := range q.Vectors {
		if len(e) != p.dim {
			return nil, imagebind.Errorf(imagebind.Invalid, "query %d has %d values; the collection's dim is %d", i, len(e), p.dim)
		}
		if !e.Finite() {
			return nil, imagebind.Errorf(imagebind.Invalid, "query %d holds NaN or infinity", i)
		}
	}
	count := v.count()
	var chosen []uint64 // nil for all
	if len(q.Filter) > 0 {
		f, err := newFilter(q.Filter)
		if err != nil {
			return nil, err
		}
		if chosen, count, err = p.choose(ctx, v, f); err != nil {
			return nil, err
		}
	}
	k := min(q.K, count)
	if k == 0 || nq == 0 {
		out := make([][]imagebind.Neighbour, nq)
		for i := range out {
			out[i] = []imagebind.Neighbour{}
		}
		return out, nil
	}
	if size := 4 * int64(nq) * int64(k) * int64(p.dim); size > maxAnswer {
		return nil, imagebind.Errorf(imagebind.TooLarge, "%d queries for %d rows of %d values each are an answer of %d MB; ask for at most %d at a time",
			nq, k, p.dim, size>>20, maxAnswer>>20)
	}
	most := q.K
	if chosen != nil {
		most = k
	}
	qs := make([]query, nq)
	for i, e := range q.Vectors {
		qs[i] = newQuery(e, most, p.stride)
	}
	var a answer
	if chosen == nil && nq <= gateQueries && v.n*p.stride >= gateBytes {
		a = p.scanTogether(ctx, qs)
	} else {
		a.v = v
		if chosen == nil {
			a.tops, a.err = p.find(ctx, v, qs)
		} else {
			a.tops, a.err = p.scan(ctx, v, 0, qs, chosen)
		}
	}
	if a.err != nil {
		return nil, a.err
	}
	return p.finish(ctx, a.v, qs, a.tops)
}

// A scored slot has its exact score.
type scored struct {
	score float32
	slot  uint32
}

// finish scores the hits exactly and makes neighbours of the k best, ties by
// id. Vectors are copied, once for all queries that find them.
func (p *part) finish(ctx context.Context, v *view, qs []query, tops []*top) ([][]imagebind.Neighbour, error) {
	best := make([][]scored, len(qs))
	err := parallel(ctx, len(qs), 1, func(_, i, _ int) error {
		best[i] = p.score(v, qs[i].exact, tops[i])
		return nil
	})
	if err != nil {
		return nil, err
	}
	out := make([][]imagebind.Neighbour, len(qs))
	seen := map[uint32]imagebind.Embedding{}
	err = guard(func() error {
		for i := range out {
			if err := ctx.Err(); err != nil {
				return err
			}
			if out[i], err = p.neighbours(v, best[i], tops[i].k, seen); err != nil {
				return err
			}
		}
		return nil
	})
	return out, err
}

// score returns the k best hits, and those that tie with the last of them, best
// first.
func (p *part) score(v *view, q imagebind.Embedding, t *top) []scored {
	slices.SortFunc(t.hits, func(a, b hit) int { return cmp.Compare(b.high, a.high) })
	if v.n*p.rows.size >= fetchBytes { // else they are in memory, or soon will be
		for _, h := range t.hits {
			fetch(p.stored(v, int(h.slot)))
		}
	}
	buf := make([]float32, p.dim)
	list := make([]scored, 0, len(t.hits))
	byScore := func(a, b scored) int { return cmp.Compare(b.score, a.score) }
	floor := math.Inf(-1) // the k-th best score at the last look
	for i, h := range t.hits {
		if h.high < floor { // and so are all that follow
			break
		}
		list = append(list, scored{round(kernel.Dot(q, p.vector(p.stored(v, int(h.slot)), buf))), h.slot})
		if i%t.k == t.k-1 {
			slices.SortFunc(list, byScore)
			floor = float64(list[t.k-1].score)
		}
	}
	slices.SortFunc(list, byScore)
	n := t.k
	for n < len(list) && list[n].score == list[t.k-1].score {
		n++
	}
	return list[:n]
}

func round(x float64) float32 {
	return float32(max(-math.MaxFloat32, min(math.MaxFloat32, x)))
}

// neighbours reads what is stored of the k best of list, ties by id.
func (p *part) neighbours(v *view, list []scored, k int, seen map[uint32]imagebind.Embedding) ([]imagebind.Neighbour, error) {
	type found struct {
		scored
		record
	}
	all := make([]found, len(list))
	for i, s := range list {
		r, _, err := p.record(v.places[s.slot], nil)
		if err != nil {
			return nil, err
		}
		all[i] = found{s, r}
	}
	slices.SortFunc(all, func(a, b found) int {
		return cmp.Or(cmp.Compare(b.score, a.score), bytes.Compare(a.id, b.id))
	})
	out := make([]imagebind.Neighbour, k)
	for i, f := range all[:k] {
		e := seen[f.slot]
		if e == nil {
			var err error
			if e, err = p.whole(p.stored(v, int(f.slot)), int(f.slot), v.sums[f.slot]); err != nil {
				return nil, err
			}
			seen[f.slot] = e
		}
		metadata, err := f.fields()
		if err != nil {
			return nil, err
		}
		out[i] = imagebind.Neighbour{ID: string(f.id), Similarity: f.score, Caption: string(f.caption), URI: string(f.uri), Metadata: metadata, Prototype: e}
	}
	return out, nil
}

// whole copies a row and holds it to its checksum.
func (p *part) whole(stored []byte, slot int, sum uint32) (imagebind.Embedding, error) {
	e := make(imagebind.Embedding, p.dim)
	if p.half {
		half := make([]uint16, p.dim)
		copy(half, valuesOf[uint16](stored))
		kernel.FromHalf(e, half)
		stored = bytesOf(half)
	} else {
		copy(e, valuesOf[float32](stored))
		stored = bytesOf(e)
	}
	if crc32.Checksum(stored, castagnoli) != sum {
		return nil, imagebind.Errorf(imagebind.Internal, "row %d of %s is damaged: it is not what was stored", slot, filepath.Join(p.dir, filepath.Base(p.rows.f.Name())))
	}
	return e, nil
}
