package sample

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	imagebind "imagebind-llm"
	"imagebind-llm/internal/golden"
)

const vocab = 512 // of the golden

func seeded(p Params, seed uint64) Params {
	p.Seed = &seed
	return p
}

func TestKeepGolden(t *testing.T) {
	f := golden.Open(t, "testdata/top_p.safetensors")
	logits := f.Tensor(t, "logits").Values
	cases := 0
	for _, name := range f.Names() {
		setting, ok := strings.CutSuffix(name, "/kept")
		if !ok {
			continue
		}
		cases++
		var p Params
		if _, err := fmt.Sscanf(strings.NewReplacer("t", "", "_p", " ").Replace(setting), "%g %g", &p.Temperature, &p.TopP); err != nil {
			t.Fatal(name, err)
		}
		t.Run(setting, func(t *testing.T) {
			kept := f.Tensor(t, name).Values
			ids, probs := f.Tensor(t, setting+"/sorted_ids").Values, f.Tensor(t, setting+"/kept_probs_sorted").Values
			for row, want := range kept {
				l := logits[row*vocab:][:vocab]
				best, err := argmax(l)
				if err != nil {
					t.Fatal(err)
				}
				got, sum := New(p, nil).keep(l, float64(l[best]))
				if p.TopP == 1 { // then in order of ids
					slices.SortFunc(got, func(a, b candidate) int { return int(math.Copysign(1, b.p-a.p)) })
				}
				if len(got) != int(want) {
					t.Fatalf("row %d keeps %d, want %v", row, len(got), want)
				}
				for i, c := range got {
					if c.id != int32(ids[row*vocab+i]) {
						t.Errorf("row %d, place %d is %d, want %v", row, i, c.id, ids[row*vocab+i])
					}
					// fp32 against fp64: the sum of 512 exponentials rounds.
					if d := math.Abs(c.p/sum - float64(probs[row*vocab+i])); d > 5e-7 {
						t.Errorf("row %d, id %d has %v, want %v", row, c.id, c.p/sum, probs[row*vocab+i])
					}
				}
			}
		})
	}
	if cases != 6 {
		t.Fatalf("%d settings", cases)
	}
}

func TestNext(t *testing.T) {
	logits := []float32{1, 3, 3, -2}
	if id, err := New(Params{TopP: 1}, nil).Next(logits, nil); id != 1 || err != nil {
		t.Errorf("temperature 0 takes %d, %v; want the first of equals, 1", id, err)
	}
	if id, _ := New(Params{Temperature: 2}, nil).Next([]float32{0, 5, 4.9}, nil); id != 1 {
		t.Errorf("top_p 0 takes %d, want the likeliest", id)
	}
	if id, err := New(Params{Temperature: math.SmallestNonzeroFloat64, TopP: 1}, nil).Next([]float32{0, 5, 4.9}, nil); id != 1 || err != nil {
		t.Errorf("a tiny temperature takes %d, %v", id, err)
	}
	// One id out of reach takes no part and breaks nothing.
	if id, err := New(Params{Temperature: 1, TopP: 1}, nil).Next([]float32{float32(math.Inf(-1)), 5}, nil); id != 1 || err != nil {
		t.Errorf("beside -Inf: %d, %v", id, err)
	}
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	for _, bad := range [][]float32{{}, {nan, 1}, {1, nan}, {1, inf}, {-inf, -inf}} {
		for _, p := range []Params{{}, Default()} {
			if _, err := New(p, nil).Next(bad, nil); err == nil {
				t.Errorf("%v gives no error", bad)
			}
		}
	}
}

// The same seed draws the same ids, others differ, and frequencies are those of
// the renormalised distribution.
func TestDraws(t *testing.T) {
	logits := []float32{0, 1, 2, 2.5}
	p := Params{Temperature: 1, TopP: 0.8}
	draw := func(seed uint64) []int {
		s, ids := New(seeded(p, seed), nil), []int{}
		for range 40000 {
			id, err := s.Next(logits, nil)
			if err != nil {
				t.Fatal(err)
			}
			ids = append(ids, id)
		}
		return ids
	}
	a := draw(7)
	if !slices.Equal(a, draw(7)) {
		t.Error("one seed drew two sequences")
	}
	if slices.Equal(a[:100], draw(8)[:100]) {
		t.Error("two seeds drew one sequence")
	}
	// e^0, e^1, e^2, e^2.5 over 23.3: 0.52 alone is not more than 0.8, 0.84 is; so ids 3 and 2.
	count := make([]float64, 4)
	for _, id := range a {
		count[id] += 1. / 40000
	}
	want := math.Exp(2.5) / (math.Exp(2.5) + math.Exp(2))
	if count[0]+count[1] != 0 || math.Abs(count[3]-want) > 0.01 { // four deviations
		t.Errorf("frequencies %v, want 0, 0, %.3f, %.3f", count, 1-want, want)
	}
}

// Against the definition, written down plainly, on many logits.
func TestKeepProperty(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		logits := make([]float32, 1+r.IntN(200))
		for i := range logits {
			logits[i] = float32(r.NormFloat64() * 6)
			if r.IntN(4) == 0 {
				logits[i] = float32(r.IntN(3)) // equals
			}
		}
		p := Params{Temperature: 0.05 + 2*r.Float64(), TopP: r.Float64()}
		best, _ := argmax(logits)
		got, sum := New(p, nil).keep(logits, float64(logits[best]))

		all := make([]candidate, len(logits))
		z := 0.0
		for i, l := range logits {
			all[i] = candidate{int32(i), math.Exp(float64(l-logits[best]) / p.Temperature)}
			z += all[i].p
		}
		slices.SortStableFunc(all, func(a, b candidate) int {
			if a.p > b.p {
				return -1
			} else if a.p < b.p {
				return 1
			}
			return 0
		})
		before, n := 0.0, 0
		for n < len(all) && before <= p.TopP*z {
			before += all[n].p
			n++
		}
		if len(got) != n || math.Abs(sum-before) > 1e-6*before {
			t.Fatalf("%+v keeps %d with %v, want %d with %v", p, len(got), sum, n, before)
		}
		for i := range got {
			if got[i].id != all[i].id {
				t.Fatalf("%+v: place %d is %d, want %d", p, i, got[i].id, all[i].id)
			}
		}
	}
}

func TestLogprobs(t *testing.T) {
	logits := []float32{1, 3, 3, -2, 1000, -1e30}
	lp, top := Logprobs(nil, logits, 1, 3)
	if math.Abs(lp+997) > 1e-9 || len(top) != 3 || top[0] != (Logprob{4, 0}) || top[1].ID != 1 || top[2].ID != 2 {
		t.Errorf("%v, %v", lp, top)
	}
	_, top = Logprobs(nil, logits[:4], 0, 20)
	sum := 0.0
	for _, x := range top {
		sum += math.Exp(x.Value)
	}
	if len(top) != 4 || math.Abs(sum-1) > 1e-12 {
		t.Errorf("%d probabilities sum to %v", len(top), sum)
	}
	if _, top := Logprobs(nil, logits, 0, 0); len(top) != 0 {
		t.Errorf("none asked, %v", top)
	}
}

func TestCheck(t *testing.T) {
	if err := Default().Check(); err != nil {
		t.Error(err)
	}
	for _, tt := range []struct {
		p     Params
		param string
	}{{Params{Temperature: -1}, "temperature"}, {Params{Temperature: math.NaN()}, "temperature"}, {Params{Temperature: 3}, "temperature"},
		{Params{TopK: -2}, "top_k"}, {Params{MinP: -0.1}, "min_p"}, {Params{MinP: 1.1}, "min_p"},
		{Params{RepetitionPenalty: -1}, "repetition_penalty"}, {Params{RepetitionPenalty: math.Inf(1)}, "repetition_penalty"},
		{Params{FrequencyPenalty: 3}, "frequency_penalty"}, {Params{PresencePenalty: math.NaN()}, "presence_penalty"}, {Params{TopP: 1.1}, "top_p"}, {Params{TopP: math.NaN()}, "top_p"}} {
		if err := tt.p.Check(); imagebind.ParamOf(err) != tt.param || imagebind.KindOf(err) != imagebind.Invalid {
			t.Errorf("%+v: %v", tt.p, err)
		}
	}
}

func TestNextAllocates(t *testing.T) {
	logits := random()
	s := New(seeded(Params{Temperature: 1, TopP: 0.9}, 1), nil)
	if n := testing.AllocsPerRun(20, func() { _, _ = s.Next(logits, nil) }); n != 0 {
		t.Errorf("%v allocations a token", n)
	}
}

// random returns logits [32000] about as a model spreads them.
func random() []float32 {
	r := rand.New(rand.NewPCG(3, 4))
	logits := make([]float32, 32000)
	for i := range logits {
		logits[i] = float32(r.NormFloat64() * 3)
	}
	return logits
}

func BenchmarkAllowed(b *testing.B) {
	logits := random()
	for name, word := range map[string]uint64{"few": 0, "half": 0xaaaa_aaaa_aaaa_aaaa, "most": ^uint64(0)} {
		allowed := slices.Repeat([]uint64{word}, len(logits)/64)
		allowed[7], allowed[99] = 0xf0f0, 1
		b.Run(name, func(b *testing.B) {
			s := New(Params{}, nil)
			for b.Loop() {
				if _, err := s.Next(logits, allowed); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkNext(b *testing.B) {
	logits := random()
	for _, p := range []Params{{}, Default(), {Temperature: 1, TopP: 0.9}, {Temperature: 1, TopP: 1}} {
		b.Run(fmt.Sprintf("T=%v,p=%v", p.Temperature, p.TopP), func(b *testing.B) {
			s := New(seeded(p, 1), nil)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := s.Next(logits, nil); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// Every parameter together, many tokens on: no garbage.
func TestEverythingAllocatesNothing(t *testing.T) {
	logits := random()
	p := Params{Temperature: 1, TopP: 0.9, TopK: 50, MinP: 0.01, RepetitionPenalty: 1.1, FrequencyPenalty: 0.1, PresencePenalty: 0.1}
	s := New(seeded(p, 1), []int{1, 2, 3})
	defer s.Free()
	allowed := make([]uint64, len(logits)/64)
	for i := range allowed {
		allowed[i] = 0xffff_0000_ffff_0000
	}
	for range 300 {
		if _, err := s.Next(logits, allowed); err != nil {
			t.Fatal(err)
		}
	}
	if n := testing.AllocsPerRun(100, func() { _, _ = s.Next(logits, allowed) }); n != 0 {
		t.Errorf("%v allocations a token", n)
	}
	var top []Logprob
	if n := testing.AllocsPerRun(20, func() { _, top = Logprobs(top[:0], logits, 5, 20) }); n != 0 {
		t.Errorf("%v allocations for log probabilities", n)
	}
}

func TestExp(t *testing.T) {
	for x := 0.0; x >= negligible; x -= 0.000917 {
		if got, want := exp(x), math.Exp(x); math.Abs(got/want-1) > 1e-13 {
			t.Fatalf("exp(%v) is %v, want %v", x, got, want)
		}
	}
	if exp(0) != 1 {
		t.Errorf("exp(0) is %v", exp(0))
	}
}

// Top-k, min-p and top-p in that they see: min-p, then top-k, then top-p over what is left.
func TestCuts(t *testing.T) {
	logits := make([]float32, 6) // probabilities 0.4 0.3 0.15 0.1 0.04 0.01
	for i, p := range []float64{0.04, 0.4, 0.3, 0.01, 0.15, 0.1} {
		logits[i] = float32(math.Log(p))
	}
	for _, tt := range []struct {
		name string
		p    Params
		want []int32
	}{
		{"none", Params{TopP: 1}, []int32{0, 1, 2, 3, 4, 5}},
		{"top-k 2", Params{TopP: 1, TopK: 2}, []int32{1, 2}},
		{"top-k 1", Params{TopP: 1, TopK: 1}, []int32{1}},
		{"top-k of more than there are", Params{TopP: 1, TopK: 100}, []int32{0, 1, 2, 3, 4, 5}},
		{"top-k -1 is all", Params{TopP: 1, TopK: -1}, []int32{0, 1, 2, 3, 4, 5}},
		{"min-p 0.2", Params{TopP: 1, MinP: 0.2}, []int32{1, 2, 4, 5}},
		{"min-p 1", Params{TopP: 1, MinP: 1}, []int32{1}},
		{"top-p 0.6", Params{TopP: 0.6}, []int32{1, 2}},
		{"top-p 0.75", Params{TopP: 0.75}, []int32{1, 2, 4}},
		// Of the two that are left the first has 0.57, more than 0.55: top-p sees top-k's sum.
		{"top-k 2, top-p 0.55", Params{TopP: 0.55, TopK: 2}, []int32{1}},
		// 0.4 0.3 0.15 of 0.85: the first two have 0.82.
		{"min-p 0.3, top-p 0.8", Params{TopP: 0.8, MinP: 0.3}, []int32{1, 2}},
		{"min-p 0.3, top-k 2, top-p 0.9", Params{TopP: 0.9, MinP: 0.3, TopK: 2}, []int32{1, 2}},
	} {
		tt.p.Temperature = 1
		best, _ := argmax(logits)
		kept, sum := New(tt.p, nil).keep(logits, float64(logits[best]))
		var ids []int32
		mass := 0.0
		for _, c := range kept {
			ids = append(ids, c.id)
			mass += c.p
		}
		slices.Sort(ids)
		if !slices.Equal(ids, tt.want) || math.Abs(sum-mass) > 1e-12 {
			t.Errorf("%s keeps %v with %v, want %v with %v", tt.name, ids, sum, tt.want, mass)
		}
	}
}

// The k likeliest, equals by id, for any logits.
func TestTopKProperty(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 9))
	for range 300 {
		logits := make([]float32, 1+r.IntN(200))
		ids := make([]int, len(logits))
		for i := range logits {
			logits[i], ids[i] = float32(r.IntN(20)), i
		}
		slices.SortStableFunc(ids, func(a, b int) int { return int(logits[b] - logits[a]) })
		p := Params{Temperature: 1, TopP: 1, TopK: 1 + r.IntN(len(logits))}
		kept, _ := New(p, nil).keep(logits, float64(logits[ids[0]]))
		if len(kept) != p.TopK {
			t.Fatalf("%d kept, want %d", len(kept), p.TopK)
		}
		got := map[int]bool{}
		for _, c := range kept {
			got[int(c.id)] = true
		}
		for _, id := range ids[:p.TopK] {
			if !got[id] {
				t.Fatalf("%v of %v lack %d", kept, logits, id)
			}
		}
	}
}

// Logits as CTRL and OpenAI say: the prompt counts for repetition alone.
func TestPenalties(t *testing.T) {
	base := []float32{2, -2, 1, 1, 0.5, 0}
	for _, tt := range []struct {
		name   string
		p      Params
		prompt []int
		answer []int
		want   []float32
	}{
		{"repetition", Params{RepetitionPenalty: 2}, []int{0, 1, 1, 99}, []int{2}, []float32{1, -4, 0.5, 1, 0.5, 0}},
		{"repetition 1", Params{RepetitionPenalty: 1}, []int{0, 1}, []int{2}, base},
		{"presence", Params{PresencePenalty: 0.5}, []int{0}, []int{2, 2}, []float32{2, -2, 0.5, 1, 0.5, 0}},
		{"frequency", Params{FrequencyPenalty: 0.25}, []int{0}, []int{2, 2}, []float32{2, -2, 0.5, 1, 0.5, 0}},
		{"negative", Params{FrequencyPenalty: -1}, nil, []int{5}, []float32{2, -2, 1, 1, 0.5, 1}},
		{"all", Params{RepetitionPenalty: 2, FrequencyPenalty: 0.25, PresencePenalty: 0.5}, []int{2}, []int{0}, []float32{0.25, -2, 0.5, 1, 0.5, 0}},
	} {
		s := New(tt.p, tt.prompt)
		got := slices.Clone(base)
		s.penalise(got)
		if s.p.penalises() {
			for _, id := range tt.answer {
				s.note(id, 1)
			}
		}
		got = slices.Clone(base)
		s.penalise(got)
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
		s.Free()
		// A sampler that another answer gave back remembers nothing.
		s = New(Params{RepetitionPenalty: 2}, nil)
		got = slices.Clone(base)
		if s.penalise(got); !slices.Equal(got, base) {
			t.Errorf("%s: afterwards %v", tt.name, got)
		}
		s.Free()
	}
	// Next leaves its argument as it is, and a penalised id loses.
	logits := []float32{1, 1.5, 0}
	s := New(Params{RepetitionPenalty: 2}, []int{1})
	for _, want := range []int{0, 1, 1} { // 1 0.75 0, then 0.5 0.75 0
		if id, err := s.Next(logits, nil); id != want || err != nil {
			t.Errorf("%d, %v; want %d", id, err, want)
		}
	}
	if !slices.Equal(logits, []float32{1, 1.5, 0}) {
		t.Errorf("the logits became %v", logits)
	}
}

func TestAllowed(t *testing.T) {
	logits := make([]float32, 130) // ids from 128 on are the decoder's padding
	for i := range logits {
		logits[i] = float32(i)
	}
	r := rand.New(rand.NewPCG(2, 3))
	for range 200 {
		allowed := []uint64{0, 0}
		for range 1 + r.IntN(3) {
			allowed[r.IntN(2)] |= 1 << r.IntN(64)
		}
		for _, p := range []Params{{}, {Temperature: 2, TopP: 1}, {Temperature: 1, TopP: 0.5, TopK: 3}} {
			id, err := New(p, nil).Next(logits, allowed)
			if err != nil || allowed[id/64]>>(id%64)&1 == 0 {
				t.Fatalf("%x gave %d, %v", allowed, id, err)
			}
		}
	}
	if _, err := New(Params{}, nil).Next(logits, make([]uint64, 2)); !errors.Is(err, errMask) {
		t.Errorf("none allowed: %v", err)
	}
	if _, err := New(Params{}, nil).Next([]float32{float32(math.NaN())}, []uint64{1}); !errors.Is(err, errLogits) {
		t.Errorf("NaN under a mask: %v", err)
	}
}
