package imagebind

import "math"

// A Neighbour is a row of the feature cache near a query.
type Neighbour struct {
	ID string
	// Similarity is the inner product of the query and the prototype.
	Similarity float32
	// Weight is the neighbour's share of the enhancement, softmax over the K
	// neighbours; 0 in a plain search.
	Weight    float32
	Caption   string
	URI       string
	Metadata  map[string]any
	Prototype Embedding // [E], nil unless asked for
}

// EnhanceParams are the knobs of the feature cache (the reference's
// cache_size, cache_t and cache_weight).
type EnhanceParams struct {
	K           int     // neighbours, 1..1000
	Temperature float32 // sharpness of the softmax over similarities, 0..1000
	Weight      float32 // share of the prototypes in the result, 0..1
}

// MaxNeighbours bounds EnhanceParams.K and the k of a search.
const MaxNeighbours = 1000

// DefaultEnhance is what the reference's demos use.
func DefaultEnhance() EnhanceParams { return EnhanceParams{K: 10, Temperature: 20, Weight: 0.5} }

// Validate returns an Invalid error for a value out of range.
func (p EnhanceParams) Validate() error {
	t, w := float64(p.Temperature), float64(p.Weight)
	switch {
	case p.K < 1 || p.K > MaxNeighbours:
		return Errorf(Invalid, "k is %d; it is 1 to %d", p.K, MaxNeighbours)
	case math.IsNaN(t) || t < 0 || t > 1000:
		return Errorf(Invalid, "temperature is %v; it is 0 to 1000", p.Temperature)
	case math.IsNaN(w) || w < 0 || w > 1:
		return Errorf(Invalid, "weight is %v; it is 0 to 1", p.Weight)
	}
	return nil
}
