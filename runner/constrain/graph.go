package constrain

import (
	"crypto/sha256"
	"slices"

	imagebind "imagebind-llm"
)

// A node is a place in a text. What may follow there is any of its edges, what
// any node of eps may have, and the rule at call with the node ret after it.
type node struct {
	edges []edge
	eps   []int32
	call  int32 // or none
	ret   int32 // of call
	end   bool  // of the rule, or of the text where nothing called it
	// run is how many plain characters (see plain) may follow in any order; endless
	// is no bound. The tokens that are such need no walk.
	run uint16
}

// An edge is a byte from lo to hi, after which to follows, and then push where
// it is not none: a byte that calls.
type edge struct {
	lo, hi   byte
	to, push int32
}

const (
	none    = int32(-1)
	endless = ^uint16(0)
)

// A builder grows a graph from its end to its start: a function that adds a
// piece takes the node that follows it, and returns the piece's first.
type builder struct {
	nodes []node
	stop  int32 // the end of a rule and of the text

	tails   tails
	value   int32            // the rule of any JSON value, or none
	classes map[string]int32 // rules of a pattern's character classes
}

// errBuild is what a builder's functions panic with, and build returns.
type errBuild struct{ error }

func fail(param, format string, args ...any) {
	panic(errBuild{imagebind.WithParam(imagebind.Errorf(imagebind.Invalid, format, args...), param)})
}

// build makes a grammar of a graph, and checks that it has texts and ends.
func build(key string, grow func(*builder) int32) (g *Grammar, err error) {
	defer func() {
		if r := recover(); r != nil {
			e, ok := r.(errBuild)
			if !ok {
				panic(r)
			}
			g, err = nil, e.error
		}
	}()
	b := &builder{value: none, classes: map[string]int32{}}
	b.stop = b.add(node{end: true, call: none})
	b.tails = b.newTails()
	start := grow(b)
	lead := b.add(node{call: none, edges: []edge{{' ', ' ', start, none}}, eps: []int32{start}})
	if b.loops() {
		fail("", "a $ref leads back to itself with nothing in between, so that there is no text for it")
	}
	if !b.prune()[start] {
		fail("", "no text satisfies all of it")
	}
	g = &Grammar{key: sha256.Sum256([]byte(key)), nodes: b.nodes, start: start, lead: lead}
	g.classify()
	return g, nil
}

func (b *builder) add(n node) int32 {
	if len(b.nodes) == maxNodes {
		fail("", "it is too large: lower maxLength, maxItems, or the number of alternatives")
	}
	b.nodes = append(b.nodes, n)
	return int32(len(b.nodes) - 1)
}

// on returns a node with edges alone.
func (b *builder) on(edges ...edge) int32 { return b.add(node{edges: edges, call: none}) }

// byte returns the node of one byte.
func (b *builder) byte(c byte, next int32) int32 { return b.on(edge{c, c, next, none}) }

// either returns a node that goes on as any of those.
func (b *builder) either(nodes ...int32) int32 {
	if len(nodes) == 1 {
		return nodes[0]
	}
	return b.add(node{eps: nodes, call: none})
}

// after returns the node of a rule, and then next.
func (b *builder) after(rule, next int32) int32 { return b.add(node{call: rule, ret: next}) }

// literal returns the node of a text.
func (b *builder) literal(s string, next int32) int32 {
	for i := len(s) - 1; i >= 0; i-- {
		next = b.byte(s[i], next)
	}
	return next
}

// literals returns the node of any of the texts, which share their beginnings.
func (b *builder) literals(texts []string, next int32) int32 {
	sorted := slices.Clone(texts)
	slices.Sort(sorted)
	return b.branch(slices.Compact(sorted), 0, next)
}

// branch is literals for sorted texts that have their first n bytes in common.
func (b *builder) branch(sorted []string, n int, next int32) int32 {
	at := node{call: none}
	if len(sorted[0]) == n {
		at.eps = []int32{next}
		sorted = sorted[1:]
	}
	for len(sorted) > 0 {
		c, m := sorted[0][n], 1
		for m < len(sorted) && sorted[m][n] == c {
			m++
		}
		to := next
		if m > 1 || len(sorted[0]) > n+1 {
			to = b.branch(sorted[:m], n+1, next)
		}
		at.edges = append(at.edges, edge{c, c, to, none})
		sorted = sorted[m:]
	}
	if len(at.edges) == 0 {
		return next
	}
	return b.add(at)
}

// prune finds the nodes from which the end of their rule can be reached, and
// takes out what leads to others: there is then a way to the end from every
// place that a text can get to.
func (b *builder) prune() []bool {
	good := make([]bool, len(b.nodes))
	alive := func(e edge) bool { return good[e.to] && (e.push == none || good[e.push]) }
	for changed := true; changed; {
		changed = false
		for i, n := range b.nodes {
			if good[i] {
				continue
			}
			if n.end || n.call != none && good[n.call] && good[n.ret] || slices.ContainsFunc(n.edges, alive) ||
				slices.ContainsFunc(n.eps, func(e int32) bool { return good[e] }) {
				good[i], changed = true, true
			}
		}
	}
	for i := range b.nodes {
		n := &b.nodes[i]
		n.edges = slices.DeleteFunc(n.edges, func(e edge) bool { return !alive(e) })
		n.eps = slices.DeleteFunc(n.eps, func(e int32) bool { return !good[e] })
		if n.call != none && (!good[n.call] || !good[n.ret]) {
			n.call = none
		}
	}
	return good
}

// loops reports whether a rule can call itself before its first byte, which
// would have no end. It looks for a call within a strongly connected component
// of the graph without edges (Tarjan 1972).
func (b *builder) loops() bool {
	order, low := make([]int32, len(b.nodes)), make([]int32, len(b.nodes)) // 0: not seen
	var stack []int32
	open := make([]bool, len(b.nodes))
	count, found := int32(0), false
	var visit func(i int32)
	visit = func(i int32) {
		count++
		order[i], low[i] = count, count
		stack, open[i] = append(stack, i), true
		begin := len(stack) - 1
		follow := func(j int32) {
			if order[j] == 0 {
				visit(j)
				low[i] = min(low[i], low[j])
			} else if open[j] {
				low[i] = min(low[i], order[j])
			}
		}
		for _, j := range b.nodes[i].eps {
			follow(j)
		}
		if n := b.nodes[i]; n.call != none {
			follow(n.call)
		}
		if low[i] != order[i] {
			return
		}
		component := stack[begin:]
		for _, j := range component {
			found = found || b.nodes[j].call != none && slices.Contains(component, b.nodes[j].call)
			open[j] = false
		}
		stack = stack[:begin]
	}
	for i := range b.nodes {
		if order[i] == 0 {
			visit(int32(i))
		}
	}
	return found
}

// classify numbers the bytes so that those that no edge tells apart are one.
func (g *Grammar) classify() {
	var begins [257]bool
	for _, n := range g.nodes {
		for _, e := range n.edges {
			begins[e.lo], begins[int(e.hi)+1] = true, true
		}
	}
	c := 0
	for i := range 256 {
		if begins[i] && i > 0 {
			c++
		}
		g.class[i] = uint8(c)
	}
	g.count = c + 1
}
