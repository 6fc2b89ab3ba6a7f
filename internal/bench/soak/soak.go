// Package soak keeps a runner busy for a long time with what clients do to it:
// they join and leave, in the middle of an upload, a prompt or a stream; they
// send nonsense; they ask about media, in conversations, several choices at a
// time. Every answer is held against the one that the same request got when it
// was alone, every refusal against its status, and the server's memory,
// goroutines and open files are watched (watch.go).
package soak

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sort"
	"strings"
	"sync"
	"time"

	"imagebind-llm/internal/bench/load"
)

// Options of a Run.
type Options struct {
	Base    string        // the runner's URL
	PID     int           // its process
	For     time.Duration // how long it is kept busy
	Clients int           // that ask side by side
	Root    string        // the repository, whose samples are asked about
	Seed    uint64        // of what the clients do
	Body    int           // the runner's limits.body, bytes
	Log     io.Writer
}

// A Report is what came of a Run.
type Report struct {
	Counts  map[string]int // requests by kind
	Busy    int            // of them answered 429
	Wrong   []string       // answers that are not what they should be; the first hundred
	Wrongs  int
	Faults  []string // of the server: memory, goroutines, files
	Samples []Sample
}

// Failed reports whether something was not as it should be.
func (r *Report) Failed() bool { return r.Wrongs > 0 || len(r.Faults) > 0 }

// patience is how long one request may take.
const patience = 2 * time.Minute

// A soak is one under way.
type soak struct {
	Options
	client     *load.Client
	known      []*known
	context    int // tokens of prompt and answer together
	modalities []string
	mu         sync.Mutex
	report     Report
}

// Run keeps the server busy and tells what it did wrong. An error is a failure
// to measure; wrong answers are in the Report.
func Run(ctx context.Context, o Options) (*Report, error) {
	s := &soak{Options: o, client: load.New(o.Base, o.Clients), report: Report{Counts: map[string]int{}}}
	defer s.client.Close()
	if err := s.learn(ctx); err != nil {
		return nil, err
	}
	base, err := s.settled(ctx)
	if err != nil {
		return nil, err
	}
	s.say("alone: %s", base)
	if err := s.busy(ctx); err != nil {
		return nil, err
	}
	end, err := s.settled(ctx)
	if err != nil {
		return nil, err
	}
	s.say("afterwards: %s", end)
	s.report.Faults = verdict(s.report.Samples, base, end)
	return &s.report, nil
}

// busy has the clients at work and samples the server meanwhile.
func (s *soak) busy(ctx context.Context) error {
	ctx, stop := context.WithTimeout(ctx, s.For)
	defer stop()
	var wg sync.WaitGroup
	for i := range s.Clients {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(s.Seed, uint64(i)))
			for ctx.Err() == nil {
				s.one(ctx, r)
			}
		})
	}
	start := time.Now()
	tick := time.NewTicker(min(2*time.Second, s.For/20))
	defer tick.Stop()
	told := start
	for ctx.Err() == nil {
		select {
		case <-tick.C:
		case <-ctx.Done():
			continue
		}
		v, err := s.sample(ctx)
		if ctx.Err() != nil {
			break
		}
		if err != nil {
			stop()
			wg.Wait()
			return fmt.Errorf("the server is gone: %w", err)
		}
		v.At = time.Since(start)
		s.mu.Lock()
		s.report.Samples = append(s.report.Samples, v)
		done := fmt.Sprintf("%d requests, %d busy, %d wrong", s.total(), s.report.Busy, s.report.Wrongs)
		s.mu.Unlock()
		if time.Since(told) > 30*time.Second {
			told = time.Now()
			s.say("%s: %s; %s", v.At.Round(time.Second), v, done)
		}
	}
	wg.Wait()
	return nil
}

func (s *soak) total() int {
	n := 0
	for _, c := range s.report.Counts {
		n += c
	}
	return n
}

func (s *soak) say(format string, args ...any) { fmt.Fprintf(s.Log, "soak: "+format+"\n", args...) }

// one does one thing that clients do.
func (s *soak) one(ctx context.Context, r *rand.Rand) {
	var kind string
	var err error
	within, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	switch x := r.IntN(100); {
	case x < 60:
		k := s.known[r.IntN(len(s.known))]
		kind = k.kind
		if err = k.check(within, s.client, r.IntN(2) == 0); err != nil {
			err = fmt.Errorf("%s: %w", k.name, err)
		}
	case x < 80:
		kind, err = s.leave(within, r)
	default:
		kind = "nonsense"
		b := nonsense[r.IntN(len(nonsense))]
		if err = b.check(within, s); err != nil {
			err = fmt.Errorf("%s: %w", b.name, err)
		}
	}
	if ctx.Err() != nil {
		return // the time is over
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.report.Counts[kind]++
	var status *load.StatusError
	switch {
	case err == nil:
	case errors.As(err, &status) && status.Status == 429:
		s.report.Busy++
	default:
		s.report.Wrongs++
		if len(s.report.Wrong) < 100 {
			s.report.Wrong = append(s.report.Wrong, fmt.Sprintf("%s: %v", kind, err))
			s.say("wrong: %s: %v", kind, err)
		}
	}
}

// Write tells the report in words.
func (r *Report) Write(w io.Writer) {
	var kinds []string
	for k, n := range r.Counts {
		kinds = append(kinds, fmt.Sprintf("%s %d", k, n))
	}
	sort.Strings(kinds)
	fmt.Fprintf(w, "requests: %s; %d of them answered 429\n", strings.Join(kinds, ", "), r.Busy)
	fmt.Fprintf(w, "wrong answers: %d\n", r.Wrongs)
	for _, x := range r.Wrong {
		fmt.Fprintf(w, "  %s\n", x)
	}
	if n := len(r.Samples); n > 0 {
		for _, i := range []int{0, n / 4, n / 2, 3 * n / 4, n - 1} {
			fmt.Fprintf(w, "after %s: %s\n", r.Samples[i].At.Round(time.Second), r.Samples[i])
		}
		fmt.Fprintf(w, "memory over the last half: %+.2f MiB a minute\n", slope(r.Samples[n/2:]))
	}
	for _, f := range r.Faults {
		fmt.Fprintf(w, "fault: %s\n", f)
	}
	if r.Failed() {
		fmt.Fprintln(w, "verdict: failed")
	} else {
		fmt.Fprintln(w, "verdict: passed")
	}
}
