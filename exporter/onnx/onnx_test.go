package onnx

import (
	"bytes"
	"math"
	"reflect"
	"testing"
)

func sample() *Model {
	return &Model{
		IRVersion: IRVersion, Producer: "p", ProducerVersion: "1",
		Opsets:   []OpsetID{{"", Opset}, {Microsoft, MicrosoftOpset}},
		Metadata: []KeyValue{{"k", "v"}},
		Graph: Graph{
			Name: "g",
			Nodes: []Node{{
				Name: "n", Op: "Op", Domain: Microsoft, Inputs: []string{"x", "", "w"}, Outputs: []string{"y", ""},
				Attrs: []Attr{
					{"i", int64(-3)}, {"f", float32(1e-6)}, {"s", "word"}, {"is", []int64{0, -1, 1 << 40}}, {"fs", []float32{0, -2.5}},
					{"t", Tensor{Name: "c", DType: Int64, Shape: []int64{1}, Raw: []byte{1, 0, 0, 0, 0, 0, 0, 0}}},
				},
			}},
			Inputs:  []ValueInfo{{"x", Float, []Dim{{Name: "N"}, {Size: 3}}}, {"scalar", Int32, nil}},
			Outputs: []ValueInfo{{"y", Float16, []Dim{{Name: "N"}, {Size: 0}}}},
			Initialisers: []Tensor{
				{Name: "w", DType: Float, Shape: []int64{5, 1 << 33}, External: &External{"g.data", 1 << 40, 64}},
				{Name: "small", DType: Uint8, Shape: []int64{2}, Raw: []byte{1, 2}},
			},
		},
	}
}

func TestRoundTrip(t *testing.T) {
	want := sample()
	got, err := Unmarshal(want.Marshal())
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestUnmarshalErrors(t *testing.T) {
	whole := sample().Marshal()
	for name, b := range map[string][]byte{
		"empty":     {},
		"text":      []byte("GGUF and more"),
		"cut":       whole[:len(whole)/2],
		"huge":      message(nil, 7, bytes.Repeat([]byte{0x0a, 0}, maxParts)),
		"no graph":  number(nil, 1, 10),
		"bad entry": message(nil, 7, message(nil, 5, message(nil, 13, text(text(nil, 1, "offset"), 2, "x")))),
	} {
		t.Run(name, func(t *testing.T) {
			if m, err := Unmarshal(b); err == nil {
				t.Errorf("read as %+v", m)
			}
		})
	}
}

func TestDType(t *testing.T) {
	for _, tt := range []struct {
		t     DType
		n     int
		bytes int64
		name  string
	}{{Float, 3, 12, "float32"}, {Float16, 3, 6, "float16"}, {Int64, 2, 16, "int64"}, {Uint4, 3, 2, "uint4"}, {99, 4, 0, "onnx type 99"}} {
		if tt.t.Bytes(tt.n) != tt.bytes || tt.t.String() != tt.name {
			t.Errorf("%d: %d bytes, %s", tt.t, tt.t.Bytes(tt.n), tt.t)
		}
	}
	if got := Float16.AppendFloats(nil, []float32{1, 70000, float32(math.Inf(-1))}); !reflect.DeepEqual(got, []byte{0, 0x3c, 0, 0x7c, 0, 0xfc}) {
		t.Errorf("float16: % x", got)
	}
	if got := Float.AppendFloats([]byte{9}, []float32{1}); !reflect.DeepEqual(got, []byte{9, 0, 0, 0x80, 0x3f}) {
		t.Errorf("float32: % x", got)
	}
}

// FuzzUnmarshal: what is read and written is read alike.
func FuzzUnmarshal(f *testing.F) {
	f.Add(sample().Marshal())
	f.Add([]byte{0x3a, 0x02, 0x0a, 0x00})
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Unmarshal(b)
		if err != nil {
			return
		}
		again := m.Marshal()
		n, err := Unmarshal(again)
		if err != nil {
			t.Fatal(err)
		}
		if string(n.Marshal()) != string(again) {
			t.Errorf("written twice it differs")
		}
	})
}
