// Package enhance is the feature cache's arithmetic, and no more: it moves an
// embedding towards the stored image features near it, so that what an encoder
// makes of a sound or a text comes to lie where the language model learnt to
// read pictures. Neighbours come from a store; the order of the steps is
// forward_visual's (LLaMA-Adapter, imagebind_LLM/llama/llama_adapter.py).
package enhance

import (
	"math"

	imagebind "imagebind-llm"
)

// minLength is the length below which a sum has no direction worth keeping.
// Unit vectors that cancel leave about 1e-8 of fp32 rounding.
const minLength = 1e-6

// Mix returns q [E] moved towards its neighbours i, with prototypes pᵢ [E] and
// similarities sᵢ:
//
//	aᵢ  = softmax(p.Temperature·sᵢ)
//	c   = norm(Σᵢ aᵢ·pᵢ)
//	out = norm((1-p.Weight)·q + p.Weight·c)
//
// and sets each neighbour's Weight to aᵢ. As in the reference, q is not
// normalised first: a mix has |q| < 1, and then the neighbours count for more.
// Sums are float64. Without neighbours (an empty collection) the result is
// norm(q). p.K is not read: the neighbours given are the K nearest.
//
// Errors are Invalid: parameters out of range, q with NaN, or vectors that
// cancel, so that nothing is left to normalise.
func Mix(q imagebind.Embedding, neighbours []imagebind.Neighbour, p imagebind.EnhanceParams) (imagebind.Embedding, error) {
	if err := p.Validate(); err != nil {
		return nil, err
	}
	if !q.Finite() {
		return nil, imagebind.Errorf(imagebind.Invalid, "the vector to enhance holds NaN or infinity")
	}
	out := make([]float64, len(q))
	for i, v := range q {
		out[i] = float64(v)
	}
	if len(neighbours) > 0 {
		c, err := prototype(len(q), neighbours, float64(p.Temperature))
		if err != nil {
			return nil, err
		}
		w := float64(p.Weight)
		for i, v := range c {
			out[i] = (1-w)*out[i] + w*v
		}
	}
	if !normalize(out) {
		return nil, imagebind.Errorf(imagebind.Invalid, "the enhanced vector has length 0: the query is zero, or its neighbours point the opposite way")
	}
	e := make(imagebind.Embedding, len(q))
	for i, v := range out {
		e[i] = float32(v)
	}
	return e, nil
}

// prototype returns the unit vector c [E] and sets the neighbours' weights.
func prototype(dim int, neighbours []imagebind.Neighbour, temperature float64) ([]float64, error) {
	best := math.Inf(-1)
	for _, n := range neighbours {
		best = max(best, float64(n.Similarity)) // NaN stays NaN and is found below
	}
	weights := make([]float64, len(neighbours))
	sum := 0.0
	for i, n := range neighbours {
		weights[i] = math.Exp(temperature * (float64(n.Similarity) - best))
		sum += weights[i]
	}
	if math.IsNaN(sum) {
		return nil, imagebind.Errorf(imagebind.Invalid, "the neighbours' similarities are not finite")
	}
	c := make([]float64, dim)
	for i, n := range neighbours {
		if len(n.Prototype) != dim {
			return nil, imagebind.Errorf(imagebind.Invalid, "the prototype of neighbour %q has %d values, the query has %d", n.ID, len(n.Prototype), dim)
		}
		a := weights[i] / sum
		neighbours[i].Weight = float32(a)
		for j, v := range n.Prototype {
			c[j] += a * float64(v)
		}
	}
	if !normalize(c) {
		return nil, imagebind.Errorf(imagebind.Invalid, "the %d neighbours cancel out: their weighted sum has length 0", len(neighbours))
	}
	return c, nil
}

// normalize scales v to length 1 and reports whether it has a direction.
func normalize(v []float64) bool {
	sum := 0.0
	for _, x := range v {
		sum += x * x
	}
	n := math.Sqrt(sum)
	if !(n >= minLength) || math.IsInf(n, 0) {
		return false
	}
	for i := range v {
		v[i] /= n
	}
	return true
}
