package flat

import (
	"cmp"
	"context"
	"errors"
	"math"
	"slices"
	"sync"
	"sync/atomic"

	"imagebind-llm/retriever/kernel"
)

// rounded is a Matrix in plain Go: sums of float32, rounded to half precision,
// as a GPU's.
type rounded struct {
	dim  int
	rows []float32 // [N, dim]

	searches, open *atomic.Int64
	fail           func() error // of a search, where set
	wrong          float32      // what scores are off by

	mu     sync.RWMutex
	closed bool
}

func (m *rounded) Search(ctx context.Context, queries []uint16, n int, dead []uint64) (slots [][]uint32, scores [][]float32, rest []float32, err error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if m.closed {
		return nil, nil, nil, errors.New("closed")
	}
	if m.fail != nil {
		if err := m.fail(); err != nil {
			return nil, nil, nil, err
		}
	}
	m.searches.Add(1)
	q, half, score := make([]float32, m.dim), make([]uint16, 1), make([]float32, 1)
	for ; len(queries) > 0; queries = queries[m.dim:] {
		kernel.FromHalf(q, queries[:m.dim])
		var all []scored
		for i := range len(m.rows) / m.dim {
			if i>>6 < len(dead) && dead[i>>6]>>(i&63)&1 == 1 {
				continue
			}
			score[0] = 0
			for j, x := range m.rows[i*m.dim:][:m.dim] {
				score[0] += x * q[j]
			}
			kernel.ToHalf(half, score)
			kernel.FromHalf(score, half)
			all = append(all, scored{score[0] + m.wrong, uint32(i)})
		}
		slices.SortFunc(all, func(a, b scored) int { return cmp.Compare(b.score, a.score) })
		s, f, r := []uint32{}, []float32{}, float32(math.Inf(-1))
		for i, x := range all {
			if i == n {
				r = x.score
				break
			}
			s, f = append(s, x.slot), append(f, x.score)
		}
		slots, scores, rest = append(slots, s), append(scores, f), append(rest, r)
	}
	return slots, scores, rest, nil
}

func (m *rounded) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return errors.New("closed twice")
	}
	m.closed = true
	m.open.Add(-1)
	return nil
}

// loads makes rounded matrices, and counts them.
type loads struct {
	searches, open, all atomic.Int64
	setUp               func(*rounded) error // of each
}

func (l *loads) load(ctx context.Context, n, dim int, read func(int, []uint16) error) (Matrix, error) {
	l.all.Add(1)
	m := &rounded{dim: dim, rows: make([]float32, n*dim), searches: &l.searches, open: &l.open}
	if l.setUp != nil {
		if err := l.setUp(m); err != nil {
			return nil, err
		}
	}
	for first := 0; first < n; first += 100 {
		half := make([]uint16, min(100, n-first)*dim)
		if err := read(first, half); err != nil {
			return nil, err
		}
		kernel.FromHalf(m.rows[first*dim:][:len(half)], half)
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	l.open.Add(1)
	return m, nil
}
