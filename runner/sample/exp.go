package sample

import "math"

// steps is how finely powers tabulates a factor of 2.
const steps = 64

// powers are 2^(i/steps).
var powers = func() (p [steps]float64) {
	for i := range p {
		p[i] = math.Exp2(float64(i) / steps)
	}
	return p
}()

// exp is math.Exp for x from negligible to 0, several times as fast: a
// temperature near 1 needs it for the whole vocabulary at every token. With
// x = n·ln2/steps + r and |r| <= ln2/128, four terms of the series leave out
// r^5/120 < 4e-14.
func exp(x float64) float64 {
	n := int(x*(steps/math.Ln2) - 0.5)
	r := x - float64(n)*(math.Ln2/steps)
	series := 1 + r*(1+r*(1./2+r*(1./6+r*(1./24))))
	return math.Float64frombits(math.Float64bits(powers[n&(steps-1)]*series) + uint64(n>>6)<<52)
}
