package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"imagebind-llm/internal/ort"
	"imagebind-llm/runner/bundle"
	"imagebind-llm/runner/llama"
)

// A speed is what a decoder did in a process of its own, tokens/s.
type speed struct {
	Prefill float64 `json:"prefill"`
	Decode  float64 `json:"decode"`
}

// decoderTool measures a bundle's decoder as llama-bench does: after a warm-up,
// a prompt read into an empty cache, then tokens one at a time behind a single
// one. The ids are random; nothing is sampled.
func decoderTool(args []string) error {
	fs := flag.NewFlagSet("decoder", flag.ContinueOnError)
	dir := fs.String("bundle", "", "the bundle")
	threads := fs.Int("threads", 1, "threads of an operator")
	spin := fs.Bool("spin", false, "idle threads spin")
	prompt := fs.Int("prompt", 256, "tokens of the prompt; 0: not measured")
	tokens := fs.Int("tokens", 64, "tokens one at a time; 0: not measured")
	if err := fs.Parse(args); err != nil {
		return err
	}
	slog.SetLogLoggerLevel(slog.LevelError)
	b, err := bundle.Open(*dir)
	if err != nil {
		return err
	}
	d, err := llama.Open(b, llama.Options{Slots: 1, Context: max(*prompt, *tokens) + 16,
		ORT: ort.Options{Provider: "cpu", Threads: *threads, Spin: *spin}})
	if err != nil {
		return err
	}
	var s speed
	ids := func(n int) []int { // never twice the same: a prompt seen before is not read again
		list := make([]int, n)
		for i := range list {
			list[i] = 3 + rand.IntN(b.Decoder.Vocab-3)
		}
		return list
	}
	for _, warm := range []bool{true, false} {
		if *prompt > 0 {
			if s.Prefill, err = measure(d, ids(*prompt), nil); err != nil {
				return err
			}
		}
		if *tokens > 0 {
			n := *tokens
			if warm {
				n = min(n, 4)
			}
			if s.Decode, err = measure(d, ids(1), ids(n)); err != nil {
				return err
			}
		}
	}
	if err := json.NewEncoder(os.Stdout).Encode(s); err != nil {
		return err
	}
	return d.Close()
}

// measure reads prompt and takes the steps, and returns the tokens/s of the
// steps, or of the prompt where there are none.
func measure(d *llama.Decoder, prompt, steps []int) (float64, error) {
	ctx := context.Background()
	s, err := d.Acquire(ctx, llama.Want{})
	if err != nil {
		return 0, err
	}
	defer s.Release()
	start := time.Now()
	if _, err := s.Prefill(ctx, prompt, nil); err != nil || len(steps) == 0 {
		return float64(len(prompt)) / time.Since(start).Seconds(), err
	}
	start = time.Now()
	for _, id := range steps {
		if err := s.Begin(id); err != nil {
			return 0, err
		}
		if _, err := s.End(ctx); err != nil {
			return 0, err
		}
	}
	return float64(len(steps)) / time.Since(start).Seconds(), nil
}

// A precision pairs ours with llama.cpp's.
type precision struct{ ours, theirs string }

var precisions = []precision{{"int4", "Q4_0"}, {"int8", "Q8_0"}}

// file is the name of a model's GGUF file.
func (p precision) file(model string) string {
	return model + "-" + string(bytes.ToLower([]byte(p.theirs))) + ".gguf"
}

const smol = "smollm2-135m"

func (e *env) decode(ctx context.Context) ([]Result, error) {
	var out []Result
	for _, p := range precisions {
		gguf := filepath.Join(e.models, p.file(smol))
		if !has(gguf) {
			out = append(out, Result{Work: "decode, SmolLM2-135M " + p.ours, Note: filepath.Base(gguf) + " " + peersHint})
			continue
		}
		dir, err := e.bundle(ctx, smol, gguf, p.ours)
		if err != nil {
			return out, err
		}
		r, err := e.beside(ctx, "SmolLM2-135M", dir, gguf, p, 256, 64)
		out = append(out, r...)
		if err != nil {
			return out, err
		}
	}
	return out, nil
}

// beside measures a bundle and the GGUF file it was made from in turns: a
// result of decode and one of prefill for each number of threads.
func (e *env) beside(ctx context.Context, model, dir, gguf string, p precision, prompt, tokens int) ([]Result, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	bench := filepath.Join(e.llama, "llama-bench")
	n := len(e.threads)
	out := make([]Result, 2*n)
	for i, t := range e.threads {
		r := Result{Threads: t, Unit: "tokens/s", Peer: "llama.cpp " + p.theirs, Want: "≥ 1.0"}
		if !has(bench) {
			r.Note = "llama.cpp " + peersHint
		}
		out[i], out[n+i] = r, r
		out[i].Work = fmt.Sprintf("decode, %s %s", model, p.ours)
		out[n+i].Work = fmt.Sprintf("prefill %d, %s %s", prompt, model, p.ours)
	}
	for round := range e.rounds {
		for i, t := range e.threads {
			raw, err := output(ctx, self, "decoder", "-bundle", dir, fmt.Sprintf("-spin=%t", e.spin), "-threads", fmt.Sprint(t), "-prompt", fmt.Sprint(prompt), "-tokens", fmt.Sprint(tokens))
			if err != nil {
				return out, err
			}
			var s speed
			if err := json.Unmarshal(raw, &s); err != nil {
				return out, err
			}
			out[i].Ours, out[n+i].Ours = append(out[i].Ours, s.Decode), append(out[n+i].Ours, s.Prefill)
			if !has(bench) {
				continue
			}
			theirs, err := e.llamaBench(ctx, bench, gguf, t, prompt, tokens)
			if err != nil {
				return out, err
			}
			out[i].Theirs, out[n+i].Theirs = append(out[i].Theirs, theirs.Decode), append(out[n+i].Theirs, theirs.Prefill)
			say("%s %s, round %d, %d threads: decode %.4g / %.4g, prefill %.4g / %.4g tokens/s, load %s", model, p.ours, round+1, t, s.Decode, theirs.Decode, s.Prefill, theirs.Prefill, loadAverage())
		}
	}
	return out, nil
}

// llamaBench runs llama-bench once, which warms up by itself.
func (e *env) llamaBench(ctx context.Context, program, gguf string, threads, prompt, tokens int) (speed, error) {
	raw, err := output(ctx, program, "-m", gguf, "-t", fmt.Sprint(threads), "-p", fmt.Sprint(prompt), "-n", fmt.Sprint(tokens), "-r", "1", "-o", "json")
	if err != nil {
		return speed{}, err
	}
	var tests []struct {
		Prompt int     `json:"n_prompt"`
		Gen    int     `json:"n_gen"`
		Rate   float64 `json:"avg_ts"`
	}
	if err := json.Unmarshal(raw, &tests); err != nil {
		return speed{}, fmt.Errorf("llama-bench printed no JSON that is known: %w", err)
	}
	var s speed
	for _, t := range tests {
		if t.Gen > 0 {
			s.Decode = t.Rate
		} else {
			s.Prefill = t.Rate
		}
	}
	return s, nil
}
