package llama

import "slices"

// A queue is who waits for a row. Rows are shared fairly: the client that holds
// the fewest is served first, of its requests the one that does, then whoever
// came first. So neither a client with many requests nor a request with many
// choices keeps the others out.
type queue struct {
	places []*place
	held   map[any]int // rows, by client and by request; nil ones are not counted
}

// A place is one in the queue.
type place struct {
	want Want
	slot chan *Slot // gets the slot; capacity 1
}

func (q *queue) len() int { return len(q.places) }

func (q *queue) join(w Want) *place {
	p := &place{w, make(chan *Slot, 1)}
	q.places = append(q.places, p)
	return p
}

// leave takes p out, and reports whether it was still in.
func (q *queue) leave(p *place) bool {
	i := slices.Index(q.places, p)
	if i >= 0 {
		q.places = slices.Delete(q.places, i, i+1)
	}
	return i >= 0
}

// next returns who is to be served; somebody waits.
func (q *queue) next() *place {
	best := q.places[0]
	for _, p := range q.places[1:] {
		c, b := q.held[p.want.Client], q.held[best.want.Client]
		if c < b || c == b && q.held[p.want.Request] < q.held[best.want.Request] {
			best = p
		}
	}
	return best
}

// hold counts n more rows for w.
func (q *queue) hold(w Want, n int) {
	if q.held == nil {
		q.held = map[any]int{}
	}
	for _, k := range []any{w.Client, w.Request} {
		if k == nil {
			continue
		}
		if q.held[k] += n; q.held[k] == 0 {
			delete(q.held, k)
		}
	}
}
