package nn

import (
	imagebind "imagebind-llm"
	"imagebind-llm/exporter/graph"
	"imagebind-llm/exporter/onnx"
	"imagebind-llm/internal/format"
)

// An Embedding is a table of rows.
type Embedding struct {
	Name   string
	Weight format.Tensor // [V, D]
	// Precision of the table: "" is the type of its rows, fp16 may lie in a float32
	// graph. int8 and int4 are [V, D·bits/8] and scales [V, ⌈D/32⌉], for
	// GatherBlockQuantized; there is no int4a.
	Precision Precision

	q, scales *graph.Value // as Apply stored them
}

// Apply returns the rows [.., D] that ids [..] name, in type t (Float or Float16).
func (l *Embedding) Apply(g *graph.Graph, ids *graph.Value, t onnx.DType) *graph.Value {
	if len(l.Weight.Shape) != 2 {
		g.Fail(imagebind.Errorf(imagebind.Invalid, "tensor %s has shape %v, want [V, D]", l.Weight.Name, l.Weight.Shape))
	}
	bits := l.Precision.bits()
	if bits == 0 {
		stored := t
		if l.Precision == FP16 {
			stored = onnx.Float16
		}
		return g.Cast(g.Gather(Weight(g, l.Name+".weight", stored, l.Weight, l.Weight.Shape...), ids, 0), t)
	}
	v, d := l.Weight.Shape[0], l.Weight.Shape[1]
	switch {
	case l.Precision == Int4A:
		g.Fail(imagebind.Errorf(imagebind.Invalid, "%s: a table is int8 or int4, not int4a", l.Name))
	case d*bits%8 != 0:
		g.Fail(imagebind.Errorf(imagebind.Invalid, "%s: rows of %d do not fill bytes at 4 bits", l.Name, d))
	}
	m := matrix{name: l.Name, tensors: []format.Tensor{l.Weight}, precision: l.Precision, scales: t, whole: true}
	l.q, l.scales, _ = m.add(g, []int{v, d * bits / 8})
	return g.GatherBlockQuantized(l.q, ids, l.scales, bits, Block)
}

// shares reports whether l's product takes the very bytes that the table stored.
func (l *Embedding) shares(p Precision, t onnx.DType, in int) bool {
	return l != nil && l.q != nil && l.Precision == p && l.scales.DType() == t && in%Block == 0
}
