package embed

import (
	"context"
	"errors"
	"math"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	imagebind "imagebind-llm"
	"imagebind-llm/internal/golden"
)

// A fake encoder gives [first value of a clip, 1] after a second. It fails on
// values below 0.
type fake struct {
	mu       sync.Mutex
	runs     [][]float32 // first values of each run's clips
	stopped  int         // runs that were stopped
	poisoned error
}

func (f *fake) run(ctx context.Context, clips imagebind.Tensor) ([]float32, error) {
	var first, out []float32
	n := imagebind.Size(clips.Shape[1:])
	for i := range clips.Shape[0] {
		first = append(first, clips.Floats[i*n])
		out = append(out, clips.Floats[i*n], 1)
	}
	f.mu.Lock()
	f.runs = append(f.runs, first)
	f.mu.Unlock()
	select {
	case <-time.After(time.Second):
	case <-ctx.Done():
		f.mu.Lock()
		defer f.mu.Unlock()
		f.stopped++
		return nil, ctx.Err()
	}
	if slices.ContainsFunc(first, func(v float32) bool { return v < 0 }) {
		return nil, f.poisoned
	}
	return out, nil
}

// clips is an input of clips of two values, the first of which are v.
func clips(v ...float32) imagebind.Tensor {
	t := imagebind.NewFloats(len(v), 2)
	for i, x := range v {
		t.Floats[2*i] = x
	}
	return t
}

// embedAt embeds an input and sends the ratio of the embedding's values, which is the
// mean of the clips' first ones, or the error.
func embedAt(ctx context.Context, b *batcher, input imagebind.Tensor) chan any {
	c := make(chan any, 1)
	go func() {
		j, err := b.put(ctx, "fake", input)
		if err != nil {
			c <- err
			return
		}
		e, err := j.Wait()
		if err != nil {
			c <- err
			return
		}
		c <- math.Round(float64(e[0]/e[1])*1e3) / 1e3
	}()
	return c
}

// isCanceled reports whether what embedAt sent is that error.
func isCanceled(v any) bool {
	err, ok := v.(error)
	return ok && errors.Is(err, context.Canceled)
}

func TestBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{}
		b := newBatcher(2, Options{Clips: 4}, f.run)
		start := time.Now()
		alone := embedAt(t.Context(), b, clips(1))
		synctest.Wait()
		if len(f.runs) != 1 {
			t.Fatal("a lone input waits")
		}
		// Six clips come while it runs: 3, then one of three, then the other two
		// behind the single one that has waited too.
		three := embedAt(t.Context(), b, clips(2, 3, 4))
		synctest.Wait()
		more := embedAt(t.Context(), b, clips(5, 6, 7))
		synctest.Wait()
		last := embedAt(t.Context(), b, clips(8))
		for _, tt := range []struct {
			got  chan any
			want float64
		}{{alone, 1}, {three, 3}, {more, 6}, {last, 8}} {
			if got := <-tt.got; got != tt.want {
				t.Errorf("%v, want %v", got, tt.want)
			}
		}
		b.loops.Wait()
		if want := [][]float32{{1}, {2, 3, 4, 5}, {8, 6, 7}}; !slices.EqualFunc(f.runs, want, slices.Equal) {
			t.Errorf("runs of %v, want %v", f.runs, want)
		}
		if took := time.Since(start); took != 3*time.Second {
			t.Errorf("took %v", took)
		}
	})
}

// An idle encoder waits for what is being read, no longer than the window, and
// no longer than what comes.
func TestWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{}
		b := newBatcher(2, Options{Clips: 2, Window: 2 * time.Millisecond}, f.run)
		b.expect(2)
		first := embedAt(t.Context(), b, clips(1))
		b.expect(-1)
		time.Sleep(time.Millisecond)
		second := embedAt(t.Context(), b, clips(2)) // the batch is full
		synctest.Wait()
		if len(f.runs) != 1 || len(f.runs[0]) != 2 {
			t.Errorf("runs of %v", f.runs)
		}
		<-first
		<-second
		b.loops.Wait()
		start := time.Now()
		<-embedAt(t.Context(), b, clips(3)) // what was expected does not come in time
		if took := time.Since(start); took != time.Second+2*time.Millisecond {
			t.Errorf("waited %v", took-time.Second)
		}
		third := embedAt(t.Context(), b, clips(4))
		synctest.Wait()
		b.expect(-1) // nor at all
		synctest.Wait()
		if len(f.runs) != 3 {
			t.Errorf("it waits for nobody: runs of %v", f.runs)
		}
		<-third
	})
}

// Who leaves the queue is not run, who leaves a run does not wait, and a run for
// nobody is stopped. A batch that fails is done again one by one.
func TestLeaving(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{poisoned: errors.New("poisoned")}
		b := newBatcher(2, Options{Clips: 3}, f.run)
		alone, leave := context.WithCancel(t.Context())
		first := embedAt(alone, b, clips(1))
		synctest.Wait()
		some, leaveQueue := context.WithCancel(t.Context())
		second := embedAt(some, b, clips(2, 2))
		synctest.Wait()
		part, leaveRun := context.WithCancel(t.Context())
		third := embedAt(part, b, clips(3))
		fourth := embedAt(t.Context(), b, clips(4))
		synctest.Wait()
		leaveQueue()
		if err := <-second; !isCanceled(err) {
			t.Error(err)
		}
		start := time.Now()
		leave()
		if err := <-first; !isCanceled(err) {
			t.Error(err)
		}
		synctest.Wait()
		if f.stopped != 1 || len(f.runs) != 2 || len(f.runs[1]) != 2 || time.Since(start) != 0 {
			t.Fatalf("%d runs stopped, runs of %v", f.stopped, f.runs)
		}
		leaveRun()
		if err := <-third; !isCanceled(err) || time.Since(start) != 0 {
			t.Error(err)
		}
		if got := <-fourth; got != 4.0 || f.stopped != 1 {
			t.Error(got)
		}
		b.loops.Wait()
		busy := embedAt(t.Context(), b, clips(9))
		synctest.Wait()
		good, bad := embedAt(t.Context(), b, clips(5)), embedAt(t.Context(), b, clips(-1))
		if <-busy; <-good != 5.0 {
			t.Error("a broken input failed another")
		}
		if err, ok := (<-bad).(error); !ok || !errors.Is(err, f.poisoned) {
			t.Error(err)
		}
		b.loops.Wait()
		if !b.room.TryAcquire(batches * 3) {
			t.Error("room was not given back")
		}
	})
}

// What waits is bounded; who waits for room can leave.
func TestRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{}
		b := newBatcher(2, Options{Clips: 1}, f.run)
		long := embedAt(t.Context(), b, clips(1, 2, 3, 4, 5)) // longer than there is room
		synctest.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		waits := embedAt(ctx, b, clips(6))
		synctest.Wait()
		if b.queued() != 0 {
			t.Error("it was queued")
		}
		cancel()
		if err := <-waits; !isCanceled(err) {
			t.Error(err)
		}
		if got := <-long; got != 3.0 {
			t.Error(got)
		}
	})
}

// NaN in one caller's clip does not reach another's of the same run, and a row
// is the same to the last bit in whatever company.
func TestPoisonReal(t *testing.T) {
	e := openWith(t, Options{Clips: 12, Window: time.Hour})
	in := golden.Open(t, goldens+"goldens.safetensors").Tensor(t, "audio/input")
	good := item(t, in, 0, "audio")
	bad := imagebind.Tensor{Shape: good.Shape, Floats: slices.Clone(good.Floats)}
	bad.Floats[7] = float32(math.NaN())
	alone, err := e.Embed(t.Context(), "audio", good)
	if err != nil {
		t.Fatal(err)
	}
	arrived := e.Expect("audio") // so that the four go together
	var jobs []*Job
	for i := range 4 {
		j, err := e.Put(t.Context(), "audio", []imagebind.Tensor{good, bad, good, good}[i])
		if err != nil {
			t.Fatal(err)
		}
		jobs = append(jobs, j)
	}
	arrived()
	for i, j := range jobs {
		got, err := j.Wait()
		if (err != nil) != (i == 1) || err == nil && !slices.Equal(got, alone) {
			t.Errorf("%d: %v, another embedding than alone", i, err)
		}
	}
}
