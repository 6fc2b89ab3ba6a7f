package llama

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	imagebind "imagebind-llm"
	"imagebind-llm/internal/golden"
	"imagebind-llm/runner/bundle"
	"imagebind-llm/runner/internal/testbundle"
)

func TestMain(m *testing.M) { testbundle.Main(m) }

const goldens = "../../testdata/golden/llama-adapter-tiny/goldens.safetensors"

func tiny(t testing.TB) *bundle.Bundle {
	return testbundle.Open(t, testbundle.ImageBind, testbundle.LLaMA, testbundle.Adapter)
}

func open(t testing.TB, o Options) *Decoder {
	t.Helper()
	o.Slots = max(o.Slots, 1)
	d, err := Open(tiny(t), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

func acquire(t testing.TB, d *Decoder) *Slot {
	t.Helper()
	s, err := d.Acquire(t.Context(), Want{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Release)
	return s
}

// A case is one of the reference's answers.
type goldenCase struct {
	name      string
	prompt    []int
	injection []float32 // nil: none
	prefill   []float32 // logits [V]
	steps     []float32 // logits [S, V]; step i is behind greedy id i-1, step 0 the prefill's
	greedy    []int
}

func ints(v []float32) []int {
	out := make([]int, len(v))
	for i, x := range v {
		out[i] = int(x)
	}
	return out
}

// cases are those of the fine-tuned adapter.
func cases(t testing.TB) []goldenCase {
	t.Helper()
	f := golden.Open(t, goldens)
	names := f.Names()
	var out []goldenCase
	for _, name := range names {
		c, ok := strings.CutSuffix(name, "/greedy_ids")
		if !ok || strings.HasPrefix(c, "legacy") || strings.HasPrefix(c, "pretrain") {
			continue
		}
		g := goldenCase{name: c, prompt: ints(f.Tensor(t, c+"/prompt_ids").Values), greedy: ints(f.Tensor(t, name).Values),
			prefill: f.Tensor(t, c+"/prefill_logits").Values, steps: f.Tensor(t, c+"/step_logits").Values}
		mix, _, _ := strings.Cut(c, "/")
		if i := mix + "/injection_after_wo"; slices.Contains(names, i) {
			g.injection = f.Tensor(t, i).Values
		}
		out = append(out, g)
	}
	if len(out) < 12 {
		t.Fatalf("%d cases", len(out))
	}
	return out
}

// step begins a step and waits for its end.
func step(ctx context.Context, s *Slot, id int) ([]float32, error) {
	if err := s.Begin(id); err != nil {
		return nil, err
	}
	return s.End(ctx)
}

func argmax(v []float32) int { return slices.Index(v, slices.Max(v)) }

// answer greedily makes n ids after the prompt.
func answer(ctx context.Context, s *Slot, prompt []int, injection []float32, n int) ([]int, error) {
	logits, err := s.Prefill(ctx, prompt, injection)
	var ids []int
	for len(ids) < n {
		if err != nil {
			return ids, err
		}
		id := argmax(logits)
		if ids = append(ids, id); id == 2 || len(ids) == n {
			break
		}
		logits, err = step(ctx, s, id)
	}
	return ids, err
}

// Logits and greedy ids of every case of the reference, one slot after another's use.
func TestGolden(t *testing.T) {
	d := open(t, Options{})
	s := acquire(t, d)
	worst := 0.0
	for _, c := range cases(t) {
		t.Run(c.name, func(t *testing.T) {
			logits, err := s.Prefill(t.Context(), c.prompt, c.injection)
			if err != nil {
				t.Fatal(err)
			}
			worst = max(worst, golden.Close(t, logits, c.prefill, 1e-4))
			v := len(logits)
			for i, id := range c.greedy {
				worst = max(worst, golden.Close(t, logits, c.steps[i*v:][:v], 1e-4))
				if got := argmax(logits); got != id {
					t.Fatalf("id %d is %d, want %d", i, got, id)
				}
				if i == len(c.greedy)-1 {
					break
				}
				if logits, err = step(t.Context(), s, id); err != nil {
					t.Fatal(err)
				}
			}
			if s.Len() != len(c.prompt)+len(c.greedy)-1 {
				t.Errorf("%d tokens in the cache", s.Len())
			}
		})
	}
	t.Logf("largest difference of a logit: %.2g", worst)
}

// A prompt in one run, in chunks, and token by token gives the same logits.
func TestPrefillIsSteps(t *testing.T) {
	cs := cases(t)
	c := cs[slices.IndexFunc(cs, func(c goldenCase) bool { return len(c.prompt) > 60 && c.injection != nil })]
	for _, chunk := range []int{1, 7, 64, len(c.prompt), 512} {
		t.Run(fmt.Sprint("chunks of ", chunk), func(t *testing.T) {
			s := acquire(t, open(t, Options{Chunk: chunk}))
			logits, err := s.Prefill(t.Context(), c.prompt, c.injection)
			if err != nil {
				t.Fatal(err)
			}
			golden.Close(t, logits, c.prefill, 1e-4)
		})
	}
	s := acquire(t, open(t, Options{}))
	logits, err := s.Prefill(t.Context(), c.prompt[:1], c.injection)
	for _, id := range c.prompt[1:] {
		if err != nil {
			t.Fatal(err)
		}
		logits, err = step(t.Context(), s, id)
	}
	if err != nil {
		t.Fatal(err)
	}
	golden.Close(t, logits, c.prefill, 1e-4)
}

// Answers made side by side in several slots are those made alone, exactly,
// and a slot used again remembers nothing.
func TestSlotsAreIndependent(t *testing.T) {
	cs := cases(t)
	d := open(t, Options{Slots: 4})
	var wg sync.WaitGroup
	for i := range 3 * len(cs) {
		wg.Go(func() {
			c := cs[i%len(cs)]
			s, err := d.Acquire(t.Context(), Want{})
			if err != nil {
				t.Error(err)
				return
			}
			defer s.Release()
			ids, err := answer(t.Context(), s, c.prompt, c.injection, len(c.greedy))
			if err != nil || !slices.Equal(ids, c.greedy) {
				t.Errorf("%s: %v, %v; want %v", c.name, ids, err, c.greedy)
			}
		})
	}
	wg.Wait()
}

func TestAcquireWaits(t *testing.T) {
	d := open(t, Options{})
	s, err := d.Acquire(t.Context(), Want{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := d.Acquire(ctx, Want{}); !errors.Is(err, context.Canceled) {
		t.Errorf("no slot is free: %v", err)
	}
	got := make(chan error)
	go func() {
		other, err := d.Acquire(t.Context(), Want{})
		if err == nil {
			other.Release()
		}
		got <- err
	}()
	s.Release()
	if err := <-got; err != nil {
		t.Error(err)
	}
}

// A cancelled prefill ends with the context's error, and its slot works again.
func TestCancel(t *testing.T) {
	c := cases(t)[0]
	d := open(t, Options{Chunk: 1})
	s := acquire(t, d)
	long := slices.Repeat(c.prompt, 2)
	ctx, cancel := context.WithCancel(t.Context())
	runs := 0
	watched := &countdown{Context: ctx, n: 2 * len(c.prompt), zero: cancel, runs: &runs}
	if _, err := s.Prefill(watched, long, nil); !errors.Is(err, context.Canceled) {
		t.Fatalf("cancelled: %v", err)
	}
	if s.Len() == 0 || s.Len() >= len(long) {
		t.Errorf("%d of %d tokens were read", s.Len(), len(long))
	}
	ids, err := answer(t.Context(), s, c.prompt, c.injection, len(c.greedy))
	if err != nil || !slices.Equal(ids, c.greedy) {
		t.Errorf("afterwards: %v, %v; want %v", ids, err, c.greedy)
	}
}

// A countdown is a context that calls zero when it was asked n times.
type countdown struct {
	context.Context
	n    int
	zero func()
	runs *int
}

func (c *countdown) Err() error {
	if *c.runs++; *c.runs == c.n/2 {
		c.zero()
	}
	return c.Context.Err()
}

func TestRefuses(t *testing.T) {
	d := open(t, Options{Context: 16})
	s := acquire(t, d)
	if d.Context() != 16 || s.Capacity() != 16 {
		t.Errorf("context %d, capacity %d", d.Context(), s.Capacity())
	}
	if _, err := s.Prefill(t.Context(), nil, nil); imagebind.KindOf(err) != imagebind.Invalid {
		t.Errorf("no ids: %v", err)
	}
	if _, err := s.Prefill(t.Context(), make([]int, 17), nil); imagebind.KindOf(err) != imagebind.Invalid || !strings.Contains(err.Error(), "17") {
		t.Errorf("17 ids in 16 places: %v", err)
	}
	for _, id := range []int{-1, 512} {
		if _, err := s.Prefill(t.Context(), []int{1, id}, nil); err == nil {
			t.Errorf("id %d was read", id)
		}
	}
	if _, err := s.Prefill(t.Context(), make([]int, 16), nil); err != nil {
		t.Errorf("16 ids in 16 places: %v", err)
	}
	if _, err := step(t.Context(), s, 1); imagebind.KindOf(err) != imagebind.Invalid || s.Len() != 16 {
		t.Errorf("a step behind the end: %v", err)
	}
	func() {
		defer func() {
			if recover() == nil {
				t.Error("an injection of a wrong length was taken")
			}
		}()
		_, _ = s.Prefill(t.Context(), []int{1}, make([]float32, 3))
	}()
}

func TestOpenRefuses(t *testing.T) {
	b := tiny(t)
	for _, tt := range []struct {
		name   string
		change func(d *bundle.Decoder, o *Options)
		says   string
	}{
		{"no slots", func(_ *bundle.Decoder, o *Options) { o.Slots = 0 }, "slots"},
		{"long context", func(d *bundle.Decoder, o *Options) { o.Context = d.Context + 1 }, "context"},
		{"other layers", func(d *bundle.Decoder, _ *Options) { d.Layers++ }, "inputs"},
		{"other heads", func(d *bundle.Decoder, _ *Options) { d.HeadDim *= 2 }, "past_key_values"},
		{"other width", func(d *bundle.Decoder, _ *Options) { d.Width++ }, "injection"},
		{"other cache", func(d *bundle.Decoder, _ *Options) { d.KVType = "float16" }, "float16"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, dec, o := *b, *b.Decoder, Options{Slots: 1}
			tt.change(&dec, &o)
			c.Decoder = &dec
			if d, err := Open(&c, o); err == nil {
				d.Close()
				t.Error("it opened")
			} else if !strings.Contains(err.Error(), tt.says) {
				t.Errorf("%v says nothing of %s", err, tt.says)
			}
		})
	}
}

// A step makes no garbage but what onnxruntime's binding makes.
func TestStepAllocates(t *testing.T) {
	s := acquire(t, open(t, Options{}))
	if _, err := s.Prefill(t.Context(), []int{1, 5, 9}, nil); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	n := testing.AllocsPerRun(50, func() {
		if _, err := step(ctx, s, 7); err != nil {
			t.Fatal(err)
		}
	})
	t.Logf("%.0f allocations a step", n)
	if n > 40 {
		t.Errorf("%.0f allocations a step", n)
	}
}

func BenchmarkStep(b *testing.B) {
	s := acquire(b, open(b, Options{}))
	if _, err := s.Prefill(b.Context(), []int{1, 5, 9}, nil); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if s.Len() == s.Capacity() {
			if _, err := s.Prefill(b.Context(), []int{1, 5, 9}, nil); err != nil {
				b.Fatal(err)
			}
		}
		if _, err := step(b.Context(), s, 7); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "tokens/s")
}
