package tokenizer

// A symbol is a stretch of a text that is one token, or none yet. Symbols are a
// doubly linked list by index; a merged one keeps the left one's index.
type symbol struct {
	start, end int32 // bytes of the text; start == end once merged away
	prev, next int32 // -1 at the ends
	id         int32
	frozen     bool // never merged
}

// A pair is two neighbours that a merge would join: the lowest rank first,
// then the leftmost.
type pair struct {
	rank        int32
	left, right int32
	size        int32 // bytes of both when the pair was found
	id          int32 // of the merged symbol
}

func (p pair) before(q pair) bool {
	return p.rank < q.rank || p.rank == q.rank && p.left < q.left
}

// scratch holds what merging needs; it serves one text after another.
type scratch struct {
	syms []symbol
	heap []pair
}

// add appends a symbol.
func (s *scratch) add(start, end, id int, frozen bool) {
	n := int32(len(s.syms))
	if n > 0 {
		s.syms[n-1].next = n
	}
	s.syms = append(s.syms, symbol{start: int32(start), end: int32(end), prev: n - 1, next: -1, id: int32(id), frozen: frozen})
}

// merge joins pairs until none is left, in O(n log n). join says what two
// neighbours become. The first symbol stays the head of the list.
func (s *scratch) merge(join func(l, r *symbol) (rank, id int32, ok bool)) {
	s.heap = s.heap[:0]
	consider := func(left, right int32) {
		if left < 0 || right < 0 {
			return
		}
		l, r := &s.syms[left], &s.syms[right]
		if l.frozen || r.frozen {
			return
		}
		if rank, id, ok := join(l, r); ok {
			s.push(pair{rank: rank, left: left, right: right, size: r.end - l.start, id: id})
		}
	}
	for i := 1; i < len(s.syms); i++ {
		consider(int32(i-1), int32(i))
	}
	for len(s.heap) > 0 {
		p := s.pop()
		l, r := &s.syms[p.left], &s.syms[p.right]
		if l.start == l.end || r.start == r.end || l.next != p.right || r.end-l.start != p.size {
			continue // one of them has changed since
		}
		l.end, l.id, l.next = r.end, p.id, r.next
		if r.next >= 0 {
			s.syms[r.next].prev = p.left
		}
		r.start = r.end
		consider(l.prev, p.left)
		consider(p.left, l.next)
	}
}

// push and pop are container/heap's without its interface: an allocation for
// every pair otherwise.
func (s *scratch) push(p pair) {
	h := append(s.heap, p)
	i := len(h) - 1
	for i > 0 {
		up := (i - 1) / 2
		if !h[i].before(h[up]) {
			break
		}
		h[i], h[up] = h[up], h[i]
		i = up
	}
	s.heap = h
}

func (s *scratch) pop() pair {
	h := s.heap
	top, n := h[0], len(h)-1
	h[0] = h[n]
	h = h[:n]
	for i := 0; ; {
		down := 2*i + 1
		if down >= n {
			break
		}
		if down+1 < n && h[down+1].before(h[down]) {
			down++
		}
		if !h[down].before(h[i]) {
			break
		}
		h[i], h[down] = h[down], h[i]
		i = down
	}
	s.heap = h
	return top
}
