package milvus

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/milvus-io/milvus-sdk-go/v2/client"

	imagebind "imagebind-llm"
	"imagebind-llm/retriever/store"
)

// disbelief is for how long a generation that had rows may answer with none
// before that is believed. Milvus 2.3.5 was seen to do so for 17 s, without an
// error, when another query node had taken over from one that was killed.
const disbelief = time.Minute

// A presence knows whether a generation had rows when it was last asked.
type presence struct {
	mu    sync.Mutex
	rows  bool
	since time.Time // of the first answer without any after those; zero: none yet
}

// see takes in whether an unfiltered search at this time had hits. An error
// says that rows were there and that their absence is not to be believed.
func (p *presence) see(hits bool, now time.Time) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case hits:
		p.rows, p.since = true, time.Time{}
		return nil
	case !p.rows:
		return nil
	case p.since.IsZero():
		p.since = now
	case now.Sub(p.since) > disbelief:
		p.rows, p.since = false, time.Time{}
		return nil
	}
	return imagebind.Errorf(imagebind.Unavailable, "milvus answers with no rows where there were some; it does while a query node is replaced, so ask again in %v at most", (disbelief - now.Sub(p.since)).Round(time.Second))
}

// had reports whether rows are believed to be there.
func (p *presence) had() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.rows
}

// forget believes the next answer, whatever it is: rows were deleted.
func (p *presence) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rows, p.since = false, time.Time{}
}

// present doubts an answer without any hit from a generation that had rows.
func (s *Store) present(ctx context.Context, c client.Client, g *generation, q store.Query, expr string, out [][]imagebind.Neighbour) error {
	hits := slices.ContainsFunc(out, func(n []imagebind.Neighbour) bool { return len(n) > 0 })
	if !hits && (len(out) == 0 || !g.has.had()) {
		return nil
	}
	if !hits && expr != "" { // it may be the filter's doing
		one := make([][]imagebind.Neighbour, 1)
		if _, err := s.ask(ctx, c, g, store.Query{Vectors: q.Vectors[:1], K: 1}, "", false, 0, []int{0}, one); err != nil {
			return err
		}
		hits = len(one[0]) > 0
	}
	return g.has.see(hits, time.Now())
}
