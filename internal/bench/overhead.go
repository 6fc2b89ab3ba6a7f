package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"imagebind-llm/internal/bench/load"
)

// demoBundle exports the demo model as scripts/demo.sh does.
func (e *env) demoBundle(ctx context.Context) (string, error) {
	dir := filepath.Join(e.work, "demo")
	return dir, e.export(dir, "demo/adapter_demo.pth", func() error {
		_, err := output(ctx, filepath.Join(e.bin, "exporter"), "model", "--name", "demo", "--imagebind", "demo/imagebind_demo.pth", "--heads-config", "demo/heads.json",
			"--llama", "demo/llama", "--tokenizer", "demo/llama/tokenizer.model", "--adapter", "demo/adapter_demo.pth", "--out", dir)
		return err
	})
}

// overhead measures what a request takes beside the runs of the decoder: HTTP,
// JSON, prompt and tokens, sampling, scheduling and streaming.
func (e *env) overhead(ctx context.Context) ([]Result, error) {
	dir, err := e.demoBundle(ctx)
	if err != nil {
		return nil, err
	}
	out, err := e.overheadOf(ctx, "demo model", dir, 100, 32, "≤ 1 ms")
	if err != nil {
		return out, err
	}
	dir, _, err = e.wideFiles(ctx, precisions[0])
	if err != nil {
		return out, err
	}
	wide, err := e.overheadOf(ctx, "7B-shaped int4", dir, 1, 16, "≤ 3 %")
	return append(out, wide...), err
}

// overheadOf asks one question after the other, for one token and for many.
func (e *env) overheadOf(ctx context.Context, model, dir string, times, tokens int, want string) ([]Result, error) {
	threads := e.threads[len(e.threads)-1]
	s, err := e.runner(ctx, "overhead", dir, threads, 1, 512)
	if err != nil {
		return nil, err
	}
	defer s.stop()
	c := load.New(s.Base, 1)
	defer c.Close()
	var out []Result
	for _, n := range []int{1, tokens} {
		what := fmt.Sprintf("%s, an answer of %d tokens: ", model, n)
		a := Result{Work: what + "time beside the graph's", Threads: threads, Unit: "ms", Want: want}
		b := Result{Work: what + "its share", Threads: threads, Unit: "%"}
		for round := -1; round < e.rounds; round++ {
			before, err := graphTime(ctx, c)
			if err != nil {
				return out, err
			}
			total, made := 0.0, 0
			for i := range times {
				a, err := c.Stream(ctx, load.Chat(fmt.Sprintf("%d: what is this about?", 1000*(round+2)+i), n), nil)
				if err != nil {
					return out, err
				}
				total += ms(a.Done.Sub(a.Sent))
				made += a.Usage.Completion
			}
			after, err := graphTime(ctx, c)
			if err != nil {
				return out, err
			}
			beside := total - (after - before)
			say("overhead, %s, round %d: %.4g ms a request of %.3g tokens, %.4g beside the graph's, load %s", model, round+1, total/float64(times), float64(made)/float64(times), beside/float64(times), loadAverage())
			if round >= 0 {
				a.Ours, b.Ours = append(a.Ours, beside/float64(times)), append(b.Ours, 100*beside/total)
				a.Note = fmt.Sprintf("of %s ms; %.3g tokens", number(total/float64(times)), float64(made)/float64(times))
			}
		}
		out = append(out, a, b)
	}
	return out, nil
}

// graphTime is how long the decoder has run since the server's start, ms.
func graphTime(ctx context.Context, c *load.Client) (float64, error) {
	raw, err := c.Get(ctx, "/metrics")
	if err != nil {
		return 0, err
	}
	sum := 0.0
	for _, name := range []string{"runner_step_seconds_sum", "runner_prefill_seconds_total"} {
		v, err := metric(raw, name)
		if err != nil {
			return 0, err
		}
		sum += v
	}
	return sum * 1000, nil
}

// metric is a value of Prometheus' text format, without labels.
func metric(text []byte, name string) (float64, error) {
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			return strconv.ParseFloat(strings.TrimSpace(value), 64)
		}
	}
	return 0, fmt.Errorf("/metrics has no %s", name)
}
