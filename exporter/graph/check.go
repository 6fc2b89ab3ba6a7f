package graph

import (
	"slices"
	"strconv"
	"strings"

	"imagebind-llm/exporter/onnx"
)

// begin notes the operator for messages and refuses nil arguments.
func (g *Graph) begin(op string, args ...*Value) {
	g.at = op
	for i, a := range args {
		if a == nil {
			g.failf("argument %d is nil", i)
		}
	}
}

func (g *Graph) sameType(a *Value, others ...*Value) {
	for _, b := range others {
		if a.dtype != b.dtype {
			g.failf("%s and %s are of two types", a, b)
		}
	}
}

// same wants two dimensions to be equal.
func (g *Graph) same(a *Value, i int, b *Value, j int) {
	if a.shape[i] != b.shape[j] {
		g.failf("%s and %s: dimensions %d and %d differ", a, b, i, j)
	}
}

func (g *Graph) rank(v *Value, n int) {
	if v.Rank() != n {
		g.failf("%s has %d axes, want %d", v, v.Rank(), n)
	}
}

func (g *Graph) shape(v *Value, want ...Dim) {
	if !slices.Equal(v.shape, want) {
		g.failf("%s has shape %v, want %v", v, v.shape, want)
	}
}

// axis returns the axis counted from the front.
func (g *Graph) axis(v *Value, axis int) int {
	if axis < -v.Rank() || axis >= v.Rank() {
		g.failf("axis %d of %s", axis, v)
	}
	return (axis + v.Rank()) % v.Rank()
}

func (g *Graph) index(v *Value) {
	if v.dtype != onnx.Int64 && v.dtype != onnx.Int32 {
		g.failf("index %s, want int64 or int32", v)
	}
}

// broadcast returns the shape that two give together.
func (g *Graph) broadcast(a, b []Dim) []Dim {
	if len(a) < len(b) {
		a, b = b, a
	}
	out := slices.Clone(a)
	one := Dim{N: 1}
	for i := range b {
		x, y := a[len(a)-1-i], b[len(b)-1-i]
		switch {
		case x == y || y == one:
		case x == one:
			out[len(a)-1-i] = y
		default:
			g.failf("shapes %v and %v do not go together", a, b)
		}
	}
	return out
}

func with(shape []Dim, axis int, d Dim) []Dim {
	out := slices.Clone(shape)
	out[axis] = d
	return out
}

func last(v *Value) Dim { return v.shape[len(v.shape)-1] }

// An extent is the product of dimensions: a number times names, sorted. The
// name N*257 is N times 257.
type extent struct {
	n     int
	names []string
}

func product(shape []Dim) extent {
	e := extent{n: 1}
	for _, d := range shape {
		if d.Name == "" {
			e.n *= d.N
			continue
		}
		for name := range strings.SplitSeq(d.Name, "*") {
			if n, err := strconv.Atoi(name); err == nil {
				e.n *= n
			} else {
				e.names = append(e.names, name)
			}
		}
	}
	slices.Sort(e.names)
	return e
}

func (e extent) equal(f extent) bool { return e.n == f.n && slices.Equal(e.names, f.names) }

// over returns e/f as one dimension, where it is one.
func (e extent) over(f extent) (Dim, bool) {
	if f.n == 0 || e.n%f.n != 0 {
		return Dim{}, false
	}
	names := slices.Clone(e.names)
	for _, n := range f.names {
		i := slices.Index(names, n)
		if i < 0 {
			return Dim{}, false
		}
		names = slices.Delete(names, i, i+1)
	}
	q := e.n / f.n
	if len(names) == 0 {
		return Dim{N: q}, true
	}
	d := Dim{Name: names[0]}
	for _, n := range names[1:] {
		d.Name += "*" + n
	}
	if q != 1 {
		d.Name += "*" + Dim{N: q}.String()
	}
	return d, true
}
