// Package sample draws the next token's id from logits as the reference's
// generate does (LLaMA-Adapter, imagebind_LLM/llama/llama_adapter.py): the
// largest logit at temperature 0, else top-p sampling of softmax(logits/T).
package sample

import (
	"cmp"
	"errors"
	"math"
	"math/rand/v2"
	"slices"

	imagebind "imagebind-llm"
)

// Params are how a request wants its tokens drawn.
type Params struct {
	Temperature float64 // 0 to MaxTemperature; 0 takes the most likely token, default 0.1
	TopP        float64 // 0 to 1: keep the likeliest tokens whose predecessors sum to at most this; default 0.75
	Seed        *uint64 // the same seed draws the same ids; nil is a new one every time
}

// MaxTemperature is OpenAI's.
const MaxTemperature = 2

// Default returns the reference's parameters.
func Default() Params { return Params{Temperature: 0.1, TopP: 0.75} }

// Check returns an error that names the parameter out of its range.
func (p Params) Check() error {
	if !(p.Temperature >= 0 && p.Temperature <= MaxTemperature) {
		return imagebind.WithParam(imagebind.Errorf(imagebind.Invalid, "temperature is %v; it goes from 0 to %d", p.Temperature, MaxTemperature), "temperature")
	}
	if !(p.TopP >= 0 && p.TopP <= 1) {
		return imagebind.WithParam(imagebind.Errorf(imagebind.Invalid, "top_p is %v; it goes from 0 to 1", p.TopP), "top_p")
	}
	return nil
}

// A Sampler draws the ids of one answer. It keeps its buffers between tokens
// and is for one goroutine.
type Sampler struct {
	p     Params
	rng   *rand.Rand
	cands []candidate
}

// A candidate is an id with its probability, before division by the sum.
type candidate struct {
	id int32
	p  float64
}

// New returns a Sampler at the begin of an answer.
func New(p Params) *Sampler {
	seed := rand.Uint64()
	if p.Seed != nil {
		seed = *p.Seed
	}
	return &Sampler{p: p, rng: rand.New(rand.NewPCG(seed, 0x9e3779b97f4a7c15))}
}

// errLogits is a broken graph's, or of weights that overflow in half precision.
var errLogits = errors.New("the decoder's logits hold NaN or infinity")

// Next returns the next id for logits [V].
func (s *Sampler) Next(logits []float32) (int, error) {
	best, err := argmax(logits)
	if err != nil || s.p.Temperature == 0 {
		return best, err
	}
	kept, sum := s.keep(logits, float64(logits[best]))
	u := s.rng.Float64() * sum
	for _, c := range kept {
		if u -= c.p; u < 0 {
			return int(c.id), nil
		}
	}
	return int(kept[len(kept)-1].id), nil // rounding
}

// argmax returns the first of the largest logits.
func argmax(logits []float32) (int, error) {
	best, most := -1, float32(math.Inf(-1))
	for i, l := range logits {
		if !(l <= most) { // larger, or NaN
			if l != l {
				return 0, errLogits
			}
			best, most = i, l
		}
	}
	if best < 0 || math.IsInf(float64(most), 1) {
		return 0, errLogits
	}
	return best, nil
}

// negligible is where a probability, relative to the largest, is left out:
// e^-40 = 4e-18 of it, or 1e-13 for a whole vocabulary together.
const negligible = -40

// keep returns the candidates of top-p, the likeliest first (at TopP 1 in
// order of ids), and the sum of their probabilities. It sorts only those above
// a threshold, lowered until they hold enough.
func (s *Sampler) keep(logits []float32, most float64) ([]candidate, float64) {
	cands, sum := s.cands[:0], 0.0
	for i, l := range logits {
		x := (float64(l) - most) / s.p.Temperature
		if x < negligible {
			continue
		}
		p := math.Exp(x)
		sum += p
		cands = append(cands, candidate{int32(i), p})
	}
	s.cands = cands
	if s.p.TopP >= 1 {
		return cands, sum
	}
	enough, mass, n := s.p.TopP*sum, 0.0, 0 // cands[:n] are above the threshold
	for x := -2.0; mass <= enough && n < len(cands); x *= 2 {
		threshold := math.Exp(x)
		for i := n; i < len(cands); i++ {
			if c := cands[i]; c.p >= threshold {
				cands[i], cands[n] = cands[n], c
				mass += c.p
				n++
			}
		}
	}
	top := cands[:n]
	slices.SortFunc(top, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(b.p, a.p), cmp.Compare(a.id, b.id))
	})
	before := 0.0
	for i, c := range top {
		if before > enough {
			return top[:i], before
		}
		before += c.p
	}
	return top, before
}

// A Logprob is a token with the logarithm of its probability.
type Logprob struct {
	ID    int
	Value float64 // ln, of softmax(logits) without temperature or top-p
}

// Logprobs returns the log probability of id and of the n likeliest tokens, the
// likeliest first, equals by id.
func Logprobs(logits []float32, id, n int) (float64, []Logprob) {
	most := float64(slices.Max(logits))
	sum := 0.0
	n = min(n, len(logits))
	top := make([]Logprob, 0, n+1)
	for i, l := range logits {
		x := float64(l) - most
		if x >= negligible {
			sum += math.Exp(x)
		}
		if n == 0 || len(top) == n && x <= top[n-1].Value {
			continue
		}
		at := len(top)
		for at > 0 && top[at-1].Value < x {
			at--
		}
		top = slices.Insert(top, at, Logprob{i, x})
		top = top[:min(len(top), n)]
	}
	lse := math.Log(sum)
	for i := range top {
		top[i].Value -= lse
	}
	return float64(logits[id]) - most - lse, top
}
