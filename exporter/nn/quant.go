package nn

import (
	"fmt"
	"io"
	"math"

	"github.com/x448/float16"

	"imagebind-llm/exporter/graph"
	"imagebind-llm/exporter/onnx"
	"imagebind-llm/internal/format"
)

// Block is how many weights along the input share a scale.
const Block = 32

// Quantise rounds w, at most a block of weights, to unsigned integers q so that
// w ≈ scale·(q - zero), zero being 8 for 4 bits and 128 for 8. The grids are
// ggml's Q4_0 (the largest weight becomes exactly -8) and Q8_0 (±127), so that
// what was quantised there comes out as it was. half rounds the scale to float16.
func Quantise(q []uint8, w []float32, bits int, half bool) (scale float32) {
	var extreme float32 // the value that is farthest from 0, with its sign
	for _, x := range w {
		if math.Abs(float64(x)) > math.Abs(float64(extreme)) {
			extreme = x
		}
	}
	zero, limit := float32(int(1)<<(bits-1)), float32(int(1)<<bits-1)
	scale = extreme / -zero
	if bits == 8 {
		scale = float32(math.Abs(float64(extreme))) / 127
	}
	if half {
		scale = float16.Fromfloat32(scale).Float32()
	}
	inverse := float32(0)
	if scale != 0 {
		inverse = 1 / scale
	}
	for i, x := range w {
		v := float32(math.RoundToEven(float64(x*inverse))) + zero
		q[i] = uint8(max(0, min(limit, v)))
	}
	return scale
}

// quantised adds the weight as MatMulNBits wants it: uint8 [out, blocks,
// Block·bits/8] with the low nibble first, and scales [out, blocks] of type t.
// An input that is no multiple of Block is filled up with zeros.
func (l Linear) quantised(g *graph.Graph, t onnx.DType, bits, in, out int) (q, s *graph.Value) {
	blocks := (in + Block - 1) / Block
	var scales []float32 // kept from the first weight to the second
	run := func(w io.Writer) error {
		scales = scales[:0]
		for _, tensor := range l.Weight {
			more, err := writeQuantised(w, tensor, bits, t == onnx.Float16)
			if err != nil {
				return err
			}
			scales = append(scales, more...)
		}
		return nil
	}
	name := fmt.Sprintf("%s.weight.int%d", l.Name, bits)
	q = g.Weight(name, onnx.Uint8, []int{out, blocks, Block * bits / 8}, run)
	s = g.Weight(l.Name+".weight.scales", t, []int{out, blocks}, func(w io.Writer) error {
		if scales == nil {
			if err := run(io.Discard); err != nil {
				return err
			}
		}
		_, err := w.Write(t.AppendFloats(nil, scales))
		scales = nil
		return err
	})
	return q, s
}

// writeQuantised writes the blocks of t [out, in], row by row, and returns their scales.
func writeQuantised(w io.Writer, t format.Tensor, bits int, half bool) ([]float32, error) {
	out, in := t.Shape[0], t.Shape[1]
	blocks := (in + Block - 1) / Block
	stride := blocks * Block * bits / 8 // bytes of a row
	scales := make([]float32, out*blocks)
	rows := max(1, 4*chunk/in)
	values, raw := make([]float32, min(rows, out)*in), make([]byte, min(rows, out)*stride)
	for r := 0; r < out; r += rows {
		n := min(rows, out-r)
		if err := t.Read(values[:n*in], r*in); err != nil {
			return nil, fmt.Errorf("tensor %s: %w", t.Name, err)
		}
		parallel(n, func(from, to int) {
			for i := from; i < to; i++ {
				quantiseRow(raw[i*stride:(i+1)*stride], scales[(r+i)*blocks:(r+i+1)*blocks], values[i*in:(i+1)*in], bits, half)
			}
		})
		if _, err := w.Write(raw[:n*stride]); err != nil {
			return nil, err
		}
	}
	return scales, nil
}

// quantiseRow packs one row.
func quantiseRow(dst []byte, scales, w []float32, bits int, half bool) {
	size := Block * bits / 8
	var q [Block]uint8
	for b := range scales {
		for i := range q {
			q[i] = 1 << (bits - 1) // zeros, where the row ends within the block
		}
		block := w[b*Block : min((b+1)*Block, len(w))]
		scales[b] = Quantise(q[:len(block)], block, bits, half)
		to := dst[b*size : (b+1)*size]
		if bits == 8 {
			copy(to, q[:])
			continue
		}
		for i := range to {
			to[i] = q[2*i] | q[2*i+1]<<4
		}
	}
}
