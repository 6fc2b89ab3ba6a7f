package graph

import "imagebind-llm/exporter/onnx"

// Products of 8-bit integers.

// ReduceMin takes the smallest along axis, which stays with size 1.
func (g *Graph) ReduceMin(x *Value, axis int) *Value { return g.reduce("ReduceMin", x, axis) }

// Byte returns a uint8 scalar.
func (g *Graph) Byte(x uint8) *Value {
	key := "byte " + string(rune(x))
	if g.consts[key] == nil {
		g.consts[key] = g.constant(onnx.Uint8, nil, []byte{x})
	}
	return g.consts[key]
}

// QuantizeLinear returns round(x/scale) + zero in 0..255, as uint8; scale and
// zero are scalars.
func (g *Graph) QuantizeLinear(x, scale, zero *Value) *Value {
	g.begin("QuantizeLinear", x, scale, zero)
	g.sameType(x, scale)
	g.rank(scale, 0)
	g.rank(zero, 0)
	if zero.dtype != onnx.Uint8 {
		g.failf("zero %s, want uint8", zero)
	}
	return g.Op("", "QuantizeLinear", []*Value{x, scale, zero}, Out{onnx.Uint8, x.shape})[0]
}

// DequantizeLinear returns w [K, N], int8, times its columns' scales [N].
func (g *Graph) DequantizeLinear(w, scales *Value) *Value {
	g.begin("DequantizeLinear", w, scales)
	g.rank(w, 2)
	g.shape(scales, w.shape[1])
	if w.dtype != onnx.Int8 {
		g.failf("%s, want int8", w)
	}
	return g.Op("", "DequantizeLinear", []*Value{w, scales}, Out{scales.dtype, w.shape}, Int("axis", 1))[0]
}

// MatMulIntegerToFloat returns (a - zero)·b times scale and b's columns' scales
// (com.microsoft): a is uint8 [M, K], b int8 [K, N], scales [N]; scale and zero
// are scalars. A processor without VNNI adds products in pairs in 16 bits: there
// |b| is to be at most 64.
func (g *Graph) MatMulIntegerToFloat(a, b, scale, scales, zero *Value) *Value {
	g.begin("MatMulIntegerToFloat", a, b, scale, scales, zero)
	g.rank(a, 2)
	g.rank(b, 2)
	g.same(a, 1, b, 0)
	g.shape(scales, b.shape[1])
	g.sameType(scale, scales)
	g.rank(scale, 0)
	g.rank(zero, 0)
	if a.dtype != onnx.Uint8 || zero.dtype != onnx.Uint8 || b.dtype != onnx.Int8 {
		g.failf("%s less %s, times %s: want uint8, uint8 and int8", a, zero, b)
	}
	return g.Op(onnx.Microsoft, "MatMulIntegerToFloat", []*Value{a, b, scale, scales, zero}, Out{scale.dtype, []Dim{a.shape[0], b.shape[1]}})[0]
}
