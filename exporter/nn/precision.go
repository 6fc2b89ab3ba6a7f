package nn

import (
	imagebind "imagebind-llm"
	"imagebind-llm/exporter/onnx"
)

// A Precision says how the large weights are stored, and what a graph computes in.
type Precision string

// The precisions. Weights of 8 and 4 bits are in blocks of 32 along the input
// that share a scale, and in int4a, of 4 bits, a zero point too; all else is
// float32 then.
const (
	FP32  Precision = "fp32"
	FP16  Precision = "fp16"
	Int8  Precision = "int8"
	Int4  Precision = "int4"
	Int4A Precision = "int4a"
)

// ParsePrecision returns the precision of that name; "" is fp32.
func ParsePrecision(name string) (Precision, error) {
	switch p := Precision(name); p {
	case "":
		return FP32, nil
	case FP32, FP16, Int8, Int4, Int4A:
		return p, nil
	}
	return "", imagebind.Errorf(imagebind.Invalid, "precision %q: it is fp32, fp16, int8, int4 or int4a", name)
}

// Activations returns the type that a graph of that precision computes in.
func (p Precision) Activations() onnx.DType {
	if p == FP16 {
		return onnx.Float16
	}
	return onnx.Float
}

// Quantised reports whether the weights are integers.
func (p Precision) Quantised() bool { return p.bits() > 0 }

// bits of a quantised weight; 0 for the float precisions.
func (p Precision) bits() int {
	switch p {
	case Int8:
		return 8
	case Int4, Int4A:
		return 4
	}
	return 0
}
