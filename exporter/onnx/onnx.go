// Package onnx is the ONNX file format out: a model as Go structs, written with
// protowire (onnx/onnx.proto of github.com/onnx/onnx, IR version 10), and a
// reader of the same parts for inspection and tests. It knows no operator and
// checks no shapes: see exporter/graph. Of a tensor's
// data the reader takes what the writer writes, raw and external; the typed
// lists (float_data and the like) of other producers are not decoded.
package onnx

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"

	"github.com/x448/float16"
)

// What this package writes. onnxruntime 1.27, the oldest that the runner takes,
// reads IR 10 and opset 18.
const (
	IRVersion      = 10
	Opset          = 18 // of the default domain
	Microsoft      = "com.microsoft"
	MicrosoftOpset = 1
)

// A DType is TensorProto.DataType.
type DType int32

// The element types in use.
const (
	Float   DType = 1
	Uint8   DType = 2
	Int8    DType = 3
	Int32   DType = 6
	Int64   DType = 7
	Bool    DType = 9
	Float16 DType = 10
	Double  DType = 11
	Uint4   DType = 21 // two in a byte, low nibble first
	Int4    DType = 22
)

var dtypes = map[DType]struct {
	name string
	bits int
}{
	Float: {"float32", 32}, Uint8: {"uint8", 8}, Int8: {"int8", 8}, Int32: {"int32", 32}, Int64: {"int64", 64},
	Bool: {"bool", 8}, Float16: {"float16", 16}, Double: {"float64", 64}, Uint4: {"uint4", 4}, Int4: {"int4", 4},
}

// String returns the name as Go and numpy spell it.
func (t DType) String() string {
	if d, ok := dtypes[t]; ok {
		return d.name
	}
	return fmt.Sprintf("onnx type %d", int32(t))
}

// Bytes returns the size of n elements; 0 for an unknown type.
func (t DType) Bytes(n int) int64 { return (int64(n)*int64(dtypes[t].bits) + 7) / 8 }

// AppendFloats appends values as little-endian elements of type Float or Float16.
func (t DType) AppendFloats(dst []byte, values []float32) []byte {
	n, size := len(dst), int(t.Bytes(len(values)))
	dst = slices.Grow(dst, size)[:n+size]
	t.PutFloats(dst[n:], values)
	return dst
}

// PutFloats writes values to dst as little-endian elements of type Float or Float16.
func (t DType) PutFloats(dst []byte, values []float32) {
	switch t {
	case Float:
		for i, v := range values {
			binary.LittleEndian.PutUint32(dst[4*i:4*i+4], math.Float32bits(v))
		}
	case Float16:
		for i, v := range values {
			binary.LittleEndian.PutUint16(dst[2*i:2*i+2], float16.Fromfloat32(v).Bits())
		}
	default:
		panic("onnx: floats as " + t.String())
	}
}

// A Model is ModelProto.
type Model struct {
	IRVersion                 int64
	Producer, ProducerVersion string
	Opsets                    []OpsetID
	Metadata                  []KeyValue
	Graph                     Graph
}

// An OpsetID is the version of a domain's operators.
type OpsetID struct {
	Domain  string
	Version int64
}

// A KeyValue is StringStringEntryProto.
type KeyValue struct{ Key, Value string }

// A Graph is GraphProto.
type Graph struct {
	Name            string
	Nodes           []Node
	Inputs, Outputs []ValueInfo
	Initialisers    []Tensor
}

// A Node is NodeProto. An input or output that is not given is "".
type Node struct {
	Name, Op, Domain string
	Inputs, Outputs  []string
	Attrs            []Attr
}

// An Attr is AttributeProto. Value is an int64, float32, string, []int64,
// []float32 or Tensor; nil where the reader met another kind.
type Attr struct {
	Name  string
	Value any
}

// A Dim is a fixed size, or a name for one that is known only when the graph runs.
type Dim struct {
	Size int64
	Name string // where set, Size is 0
}

// A ValueInfo is an input or output of the graph.
type ValueInfo struct {
	Name  string
	DType DType
	Shape []Dim
}

// A Tensor is TensorProto, its data little-endian in Raw or in another file.
type Tensor struct {
	Name     string
	DType    DType
	Shape    []int64
	Raw      []byte
	External *External
}

// External says where a tensor's data lie: Length bytes at Offset of the file
// Location beside the model.
type External struct {
	Location       string
	Offset, Length int64
}
