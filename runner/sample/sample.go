// Package sample draws the next token's id from logits as the reference's
// generate does (LLaMA-Adapter, imagebind_LLM/llama/llama_adapter.py): the
// largest logit at temperature 0, else top-p sampling of softmax(logits/T).
//
// What the reference has not goes around it in vLLM's order: penalties, then the
// ids that a constraint allows, temperature, min-p, top-k, top-p. Each looks at
// what the one before has left. Temperature comes before the cuts because the
// reference has it so; llama.cpp has it last.
package sample

import (
	"errors"
	"math"
	"math/rand/v2"
	"sync"

	imagebind "imagebind-llm"
)

// Params are how a request wants its tokens drawn. Only Temperature, TopP and
// Seed are the reference's; the rest is off where it is zero.
type Params struct {
	Temperature float64 // 0 to MaxTemperature; 0 takes the most likely token, default 0.1
	TopP        float64 // 0 to 1: keep the likeliest tokens whose predecessors sum to at most this; default 0.75
	Seed        *uint64 // the same seed draws the same ids; nil is a new one every time

	TopK int     // keep the k likeliest, equals by id; 0 and -1 are all
	MinP float64 // 0 to 1: keep those at least this likely, relative to the likeliest
	// RepetitionPenalty is CTRL's (Keskar et al. 2019, section 4.1) as transformers
	// has it: positive logits of ids in prompt and answer are divided by it, negative
	// ones multiplied. 1 is none, and so is 0; to MaxRepetitionPenalty.
	RepetitionPenalty float64
	FrequencyPenalty  float64 // OpenAI's, -2 to 2: taken off a logit for each time that its id is in the answer
	PresencePenalty   float64 // OpenAI's, -2 to 2: taken off once if its id is in the answer
}

// Bounds of parameters.
const (
	MaxTemperature       = 2   // OpenAI's
	MaxPenalty           = 2   // OpenAI's, of frequency and presence
	MaxRepetitionPenalty = 100 // beyond, logits leave float32
)

// Default returns the reference's parameters.
func Default() Params { return Params{Temperature: 0.1, TopP: 0.75} }

// Check returns an error that names the parameter out of its range.
func (p Params) Check() error {
	for _, f := range []struct {
		name         string
		value        float64
		lowest, most float64
	}{
		{"temperature", p.Temperature, 0, MaxTemperature},
		{"top_p", p.TopP, 0, 1},
		{"min_p", p.MinP, 0, 1},
		{"frequency_penalty", p.FrequencyPenalty, -MaxPenalty, MaxPenalty},
		{"presence_penalty", p.PresencePenalty, -MaxPenalty, MaxPenalty},
		{"top_k", float64(p.TopK), -1, math.MaxInt32},
	} {
		if !(f.value >= f.lowest && f.value <= f.most) { // NaN is in no range
			return imagebind.WithParam(imagebind.Errorf(imagebind.Invalid, "%s is %v; it goes from %v to %v", f.name, f.value, f.lowest, f.most), f.name)
		}
	}
	if r := p.RepetitionPenalty; r != 0 && !(r >= 1./MaxRepetitionPenalty && r <= MaxRepetitionPenalty) {
		return imagebind.WithParam(imagebind.Errorf(imagebind.Invalid, "repetition_penalty is %v; it goes from %v to %v, and 1 is none", r, 1./MaxRepetitionPenalty, MaxRepetitionPenalty), "repetition_penalty")
	}
	return nil
}

// penalises reports whether the ids so far matter.
func (p Params) penalises() bool {
	return p.RepetitionPenalty != 0 && p.RepetitionPenalty != 1 || p.FrequencyPenalty != 0 || p.PresencePenalty != 0
}

// A Sampler draws the ids of one answer and is for one goroutine. A token costs
// no allocation once the buffers have their size.
type Sampler struct {
	p     Params
	rng   rand.PCG
	cands []candidate
	buf   []float32 // [V], logits after penalties and constraint

	// What penalties go by.
	prompt []int
	counts []int32 // [V] by id: 0 for unseen, else 1 + its number in the answer
	seen   []int32 // ids whose count is not 0
}

// pool keeps the buffers of samplers that are done: some hundred KiB each.
var pool = sync.Pool{New: func() any { return new(Sampler) }}

// New returns a Sampler at the begin of the answer to prompt, which only
// penalties look at. Free takes it back.
func New(p Params, prompt []int) *Sampler {
	seed := rand.Uint64()
	if p.Seed != nil {
		seed = *p.Seed
	}
	s := pool.Get().(*Sampler)
	s.p, s.prompt = p, prompt
	s.rng.Seed(seed, 0x9e3779b97f4a7c15)
	return s
}

// Free gives the buffers to other answers. The Sampler is not used again.
func (s *Sampler) Free() {
	for _, id := range s.seen {
		s.counts[id] = 0
	}
	s.seen, s.prompt, s.p = s.seen[:0], nil, Params{}
	pool.Put(s)
}

var (
	// errLogits is a broken graph's, or of weights that overflow in half precision.
	errLogits = errors.New("the decoder's logits hold NaN or infinity")
	// errMask is of a text that the vocabulary cannot spell: a control character, say.
	errMask = imagebind.Errorf(imagebind.Invalid, "the answer's form goes on with characters that this model has no tokens for")
)

// Next returns the next id for logits [V], which it does not change. allowed is
// a bit for each id, the lowest first; nil allows all.
func (s *Sampler) Next(logits []float32, allowed []uint64) (int, error) {
	adjusted := logits
	if s.p.penalises() || allowed != nil {
		s.buf = append(s.buf[:0], logits...)
		adjusted = s.buf
		s.penalise(adjusted)
		mask(adjusted, allowed)
	}
	best, err := argmax(adjusted)
	if err != nil && allowed != nil {
		if _, e := argmax(logits); e == nil {
			err = errMask
		}
	}
	if err == nil && s.p.Temperature != 0 {
		best = s.draw(adjusted, best)
	}
	if err == nil && s.p.penalises() {
		s.note(best, 1)
	}
	return best, err
}

// draw returns one of the candidates, each as often as it is likely.
func (s *Sampler) draw(logits []float32, best int) int {
	kept, sum := s.keep(logits, float64(logits[best]))
	u := float64(s.rng.Uint64()<<11>>11) / (1 << 53) * sum // as rand.Float64
	for _, c := range kept {
		if u -= c.p; u < 0 {
			return int(c.id)
		}
	}
	return int(kept[len(kept)-1].id) // rounding
}

// note counts an id: 0 for one of the prompt, 1 for one of the answer.
func (s *Sampler) note(id int, n int32) {
	if s.counts[id] == 0 {
		s.counts[id] = 1
		s.seen = append(s.seen, int32(id))
	}
	s.counts[id] += n
}

func (s *Sampler) penalise(logits []float32) {
	if !s.p.penalises() {
		return
	}
	if len(s.counts) < len(logits) { // at the first token, when none is seen
		s.counts = make([]int32, len(logits))
	}
	for _, id := range s.prompt {
		if id >= 0 && id < len(logits) { // a decoder refuses others
			s.note(id, 0)
		}
	}
	s.prompt = nil
	repetition := float32(s.p.RepetitionPenalty)
	if repetition == 0 {
		repetition = 1
	}
	frequency, presence := float32(s.p.FrequencyPenalty), float32(s.p.PresencePenalty)
	for _, id := range s.seen {
		l := logits[id]
		if l > 0 {
			l /= repetition
		} else {
			l *= repetition
		}
		if n := s.counts[id] - 1; n > 0 {
			l -= frequency*float32(n) + presence
		}
		logits[id] = l
	}
}

var minusInf = float32(math.Inf(-1))

// impossible is a word's worth of logits of which none is allowed.
var impossible = func() (l [64]float32) {
	for i := range l {
		l[i] = minusInf
	}
	return l
}()

// mask makes the logits impossible whose bit is not set.
func mask(logits []float32, allowed []uint64) {
	if allowed == nil {
		return
	}
	for i, word := range allowed {
		if word == ^uint64(0) || 64*i >= len(logits) {
			continue
		}
		block := logits[64*i : min(64*i+64, len(logits))]
		if word == 0 {
			copy(block, impossible[:])
			continue
		}
		for j := range block {
			if word>>j&1 == 0 {
				block[j] = minusInf
			}
		}
	}
	for i := 64 * len(allowed); i < len(logits); i++ { // ids that the tokenizer does not have
		logits[i] = minusInf
	}
}

// argmax returns the first of the largest logits.
func argmax(logits []float32) (int, error) {
	best, most := -1, minusInf
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
