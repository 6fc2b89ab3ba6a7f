package kernel

import (
	"maps"
	"slices"
)

// swap returns our operator that computes what n does, or nil. Nodes that it
// takes in are gone then. It is called in the graph's order: what n depends on
// was seen before.
func (g *graph) swap(n *node) *node {
	switch {
	case n.gone:
		return nil
	case g.quantised(n):
		if g.gatePart(n) {
			return nil // with the Mul at its end
		}
		return g.matmul(n)
	case n.is("Mul", 2):
		return g.gated(n)
	case n.is("SimplifiedLayerNormalization", 2):
		return g.norm(n)
	case n.op == "SkipSimplifiedLayerNormalization" && n.domain == microsoft:
		return g.skipNorm(n)
	}
	return nil
}

// is reports whether n is a standard operator with that many inputs, and one output.
func (n *node) is(op string, inputs int) bool {
	return n != nil && n.op == op && n.domain == "" && len(n.in) == inputs && len(n.out) == 1
}

// quantised reports whether n is a product that the kernels compute: weights of
// 4 or 8 bits in blocks of 32, those of 4 perhaps with zero points, and x rounded
// to 8 bits.
func (g *graph) quantised(n *node) bool {
	if n.op != "MatMulNBits" || n.domain != microsoft || len(n.out) != 1 || n.ints["block_size"] != 32 || n.ints["accuracy_level"] != 4 {
		return false
	}
	switch bits := n.ints["bits"]; len(n.in) {
	case 3:
		return (bits == 4 || bits == 8) && g.types[n.in[1]] == typeUint8 && g.types[n.in[2]] == typeFloat
	case 4:
		return bits == 4 && g.types[n.in[1]] == typeUint8 && g.types[n.in[2]] == typeFloat && g.types[n.in[3]] == typeUint8
	}
	return false
}

// named returns an operator's name for a product like n.
func named(op string, n *node) string {
	if len(n.in) == 4 {
		return op + "Zeros"
	}
	return op
}

// only returns the one user of a value, or nil where there are more or none.
func (g *graph) only(value string) *node {
	if u := g.users[value]; len(u) == 1 {
		return u[0]
	}
	return nil
}

// biased returns the Add of a constant bias behind a product and its name; what
// is not there is nil.
func (g *graph) biased(n *node) (add *node, bias string) {
	a := g.only(n.out[0])
	if !a.is("Add", 2) {
		return nil, ""
	}
	other := a.in[0]
	if other == n.out[0] {
		other = a.in[1]
	}
	if g.types[other] != typeFloat || g.dims[other] != 1 {
		return nil, ""
	}
	return a, other
}

// result returns the last node of a product with its bias.
func (g *graph) result(n *node) (last *node, bias string) {
	if add, bias := g.biased(n); add != nil {
		return add, bias
	}
	return n, ""
}

func (g *graph) matmul(n *node) *node {
	last, bias := g.result(n)
	ours := &node{op: named("MatMul", n), domain: Domain, in: slices.Clone(n.in), out: last.out, ints: n.ints}
	if bias != "" {
		ours.in = append(ours.in, bias)
		last.gone = true
	}
	return ours
}

// product returns the quantised product whose result is value, with its bias.
func (g *graph) product(value string) (n *node, bias string) {
	n = g.maker[value]
	if n == nil {
		return nil, ""
	}
	if n.is("Add", 2) {
		for _, in := range n.in {
			if m := g.maker[in]; m != nil && g.quantised(m) {
				if add, bias := g.biased(m); add == n {
					return m, bias
				}
			}
		}
		return nil, ""
	}
	if !g.quantised(n) {
		return nil, ""
	}
	return n, ""
}

// A gate is silu(x·w)·(x·up), in standard operators: Mul(Mul(a, Sigmoid(a)), b).
type gate struct {
	w, up         *node
	wBias, upBias string
	inner         []*node // that nobody else uses
}

// gateOf returns the gate that n is the last node of.
func (g *graph) gateOf(n *node) (gate, bool) {
	for i := range 2 {
		silu := g.maker[n.in[i]]
		if !silu.is("Mul", 2) || g.only(n.in[i]) != n {
			continue
		}
		for j := range 2 {
			a, sigmoid := silu.in[j], g.maker[silu.in[1-j]]
			if !sigmoid.is("Sigmoid", 1) || sigmoid.in[0] != a || g.only(sigmoid.out[0]) != silu || len(g.users[a]) != 2 {
				continue
			}
			x := gate{inner: []*node{silu, sigmoid}}
			x.w, x.wBias = g.product(a)
			x.up, x.upBias = g.product(n.in[1-i])
			if x.w == nil || x.up == nil || x.w == x.up || g.only(n.in[1-i]) != n || (x.wBias == "") != (x.upBias == "") ||
				x.w.in[0] != x.up.in[0] || len(x.w.in) != len(x.up.in) || !maps.Equal(x.w.ints, x.up.ints) {
				continue
			}
			return x, true
		}
	}
	return gate{}, false
}

// gatePart reports whether a product is half of a gate.
func (g *graph) gatePart(n *node) bool {
	last, _ := g.result(n)
	for _, u := range g.users[last.out[0]] {
		ends := []*node{u}
		if u.is("Mul", 2) { // of silu, or the gate's own
			ends = append(ends, g.users[u.out[0]]...)
		}
		for _, end := range ends {
			if !end.is("Mul", 2) {
				continue
			}
			if x, ok := g.gateOf(end); ok && (x.w == n || x.up == n) {
				return true
			}
		}
	}
	return false
}

func (g *graph) gated(n *node) *node {
	x, ok := g.gateOf(n)
	if !ok {
		return nil
	}
	ours := &node{op: named("GatedMatMul", x.w), domain: Domain, in: slices.Concat(x.w.in, x.up.in[1:]), out: n.out, ints: x.w.ints}
	if x.wBias != "" {
		ours.in = append(ours.in, x.wBias, x.upBias)
	}
	for _, p := range []*node{x.w, x.up} {
		last, _ := g.result(p)
		p.gone, last.gone = true, true
	}
	for _, p := range x.inner {
		p.gone = true
	}
	return ours
}

func (g *graph) norm(n *node) *node {
	axis, given := n.ints["axis"]
	if g.types[n.in[1]] != typeFloat || given && axis != -1 {
		return nil
	}
	return &node{op: "Norm", domain: Domain, in: n.in, out: n.out, floats: n.floats}
}

func (g *graph) skipNorm(n *node) *node {
	if len(n.in) != 3 || len(n.out) != 4 || n.out[1] != "" || n.out[2] != "" || g.types[n.in[2]] != typeFloat {
		return nil
	}
	return &node{op: "SkipNorm", domain: Domain, in: n.in, out: []string{n.out[0], n.out[3]}, floats: n.floats}
}
