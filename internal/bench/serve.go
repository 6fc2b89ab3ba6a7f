package main

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"imagebind-llm/internal/bench/load"
)

// topics make prompts of equal length and long answers. No two requests of a run
// are the same, so that neither side knows an answer's prompt already.
var topics = []string{"a lighthouse", "a glass piano", "the desert", "an old train", "a red balloon", "the north sea", "a clockmaker", "winter bread",
	"a paper boat", "the last tram", "a stone bridge", "wild geese", "a blind cat", "the tea house", "an empty stage", "a night ferry"}

// question is the prompt of request i.
func question(i int) string {
	return fmt.Sprintf("Tale %03d. Write a long and detailed story about %s, with many turns, and do not come to an end.", i%1000, topics[i%len(topics)])
}

// pair starts our server and llama.cpp's on the same model, with as many slots
// of the same size. The other is nil where there is none.
func (e *env) pair(ctx context.Context, p precision, threads, slots, tokens int) (ours, theirs *server, err error) {
	gguf := filepath.Join(e.models, p.file(smol))
	if !has(gguf) {
		return nil, nil, fmt.Errorf("%s: %s", gguf, peersHint)
	}
	dir, err := e.bundle(ctx, smol, gguf, p.ours)
	if err != nil {
		return nil, nil, err
	}
	ours, err = e.runner(ctx, "runner", dir, threads, slots, tokens)
	if err != nil {
		return nil, nil, err
	}
	program := filepath.Join(e.llama, "llama-server")
	if !has(program) {
		return ours, nil, nil
	}
	theirs, err = e.start(ctx, "llama-server", "/health", program, "-m", gguf, "--host", "{host}", "--port", "{port}", "--no-webui",
		"-np", fmt.Sprint(slots), "-c", fmt.Sprint(slots*tokens), "-t", fmt.Sprint(threads), "-tb", fmt.Sprint(threads), "-cb")
	if err != nil {
		ours.stop()
		return nil, nil, err
	}
	return ours, theirs, nil
}

// runner starts our server on a bundle.
func (e *env) runner(ctx context.Context, name, dir string, threads, slots, tokens int, more ...string) (*server, error) {
	args := []string{"serve", "--bundle", dir, "--listen", "{host}:{port}", "--ort-threads", fmt.Sprint(threads), fmt.Sprintf("--ort-spin=%t", e.spin),
		"--slots", fmt.Sprint(slots), "--context", fmt.Sprint(tokens), "--retriever", ""}
	return e.start(ctx, name, "/readyz", filepath.Join(e.bin, "runner"), append(args, more...)...)
}

// A burst is what a number of clients saw.
type burst struct {
	rate         float64   // tokens/s of all answers together
	first, gaps  []float64 // ms: to the first piece; between two pieces of one answer
	prompt, made int       // tokens
	short        int       // answers that ended by themselves
}

// flood has n clients ask one question after the other, each times questions,
// beginning with number from.
func flood(ctx context.Context, base string, n, times, from, tokens int) (burst, error) {
	c := load.New(base, n)
	defer c.Close()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var mu sync.Mutex
	var r burst
	var wg sync.WaitGroup
	start := time.Now()
	for i := range n {
		wg.Go(func() {
			for k := range times {
				a, err := c.Stream(ctx, fixed(load.Chat(question(from+k*n+i), tokens)), nil)
				if err != nil {
					cancel(err)
					return
				}
				mu.Lock()
				r.add(a)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	r.rate = float64(r.made) / time.Since(start).Seconds()
	return r, context.Cause(ctx)
}

// fixed makes an answer as long as it may be, where the server knows how.
func fixed(b load.Body) load.Body {
	b["ignore_eos"] = true
	return b
}

func (r *burst) add(a load.Answer) {
	r.prompt += a.Usage.Prompt
	r.made += a.Usage.Completion
	r.first = append(r.first, ms(a.First()))
	for i := 1; i < len(a.Pieces); i++ {
		r.gaps = append(r.gaps, ms(a.Pieces[i].Sub(a.Pieces[i-1])))
	}
	for _, f := range a.Finish {
		if f != "length" {
			r.short++
		}
	}
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

const (
	answerTokens = 64 // of an answer in serve
	slotTokens   = 512
)

// serve measures answers at a time, for each precision with the most threads.
func (e *env) serve(ctx context.Context) ([]Result, error) {
	var out []Result
	threads := e.threads[len(e.threads)-1]
	for _, p := range precisions {
		for _, n := range []int{1, 4, 8, 16} {
			r, err := e.serveAt(ctx, p, threads, n)
			out = append(out, r...)
			if err != nil {
				return out, err
			}
		}
	}
	return out, nil
}

func (e *env) serveAt(ctx context.Context, p precision, threads, n int) ([]Result, error) {
	ours, theirs, err := e.pair(ctx, p, threads, n, slotTokens)
	if err != nil {
		return nil, err
	}
	defer ours.stop()
	if theirs != nil {
		defer theirs.stop()
	}
	names := []string{"tokens/s", "to the first token, median", "to the first token, p95", "between two tokens, median", "between two tokens, p95"}
	out := make([]Result, len(names))
	for i, name := range names {
		out[i] = Result{Work: fmt.Sprintf("%d at a time, %s: %s", n, p.ours, name), Threads: threads, Unit: "ms", Lower: true, Peer: "llama-server " + p.theirs}
		if theirs == nil {
			out[i].Note = "llama.cpp " + peersHint
		}
	}
	out[0].Unit, out[0].Lower = "tokens/s", false
	if n > 1 {
		out[0].Want = "≥ 1.25"
	}
	for round := -1; round < e.rounds; round++ { // round -1 warms up
		var each [2]burst
		for side, s := range []*server{ours, theirs} {
			if s == nil {
				continue
			}
			times := 2
			if round < 0 {
				times = 1
			}
			r, err := flood(ctx, s.Base, n, times, (round+1)*2*n, answerTokens)
			if err != nil {
				return out, fmt.Errorf("%s: %w", s.log.Name(), err)
			}
			each[side] = r
			if round < 0 {
				continue
			}
			values := []float64{r.rate, Median(r.first), Quantile(r.first, .95), Median(r.gaps), Quantile(r.gaps, .95)}
			for i, v := range values {
				if side == 0 {
					out[i].Ours = append(out[i].Ours, v)
				} else {
					out[i].Theirs = append(out[i].Theirs, v)
				}
			}
		}
		a, b := each[0], each[1]
		say("%d at a time, %s, round %d: %.4g / %.4g tokens/s, first %.4g / %.4g ms, gap %.4g / %.4g ms, prompts %d / %d, answers %d / %d tokens, short %d / %d, load %s",
			n, p.ours, round+1, a.rate, b.rate, Median(a.first), Median(b.first), Median(a.gaps), Median(b.gaps), a.prompt, b.prompt, a.made, b.made, a.short, b.short, loadAverage())
		if theirs != nil && (a.made != b.made || a.prompt != b.prompt) {
			out[0].Note = fmt.Sprintf("prompts of %d / %d, answers of %d / %d tokens a round", a.prompt, b.prompt, a.made, b.made)
		}
	}
	return out, nil
}
