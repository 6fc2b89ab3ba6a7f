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
// ggml's Q4_0 (the largest weight becomes -8) and Q8_0 (±127), so that what was
// quantised there comes out as it was. The scale is a float16, as there.
func Quantise(q []uint8, w []float32, bits int) (scale float32) {
	var extreme float32 // the value that is farthest from 0, with its sign
	for _, x := range w {
		if math.Abs(float64(x)) > math.Abs(float64(extreme)) {
			extreme = x
		}
	}
	zero := int32(1) << (bits - 1)
	scale = extreme / -float32(zero)
	if bits == 8 {
		scale = float32(math.Abs(float64(extreme))) / 127
	}
	scale = half(scale)
	round(q, w, scale, zero, 2*zero-1)
	return scale
}

// QuantiseZero rounds w, at most a block of weights, to q of 4 bits so that
// w ≈ scale·(q - zero). Of several grids, which reach to w's ends and less far,
// each with the scale that suits its q best, it takes what leaves the least
// squares. 0 stays 0; the scale is a float16.
func QuantiseZero(q []uint8, w []float32) (scale float32, zero uint8) {
	var low, high float32
	for _, x := range w {
		low, high = min(low, x), max(high, x)
	}
	clear(q[:len(w)])
	var try [Block]uint8
	least := float32(math.Inf(1))
	for _, steps := range [...]float32{15, 14.3, 13.6, 12.9, 12.2} {
		s := half((high - low) / steps)
		if s == 0 {
			break // nothing but zeros
		}
		z := max(0, min(15, nearest(-low/s)))
		round(try[:], w, s, z, 15)
		var wn, nn, square float32
		for i, x := range w {
			n := float32(int32(try[i]) - z)
			wn, nn = wn+x*n, nn+n*n
		}
		if s = half(wn / nn); nn == 0 {
			continue
		}
		for i, x := range w {
			d := x - s*float32(int32(try[i])-z)
			square += d * d
		}
		if square < least {
			scale, zero, least = s, uint8(z), square
			copy(q, try[:len(w)])
		}
	}
	return scale, zero
}

func half(x float32) float32 { return float16.Fromfloat32(x).Float32() }

// round sets q to x/scale + zero, to the nearest of 0..limit, ties to even.
func round(q []uint8, w []float32, scale float32, zero, limit int32) {
	inverse := float32(0)
	if scale != 0 {
		inverse = 1 / scale
	}
	for i, x := range w {
		q[i] = uint8(max(0, min(limit, nearest(x*inverse)+zero)))
	}
}

// nearest rounds x, within ±2^22, as math.RoundToEven: beyond 2^23 a float32 has
// no digits behind the point.
func nearest(x float32) int32 {
	const shift = 3 << 22
	return int32(math.Float32bits(x+shift)) - int32(math.Float32bits(shift))
}

// A matrix is tensors [outᵢ, in], one below the other, that are quantised while
// they are written.
type matrix struct {
	name      string
	tensors   []format.Tensor
	precision Precision
	scales    onnx.DType
	whole     bool // rows end where the input does; else within a block, filled up with zeros

	got *blocks // kept from the first weight to the others
}

// blocks is what a matrix's blocks have beside their quants, in the file's order.
type blocks struct {
	scales []float32
	zeros  []byte // two a byte, low nibble first; of int4a
}

// quantised adds the weight as MatMulNBits wants it: uint8 [out, blocks,
// Block·bits/8] with the low nibble first, scales [out, blocks] of type t, and
// for int4a zero points [out, ⌈blocks/2⌉].
func (l Linear) quantised(g *graph.Graph, t onnx.DType, in, out int) (q, s, zeros *graph.Value) {
	n, bits := (in+Block-1)/Block, l.Precision.bits()
	shape := []int{out, n, Block * bits / 8}
	if l.Table.shares(l.Precision, t, in) {
		return g.Share(fmt.Sprintf("%s.weight.int%d", l.Name, bits), l.Table.q, shape...), l.Table.scales, nil
	}
	m := matrix{name: l.Name, tensors: l.Weight, precision: l.Precision, scales: t}
	return m.add(g, shape)
}

// add adds the quants in that shape, the scales and, for int4a, the zero points.
func (m *matrix) add(g *graph.Graph, shape []int) (q, s, zeros *graph.Value) {
	out, n := shape[0], (m.tensors[0].Shape[1]+Block-1)/Block
	q = g.Weight(fmt.Sprintf("%s.weight.int%d", m.name, m.precision.bits()), onnx.Uint8, shape, func(w io.Writer) error {
		m.got = nil
		got, err := m.write(w)
		m.got = got
		return err
	})
	rest := func(bytes func(*blocks) []byte) func(io.Writer) error {
		return func(w io.Writer) (err error) {
			if m.got == nil {
				if m.got, err = m.write(io.Discard); err != nil {
					return err
				}
			}
			_, err = w.Write(bytes(m.got))
			return err
		}
	}
	if m.precision == Int4A {
		zeros = g.Weight(m.name+".weight.zeros", onnx.Uint8, []int{out, (n + 1) / 2}, rest(func(b *blocks) []byte { return b.zeros }))
	}
	s = g.Weight(m.name+".weight.scales", m.scales, []int{out, n}, rest(func(b *blocks) []byte {
		m.got = nil // the last of them
		return m.scales.AppendFloats(nil, b.scales)
	}))
	return q, s, zeros
}

// write writes the quants, row by row, and returns what else the blocks have.
func (m *matrix) write(w io.Writer) (*blocks, error) {
	all := &blocks{}
	for _, t := range m.tensors {
		if err := m.writeTensor(w, t, all); err != nil {
			return nil, err
		}
	}
	return all, nil
}

func (m *matrix) writeTensor(w io.Writer, t format.Tensor, all *blocks) error {
	out, in := t.Shape[0], t.Shape[1]
	n, bits := (in+Block-1)/Block, m.precision.bits()
	stride := n * Block * bits / 8 // bytes of a row
	if m.whole {
		stride = in * bits / 8
	}
	scales, zeros := make([]float32, out*n), make([]byte, 0)
	packed := (n + 1) / 2 // bytes of a row's zero points
	if m.precision == Int4A {
		zeros = make([]byte, out*packed)
	}
	rows := max(1, 4*chunk/in)
	values, raw := make([]float32, min(rows, out)*in), make([]byte, min(rows, out)*stride)
	for r := 0; r < out; r += rows {
		some := min(rows, out-r)
		if err := t.Read(values[:some*in], r*in); err != nil {
			return fmt.Errorf("tensor %s: %w", t.Name, err)
		}
		parallel(some, func(from, to int) {
			for i := from; i < to; i++ {
				var z []byte
				if len(zeros) > 0 {
					z = zeros[(r+i)*packed : (r+i+1)*packed]
				}
				quantiseRow(raw[i*stride:(i+1)*stride], scales[(r+i)*n:(r+i+1)*n], z, values[i*in:(i+1)*in], bits)
			}
		})
		if _, err := w.Write(raw[:some*stride]); err != nil {
			return err
		}
	}
	all.scales, all.zeros = append(all.scales, scales...), append(all.zeros, zeros...)
	return nil
}

// quantiseRow packs one row; with zeros, each block has its zero point there.
func quantiseRow(dst []byte, scales []float32, zeros []byte, w []float32, bits int) {
	size := Block * bits / 8
	var q [Block]uint8
	for b := range scales {
		block, zero := w[b*Block:min((b+1)*Block, len(w))], uint8(1)<<(bits-1)
		if zeros == nil {
			scales[b] = Quantise(q[:len(block)], block, bits)
		} else {
			scales[b], zero = QuantiseZero(q[:len(block)], block)
			zeros[b/2] |= zero << (b % 2 * 4)
		}
		for i := len(block); i < Block; i++ {
			q[i] = zero // 0, where the row ends within the block
		}
		to := dst[b*size : min((b+1)*size, len(dst))]
		if bits == 8 {
			copy(to, q[:])
			continue
		}
		for i := range to {
			to[i] = q[2*i] | q[2*i+1]<<4
		}
	}
}
