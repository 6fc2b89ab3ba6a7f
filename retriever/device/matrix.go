//go:build cgo

package device

import (
	"cmp"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"math"
	"slices"
	"unsafe"

	"imagebind-llm/internal/ort"
)

// The graph: its inputs and outputs are in exporter/nearest.
//
//go:embed nearest.onnx
var nearest []byte

const (
	chunkRows    = 1 << 19 // of a run at most: its scores are memory too
	chunkQueries = 32      // likewise
	loadBytes    = 16 << 20
	align        = 256 // of tensors on a device
)

// A Device runs searches, one after another: a second would only share its
// speed, and want memory of its own.
type Device struct {
	o     ort.Options
	chunk int           // bytes of rows
	turn  chan struct{} // holds one: who put it there may run the graph
}

// Open makes sure that the graph runs on a device. What it holds is its
// matrices'.
func Open(o Options) (*Device, error) {
	if _, err := ort.Load(o.Library); err != nil {
		return nil, err
	}
	d := &Device{o: ort.Options{Provider: o.Provider, Device: o.Device}, chunk: o.ChunkBytes, turn: make(chan struct{}, 1)}
	if d.chunk == 0 {
		d.chunk = 64 << 20
		if o.Provider == "cuda" {
			d.chunk = 1 << 30
		}
	}
	s, err := d.open()
	if err != nil {
		return nil, err
	}
	return d, s.Close()
}

func (d *Device) open() (*ort.Session, error) {
	s, err := ort.OpenModel("nearest", nearest, d.o)
	if err != nil {
		return nil, fmt.Errorf("open the graph on %s %d: %w", d.o.Provider, d.o.Device, err)
	}
	return s, nil
}

// A Matrix is rows on a device.
type Matrix struct {
	d *Device
	// s is this matrix' own: a session keeps what it took of a device's memory, for
	// itself, until it is closed.
	s      *ort.Session
	n, dim int
	arena  *ort.Arena
	chunks []chunk
	dead   []uint64 // what the chunks' live have left out
	closed bool
}

// A chunk is rows that one run goes over.
type chunk struct {
	first, n   int
	at         int       // of live in the arena
	rows, live ort.Value // [n, dim] float16; [n] bool
}

// Load copies n rows of dim values to the device. read fills rows [.., dim] with
// the bits of half-precision values, finite, from row first on; it is called for
// one stretch after another.
func (d *Device) Load(ctx context.Context, n, dim int, read func(first int, rows []uint16) error) (_ *Matrix, err error) {
	m := &Matrix{d: d, n: n, dim: dim}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.free())
		}
	}()
	if n < 1 || dim < 1 {
		return nil, fmt.Errorf("%d rows of %d values", n, dim)
	}
	count := divUp(n, max(64, min(chunkRows, d.chunk/(2*dim)))) // chunks
	rows := divUp(n, 64*count) * 64                             // of a chunk; the last may have fewer
	live := divUp(2*rows*dim, align) * align                    // where its live are, behind its rows
	each := live + divUp(rows, align)*align
	if m.s, err = d.open(); err != nil {
		return nil, err
	}
	if m.arena, err = m.s.NewArena(count * each); err != nil {
		return nil, err
	}
	buf := make([]uint16, min(n, max(1, loadBytes/(2*dim)))*dim)
	for first := 0; first < n; first += rows {
		at := first / rows * each
		c := chunk{first: first, n: min(rows, n-first), at: at + live}
		for from := 0; from < c.n; from += len(buf) / dim {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			part := buf[:min(len(buf), (c.n-from)*dim)]
			if err := read(first+from, part); err != nil {
				return nil, err
			}
			if err := m.arena.Write(at+from*dim*2, bytesOf(part)); err != nil {
				return nil, err
			}
		}
		if err := m.add(c, at); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func divUp(a, b int) int { return (a + b - 1) / b }

// add takes a chunk over whose rows are at a place of the arena.
func (m *Matrix) add(c chunk, at int) (err error) {
	if c.rows, err = m.arena.View(at, "float16", c.n, m.dim); err != nil {
		return err
	}
	if c.live, err = m.arena.View(c.at, "bool", c.n); err != nil {
		ort.Destroy(c.rows)
		return err
	}
	m.chunks = append(m.chunks, c)
	return m.show(&c, nil)
}

// bytesOf is the memory of v.
func bytesOf(v []uint16) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(v))), 2*len(v))
}

// Search finds for each of queries [B, dim], bits of half-precision values, n
// rows of the largest products, best first, or all that live where those are
// fewer. dead has a bit for each row to leave out; rows behind its end live. It
// must not change afterwards. No other row that lives has a product above the
// query's rest, as the device rounds it; -Inf says that there is none.
func (m *Matrix) Search(ctx context.Context, queries []uint16, n int, dead []uint64) (slots [][]uint32, scores [][]float32, rest []float32, err error) {
	select {
	case m.d.turn <- struct{}{}:
		defer func() { <-m.d.turn }()
	case <-ctx.Done():
		return nil, nil, nil, ctx.Err()
	}
	if m.closed {
		return nil, nil, nil, errors.New("the matrix is closed")
	}
	if err := m.leaveOut(dead); err != nil {
		return nil, nil, nil, err
	}
	for ; len(queries) > 0; queries = queries[min(len(queries), chunkQueries*m.dim):] {
		found, others, err := m.search(ctx, queries[:min(len(queries), chunkQueries*m.dim)], n)
		if err != nil {
			return nil, nil, nil, err
		}
		for i, list := range found {
			slices.SortFunc(list, func(a, b hit) int { return cmp.Compare(b.score, a.score) })
			if len(list) > n {
				others[i] = max(others[i], list[n].score)
				list = list[:n]
			}
			s, f := make([]uint32, len(list)), make([]float32, len(list))
			for j, h := range list {
				s[j], f[j] = h.slot, h.score
			}
			slots, scores, rest = append(slots, s), append(scores, f), append(rest, others[i])
		}
	}
	return slots, scores, rest, nil
}

type hit struct {
	score float32
	slot  uint32
}

// search goes over all chunks with a few queries.
func (m *Matrix) search(ctx context.Context, queries []uint16, n int) ([][]hit, []float32, error) {
	nq := len(queries) / m.dim
	across := make([]uint16, len(queries)) // [dim, B]
	for q := range nq {
		for i, v := range queries[q*m.dim:][:m.dim] {
			across[i*nq+q] = v
		}
	}
	in, err := ort.Halfs(across, m.dim, nq)
	if err != nil {
		return nil, nil, err
	}
	defer ort.Destroy(in)
	found, rest := make([][]hit, nq), make([]float32, nq)
	for i := range rest {
		rest[i] = float32(math.Inf(-1))
	}
	for _, c := range m.chunks {
		k := min(n, c.n)
		scores, indices := make([]float32, nq*k), make([]int64, nq*k)
		if err := m.run(ctx, c, in, k, scores, indices); err != nil {
			return nil, nil, err
		}
		for q := range nq {
			for i, s := range scores[q*k:][:k] {
				if at := indices[q*k+i]; !math.IsInf(float64(s), -1) && at >= 0 && at < int64(c.n) {
					found[q] = append(found[q], hit{s, uint32(c.first + int(at))})
				}
			}
			if k < c.n {
				rest[q] = max(rest[q], scores[q*k+k-1])
			}
		}
	}
	return found, rest, nil
}

// run runs the graph on one chunk.
func (m *Matrix) run(ctx context.Context, c chunk, queries ort.Value, k int, scores []float32, indices []int64) error {
	shape := []int{len(scores) / k, k}
	count, err1 := ort.Int64s([]int64{int64(k)}, 1)
	best, err2 := ort.Floats(scores, shape...)
	which, err3 := ort.Int64s(indices, shape...)
	defer ort.Destroy(count, best, which)
	if err := errors.Join(err1, err2, err3); err != nil {
		return err
	}
	return m.s.Run(ctx, []ort.Value{c.rows, queries, c.live, count}, []ort.Value{best, which})
}

// leaveOut shows the device which rows are dead, where that has changed.
func (m *Matrix) leaveOut(dead []uint64) error {
	if len(dead) == len(m.dead) && unsafe.SliceData(dead) == unsafe.SliceData(m.dead) {
		return nil
	}
	for i := range m.chunks {
		c := &m.chunks[i]
		if slices.Equal(within(m.dead, c), within(dead, c)) {
			continue
		}
		if err := m.show(c, within(dead, c)); err != nil {
			m.dead = nil // a part of it is shown: nothing may be searched
			return errors.Join(err, m.free())
		}
	}
	m.dead = dead
	return nil
}

// within are the bits of a chunk's rows; those behind the end are 0.
func within(dead []uint64, c *chunk) []uint64 {
	from, to := min(len(dead), c.first>>6), min(len(dead), (c.first+c.n+63)>>6)
	words := dead[from:to]
	for len(words) > 0 && words[len(words)-1] == 0 {
		words = words[:len(words)-1]
	}
	return words
}

// show writes which rows of a chunk live.
func (m *Matrix) show(c *chunk, dead []uint64) error {
	live := make([]byte, c.n)
	for i := range live {
		if i>>6 >= len(dead) || dead[i>>6]>>(i&63)&1 == 0 {
			live[i] = 1
		}
	}
	return m.arena.Write(c.at, live)
}

// Close frees the rows, after the search that runs.
func (m *Matrix) Close() error {
	m.d.turn <- struct{}{}
	defer func() { <-m.d.turn }()
	return m.free()
}

func (m *Matrix) free() error {
	m.closed = true
	for _, c := range m.chunks {
		ort.Destroy(c.rows, c.live)
	}
	m.chunks = nil
	var errs []error
	if m.arena != nil {
		errs = append(errs, m.arena.Close())
		m.arena = nil
	}
	if m.s != nil {
		errs = append(errs, m.s.Close())
		m.s = nil
	}
	return errors.Join(errs...)
}
