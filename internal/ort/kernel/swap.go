package kernel

import (
	"fmt"
	"math"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
)

// Fields of ONNX's messages (onnx.proto).
const (
	modelGraph, modelOpset                        = 7, 8
	graphNode, graphInit                          = 1, 5
	nodeIn, nodeOut, nodeOp, nodeAttr, nodeDomain = 1, 2, 4, 5, 7
	attrName, attrFloat, attrInt                  = 1, 2, 3
	tensorDims, tensorType, tensorName            = 1, 2, 8
	opsetDomain, opsetVersion                     = 1, 2

	typeFloat, typeUint8 = 1, 2 // TensorProto.DataType
	microsoft            = "com.microsoft"
)

// A field is one of a message: raw with its tag, body without.
type field struct {
	number protowire.Number
	raw    []byte
	body   []byte // of a string or message
	value  uint64 // of a number
}

func fieldsOf(message []byte) (list []field, err error) {
	for b := message; len(b) > 0; {
		number, kind, tag := protowire.ConsumeTag(b)
		if tag < 0 {
			return nil, protowire.ParseError(tag)
		}
		n := protowire.ConsumeFieldValue(number, kind, b[tag:])
		if n < 0 {
			return nil, protowire.ParseError(n)
		}
		f := field{number: number, raw: b[:tag+n]}
		switch kind {
		case protowire.BytesType:
			f.body, _ = protowire.ConsumeBytes(b[tag:])
		case protowire.VarintType:
			f.value, _ = protowire.ConsumeVarint(b[tag:])
		case protowire.Fixed32Type:
			v, _ := protowire.ConsumeFixed32(b[tag:])
			f.value = uint64(v)
		}
		list, b = append(list, f), b[tag+n:]
	}
	return list, nil
}

func appendBytes(b []byte, number protowire.Number, body []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, number, protowire.BytesType), body)
}

func appendInt(b []byte, number protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, number, protowire.VarintType), v)
}

// A node is an operator of the graph.
type node struct {
	op, domain string
	in, out    []string
	ints       map[string]int64
	floats     map[string]float32
	raw        []byte // as it was; nil for one of ours
	gone       bool   // part of another now
}

func readNode(message []byte) (*node, error) {
	fields, err := fieldsOf(message)
	if err != nil {
		return nil, err
	}
	n := &node{ints: map[string]int64{}, floats: map[string]float32{}, raw: message}
	for _, f := range fields {
		switch f.number {
		case nodeIn:
			n.in = append(n.in, string(f.body))
		case nodeOut:
			n.out = append(n.out, string(f.body))
		case nodeOp:
			n.op = string(f.body)
		case nodeDomain:
			n.domain = string(f.body)
		case nodeAttr:
			attr, err := fieldsOf(f.body)
			if err != nil {
				return nil, err
			}
			var name string
			for _, a := range attr {
				switch a.number {
				case attrName:
					name = string(a.body)
				case attrInt:
					n.ints[name] = int64(a.value)
				case attrFloat:
					n.floats[name] = math.Float32frombits(uint32(a.value))
				}
			}
		}
	}
	return n, nil
}

// marshal writes a node; attributes of ours are ints of matrices and a norm's
// epsilon.
func (n *node) marshal() []byte {
	if n.raw != nil {
		return n.raw
	}
	var b []byte
	for _, s := range n.in {
		b = appendBytes(b, nodeIn, []byte(s))
	}
	for _, s := range n.out {
		b = appendBytes(b, nodeOut, []byte(s))
	}
	b = appendBytes(b, nodeOp, []byte(n.op))
	for _, name := range []string{"K", "N", "bits"} {
		if v, ok := n.ints[name]; ok {
			b = appendBytes(b, nodeAttr, appendInt(appendInt(appendBytes(nil, attrName, []byte(name)), attrInt, uint64(v)), attrType, 2))
		}
	}
	if v, ok := n.floats["epsilon"]; ok {
		a := protowire.AppendFixed32(protowire.AppendTag(appendBytes(nil, attrName, []byte("epsilon")), attrFloat, protowire.Fixed32Type), math.Float32bits(v))
		b = appendBytes(b, nodeAttr, appendInt(a, attrType, 1))
	}
	return appendBytes(b, nodeDomain, []byte(n.domain))
}

// attrType is AttributeProto.type: 1 is a float, 2 an int.
const attrType = 20

// Swap returns the model (an ONNX file's bytes) with our operators in the places
// of onnxruntime's that they compute the same as, and how many there are. What
// it does not know it leaves alone.
func Swap(model []byte) ([]byte, int, error) {
	top, err := fieldsOf(model)
	if err != nil {
		return nil, 0, fmt.Errorf("model: %w", err)
	}
	at := slices.IndexFunc(top, func(f field) bool { return f.number == modelGraph })
	if at < 0 {
		return model, 0, nil
	}
	graph, n, err := swapGraph(top[at].body)
	if err != nil || n == 0 {
		return model, 0, err
	}
	var out []byte
	for i, f := range top {
		if i == at {
			out = appendBytes(out, modelGraph, graph)
			continue
		}
		out = append(out, f.raw...)
	}
	opset := appendInt(appendBytes(nil, opsetDomain, []byte(Domain)), opsetVersion, 1)
	return appendBytes(out, modelOpset, opset), n, nil
}

// A graph is what Swap looks at.
type graph struct {
	nodes []*node
	types map[string]uint64  // of weights, by name
	dims  map[string]int     // of weights: how many
	maker map[string]*node   // by the output's name
	users map[string][]*node // by the input's name
}

func swapGraph(message []byte) ([]byte, int, error) {
	fields, err := fieldsOf(message)
	if err != nil {
		return nil, 0, fmt.Errorf("graph: %w", err)
	}
	g := graph{types: map[string]uint64{}, dims: map[string]int{}, maker: map[string]*node{}, users: map[string][]*node{}}
	for _, f := range fields {
		switch f.number {
		case graphNode:
			n, err := readNode(f.body)
			if err != nil {
				return nil, 0, fmt.Errorf("node: %w", err)
			}
			g.nodes = append(g.nodes, n)
			for _, s := range n.out {
				g.maker[s] = n
			}
			for _, s := range n.in {
				g.users[s] = append(g.users[s], n)
			}
		case graphInit:
			t, err := fieldsOf(f.body)
			if err != nil {
				return nil, 0, fmt.Errorf("weight: %w", err)
			}
			var name string
			var kind uint64
			var dims int
			for _, x := range t {
				switch x.number {
				case tensorName:
					name = string(x.body)
				case tensorType:
					kind = x.value
				case tensorDims: // one by one, or packed
					for b := x.body; len(b) > 0; dims++ {
						_, n := protowire.ConsumeVarint(b)
						if n < 0 {
							return nil, 0, fmt.Errorf("weight: %w", protowire.ParseError(n))
						}
						b = b[n:]
					}
					if x.body == nil {
						dims++
					}
				}
			}
			g.types[name], g.dims[name] = kind, dims
		}
	}
	count := 0
	for i, n := range g.nodes {
		if ours := g.swap(n); ours != nil {
			g.nodes[i] = ours
			count++
		}
	}
	var out []byte
	for _, n := range g.nodes {
		if !n.gone {
			out = appendBytes(out, graphNode, n.marshal())
		}
	}
	for _, f := range fields {
		if f.number != graphNode {
			out = append(out, f.raw...)
		}
	}
	return out, count, nil
}
