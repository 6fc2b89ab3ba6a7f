package point

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
)

// plyTypes are the names of both generations (Turk, "The PLY Polygon File Format", 1994).
var plyTypes = map[string]number{
	"char": i8, "uchar": u8, "short": i16, "ushort": u16, "int": i32, "uint": u32, "float": f32, "double": f64,
	"int8": i8, "uint8": u8, "int16": i16, "uint16": u16, "int32": i32, "uint32": u32, "float32": f32, "float64": f64,
	"int64": i64, "uint64": u64, // not in the description, but written
}

// A plyElement is a table: of vertices, faces, or what is passed over.
type plyElement struct {
	name       string
	count      int
	properties []plyProperty
}

type plyProperty struct {
	name  string
	value number
	list  bool
	count number // of a list
}

// readPLY reads the x, y and z of the element "vertex" and the lists
// vertex_indices (or vertex_index) of "face", in any order, among anything else,
// in text and in binary of both byte orders.
func readPLY(data []byte, w want) (cloud, error) {
	elements, in, err := plyHeader(data)
	if err != nil {
		return cloud{}, err
	}
	isVertex := func(e plyElement) bool { return e.name == "vertex" }
	if !slices.ContainsFunc(elements, isVertex) {
		return cloud{}, errors.New("it has no vertices")
	}
	var c cloud
	for _, e := range elements {
		switch {
		case e.name == "vertex" && c.points == nil:
			if err := w.check(e.count, "points"); err != nil {
				return cloud{}, err
			}
			if c.points, err = in.vertices(e); err != nil {
				return cloud{}, err
			}
			if !w.faces {
				return c, nil
			}
		case e.name == "face" && w.faces:
			if err := w.check(e.count, "faces"); err != nil {
				return cloud{}, err
			}
			if c.faces, err = in.faces(e, w); err != nil {
				return cloud{}, err
			}
		default:
			if err := in.rows(e, func(plyProperty, int, float64) error { return nil }); err != nil {
				return cloud{}, err
			}
		}
	}
	return c, nil
}

// plyHeader returns the tables and what follows the header.
func plyHeader(data []byte) ([]plyElement, *plyBody, error) {
	var elements []plyElement
	in := &plyBody{}
	for n := 1; ; n++ {
		line, rest, found := bytes.Cut(data, []byte("\n"))
		if !found || n > 10000 {
			return nil, nil, errors.New("its header has no end")
		}
		data = rest
		words := bytes.Fields(line)
		word := func(i int) string {
			if i < len(words) {
				return string(words[i])
			}
			return ""
		}
		bad := fmt.Errorf("line %d of its header, %.60q, is not understood", n, line)
		switch word(0) {
		case "", "ply", "comment", "obj_info":
		case "format":
			switch word(1) {
			case "ascii":
			case "binary_little_endian":
				in.order = binary.LittleEndian
			case "binary_big_endian":
				in.order = binary.BigEndian
			default:
				return nil, nil, bad
			}
		case "element":
			count, err := strconv.Atoi(word(2))
			if err != nil || count < 0 {
				return nil, nil, bad
			}
			elements = append(elements, plyElement{name: word(1), count: count})
		case "property":
			if len(elements) == 0 {
				return nil, nil, bad
			}
			p := plyProperty{name: word(2)}
			kind, ok := word(1), true
			if kind == "list" {
				p.list, p.name, kind = true, word(4), word(3)
				p.count, ok = plyTypes[word(2)]
			}
			var known bool
			if p.value, known = plyTypes[kind]; !known || !ok {
				return nil, nil, bad
			}
			e := &elements[len(elements)-1]
			e.properties = append(e.properties, p)
		case "end_header":
			in.data = data
			return elements, in, nil
		default:
			return nil, nil, bad
		}
	}
}

// A plyBody is what is left to read of the values.
type plyBody struct {
	order binary.ByteOrder // nil is text
	data  []byte
}

func (in *plyBody) next(n number) (float64, error) {
	if in.order == nil {
		in.data = bytes.TrimLeft(in.data, " \t\r\n")
		end := bytes.IndexAny(in.data, " \t\r\n")
		if end < 0 {
			end = len(in.data)
		}
		if end == 0 {
			return 0, errCut
		}
		word := in.data[:end]
		in.data = in.data[end:]
		return parse(word)
	}
	if len(in.data) < n.size {
		return 0, errCut
	}
	v := n.value(in.order, in.data)
	in.data = in.data[n.size:]
	return v, nil
}

// rows hands on the values of a table: the property, the value's place in its
// list (-1 for the list's length, 0 for what is none), the value. Each takes a
// byte at least, so that no count outlasts the file.
func (in *plyBody) rows(e plyElement, value func(p plyProperty, at int, v float64) error) error {
	if len(e.properties) == 0 {
		return nil
	}
	for range e.count {
		for _, p := range e.properties {
			n := 1
			if p.list {
				v, err := in.next(p.count)
				if err != nil {
					return err
				}
				if v != math.Trunc(v) || v < 0 || v > math.MaxInt32 {
					return fmt.Errorf("a list has %v values", v)
				}
				if err := value(p, -1, v); err != nil {
					return err
				}
				n = int(v)
			}
			for at := range n {
				v, err := in.next(p.value)
				if err == nil {
					err = value(p, at, v)
				}
				if err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (in *plyBody) vertices(e plyElement) ([]float64, error) {
	axis := map[string]int{"x": 0, "y": 1, "z": 2}
	least, seen := 0, 0 // bytes of a row
	for _, p := range e.properties {
		if _, ok := axis[p.name]; ok && !p.list {
			seen++
		}
		switch {
		case in.order == nil:
			least += 2 // a digit and a space
		case p.list:
			least += p.count.size
		default:
			least += p.value.size
		}
	}
	if seen != 3 {
		return nil, errors.New("its vertices have no x, y and z")
	}
	if e.count > (len(in.data)+1)/least {
		return nil, errCut
	}
	points := make([]float64, 3*e.count)
	i := 0 // values of axes that have come
	err := in.rows(e, func(p plyProperty, _ int, v float64) error {
		if a, ok := axis[p.name]; ok && !p.list {
			points[i/3*3+a] = v
			i++
		}
		return nil
	})
	return points, err
}

func (in *plyBody) faces(e plyElement, w want) (faces []int32, err error) {
	var corners []int32
	err = in.rows(e, func(p plyProperty, at int, v float64) error {
		switch {
		case !p.list || p.name != "vertex_indices" && p.name != "vertex_index":
		case at < 0:
			faces, corners = fan(faces, corners), corners[:0]
			return w.check(len(faces)/3, "triangles")
		default:
			corners = append(corners, corner(v))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	faces = fan(faces, corners)
	return faces, w.check(len(faces)/3, "triangles")
}
