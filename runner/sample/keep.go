package sample

import (
	"math"
	"slices"
)

// A candidate is an id with its probability, before division by the sum.
type candidate struct {
	id int32
	p  float64 // the likeliest's is 1
}

// negligible is where a probability, relative to the largest, is left out:
// e^-40 = 4e-18 of it, or 1e-13 for a whole vocabulary together.
const negligible = -40

// keep returns the candidates that min-p, top-k and top-p leave, and the sum of
// their probabilities: the likeliest first, or in order of ids where there is
// nothing to sort for. It sorts only those above a threshold, lowered until they
// are enough.
func (s *Sampler) keep(logits []float32, most float64) ([]candidate, float64) {
	cands, sum := s.cands[:0], 0.0
	for i, l := range logits {
		x := (float64(l) - most) / s.p.Temperature
		if x < negligible {
			continue
		}
		p := exp(x)
		if p < s.p.MinP {
			continue
		}
		sum += p
		cands = append(cands, candidate{int32(i), p})
	}
	s.cands = cands
	k := len(cands)
	if s.p.TopK > 0 {
		k = min(k, s.p.TopK)
	}
	if k == len(cands) {
		if s.p.TopP >= 1 {
			return cands, sum
		}
		top := likeliest(cands, func(_ int, mass float64) bool { return mass > s.p.TopP*sum })
		return nucleus(top, s.p.TopP*sum)
	}
	top := likeliest(cands, func(n int, _ float64) bool { return n >= k })[:k]
	sum = 0
	for _, c := range top {
		sum += c.p
	}
	if s.p.TopP >= 1 {
		return top, sum
	}
	return nucleus(top, s.p.TopP*sum)
}

// likeliest moves the likeliest candidates to the front until their number and
// mass are enough, and returns them sorted, equals by id. They are a few more
// than are needed.
func likeliest(cands []candidate, enough func(n int, mass float64) bool) []candidate {
	n, mass := 0, 0.0 // cands[:n] are above the threshold
	for x := -2.0; n < len(cands) && !enough(n, mass); x *= 2 {
		threshold := math.Exp(x)
		for i := n; i < len(cands); i++ {
			if c := cands[i]; c.p >= threshold {
				cands[i], cands[n] = cands[n], c
				mass += c.p
				n++
			}
		}
	}
	slices.SortFunc(cands[:n], func(a, b candidate) int {
		switch { // cmp.Compare looks for NaN too, and takes most of the sort
		case a.p > b.p:
			return -1
		case a.p < b.p:
			return 1
		}
		return int(a.id - b.id)
	})
	return cands[:n]
}

// nucleus is top-p: the candidates whose predecessors have at most enough.
func nucleus(sorted []candidate, enough float64) ([]candidate, float64) {
	before := 0.0
	for i, c := range sorted {
		if before > enough {
			return sorted[:i], before
		}
		before += c.p
	}
	return sorted, before
}

// A Logprob is a token with the logarithm of its probability.
type Logprob struct {
	ID    int
	Value float64 // ln, of softmax(logits) as the decoder gives them: no penalty, constraint, temperature or cut
}

// Logprobs returns the log probability of id, and appends those of the n
// likeliest tokens to dst, the likeliest first, equals by id.
func Logprobs(dst []Logprob, logits []float32, id, n int) (float64, []Logprob) {
	most := float64(slices.Max(logits))
	sum, begin := 0.0, len(dst)
	n = min(n, len(logits))
	dst = slices.Grow(dst, n)
	for i, l := range logits {
		x := float64(l) - most
		if x >= negligible {
			sum += exp(x)
		}
		top := dst[begin:]
		switch {
		case n == 0 || len(top) == n && x <= top[n-1].Value:
			continue
		case len(top) < n:
			dst = append(dst, Logprob{})
			top = dst[begin:]
		}
		at := len(top) - 1
		for ; at > 0 && top[at-1].Value < x; at-- {
			top[at] = top[at-1]
		}
		top[at] = Logprob{i, x}
	}
	lse := math.Log(sum)
	for i := begin; i < len(dst); i++ {
		dst[i].Value -= lse
	}
	return float64(logits[id]) - most - lse, dst
}
