package onnx

import (
	"fmt"
	"math"
	"strconv"

	pw "google.golang.org/protobuf/encoding/protowire"
)

// AttributeProto.AttributeType.
const (
	attrFloat  = 1
	attrInt    = 2
	attrString = 3
	attrTensor = 4
	attrFloats = 6
	attrInts   = 7
)

// Marshal returns the model as the content of an .onnx file. It panics on an
// attribute of a type that is not listed at [Attr].
func (m *Model) Marshal() []byte {
	b := number(nil, 1, uint64(m.IRVersion))
	b = text(b, 2, m.Producer)
	b = text(b, 3, m.ProducerVersion)
	b = message(b, 7, m.Graph.marshal())
	for _, o := range m.Opsets {
		b = message(b, 8, number(text(nil, 1, o.Domain), 2, uint64(o.Version)))
	}
	for _, kv := range m.Metadata {
		b = message(b, 14, text(text(nil, 1, kv.Key), 2, kv.Value))
	}
	return b
}

func (g *Graph) marshal() []byte {
	var b []byte
	for _, n := range g.Nodes {
		b = message(b, 1, n.marshal())
	}
	b = text(b, 2, g.Name)
	for _, t := range g.Initialisers {
		b = message(b, 5, t.marshal())
	}
	for _, v := range g.Inputs {
		b = message(b, 11, v.marshal())
	}
	for _, v := range g.Outputs {
		b = message(b, 12, v.marshal())
	}
	return b
}

func (n *Node) marshal() []byte {
	var b []byte
	for _, s := range n.Inputs {
		b = message(b, 1, []byte(s)) // "" too: the place counts
	}
	for _, s := range n.Outputs {
		b = message(b, 2, []byte(s))
	}
	b = text(b, 3, n.Name)
	b = text(b, 4, n.Op)
	for _, a := range n.Attrs {
		b = message(b, 5, a.marshal())
	}
	return text(b, 7, n.Domain)
}

func (a *Attr) marshal() []byte {
	b := text(nil, 1, a.Name)
	kind := uint64(0)
	switch v := a.Value.(type) {
	case nil:
	case float32:
		kind, b = attrFloat, float(b, 2, v)
	case int64:
		kind, b = attrInt, number(b, 3, uint64(v))
	case string:
		kind, b = attrString, message(b, 4, []byte(v))
	case Tensor:
		kind, b = attrTensor, message(b, 5, v.marshal())
	case []float32:
		kind = attrFloats
		for _, x := range v {
			b = float(b, 7, x)
		}
	case []int64:
		kind = attrInts
		for _, x := range v {
			b = number(b, 8, uint64(x))
		}
	default:
		panic(fmt.Sprintf("onnx: attribute %s is a %T", a.Name, v))
	}
	if kind == 0 {
		return b
	}
	return number(b, 20, kind)
}

func (v *ValueInfo) marshal() []byte {
	var shape []byte
	for _, d := range v.Shape {
		var dim []byte
		if d.Name != "" {
			dim = text(nil, 2, d.Name)
		} else {
			dim = number(nil, 1, uint64(d.Size))
		}
		shape = message(shape, 1, dim)
	}
	tensor := message(number(nil, 1, uint64(v.DType)), 2, shape)
	return message(text(nil, 1, v.Name), 2, message(nil, 1, tensor))
}

func (t *Tensor) marshal() []byte {
	var b []byte
	for _, d := range t.Shape {
		b = number(b, 1, uint64(d))
	}
	b = number(b, 2, uint64(t.DType))
	b = text(b, 8, t.Name)
	if t.External == nil {
		return message(b, 9, t.Raw)
	}
	entry := func(key, value string) {
		b = message(b, 13, text(text(nil, 1, key), 2, value))
	}
	entry("location", t.External.Location)
	entry("offset", strconv.FormatInt(t.External.Offset, 10))
	entry("length", strconv.FormatInt(t.External.Length, 10))
	return number(b, 14, 1)
}

func number(b []byte, f pw.Number, v uint64) []byte {
	return pw.AppendVarint(pw.AppendTag(b, f, pw.VarintType), v)
}

func float(b []byte, f pw.Number, v float32) []byte {
	return pw.AppendFixed32(pw.AppendTag(b, f, pw.Fixed32Type), math.Float32bits(v))
}

func message(b []byte, f pw.Number, v []byte) []byte {
	return pw.AppendBytes(pw.AppendTag(b, f, pw.BytesType), v)
}

// text appends a string; an empty one is left out, as proto3 does.
func text(b []byte, f pw.Number, s string) []byte {
	if s == "" {
		return b
	}
	return pw.AppendString(pw.AppendTag(b, f, pw.BytesType), s)
}
