package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"imagebind-llm/internal/bench/load"
)

const (
	joinStreams = 4   // answers that run
	joinTokens  = 400 // of the prompt that joins
	joinTimes   = 4   // joins of a round
)

// join measures how much the time between two tokens of running answers grows
// while a long prompt joins them: its 95th of a hundred then, over that of the
// undisturbed time. The wanted ratio is at most 1.5.
func (e *env) join(ctx context.Context) ([]Result, error) {
	var out []Result
	threads := e.threads[len(e.threads)-1]
	for _, p := range precisions {
		ours, theirs, err := e.pair(ctx, p, threads, joinStreams+1, 2048)
		if err != nil {
			return out, err
		}
		r, err := e.joinAt(ctx, p, threads, ours, theirs)
		ours.stop()
		if theirs != nil {
			theirs.stop()
		}
		out = append(out, r...)
		if err != nil {
			return out, err
		}
	}
	return out, nil
}

func (e *env) joinAt(ctx context.Context, p precision, threads int, ours, theirs *server) ([]Result, error) {
	out := []Result{
		{Work: fmt.Sprintf("%d answers, %s: p95 between two tokens while %d tokens join, over that before", joinStreams, p.ours, joinTokens), Want: "ours ≤ 1.5"},
		{Work: "the same, the longest wait for a token", Unit: "ms"},
		{Work: "the same, to the first token of the one that joins", Unit: "ms"},
	}
	for i := range out {
		out[i].Threads, out[i].Lower, out[i].Peer = threads, true, "llama-server "+p.theirs
		if theirs == nil {
			out[i].Note = "llama.cpp " + peersHint
		}
	}
	for round := range e.rounds {
		for side, s := range []*server{ours, theirs} {
			if s == nil {
				continue
			}
			j, err := joined(ctx, s.Base, round)
			if err != nil {
				return out, fmt.Errorf("%s: %w", s.log.Name(), err)
			}
			values := []float64{Quantile(j.during, .95) / Quantile(j.before, .95), Quantile(j.during, 1), Median(j.first)}
			for i, v := range values {
				if side == 0 {
					out[i].Ours = append(out[i].Ours, v)
				} else {
					out[i].Theirs = append(out[i].Theirs, v)
				}
			}
			say("join %s, round %d, side %d: p95 %.4g ms before, %.4g during (%d gaps), longest %.4g, first token %.4g ms, load %s", p.ours, round+1, side,
				Quantile(j.before, .95), Quantile(j.during, .95), len(j.during), values[1], values[2], loadAverage())
		}
	}
	return out, nil
}

// A joining is what running answers and those that joined saw, ms.
type joining struct{ before, during, first []float64 }

// joined runs answers, one after the other on each stream, then has long prompts
// join one after the other, with undisturbed time between. The time when a
// stream's next answer begins counts as neither.
func joined(ctx context.Context, base string, round int) (joining, error) {
	c := load.New(base, joinStreams+1)
	defer c.Close()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var mu sync.Mutex
	var answers []load.Answer
	pieces := make([]atomic.Int64, joinStreams)
	var wg sync.WaitGroup
	for i := range joinStreams {
		wg.Go(func() {
			for k := 0; ctx.Err() == nil; k++ {
				a, err := c.Stream(ctx, fixed(load.Chat(question(joinStreams*(100*round+k)+i), 1000)), func(int, string) error {
					pieces[i].Add(1)
					return nil
				})
				if err != nil {
					cancel(err) // no more than a note that it is over, where that is what ended it
				}
				mu.Lock()
				answers = append(answers, a)
				mu.Unlock()
			}
		})
	}
	slowest := func() int64 {
		n := pieces[0].Load()
		for i := range pieces {
			n = min(n, pieces[i].Load())
		}
		return n
	}
	var j joining
	var joins []window
	for k := range joinTimes {
		for enough := slowest() + 60; slowest() < enough && ctx.Err() == nil; {
			time.Sleep(5 * time.Millisecond)
		}
		a, err := c.Stream(ctx, load.Chat(longPrompt(round*joinTimes+k), 1), nil)
		if err != nil {
			cancel(err)
			break
		}
		joins = append(joins, window{a.Sent, a.Done})
		j.first = append(j.first, ms(a.Done.Sub(a.Sent)))
	}
	cancel(errEnough)
	wg.Wait()
	if err := context.Cause(ctx); !errors.Is(err, errEnough) {
		return j, err
	}
	j.sort(answers, joins)
	return j, nil
}

var errEnough = errors.New("measured")

// A window is a time from and to.
type window [2]time.Time

func (w window) meets(from, to time.Time) bool { return from.Before(w[1]) && to.After(w[0]) }

// sort puts the gaps of the answers where they belong.
func (j *joining) sort(answers []load.Answer, joins []window) {
	var starts []window
	for _, a := range answers {
		if len(a.Pieces) > 0 {
			starts = append(starts, window{a.Sent, a.Pieces[0]})
		}
	}
	for _, a := range answers {
		for i := 1; i < len(a.Pieces); i++ {
			from, to := a.Pieces[i-1], a.Pieces[i]
			meets := func(w window) bool { return w.meets(from, to) }
			switch {
			case slices.ContainsFunc(starts, meets):
			case slices.ContainsFunc(joins, meets):
				j.during = append(j.during, ms(to.Sub(from)))
			default:
				j.before = append(j.before, ms(to.Sub(from)))
			}
		}
	}
}

// longPrompt has about joinTokens tokens and is like no other i's from its
// beginning on.
func longPrompt(i int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "List %03d.", i)
	for k := range 62 {
		fmt.Fprintf(&b, " %s and %s.", topics[(k+i)%len(topics)], topics[(k*k+i)%len(topics)])
	}
	return b.String() + " Which of these is the best?"
}
