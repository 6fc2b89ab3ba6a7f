package sample

import (
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
				got, sum := New(p).keep(l, float64(l[best]))
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
	if id, err := New(Params{TopP: 1}).Next(logits); id != 1 || err != nil {
		t.Errorf("temperature 0 takes %d, %v; want the first of equals, 1", id, err)
	}
	if id, _ := New(Params{Temperature: 2}).Next([]float32{0, 5, 4.9}); id != 1 {
		t.Errorf("top_p 0 takes %d, want the likeliest", id)
	}
	if id, err := New(Params{Temperature: math.SmallestNonzeroFloat64, TopP: 1}).Next([]float32{0, 5, 4.9}); id != 1 || err != nil {
		t.Errorf("a tiny temperature takes %d, %v", id, err)
	}
	// One id out of reach takes no part and breaks nothing.
	if id, err := New(Params{Temperature: 1, TopP: 1}).Next([]float32{float32(math.Inf(-1)), 5}); id != 1 || err != nil {
		t.Errorf("beside -Inf: %d, %v", id, err)
	}
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	for _, bad := range [][]float32{{}, {nan, 1}, {1, nan}, {1, inf}, {-inf, -inf}} {
		for _, p := range []Params{{}, Default()} {
			if _, err := New(p).Next(bad); err == nil {
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
		s, ids := New(seeded(p, seed)), []int{}
		for range 40000 {
			id, err := s.Next(logits)
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
		got, sum := New(p).keep(logits, float64(logits[best]))

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
	lp, top := Logprobs(logits, 1, 3)
	if math.Abs(lp+997) > 1e-9 || len(top) != 3 || top[0] != (Logprob{4, 0}) || top[1].ID != 1 || top[2].ID != 2 {
		t.Errorf("%v, %v", lp, top)
	}
	_, top = Logprobs(logits[:4], 0, 20)
	sum := 0.0
	for _, x := range top {
		sum += math.Exp(x.Value)
	}
	if len(top) != 4 || math.Abs(sum-1) > 1e-12 {
		t.Errorf("%d probabilities sum to %v", len(top), sum)
	}
	if _, top := Logprobs(logits, 0, 0); len(top) != 0 {
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
		{Params{TopP: 1.1}, "top_p"}, {Params{TopP: math.NaN()}, "top_p"}} {
		if err := tt.p.Check(); imagebind.ParamOf(err) != tt.param || imagebind.KindOf(err) != imagebind.Invalid {
			t.Errorf("%+v: %v", tt.p, err)
		}
	}
}

func TestNextAllocates(t *testing.T) {
	logits := random()
	s := New(seeded(Params{Temperature: 1, TopP: 0.9}, 1))
	if n := testing.AllocsPerRun(20, func() { _, _ = s.Next(logits) }); n != 0 {
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

func BenchmarkNext(b *testing.B) {
	logits := random()
	for _, p := range []Params{{}, Default(), {Temperature: 1, TopP: 0.9}, {Temperature: 1, TopP: 1}} {
		b.Run(fmt.Sprintf("T=%v,p=%v", p.Temperature, p.TopP), func(b *testing.B) {
			s := New(seeded(p, 1))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := s.Next(logits); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
