package flat

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"math"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"

	imagebind "imagebind-llm"
	"imagebind-llm/retriever/flat/kernel"
	"imagebind-llm/retriever/store"
)

const (
	blockRows = 48   // scored at a time; with a dim of 1024 they fit in the second cache
	unitRows  = 1024 // taken by a worker at a time; a divisor of chunkRows
	// maxAnswer is how many bytes of vectors one search may return.
	maxAnswer = 2 << 30
)

// workers is how many goroutines go over n items, unit at a time.
func workers(n, unit int) int { return max(1, min(runtime.GOMAXPROCS(0), (n+unit-1)/unit)) }

// guard calls do. Mapped memory that cannot be read (a file cut short, a broken
// disk) is an error and not the end of the process.
func guard(do func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		switch r := recover().(type) {
		case nil:
		case interface {
			runtime.Error
			Addr() uintptr
		}:
			err = imagebind.Errorf(imagebind.Internal, "%s cannot be read: %w", rowsFile, r)
		default:
			panic(r)
		}
	}()
	return do()
}

// parallel calls do for [from, to) ranges that cover n items, each at most unit
// long, from workers(n, unit) goroutines, and returns the first error.
func parallel(ctx context.Context, n, unit int, do func(worker, from, to int) error) error {
	var next atomic.Int64
	work := func(worker int) error {
		for {
			from := int(next.Add(int64(unit))) - unit
			if from >= n {
				return nil
			}
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := do(worker, from, min(from+unit, n)); err != nil {
				next.Store(int64(n)) // the others need not go on
				return err
			}
		}
	}
	count := workers(n, unit)
	errs := make([]error, count)
	var wg sync.WaitGroup
	for w := 1; w < count; w++ {
		wg.Go(func() { errs[w] = guard(func() error { return work(w) }) })
	}
	errs[0] = guard(func() error { return work(0) })
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// A hit is a slot with a score: the kernel's, then the exact one.
type hit struct {
	score float32
	slot  uint32
}

func better(a, b hit) int { return cmp.Or(cmp.Compare(b.score, a.score), cmp.Compare(a.slot, b.slot)) }

// A top collects the k best of the scores it is shown, and all that may be
// among the k best when each score is off by at most err.
type top struct {
	k     int
	err   float64
	floor float32 // what is less cannot be among them
	hits  []hit
	limit int // of hits, before those under the floor are looked for
}

func newTop(k int, err float64) *top {
	return &top{k: k, err: err, floor: float32(math.Inf(-1)), limit: 2*k + 256}
}

// add takes a hit whose score is not less than floor.
func (t *top) add(h hit) {
	t.hits = append(t.hits, h)
	if len(t.hits) >= t.limit {
		t.prune()
		t.limit = max(t.limit, 2*len(t.hits)) // equal rows may be many
	}
}

// prune sorts the hits and raises the floor. With a the k-th best score, k rows
// have exact scores of a - err or more; a row whose score is under a - 2·err
// has an exact one under that.
func (t *top) prune() {
	slices.SortFunc(t.hits, better)
	if len(t.hits) < t.k {
		return
	}
	floor := float64(t.hits[t.k-1].score) - 2*t.err
	t.floor = float32(floor)
	if float64(t.floor) > floor {
		t.floor = math.Nextafter32(t.floor, float32(math.Inf(-1)))
	}
	n, _ := slices.BinarySearchFunc(t.hits, t.floor, func(h hit, floor float32) int {
		if h.score >= floor {
			return -1
		}
		return 1
	})
	t.hits = t.hits[:n]
}

// search finds, for each query, the k rows of the largest inner product: a
// scan by the kernel leaves those that may be among them, whose products are
// summed in float64.
func (p *part) search(ctx context.Context, q store.Query) ([][]imagebind.Neighbour, error) {
	v := p.shown.Load()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if q.K < 1 || q.K > imagebind.MaxNeighbours {
		return nil, imagebind.Errorf(imagebind.Invalid, "k is %d; it is 1 to %d", q.K, imagebind.MaxNeighbours)
	}
	nq := len(q.Vectors)
	queries, norms := make([]float32, nq*p.stride), make([]float64, nq)
	for i, e := range q.Vectors {
		if len(e) != p.dim {
			return nil, imagebind.Errorf(imagebind.Invalid, "query %d has %d values; the collection's dim is %d", i, len(e), p.dim)
		}
		if !e.Finite() {
			return nil, imagebind.Errorf(imagebind.Invalid, "query %d holds NaN or infinity", i)
		}
		copy(queries[i*p.stride:], e)
		norms[i] = e.Norm()
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
	out := make([][]imagebind.Neighbour, nq)
	k := min(q.K, count)
	if k == 0 || nq == 0 {
		for i := range out {
			out[i] = []imagebind.Neighbour{}
		}
		return out, nil
	}
	if size := 4 * int64(nq) * int64(k) * int64(p.dim); size > maxAnswer {
		return nil, imagebind.Errorf(imagebind.TooLarge, "%d queries for %d rows of %d values each are an answer of %d MB; ask for at most %d at a time",
			nq, k, p.dim, size>>20, maxAnswer>>20)
	}
	tops, err := p.scan(ctx, v, queries, norms, k, chosen)
	if err != nil {
		return nil, err
	}
	seen := map[uint32]imagebind.Embedding{}
	err = guard(func() error {
		for i := range out {
			if err := ctx.Err(); err != nil {
				return err
			}
			if out[i], err = p.finish(v, q.Vectors[i], tops[i], seen); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// scan returns, for each query, the slots that may be among the k best.
func (p *part) scan(ctx context.Context, v *view, queries []float32, norms []float64, k int, chosen []uint64) ([]*top, error) {
	nq, stride := len(norms), p.stride
	all := make([][]*top, workers(v.n, unitRows))
	overflow := false
	for w := range all {
		all[w] = make([]*top, nq)
		for i, n := range norms {
			n *= float64(v.maxNorm)
			overflow = overflow || n > kernel.Limit
			// The exact score is rounded to float32 once, too.
			all[w][i] = newTop(k, kernel.Error(stride, n)+0x1p-24*n)
		}
	}
	scores := kernel.Scores
	if overflow { // fp32 sums would; float64 does not
		scores = exactScores
	}
	buffers := make([][]float32, len(all))
	for w := range buffers {
		buffers[w] = make([]float32, blockRows*nq)
	}
	err := parallel(ctx, v.n, unitRows, func(worker, from, to int) error {
		tops := all[worker]
		chunk := v.chunks[from/chunkRows]
		for ; from < to; from += blockRows {
			n := min(blockRows, to-from)
			at := from % chunkRows * stride
			dst := buffers[worker][:n*nq]
			scores(dst, chunk[at:at+n*stride], queries, stride)
			for i, s := range dst {
				t := tops[i%nq]
				if s < t.floor {
					continue
				}
				slot := from + i/nq
				if !v.alive(slot) || chosen != nil && chosen[slot>>6]>>(slot&63)&1 == 0 {
					continue
				}
				t.add(hit{s, uint32(slot)})
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
	for i, t := range all[0] {
		for _, tops := range all[1:] {
			t.hits = append(t.hits, tops[i].hits...)
		}
		t.prune()
	}
	return all[0], nil
}

// exactScores is kernel.Scores with float64 sums, for lengths whose products
// leave float32. What is over its range becomes its largest value.
func exactScores(dst, rows, queries []float32, stride int) {
	nq := len(queries) / stride
	for i := range dst {
		r, q := i/nq, i%nq
		dst[i] = round(imagebind.Embedding(rows[r*stride : (r+1)*stride]).Dot(queries[q*stride : (q+1)*stride]))
	}
}

func round(x float64) float32 {
	return float32(max(-math.MaxFloat32, min(math.MaxFloat32, x)))
}

// finish scores the hits exactly and makes neighbours of the k best, ties by
// id. Vectors are copied, once for all queries that find them.
func (p *part) finish(v *view, q imagebind.Embedding, t *top, seen map[uint32]imagebind.Embedding) ([]imagebind.Neighbour, error) {
	hits := t.hits
	for i, h := range hits {
		hits[i].score = round(q.Dot(v.row(int(h.slot), p.stride)[:p.dim]))
	}
	slices.SortFunc(hits, better)
	n := t.k // and those that tie with the last of them
	for n < len(hits) && hits[n].score == hits[t.k-1].score {
		n++
	}
	type found struct {
		hit
		record
	}
	list := make([]found, n)
	for i, h := range hits[:n] {
		r, _, err := p.record(v.places[h.slot], nil)
		if err != nil {
			return nil, err
		}
		list[i] = found{h, r}
	}
	slices.SortFunc(list, func(a, b found) int {
		return cmp.Or(cmp.Compare(b.score, a.score), bytes.Compare(a.id, b.id))
	})
	out := make([]imagebind.Neighbour, t.k)
	for i, f := range list[:t.k] {
		e := seen[f.slot]
		if e == nil {
			var err error
			if e, err = p.vector(v, int(f.slot)); err != nil {
				return nil, err
			}
			seen[f.slot] = e
		}
		out[i] = imagebind.Neighbour{ID: string(f.id), Similarity: f.score, Caption: string(f.caption), URI: string(f.uri), Prototype: e}
		if len(f.metadata) > 0 {
			if err := json.Unmarshal(f.metadata, &out[i].Metadata); err != nil {
				return nil, fmt.Errorf("metadata of %s: %w", f.id, err)
			}
		}
	}
	return out, nil
}

// vector copies a row and holds it to its checksum.
func (p *part) vector(v *view, slot int) (imagebind.Embedding, error) {
	row := slices.Clone(v.row(slot, p.stride))
	if crc32.Checksum(raw(row), castagnoli) != v.sums[slot] {
		return nil, imagebind.Errorf(imagebind.Internal, "row %d of %s is damaged: it is not what was stored", slot, filepath.Join(p.dir, rowsFile))
	}
	return imagebind.Embedding(row[:p.dim:p.dim]), nil
}
