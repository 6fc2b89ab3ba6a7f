package llama

import (
	"math"

	"imagebind-llm/exporter/checkpoint"
	"imagebind-llm/exporter/graph"
	"imagebind-llm/internal/format"
)

// rotated is what the width of a head must be a multiple of for onnxruntime to
// rotate it.
const rotated = 16

// rotary adds the tables of cosines and sines [rows, Dh/2]. Pairs of a head that
// was filled up are zeros, and turn by nothing.
func (m *model) rotary(g *graph.Graph, rows int) (cos, sin *graph.Value) {
	half := m.headDim / 2
	freqs := m.frequencies()
	c, s := make([]float32, rows*half), make([]float32, rows*half)
	for pos := range rows {
		for i := range half {
			at, angle := pos*half+i, 0.0
			if i < len(freqs) {
				angle = float64(float32(pos) * freqs[i])
			}
			c[at], s[at] = float32(math.Cos(angle)), float32(math.Sin(angle))
		}
	}
	return g.FloatsAs("rotary.cos", m.float, c, rows, half), g.FloatsAs("rotary.sin", m.float, s, rows, half)
}

// frequencies returns how far each of the Dh/2 pairs turns a position, in
// float32 at every step, as the reference (llama.py, precompute_freqs_cis): at
// large positions its roundings show.
func (m *model) frequencies() []float32 {
	freqs := make([]float32, m.config.HeadDim/2)
	for i := range freqs {
		power := float32(2*i) / float32(m.config.HeadDim)
		freqs[i] = 1 / float32(math.Pow(m.config.RopeTheta, float64(power))) / float32(m.config.RopeScale)
	}
	return freqs
}

// wider fills the heads of rows of a matrix or bias up to headDim; a zero Tensor
// stays one.
func (m *model) wider(t format.Tensor) format.Tensor {
	if t.Read == nil || m.headDim == m.config.HeadDim {
		return t
	}
	return checkpoint.Rows(t, m.filled(t.Shape[0]))
}

// widerInput does so along the columns of a matrix.
func (m *model) widerInput(t format.Tensor) format.Tensor {
	if t.Read == nil || m.headDim == m.config.HeadDim {
		return t
	}
	return checkpoint.Columns(t, m.filled(t.Shape[1]))
}

// filled returns which of n rows each row is when heads are headDim wide; -1
// where it is a zero.
func (m *model) filled(n int) []int {
	var rows []int
	for head := 0; head < n; head += m.config.HeadDim {
		for i := range m.headDim {
			if i < m.config.HeadDim {
				rows = append(rows, head+i)
			} else {
				rows = append(rows, -1)
			}
		}
	}
	return rows
}
