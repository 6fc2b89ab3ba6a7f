// Package graph is an ONNX graph under construction. Operators are methods of
// [Graph]; each checks the shapes and types of its arguments as it is added and
// panics with a message that names it. [Build] turns the panic into an error.
//
//	g, err := graph.Build(func(g *graph.Graph) {
//		x := g.Input("x", onnx.Float, "B", 4)
//		g.Output("y", g.Tanh(g.Add(x, g.Floats("b", []float32{1, 2, 3, 4}, 4))))
//	})
//	err = g.Save("dir/tanh.onnx") // and dir/tanh.onnx.data, when there are weights
//
// Weights are not held in memory: a [Graph.Weight] is a function that writes
// its bytes when the graph is saved. Layers are in exporter/nn; what a graph
// computes is the business of its callers.
package graph

import (
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"strings"

	imagebind "imagebind-llm"
	"imagebind-llm/exporter/onnx"
)

// A Graph is a graph under construction.
type Graph struct {
	// Name of the graph, for whoever inspects the file.
	Name string

	nodes   []*node
	inputs  []*Value
	outputs []*Value
	inits   []*initialiser
	names   map[string]int    // how often a name was asked for
	sizes   map[string]*Value // of named dimensions, by name
	consts  map[string]*Value // of Ints and Const, by their content
	scope   string
	at      string // the operator that is being added
}

type node struct {
	name, domain, op string
	in, out          []*Value // nil where not given
	attrs            []onnx.Attr
}

// A Value is an input, a weight or the result of an operator.
type Value struct {
	name  string
	dtype onnx.DType
	shape []Dim
	from  *node // nil for inputs and initialisers
	out   bool  // an output of the graph
}

// Name returns the value's name in the file.
func (v *Value) Name() string { return v.name }

// DType returns the element type.
func (v *Value) DType() onnx.DType { return v.dtype }

// Shape returns the dimensions.
func (v *Value) Shape() []Dim { return v.shape }

// Rank returns the number of dimensions.
func (v *Value) Rank() int { return len(v.shape) }

// Dim returns the fixed size of an axis, counted from the end when negative. It
// panics where the size has a name instead.
func (v *Value) Dim(axis int) int {
	if axis < -len(v.shape) || axis >= len(v.shape) {
		panic(failure{fmt.Errorf("%s has no axis %d", v, axis)})
	}
	d := v.shape[(axis+len(v.shape))%len(v.shape)]
	if d.Name != "" {
		panic(failure{fmt.Errorf("%s: dimension %d is %s, want a fixed size", v, axis, d.Name)})
	}
	return d.N
}

// String returns name, type and shape.
func (v *Value) String() string { return fmt.Sprintf("%s %s%v", v.name, v.dtype, v.shape) }

// A Dim is a size, or the name of one that is known only when the graph runs.
type Dim struct {
	N    int
	Name string // where set, N is 0
}

// String returns the number or the name.
func (d Dim) String() string {
	if d.Name != "" {
		return d.Name
	}
	return fmt.Sprint(d.N)
}

// Dims makes a shape of ints, strings and Dims.
func Dims(dims ...any) []Dim {
	shape := make([]Dim, len(dims))
	for i, d := range dims {
		switch d := d.(type) {
		case int:
			shape[i] = Dim{N: d}
		case string:
			shape[i] = Dim{Name: d}
		case Dim:
			shape[i] = d
		default:
			panic(fmt.Sprintf("graph: a dimension is an int or a string, not a %T", d))
		}
	}
	return shape
}

func fixed(shape []int) []Dim {
	s := make([]Dim, len(shape))
	for i, n := range shape {
		s[i] = Dim{N: n}
	}
	return s
}

// A failure is what the package and its callers panic with; only Build recovers it.
type failure struct{ error }

// Build runs f on a new graph and returns it. A panic by Fail or by an operator
// becomes the error.
func Build(f func(*Graph)) (g *Graph, err error) {
	defer func() {
		switch r := recover().(type) {
		case nil:
		case failure:
			g, err = nil, r.error
		default:
			panic(r)
		}
	}()
	g = &Graph{Name: "main", names: map[string]int{}, sizes: map[string]*Value{}, consts: map[string]*Value{}}
	f(g)
	if len(g.outputs) == 0 {
		g.Fail(fmt.Errorf("the graph has no output"))
	}
	return g, nil
}

// Fail ends the building with err.
func (g *Graph) Fail(err error) {
	if g.scope != "" {
		err = fmt.Errorf("%s: %w", strings.TrimSuffix(g.scope, "."), err)
	}
	panic(failure{err})
}

func (g *Graph) failf(format string, args ...any) {
	g.Fail(imagebind.Errorf(imagebind.Invalid, "%s: %s", g.at, fmt.Sprintf(format, args...)))
}

// In runs f with the names of its nodes and weights prefixed by scope and a dot.
// Scopes nest.
func (g *Graph) In(scope string, f func()) {
	outer := g.scope
	g.scope += scope + "."
	f() // not deferred: a panic's message names the inner scope
	g.scope = outer
}

// unique returns name within the scope, numbered where it is taken.
func (g *Graph) unique(name string) string {
	name = g.scope + name
	g.names[name]++
	if n := g.names[name]; n > 1 {
		return g.unused(name, n)
	}
	return name
}

func (g *Graph) unused(name string, n int) string {
	for ; ; n++ {
		try := fmt.Sprintf("%s_%d", name, n)
		if g.names[try] == 0 {
			g.names[try]++
			return try
		}
	}
}

// Input adds an input of the graph; dims are ints and strings. The name is
// taken as it is, whatever the scope.
func (g *Graph) Input(name string, t onnx.DType, dims ...any) *Value {
	g.at = "input " + name
	v := &Value{name: g.claim(name), dtype: t, shape: Dims(dims...)}
	g.inputs = append(g.inputs, v)
	return v
}

// Output makes v an output of the graph by that name. dims, where given, are
// the shape as the file should say it; they must fit v's.
func (g *Graph) Output(name string, v *Value, dims ...any) {
	g.at = "output " + name
	g.claim(name)
	if v.from == nil || v.out { // inputs, weights and outputs keep their name
		v = g.Op("", "Identity", []*Value{v}, Out{v.dtype, v.shape})[0]
	}
	v.name, v.out = name, true
	if len(dims) > 0 {
		want := Dims(dims...)
		if len(want) != len(v.shape) {
			g.failf("has shape %v, declared %v", v.shape, want)
		}
		for i, d := range want {
			if d.Name == "" && v.shape[i].Name == "" && d.N != v.shape[i].N {
				g.failf("has shape %v, declared %v", v.shape, want)
			}
		}
		v.shape = want
	}
	g.outputs = append(g.outputs, v)
}

func (g *Graph) claim(name string) string {
	if g.names[name] > 0 {
		g.failf("the name is taken")
	}
	g.names[name]++
	return name
}

// Out is the type and shape of an operator's result; the zero Out is a result
// that is not asked for.
type Out struct {
	DType onnx.DType
	Shape []Dim
}

// Op adds any operator, unchecked. in may hold nils for inputs that are not
// given; the results for zero Outs are nil.
func (g *Graph) Op(domain, op string, in []*Value, out Out, attrs ...onnx.Attr) []*Value {
	return g.OpN(domain, op, in, []Out{out}, attrs...)
}

// OpN is Op with any number of results.
func (g *Graph) OpN(domain, op string, in []*Value, outs []Out, attrs ...onnx.Attr) []*Value {
	n := &node{name: g.unique(op), domain: domain, op: op, in: in, attrs: attrs}
	for i, o := range outs {
		if o.DType == 0 {
			n.out = append(n.out, nil)
			continue
		}
		name := n.name
		if len(outs) > 1 {
			name = fmt.Sprintf("%s:%d", n.name, i)
		}
		n.out = append(n.out, &Value{name: name, dtype: o.DType, shape: o.Shape, from: n})
	}
	g.nodes = append(g.nodes, n)
	return slices.Clone(n.out) // the caller may write to it
}

// Int makes an int attribute.
func Int(name string, v int) onnx.Attr { return onnx.Attr{Name: name, Value: int64(v)} }

// Flt makes a float attribute.
func Flt(name string, v float64) onnx.Attr { return onnx.Attr{Name: name, Value: float32(v)} }

// Str makes a string attribute.
func Str(name, v string) onnx.Attr { return onnx.Attr{Name: name, Value: v} }

// IntList makes an attribute of several ints.
func IntList(name string, v ...int) onnx.Attr { return onnx.Attr{Name: name, Value: int64s(v)} }

func int64s(v []int) []int64 {
	out := make([]int64, len(v))
	for i, x := range v {
		out[i] = int64(x)
	}
	return out
}

// An initialiser is a weight of the graph.
type initialiser struct {
	v     *Value
	write func(io.Writer) error
	of    *initialiser // whose bytes these are; nil: its own
	sum   string       // sha256 in hex, once saved
	at    *onnx.External
}

// Weight adds a weight whose bytes, little-endian and row-major, write hands
// out when the graph is saved (each time it is saved). The name is taken within
// the scope; it must be new.
func (g *Graph) Weight(name string, t onnx.DType, shape []int, write func(io.Writer) error) *Value {
	g.at = "weight " + name
	v := &Value{name: g.claim(g.scope + name), dtype: t, shape: fixed(shape)}
	g.inits = append(g.inits, &initialiser{v: v, write: write})
	return v
}

// Share adds a weight of the very bytes of another, in another shape of as many:
// the file holds them once.
func (g *Graph) Share(name string, w *Value, shape ...int) *Value {
	g.at = "weight " + name
	i := slices.IndexFunc(g.inits, func(x *initialiser) bool { return x.v == w })
	if i < 0 || imagebind.Size(shape) != product(w.shape).n {
		g.failf("%s as %v", w, shape)
	}
	of := g.inits[i]
	if of.of != nil {
		of = of.of
	}
	v := &Value{name: g.claim(g.scope + name), dtype: w.dtype, shape: fixed(shape)}
	g.inits = append(g.inits, &initialiser{v: v, write: of.write, of: of})
	return v
}

// Floats adds a float32 weight that is in memory.
func (g *Graph) Floats(name string, values []float32, shape ...int) *Value {
	return g.FloatsAs(name, onnx.Float, values, shape...)
}

// FloatsAs adds a weight of type t (Float or Float16) that is in memory.
func (g *Graph) FloatsAs(name string, t onnx.DType, values []float32, shape ...int) *Value {
	if len(values) != imagebind.Size(shape) {
		panic(fmt.Sprintf("graph: %s: %d values for shape %v", name, len(values), shape))
	}
	values = slices.Clone(values)
	return g.Weight(name, t, shape, func(w io.Writer) error {
		_, err := w.Write(t.AppendFloats(nil, values))
		return err
	})
}

// Const returns a float scalar of type t. Equal ones are one.
func (g *Graph) Const(t onnx.DType, x float32) *Value {
	key := fmt.Sprint("const ", t, " ", x)
	if g.consts[key] == nil {
		g.consts[key] = g.constant(t, nil, t.AppendFloats(nil, []float32{x}))
	}
	return g.consts[key]
}

// Ints returns a list [len(x)] of int64s. Equal ones are one.
func (g *Graph) Ints(x ...int) *Value {
	key := fmt.Sprint("ints ", x)
	if g.consts[key] == nil {
		var raw []byte
		for _, n := range x {
			raw = binary.LittleEndian.AppendUint64(raw, uint64(n))
		}
		g.consts[key] = g.constant(onnx.Int64, []int{len(x)}, raw)
	}
	return g.consts[key]
}

func (g *Graph) constant(t onnx.DType, shape []int, raw []byte) *Value {
	outer := g.scope
	g.scope = ""
	defer func() { g.scope = outer }()
	v := &Value{name: g.unique("const"), dtype: t, shape: fixed(shape)}
	g.inits = append(g.inits, &initialiser{v: v, write: func(w io.Writer) error {
		_, err := w.Write(raw)
		return err
	}})
	return v
}
