package onnx

import (
	"fmt"
	"math"
	"strconv"

	pw "google.golang.org/protobuf/encoding/protowire"
)

// Unmarshal reads an .onnx file's content. Raw data alias b. Parts that
// Model does not have are passed over.
func Unmarshal(b []byte) (*Model, error) {
	m, r := &Model{}, &reader{}
	seen := false
	err := r.each(b, func(f field) (err error) {
		switch f.num {
		case 1:
			m.IRVersion = int64(f.n)
		case 2:
			m.Producer = string(f.b)
		case 3:
			m.ProducerVersion = string(f.b)
		case 7:
			seen = true
			m.Graph, err = r.graph(f.b)
		case 8:
			var o OpsetID
			err = r.each(f.b, func(f field) error {
				switch f.num {
				case 1:
					o.Domain = string(f.b)
				case 2:
					o.Version = int64(f.n)
				}
				return nil
			})
			m.Opsets = append(m.Opsets, o)
		case 14:
			var kv KeyValue
			kv, err = r.keyValue(f.b)
			m.Metadata = append(m.Metadata, kv)
		}
		return err
	})
	if err == nil && !seen {
		err = fmt.Errorf("it holds no graph")
	}
	if err != nil {
		return nil, fmt.Errorf("not an ONNX model: %w", err)
	}
	return m, nil
}

func (r *reader) graph(b []byte) (g Graph, err error) {
	err = r.each(b, func(f field) error {
		switch f.num {
		case 1:
			n, err := r.node(f.b)
			g.Nodes = append(g.Nodes, n)
			return err
		case 2:
			g.Name = string(f.b)
		case 5:
			t, err := r.tensor(f.b)
			g.Initialisers = append(g.Initialisers, t)
			return err
		case 11:
			v, err := r.valueInfo(f.b)
			g.Inputs = append(g.Inputs, v)
			return err
		case 12:
			v, err := r.valueInfo(f.b)
			g.Outputs = append(g.Outputs, v)
			return err
		}
		return nil
	})
	return g, err
}

func (r *reader) node(b []byte) (n Node, err error) {
	err = r.each(b, func(f field) error {
		switch f.num {
		case 1:
			n.Inputs = append(n.Inputs, string(f.b))
		case 2:
			n.Outputs = append(n.Outputs, string(f.b))
		case 3:
			n.Name = string(f.b)
		case 4:
			n.Op = string(f.b)
		case 5:
			a, err := r.attr(f.b)
			n.Attrs = append(n.Attrs, a)
			return err
		case 7:
			n.Domain = string(f.b)
		}
		return nil
	})
	return n, err
}

func (r *reader) attr(b []byte) (a Attr, err error) {
	var kind uint64
	var scalar struct {
		f float32
		i int64
		s string
		t Tensor
	}
	var floats []float32
	var ints []int64
	err = r.each(b, func(f field) (err error) {
		switch f.num {
		case 1:
			a.Name = string(f.b)
		case 2:
			scalar.f = math.Float32frombits(uint32(f.n))
		case 3:
			scalar.i = int64(f.n)
		case 4:
			scalar.s = string(f.b)
		case 5:
			scalar.t, err = r.tensor(f.b)
		case 7:
			err = list(f, pw.Fixed32Type, func(n uint64) { floats = append(floats, math.Float32frombits(uint32(n))) })
		case 8:
			err = list(f, pw.VarintType, func(n uint64) { ints = append(ints, int64(n)) })
		case 20:
			kind = f.n
		}
		return err
	})
	switch kind {
	case attrFloat:
		a.Value = scalar.f
	case attrInt:
		a.Value = scalar.i
	case attrString:
		a.Value = scalar.s
	case attrTensor:
		a.Value = scalar.t
	case attrFloats:
		a.Value = floats
	case attrInts:
		a.Value = ints
	}
	return a, err
}

func (r *reader) valueInfo(b []byte) (v ValueInfo, err error) {
	err = r.each(b, func(f field) error {
		switch f.num {
		case 1:
			v.Name = string(f.b)
		case 2: // TypeProto
			return r.each(f.b, func(f field) error {
				if f.num != 1 { // not a tensor
					return nil
				}
				return r.each(f.b, func(f field) error {
					switch f.num {
					case 1:
						v.DType = DType(f.n)
					case 2:
						return r.each(f.b, func(f field) error {
							if f.num != 1 {
								return nil
							}
							d, err := r.dim(f.b)
							v.Shape = append(v.Shape, d)
							return err
						})
					}
					return nil
				})
			})
		}
		return nil
	})
	return v, err
}

func (r *reader) dim(b []byte) (d Dim, err error) {
	err = r.each(b, func(f field) error {
		switch f.num {
		case 1:
			d = Dim{Size: int64(f.n)}
		case 2:
			d = Dim{Name: string(f.b)}
		}
		return nil
	})
	return d, err
}

func (r *reader) tensor(b []byte) (t Tensor, err error) {
	var x External
	external := false
	err = r.each(b, func(f field) error {
		switch f.num {
		case 1:
			return list(f, pw.VarintType, func(n uint64) { t.Shape = append(t.Shape, int64(n)) })
		case 2:
			t.DType = DType(f.n)
		case 8:
			t.Name = string(f.b)
		case 9:
			t.Raw = f.b
		case 13:
			kv, err := r.keyValue(f.b)
			if err != nil {
				return err
			}
			switch kv.Key {
			case "location":
				x.Location = kv.Value
			case "offset":
				x.Offset, err = strconv.ParseInt(kv.Value, 10, 64)
			case "length":
				x.Length, err = strconv.ParseInt(kv.Value, 10, 64)
			}
			return err
		case 14:
			external = f.n == 1
		}
		return nil
	})
	if external {
		t.External = &x
	}
	return t, err
}

func (r *reader) keyValue(b []byte) (kv KeyValue, err error) {
	err = r.each(b, func(f field) error {
		switch f.num {
		case 1:
			kv.Key = string(f.b)
		case 2:
			kv.Value = string(f.b)
		}
		return nil
	})
	return kv, err
}

// A field is one of a message: n for the number types, b for the others.
type field struct {
	num pw.Number
	typ pw.Type
	n   uint64
	b   []byte
}

// maxParts bounds the fields of a model, and so the memory that a foreign one
// takes. A graph of 7B parameters has some 20,000.
const maxParts = 1 << 21

// A reader counts the fields that it met.
type reader struct{ parts int }

// each hands the fields of a message to f.
func (r *reader) each(b []byte, f func(field) error) error {
	for len(b) > 0 {
		if r.parts++; r.parts > maxParts {
			return fmt.Errorf("more than %d fields", maxParts)
		}
		num, typ, n := pw.ConsumeTag(b)
		if n < 0 {
			return pw.ParseError(n)
		}
		b = b[n:]
		x := field{num: num, typ: typ}
		switch typ {
		case pw.VarintType:
			x.n, n = pw.ConsumeVarint(b)
		case pw.Fixed32Type:
			var v uint32
			v, n = pw.ConsumeFixed32(b)
			x.n = uint64(v)
		case pw.Fixed64Type:
			x.n, n = pw.ConsumeFixed64(b)
		case pw.BytesType:
			x.b, n = pw.ConsumeBytes(b)
		default:
			n = pw.ConsumeFieldValue(num, typ, b)
		}
		if n < 0 {
			return pw.ParseError(n)
		}
		b = b[n:]
		if err := f(x); err != nil {
			return err
		}
	}
	return nil
}

// list hands the numbers of a repeated field, packed or not, to f.
func list(x field, typ pw.Type, f func(uint64)) error {
	if x.typ == typ {
		f(x.n)
		return nil
	}
	for b := x.b; len(b) > 0; {
		var v uint64
		var n int
		if typ == pw.Fixed32Type {
			var w uint32
			w, n = pw.ConsumeFixed32(b)
			v = uint64(w)
		} else {
			v, n = pw.ConsumeVarint(b)
		}
		if n < 0 {
			return pw.ParseError(n)
		}
		b = b[n:]
		f(v)
	}
	return nil
}
