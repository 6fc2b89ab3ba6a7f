package imagebind

import (
	"fmt"
	"math"
)

// An Embedding is a point [E] in ImageBind's joint space (E = 1024 in the
// released model). Encoders give unit vectors; a mix of several is at most 1
// long and is not normalized again, as in the reference.
type Embedding []float32

// mixEpsilon is the reference's guard against a zero sum of weights
// (imagebind_LLM/llama/llama_adapter.py, forward_visual).
const mixEpsilon = 1e-6

// Norm returns |e|, summed in float64.
func (e Embedding) Norm() float64 {
	var sum float64
	for _, v := range e {
		sum += float64(v) * float64(v)
	}
	return math.Sqrt(sum)
}

// Normalize scales e to length 1 in place. A zero vector stays zero.
func (e Embedding) Normalize() {
	n := e.Norm()
	if n == 0 {
		return
	}
	for i := range e {
		e[i] = float32(float64(e[i]) / n)
	}
}

// Dot returns the inner product of e and o, summed in float64. It panics when
// their lengths differ.
func (e Embedding) Dot(o Embedding) float64 {
	if len(e) != len(o) {
		panic(fmt.Sprintf("imagebind: Dot of [%d] and [%d]", len(e), len(o)))
	}
	var sum float64
	for i, v := range e {
		sum += float64(v) * float64(o[i])
	}
	return sum
}

// Finite reports whether no value of e is NaN or infinite.
func (e Embedding) Finite() bool {
	for _, v := range e {
		if f := float64(v); math.IsNaN(f) || math.IsInf(f, 0) {
			return false
		}
	}
	return true
}

// A Weighted is one part of a query: a unit embedding and its weight, > 0.
type Weighted struct {
	Embedding Embedding
	Weight    float32
}

// Mix returns Σ eᵢ·wᵢ/(Σw + 1e-6), the reference's weighted mixture
// (forward_visual). The result is at most 1 long. Parts must be at least one,
// of one length, their weights positive and finite.
func Mix(parts []Weighted) (Embedding, error) {
	if len(parts) == 0 {
		return nil, Errorf(Invalid, "nothing to mix")
	}
	var sum float64
	for i, p := range parts {
		w := float64(p.Weight)
		if math.IsNaN(w) || math.IsInf(w, 0) || w <= 0 {
			return nil, Errorf(Invalid, "weight of part %d is %v; weights are positive numbers", i, p.Weight)
		}
		if len(p.Embedding) != len(parts[0].Embedding) {
			return nil, Errorf(Invalid, "embedding of part %d has %d values, the first has %d", i, len(p.Embedding), len(parts[0].Embedding))
		}
		sum += w
	}
	mix := make(Embedding, len(parts[0].Embedding))
	for _, p := range parts {
		w := float32(float64(p.Weight) / (sum + mixEpsilon))
		for i, v := range p.Embedding {
			mix[i] += v * w
		}
	}
	return mix, nil
}
