package flat

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync/atomic"
	"time"

	"imagebind-llm/retriever/kernel"
)

// A Matrix is rows in half precision where products are fast, on a GPU. Package
// device has one.
type Matrix interface {
	// Search finds for each of queries [B, dim], the bits of half-precision
	// values, n rows of the largest products, or all that live where those are
	// fewer. dead has a bit for each row to leave out; rows behind its end live. No
	// other row that lives has a product above the query's rest; -Inf: there is
	// none. Products may be off as far as [fast.off] says.
	Search(ctx context.Context, queries []uint16, n int, dead []uint64) (slots [][]uint32, scores [][]float32, rest []float32, err error)
	// Close frees the rows, after the searches that run; others fail.
	Close() error
}

// A Loader copies n rows of dim values into a Matrix. read fills rows [.., dim]
// from row first on; it is called for one stretch after another.
type Loader func(ctx context.Context, n, dim int, read func(first int, rows []uint16) error) (Matrix, error)

// candidates of a search on a device, per k: those that follow the k-th best
// closely are in there too, so that what is left is surely worse.
func candidates(k int) int { return 2*k + 32 }

// A fast is the first rows of a part on a device.
type fast struct {
	m     Matrix
	n     int     // rows
	scale float64 // a power of two: the device has scale·row, at most 2 long, …
	long  float64 // … and at most this
	loss  float64 // no row there is further than this from scale·row: it was rounded

	asked, unsure atomic.Int64 // queries: store.Device's
}

// off is how far the device's score of a row may be from the product of a unit
// query with scale·row, where loss of the query was rounded away. Factors have 11
// bits, and so has a product, which may be added from two parts; sums between
// are float32.
func (f *fast) off(score float32, loss float64, dim int) float64 {
	return 0x1p-10*math.Abs(float64(score)) + f.long*loss + f.loss + float64(dim)*0x1p-23*f.long + 0x1p-24
}

// find is scan of all rows, on the device as far as they are there.
func (p *part) find(ctx context.Context, v *view, qs []query) ([]*top, error) {
	f := p.fast.Load()
	if f == nil || v.n < f.n { // a view from before
		return p.scan(ctx, v, 0, qs, nil)
	}
	tops, err := p.scan(ctx, v, f.n, qs, nil)
	if err != nil {
		return nil, err
	}
	sure, err := p.findFast(ctx, f, v, qs, tops)
	if err != nil && ctx.Err() != nil {
		return nil, err
	}
	if err != nil && p.fast.CompareAndSwap(f, nil) { // else other rows serve by now
		p.unloadable.Store(true)
		slog.Warn("flat: the device is not used any more for these rows; searches read their codes", "folder", p.dir, "err", err)
		f.free(p.dir)
	}
	var rest []query
	var at []int
	for i := range qs {
		if err != nil || !sure[i] {
			rest, at = append(rest, qs[i]), append(at, i)
		}
	}
	f.asked.Add(int64(len(qs)))
	f.unsure.Add(int64(len(rest)))
	if len(rest) == 0 {
		return tops, nil
	}
	scanned, err := p.scan(ctx, v, 0, rest, nil)
	if err != nil {
		return nil, err
	}
	for i, t := range scanned {
		tops[at[i]] = t
	}
	return tops, nil
}

// findFast adds what the device finds to tops, with exact scores. Where it is
// not sure for a query, rows may be missing there.
func (p *part) findFast(ctx context.Context, f *fast, v *view, qs []query, tops []*top) (sure []bool, err error) {
	halves, losses, most := make([]uint16, len(qs)*p.dim), make([]float64, len(qs)), 0
	for i, q := range qs {
		losses[i] = unitHalf(halves[i*p.dim:][:p.dim], q.exact, q.norm)
		most = max(most, q.k)
	}
	slots, scores, rest, err := f.m.Search(ctx, halves, min(f.n, candidates(most)), v.dead)
	if err != nil {
		return nil, err
	}
	sure = make([]bool, len(qs))
	return sure, parallel(ctx, len(qs), 1, func(_, i, _ int) error {
		q, t, buf := qs[i], tops[i], make([]float32, p.dim)
		if q.norm == 0 { // all rows are as near
			return nil
		}
		slack := 0x1p-22 * q.norm * float64(v.maxNorm) // scores are rounded to float32, once
		if v.n*p.rows.size >= fetchBytes {
			for _, slot := range slots[i] {
				fetch(p.stored(v, int(slot)))
			}
		}
		for j, slot := range slots[i] {
			exact := kernel.Dot(q.exact, p.vector(p.stored(v, int(slot)), buf))
			if d := math.Abs(exact*f.scale - float64(scores[i][j])*q.norm); !(d <= q.norm*f.off(scores[i][j], losses[i], p.dim)) {
				return fmt.Errorf("row %d scores %v on it and %v here", slot, scores[i][j], exact*f.scale/q.norm)
			}
			t.hits = append(t.hits, hit{exact - slack, exact + slack, slot})
		}
		t.prune()
		others := (float64(rest[i]) + f.off(rest[i], losses[i], p.dim)) * q.norm / f.scale
		sure[i] = math.IsInf(float64(rest[i]), -1) || others+slack < t.floor
		return nil
	})
}

// unitHalf writes q/norm to dst, zeros for zeros, and returns the length of what
// was rounded away.
func unitHalf(dst []uint16, q []float32, norm float64) float64 {
	if norm == 0 {
		return 0
	}
	return toHalf(dst, q, 1/norm, make([]float32, len(q)))
}

// toHalf writes scale·v to dst and returns the length of what was rounded away.
// buf is for its use, [len(v)].
func toHalf(dst []uint16, v []float32, scale float64, buf []float32) float64 {
	for i, x := range v {
		buf[i] = float32(float64(x) * scale)
	}
	kernel.ToHalf(dst, buf)
	kernel.FromHalf(buf, dst)
	sum := 0.0
	for i, x := range v {
		d := float64(x)*scale - float64(buf[i])
		sum += d * d
	}
	return math.Sqrt(sum)
}

// fasten loads the rows of p, which serve, into a matrix in the background,
// where there are enough that no matrix has yet. One load runs at a time.
func (c *collection) fasten(p *part) {
	if !c.due(p) || !p.loading.CompareAndSwap(false, true) {
		return
	}
	if c.s.begin() != nil {
		return
	}
	if !p.use() {
		c.s.work.Done()
		return
	}
	go func() {
		defer c.s.work.Done()
		defer p.done()
		defer p.loading.Store(false)
		c.load(p)
	}()
}

// due says whether p has enough rows that are on no device.
func (c *collection) due(p *part) bool {
	if c.s.o.Load == nil || p.unloadable.Load() {
		return false
	}
	there := 0
	if f := p.fast.Load(); f != nil {
		there = f.n
	}
	return p.shown.Load().n-there >= max(c.s.o.LoadRows, there/4)
}

// load is fasten, in the foreground.
func (c *collection) load(p *part) {
	c.s.loading.Lock()
	defer c.s.loading.Unlock()
	if !c.due(p) { // any more
		return
	}
	p.unload() // a device may not have room for both
	began := time.Now()
	f, err := c.matrix(p, p.shown.Load())
	if errors.Is(err, errMoved) || err != nil && c.s.ctx.Err() != nil {
		return
	}
	if err != nil {
		p.unloadable.Store(true)
		slog.Warn("flat: the device does not take the rows; searches read their codes", "collection", c.name, "err", err)
		return
	}
	c.mu.Lock()
	serves := c.live == p
	if serves {
		p.fast.Store(f)
	}
	c.mu.Unlock()
	if !serves {
		f.free(p.dir)
		return
	}
	slog.Info("flat: rows are on the device", "collection", c.name, "rows", f.n, "seconds", time.Since(began).Seconds())
}

// matrix copies the rows of v to the device, as long as p serves.
func (c *collection) matrix(p *part, v *view) (*fast, error) {
	_, exp := math.Frexp(float64(v.maxNorm))
	f := &fast{n: v.n, scale: math.Ldexp(1, 1-exp)}
	f.long = float64(v.maxNorm) * f.scale
	stored, row, buf := make([]byte, 0), make([]float32, p.dim), make([]float32, p.dim)
	var err error
	f.m, err = c.s.o.Load(c.s.ctx, v.n, p.dim, func(first int, rows []uint16) error {
		c.mu.Lock()
		serves := c.live == p
		c.mu.Unlock()
		if !serves {
			return errMoved
		}
		n := len(rows) / p.dim
		if cap(stored) < n*p.rows.size {
			stored = make([]byte, n*p.rows.size)
		}
		stored = stored[:n*p.rows.size]
		if err := p.rows.read(stored, first); err != nil {
			return err
		}
		for i := range n {
			values := p.vector(stored[i*p.rows.size:][:p.rows.size], row)
			f.loss = max(f.loss, toHalf(rows[i*p.dim:][:p.dim], values, f.scale, buf))
		}
		return nil
	})
	return f, err
}

// unload takes the rows off the device. Searches read their codes then.
func (p *part) unload() {
	if f := p.fast.Swap(nil); f != nil {
		f.free(p.dir)
	}
}

// free gives the device's memory back.
func (f *fast) free(folder string) {
	if err := f.m.Close(); err != nil {
		slog.Warn("flat: free the rows on the device", "folder", folder, "err", err)
	}
}
