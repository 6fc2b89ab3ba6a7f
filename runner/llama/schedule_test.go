package llama

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"imagebind-llm/internal/golden"
	"imagebind-llm/runner/internal/testbundle"
)

// chat makes n ids greedily after the prompt, in a slot of its own.
func chat(t testing.TB, d *Decoder, w Want, n int) []int {
	t.Helper()
	s, err := d.Acquire(t.Context(), w)
	if err != nil {
		t.Error(err)
		return nil
	}
	defer s.Release()
	ids, err := answer(t.Context(), s, w.IDs, w.Injection, n)
	if err != nil {
		t.Error(err)
	}
	return ids
}

// Sequences of several lengths and injections, with steps in common, have the
// reference's logits at every step.
func TestBatchGolden(t *testing.T) {
	cs := cases(t)
	cs = cs[:min(len(cs), 6)]
	var steps atomic.Int64
	d := open(t, Options{Slots: len(cs), Observe: func(n, _ int, _ time.Duration) { steps.Add(int64(min(1, n))) }})
	slots := make([]*Slot, len(cs))
	for i, c := range cs {
		slots[i] = acquire(t, d)
		logits, err := slots[i].Prefill(t.Context(), c.prompt, c.injection)
		if err != nil {
			t.Fatal(err)
		}
		golden.Close(t, logits, c.prefill, 1e-4)
	}
	most := 0
	for step := 1; ; step++ {
		var going []int
		for i, c := range cs {
			if step < len(c.greedy) {
				going = append(going, i)
			}
		}
		if len(going) == 0 {
			most = step - 1
			break
		}
		for _, i := range going {
			if err := slots[i].Begin(cs[i].greedy[step-1]); err != nil {
				t.Fatal(err)
			}
		}
		for _, i := range going {
			logits, err := slots[i].End(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			golden.Close(t, logits, cs[i].steps[step*len(logits):][:len(logits)], 1e-4)
		}
	}
	if n := int(steps.Load()); n > 2*most+len(cs) {
		t.Errorf("%d runs for %d steps of %d sequences: they do not go together", n, most, len(cs))
	}
}

// Sequences that come and go at any time, more than there are rows, give what
// they give alone.
func TestJoinAndLeave(t *testing.T) {
	cs := cases(t)
	d := open(t, Options{Slots: 5, Chunk: 16})
	var wg sync.WaitGroup
	for i := range 12 {
		wg.Go(func() {
			for j := range 3 {
				c := cs[(5*i+j)%len(cs)]
				n := 1 + (7*i+3*j)%len(c.greedy) // they leave at different times
				if got := chat(t, d, Want{IDs: c.prompt, Injection: c.injection, Client: i % 3, Request: i}, n); !slices.Equal(got, c.greedy[:n]) {
					t.Errorf("%s: %v, want %v", c.name, got, c.greedy[:n])
				}
			}
		})
	}
	wg.Wait()
}

// A prompt that begins as an earlier one did, under the same injection, is read
// from there on; under another it is read whole.
func TestPrefix(t *testing.T) {
	cs := cases(t)
	c := cs[slices.IndexFunc(cs, func(c goldenCase) bool { return len(c.prompt) > 30 && c.injection != nil })]
	d := open(t, Options{Slots: 3})
	chat(t, d, Want{IDs: c.prompt, Injection: c.injection}, len(c.greedy))

	next := append(append(slices.Clone(c.prompt), c.greedy[:4]...), 7, 8, 9)
	other := open(t, Options{})
	plain := acquire(t, other)
	logits, err := plain.Prefill(t.Context(), next, c.injection)
	if err != nil {
		t.Fatal(err)
	}
	want := slices.Clone(logits)

	s, err := d.Acquire(t.Context(), Want{IDs: next, Injection: c.injection})
	if err != nil {
		t.Fatal(err)
	}
	if logits, err = s.Prefill(t.Context(), next, c.injection); err != nil {
		t.Fatal(err)
	}
	if s.Cached() != len(c.prompt)+4 {
		t.Errorf("%d tokens were there, want %d", s.Cached(), len(c.prompt)+4)
	}
	golden.Close(t, logits, want, 1e-4)

	// Another row copies from this one, which is in use.
	twin, err := d.Acquire(t.Context(), Want{IDs: next, Injection: c.injection})
	if err != nil {
		t.Fatal(err)
	}
	if logits, err = twin.Prefill(t.Context(), next, c.injection); err != nil {
		t.Fatal(err)
	}
	if twin.Cached() != len(next)-2 {
		t.Errorf("%d tokens were copied, want %d", twin.Cached(), len(next)-2)
	}
	golden.Close(t, logits, want, 1e-4)
	twin.Release()

	changed := slices.Clone(c.injection)
	changed[len(changed)-1]++
	for name, injection := range map[string][]float32{"another injection": changed, "none": nil} {
		if _, err := s.Prefill(t.Context(), next, injection); err != nil {
			t.Fatal(err)
		}
		if s.Cached() != 0 {
			t.Errorf("%s: %d tokens were used", name, s.Cached())
		}
	}
	s.Release()
}

// A row is moved next to the others when one between them has left.
func TestPack(t *testing.T) {
	cs := cases(t)[:4]
	d := open(t, Options{Slots: len(cs)})
	slots := make([]*Slot, len(cs))
	for i, c := range cs {
		s, err := d.Acquire(t.Context(), Want{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Prefill(t.Context(), c.prompt, c.injection); err != nil {
			t.Fatal(err)
		}
		slots[i] = s
	}
	slots[1].Release()
	slots[2].Release()
	for step := 1; step < 4; step++ {
		for _, i := range []int{0, 3} {
			if err := slots[i].Begin(cs[i].greedy[step-1]); err != nil {
				t.Fatal(err)
			}
		}
		for _, i := range []int{0, 3} {
			logits, err := slots[i].End(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			golden.Close(t, logits, cs[i].steps[step*len(logits):][:len(logits)], 1e-4)
		}
	}
	d.mu.Lock()
	a, b := slots[0].row.n, slots[3].row.n
	d.mu.Unlock()
	if max(a, b)-min(a, b) != 1 {
		t.Errorf("rows %d and %d", a, b)
	}
	slots[0].Release()
	slots[3].Release()
}

// A reader who does not come for its logits keeps nobody waiting, and finds
// them unchanged.
func TestSlowReader(t *testing.T) {
	cs := cases(t)
	c, o := cs[0], cs[1]
	d := open(t, Options{Slots: 2})
	slow, fast := acquire(t, d), acquire(t, d)
	for i, s := range []*Slot{slow, fast} {
		if _, err := s.Prefill(t.Context(), cs[i].prompt, cs[i].injection); err != nil {
			t.Fatal(err)
		}
	}
	if err := slow.Begin(c.greedy[0]); err != nil {
		t.Fatal(err)
	}
	for i := 1; i < len(o.greedy); i++ {
		if _, err := step(t.Context(), fast, o.greedy[i-1]); err != nil {
			t.Fatal(err)
		}
	}
	logits, err := slow.End(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	golden.Close(t, logits, c.steps[len(logits):][:len(logits)], 1e-4)
	taken := slices.Clone(logits)
	for range 3 { // while it reads
		if _, err := step(t.Context(), fast, 5); err != nil {
			t.Fatal(err)
		}
	}
	if !slices.Equal(taken, logits) {
		t.Error("logits changed under their reader")
	}
	if logits, err = step(t.Context(), slow, c.greedy[1]); err != nil {
		t.Fatal(err)
	}
	golden.Close(t, logits, c.steps[2*len(logits):][:len(logits)], 1e-4)
}

// Who leaves while a step is on its way gives the row back, and the others go on.
func TestLeaveWithinStep(t *testing.T) {
	cs := cases(t)
	d := open(t, Options{Slots: 2})
	for range 20 {
		s, err := d.Acquire(t.Context(), Want{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Prefill(t.Context(), cs[0].prompt, nil); err != nil {
			t.Fatal(err)
		}
		if err := s.Begin(3); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := s.End(ctx); err != nil && !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		s.Release()
		c := cs[1]
		if got := chat(t, d, Want{IDs: c.prompt, Injection: c.injection}, 3); !slices.Equal(got, c.greedy[:3]) {
			t.Fatalf("%v, want %v", got, c.greedy[:3])
		}
	}
}

// While others take steps a prompt is read in small parts.
func TestPrefillInParts(t *testing.T) {
	cs := cases(t)
	var largest atomic.Int64
	d := open(t, Options{Slots: 2, Observe: func(_, prompt int, _ time.Duration) {
		largest.Store(max(largest.Load(), int64(prompt)))
	}})
	s := acquire(t, d)
	if _, err := s.Prefill(t.Context(), cs[0].prompt, cs[0].injection); err != nil {
		t.Fatal(err)
	}
	if _, err := step(t.Context(), s, 5); err != nil {
		t.Fatal(err)
	}
	largest.Store(0)
	long := slices.Repeat([]int{4, 9, 17, 33}, 100)
	over := make(chan struct{})
	go func() {
		defer close(over)
		chat(t, d, Want{IDs: long}, 1)
	}()
	for {
		select {
		case <-over:
			if n := largest.Load(); n == 0 || n >= int64(len(long)) {
				t.Errorf("%d of %d tokens at once", n, len(long))
			}
			return
		default:
		}
		if s.Len() == s.Capacity() {
			t.Fatal("the prompt was never read")
		}
		if _, err := step(t.Context(), s, 5); err != nil {
			t.Fatal(err)
		}
	}
}

// The queue serves the client, then the request, that holds the fewest rows.
func TestFairQueue(t *testing.T) {
	var q queue
	for _, w := range []Want{{Client: "a", Request: 1}, {Client: "a", Request: 1}, {Client: "b", Request: 2}} {
		q.hold(w, 1)
	}
	many := q.join(Want{Client: "a", Request: 1})
	same := q.join(Want{Client: "b", Request: 2})
	fresh := q.join(Want{Client: "b", Request: 3})
	last := q.join(Want{Client: "c", Request: 4})
	for i, want := range []*place{last, fresh} {
		got := q.next()
		if got != want {
			t.Errorf("%d is %v", i, got.want)
		}
		q.leave(got)
		q.hold(got.want, 1)
	}
	q.hold(Want{Client: "a", Request: 1}, -2)
	if got := q.next(); got != many {
		t.Errorf("then %v", got.want)
	}
	if !q.leave(many) || q.leave(many) || q.next() != same {
		t.Error("leave")
	}
}

// Reading adapts to what a step takes, and to how many wait.
func TestPace(t *testing.T) {
	var p pace
	read := func(prompts int, took func(n int) time.Duration) (n int) {
		for range 20 {
			p.stepTook(10 * time.Millisecond)
			n = p.chunk(prompts)
			p.readTook(n, prompts, took(n))
			if p.chunk(prompts) != 0 {
				t.Fatalf("more after %d", n)
			}
		}
		return n
	}
	slow := func(n int) time.Duration { return time.Duration(n) * 500 * time.Microsecond }
	if n := read(1, slow); n < 6 || n > 9 {
		t.Errorf("%d tokens, want 8", n)
	}
	if n := read(5, slow); n < 30 || n > 45 {
		t.Errorf("%d tokens of five prompts, want 40", n)
	}
	if n := read(1, func(int) time.Duration { return time.Millisecond }); n < 512 { // as a GPU, where many cost as much as one
		t.Errorf("%d tokens, want all", n)
	}
	p = pace{tokens: 30}
	p.stepTook(10 * time.Millisecond)
	if p.chunk(1); p.left != 30 {
		t.Errorf("%d tokens are left", p.left)
	}
	if p.readTook(20, 1, time.Millisecond); p.chunk(1) != 10 || p.tokens != 30 { // a prompt's end
		t.Errorf("%d tokens are left of %d", p.left, p.tokens)
	}
}

// TestExact: an exact sequence has the same logits, to the bit, alone, among
// others, read in parts, and when it is asked again.
func TestExact(t *testing.T) {
	for _, precision := range []string{"fp32", "fp16", "int8", "int4", "int4 plain"} {
		t.Run(precision, func(t *testing.T) {
			precision, plain := strings.CutSuffix(precision, " plain")
			b := testbundle.Open(t, testbundle.ImageBind, testbundle.LLaMA, testbundle.Adapter, []string{"--precision", precision})
			cs := cases(t)[:4]
			run := func(o Options, together bool) (all [][]float32) {
				o.ORT.Plain = plain
				d, err := Open(b, o)
				if err != nil {
					t.Fatal(err)
				}
				defer d.Close()
				all = make([][]float32, len(cs))
				var wg sync.WaitGroup
				for i, c := range cs {
					one := func() {
						s, err := d.Acquire(t.Context(), Want{IDs: c.prompt, Injection: c.injection, Exact: true})
						if err != nil {
							t.Error(err)
							return
						}
						defer s.Release()
						logits, err := s.Prefill(t.Context(), c.prompt, c.injection)
						for _, id := range c.greedy {
							if err != nil {
								t.Error(err)
								return
							}
							all[i] = append(all[i], logits...)
							logits, err = step(t.Context(), s, id)
						}
					}
					if together {
						wg.Go(one)
						continue
					}
					one()
					all[i] = nil
					one() // now its prompt is in the cache, and behind it the answer
				}
				wg.Wait()
				return all
			}
			want := run(Options{Slots: 2}, false)
			for name, o := range map[string]Options{"in parts": {Slots: 2, Chunk: 5}, "together": {Slots: len(cs), Chunk: 7}} {
				got := run(o, name == "together")
				for i := range want {
					if !slices.Equal(got[i], want[i]) {
						t.Errorf("%s: case %d differs", name, i)
					}
				}
			}
		})
	}
}
