package constrain

import (
	"encoding/binary"
	"slices"
	"sync"
)

// A frame is where a rule goes on when it is over, and the frame of that rule.
type frame struct {
	ret    int32
	id     int32
	parent *frame // nil: the text's own
}

// A spot is a node with its call stack.
type spot struct {
	node  int32
	frame *frame
}

// A state is a set of spots that the same texts lead to.
type state struct {
	spots []spot      // with edges
	end   bool        // the text is complete
	run   uint16      // as node's, of any spot
	next  []*state    // by class of byte, nil where it is not known yet; made when it is first asked
	masks [2][]uint64 // allowed tokens, of the first and of later ones; nil where not known
}

// dead is the state that nothing leads out of.
var dead = &state{}

// maxMachine bounds what a machine keeps, in bytes; beyond, it begins anew.
const maxMachine = 8 << 20

// A machine runs a grammar over a vocabulary. States are made as they are met.
type machine struct {
	g *Grammar
	v *Vocabulary

	mu     sync.Mutex
	frames map[spot]*frame   // by ret and parent
	states map[string]*state // by their spots
	starts [2]*state         // without and with a leading space
	ids    int32             // of frames
	size   int               // bytes, about

	// Buffers.
	spots, todo []spot
	seen        map[spot]struct{}
	key         []byte
	path        []*state
}

func newMachine(g *Grammar, v *Vocabulary) *machine {
	m := &machine{g: g, v: v, seen: map[spot]struct{}{}}
	m.reset()
	return m
}

// reset forgets all states. Those that matches are in go on to work.
func (m *machine) reset() {
	m.frames, m.states, m.size = map[spot]*frame{}, map[string]*state{}, 0
	for i, node := range []int32{m.g.start, m.g.lead} {
		m.todo = append(m.todo[:0], spot{node, nil})
		m.starts[i] = m.intern()
	}
}

// push returns the frame that comes back to ret and then to parent.
func (m *machine) push(ret int32, parent *frame) *frame {
	if m.g.nodes[ret].end { // a call at the end of a rule needs no frame of its own
		return parent
	}
	key := spot{ret, parent}
	f := m.frames[key]
	if f == nil {
		m.ids++
		f = &frame{ret: ret, id: m.ids, parent: parent}
		m.frames[key] = f
		m.size += 100
	}
	return f
}

// intern returns the state of the spots in todo: of all that they lead to
// without a byte.
func (m *machine) intern() *state {
	found := m.spots[:0]
	end, run := false, uint16(0)
	for i := 0; i < len(m.todo); i++ { // which grows
		s := m.todo[i]
		n := &m.g.nodes[s.node]
		if n.end {
			if s.frame == nil {
				end = true
			} else {
				m.visit(spot{s.frame.ret, s.frame.parent})
			}
		}
		for _, e := range n.eps {
			m.visit(spot{e, s.frame})
		}
		if n.call != none {
			m.visit(spot{n.call, m.push(n.ret, s.frame)})
		}
		if len(n.edges) > 0 {
			found = append(found, s)
			run = max(run, n.run)
		}
	}
	m.spots = found
	if len(found) == 0 && !end {
		return dead
	}
	slices.SortFunc(found, func(a, b spot) int {
		if a.node != b.node {
			return int(a.node - b.node)
		}
		return int(a.frame.number() - b.frame.number())
	})
	m.key = m.key[:0]
	if end {
		m.key = append(m.key, 1)
	}
	for _, s := range found {
		m.key = binary.LittleEndian.AppendUint32(m.key, uint32(s.node))
		m.key = binary.LittleEndian.AppendUint32(m.key, uint32(s.frame.number()))
	}
	if st := m.states[string(m.key)]; st != nil {
		return st
	}
	st := &state{spots: slices.Clone(found), end: end, run: run}
	m.states[string(m.key)] = st
	m.size += 200 + len(m.key) + 16*len(found)
	return st
}

// visit adds a spot to todo, once.
func (m *machine) visit(s spot) {
	const few = 32
	switch n := len(m.todo); {
	case n < few:
		if slices.Contains(m.todo, s) {
			return
		}
	case n == few:
		clear(m.seen)
		for _, t := range m.todo {
			m.seen[t] = struct{}{}
		}
		fallthrough
	default:
		if _, ok := m.seen[s]; ok {
			return
		}
		m.seen[s] = struct{}{}
	}
	m.todo = append(m.todo, s)
}

func (f *frame) number() int32 {
	if f == nil {
		return 0
	}
	return f.id
}

// step returns the state after a byte.
func (m *machine) step(st *state, c byte) *state {
	if st.next == nil {
		if st == dead {
			return dead
		}
		st.next = make([]*state, m.g.count)
		m.size += 8 * m.g.count
	}
	to := &st.next[m.g.class[c]]
	if *to == nil {
		*to = m.move(st, c)
	}
	return *to
}

func (m *machine) move(st *state, c byte) *state {
	m.todo = m.todo[:0]
	for _, s := range st.spots {
		for _, e := range m.g.nodes[s.node].edges {
			switch {
			case c < e.lo || c > e.hi:
			case e.push == none:
				m.visit(spot{e.to, s.frame})
			default:
				m.visit(spot{e.to, m.push(e.push, s.frame)})
			}
		}
	}
	if len(m.todo) == 0 {
		return dead
	}
	return m.intern()
}

// A Match is one answer on its way. It is for one goroutine.
type Match struct {
	m     *machine
	st    *state
	begun bool
}

// Allowed returns a bit for each token that may come next, the lowest id first.
// The vocabulary's end tokens are among them where the text is complete. The
// caller leaves it as it is.
func (x *Match) Allowed() []uint64 {
	if x.st == dead {
		return x.m.v.empty()
	}
	which := 1
	if !x.begun {
		which = 0
	}
	x.m.mu.Lock()
	defer x.m.mu.Unlock()
	if x.st.masks[which] == nil {
		if x.m.size > maxMachine {
			x.m.reset()
		}
		x.st.masks[which] = x.m.mask(x.st, !x.begun)
	}
	return x.st.masks[which]
}

// Accept takes a token, and reports whether it was allowed.
func (x *Match) Accept(id int) bool {
	x.m.mu.Lock()
	defer x.m.mu.Unlock()
	text := x.m.v.text(id, !x.begun)
	if text == "" && (x.begun || !slices.Contains(x.m.v.blank, id)) {
		x.st = dead
	}
	for i := range len(text) {
		x.st = x.m.step(x.st, text[i])
	}
	x.begun = true
	return x.st != dead
}

// Complete reports whether the text so far is one of the grammar's.
func (x *Match) Complete() bool { return x.st.end }

// Done reports whether it is, and nothing can follow.
func (x *Match) Done() bool { return x.st.end && len(x.st.spots) == 0 }
