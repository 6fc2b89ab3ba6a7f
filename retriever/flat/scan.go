package flat

import (
	"cmp"
	"context"
	"math"
	"slices"

	imagebind "imagebind-llm"
	"imagebind-llm/retriever/kernel"
)

const (
	blockBytes = 1 << 20 // of codes, scored at a time: their scores stay in the second cache
	unitRows   = 1024    // taken by a worker at a time; a divisor of chunkRows
)

// sure is how many steps of its codes a row is looked at wider than it seems.
// What rounding a row took away, seen from a unit query, is a sum of errors each
// within half a step, and independent of the query as far as rounding is: by
// Hoeffding's inequality it is over t steps in one case of exp(2t²)/2. With 4
// that is one row of 4·10^13.
const sure = 4

// width returns how far the product of a unit query with a row may be from that
// with scale·codes: sure steps, and never more than the length of what was
// rounded away, which is a bound for certain.
func width(scale, loss float32) float32 {
	if scale < 0x1p-100 { // a step may be rounded itself
		return loss
	}
	return min(sure*scale, loss)
}

// A query is a vector prepared for a scan.
type query struct {
	exact imagebind.Embedding // [dim]
	k     int
	codes []int16 // [stride]
	scale float64 // exact is about scale·codes
	norm  float64
	loss  float64 // how far it is from that, not less
}

func newQuery(e imagebind.Embedding, k, stride int) query {
	q := query{exact: e, k: k, codes: make([]int16, stride), norm: e.Norm()}
	scale, loss := kernel.QuantiseQuery(q.codes, e)
	q.scale, q.loss = float64(scale), float64(loss)
	return q
}

// A hit is a slot with bounds of its exact score.
type hit struct {
	low, high float64
	slot      uint32
}

// A top collects all slots that may be among the k best of those it is shown.
type top struct {
	k     int
	floor float64 // a slot whose high is less cannot be among them
	hits  []hit
	limit int // of hits, before those under the floor are looked for
}

func newTop(k int) *top { return &top{k: k, floor: math.Inf(-1), limit: 2*k + 256} }

// add takes a hit whose high is not less than floor.
func (t *top) add(h hit) {
	t.hits = append(t.hits, h)
	if len(t.hits) >= t.limit {
		t.prune()
		t.limit = max(t.limit, 2*len(t.hits)) // equal rows may be many
	}
}

// prune raises the floor to the k-th best low: k rows have scores of that or
// more.
func (t *top) prune() {
	if len(t.hits) < max(1, t.k) {
		return
	}
	slices.SortFunc(t.hits, func(a, b hit) int { return cmp.Compare(b.low, a.low) })
	t.floor = t.hits[t.k-1].low
	t.hits = slices.DeleteFunc(t.hits, func(h hit) bool { return h.high < t.floor })
}

// A lens is how one worker looks at rows for one query.
type lens struct {
	scale float64 // of the query
	perW  float64 // of a row's width
	fixed float64 // for what is lost to the query's codes and to float64
	*top
}

// scan returns, for each query, the slots of v from first on that may be among
// its k best: those that live and, unless chosen is nil, have their bit there.
func (p *part) scan(ctx context.Context, v *view, first int, qs []query, chosen []uint64) ([]*top, error) {
	nq, stride, longest := len(qs), p.stride, float64(v.maxNorm)
	codes := make([]int16, 0, nq*stride)
	for _, q := range qs {
		codes = append(codes, q.codes...)
	}
	base := first / unitRows * unitRows
	block := max(1, min(unitRows, blockBytes/stride))
	workers := make([][]lens, workers(v.n-base, unitRows))
	scores := make([][]int32, len(workers))
	for w := range workers {
		scores[w] = make([]int32, block*nq)
		workers[w] = make([]lens, nq)
		for i, q := range qs {
			// The exact score is rounded to float32, once.
			workers[w][i] = lens{q.scale, q.norm + q.loss, q.loss*longest + 0x1p-22*q.norm*longest, newTop(min(q.k, v.count()))}
		}
	}
	err := parallel(ctx, v.n-base, unitRows, func(worker, from, to int) error {
		from, to = max(first, base+from), base+to
		lenses, chunk := workers[worker], valuesOf[int8](v.codes[from/chunkRows])
		for ; from < to; from += block {
			n := min(block, to-from)
			at := from % chunkRows * stride
			dst := scores[worker][:n*nq]
			kernel.Scores8(dst, chunk[at:at+n*stride], codes, stride)
			for slot := from; slot < from+n; slot++ {
				scale, width := float64(v.scales[slot]), float64(v.widths[slot])
				for i, s := range dst[:nq] {
					l := &lenses[i]
					mid, off := float64(s)*scale*l.scale, width*l.perW+l.fixed
					if mid+off < l.floor {
						continue
					}
					if v.alive(slot) && (chosen == nil || chosen[slot>>6]>>(slot&63)&1 == 1) {
						l.add(hit{mid - off, mid + off, uint32(slot)})
					}
				}
				dst = dst[nq:]
			}
			if err := ctx.Err(); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	tops := make([]*top, nq)
	for i := range tops {
		tops[i] = workers[0][i].top
		for _, w := range workers[1:] {
			tops[i].hits = append(tops[i].hits, w[i].hits...)
		}
		tops[i].prune()
	}
	return tops, nil
}
