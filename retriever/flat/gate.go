package flat

import (
	"context"
	"sync"
	"sync/atomic"
)

const (
	// gateBytes of codes are worth waiting for: below, searches scan side by side.
	gateBytes = 4 << 20
	// gateQueries of one scan together at most; they take little longer than one.
	gateQueries = 32
)

// A gate makes one scan of the searches that came while another ran. A scan
// is bound by the memory's speed, which more of them at a time would share.
type gate struct {
	mu      sync.Mutex
	waiting []*ask
	running bool
}

// An ask is a search that waits.
type ask struct {
	ctx  context.Context
	qs   []query
	done chan answer // holds one
}

// An answer is what a scan of a view found for one search.
type answer struct {
	tops []*top
	v    *view
	err  error
}

// scanTogether is scan, of the rows as they are when its turn comes. The
// caller uses the part.
func (p *part) scanTogether(ctx context.Context, qs []query) answer {
	a := &ask{ctx, qs, make(chan answer, 1)}
	p.gate.mu.Lock()
	p.gate.waiting = append(p.gate.waiting, a)
	start := !p.gate.running
	p.gate.running = true
	p.gate.mu.Unlock()
	if start {
		p.hold()
		go p.scans() //nolint:contextcheck // a scan is for all who wait
	}
	select {
	case r := <-a.done:
		return r
	case <-ctx.Done():
		return answer{err: ctx.Err()}
	}
}

// next takes those that go together next; none ends the run.
func (g *gate) next() []*ask {
	g.mu.Lock()
	defer g.mu.Unlock()
	n, queries := 0, 0
	for n < len(g.waiting) && (n == 0 || queries+len(g.waiting[n].qs) <= gateQueries) {
		queries += len(g.waiting[n].qs)
		n++
	}
	asks := g.waiting[:n:n]
	g.waiting = g.waiting[n:]
	g.running = n > 0
	return asks
}

// scans runs until nobody waits.
func (p *part) scans() {
	defer p.done()
	for {
		asks := p.gate.next()
		if len(asks) == 0 {
			return
		}
		p.scanFor(asks)
	}
}

// scanFor scans once for all of asks. It stops when all of them have left.
func (p *part) scanFor(asks []*ask) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var here atomic.Int64
	here.Store(int64(len(asks)))
	var qs []query
	for _, a := range asks {
		stop := context.AfterFunc(a.ctx, func() {
			if here.Add(-1) == 0 {
				cancel()
			}
		})
		defer stop()
		qs = append(qs, a.qs...)
	}
	v := p.shown.Load()
	tops, err := p.find(ctx, v, qs)
	for _, a := range asks {
		if err != nil {
			a.done <- answer{err: err}
			continue
		}
		a.done <- answer{tops[:len(a.qs)], v, nil}
		tops = tops[len(a.qs):]
	}
}
