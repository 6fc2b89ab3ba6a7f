package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	imagebind "imagebind-llm"
	"imagebind-llm/internal/ort"
)

// A timing is a line that encoderTool and scripts/bench_encoders.py print.
type timing struct {
	Versions string  `json:"versions,omitempty"`
	Work     string  `json:"work,omitempty"` // as in vision 8: the encoder, and clips in a run
	MS       float64 `json:"ms,omitempty"`
}

// encoderTool runs an encoder's graph on random clips, once to warm up and then
// once for each line of its input.
func encoderTool(args []string) error {
	fs := flag.NewFlagSet("encoder", flag.ContinueOnError)
	graph := fs.String("graph", "", "the graph, as in bundle/vision.onnx")
	threads := fs.Int("threads", 1, "threads of an operator")
	batch := fs.Int("batch", 1, "clips in a run")
	if err := fs.Parse(args); err != nil {
		return err
	}
	s, err := ort.Open(*graph, ort.Options{Provider: "cpu", Threads: *threads})
	if err != nil {
		return err
	}
	shape := append([]int{*batch}, s.Inputs[0].Shape[1:]...)
	in := imagebind.NewFloats(shape...)
	for i := range in.Floats {
		in.Floats[i] = float32(rand.NormFloat64())
	}
	name := filepath.Base(*graph)
	name = name[:len(name)-len(filepath.Ext(name))]
	lines := bufio.NewScanner(os.Stdin)
	for warm := true; warm || lines.Scan(); warm = false {
		start := time.Now()
		if _, err := s.Compute(context.Background(), map[string]imagebind.Tensor{"input": in}, "embedding"); err != nil {
			return err
		}
		if !warm {
			if err := json.NewEncoder(os.Stdout).Encode(timing{Work: fmt.Sprintf("%s %d", name, *batch), MS: ms(time.Since(start))}); err != nil {
				return err
			}
		}
	}
	return s.Close()
}

// A turner is a program that does its work once for each line it gets.
type turner struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
}

func startTurner(ctx context.Context, program string, args ...string) (*turner, error) {
	t := &turner{cmd: exec.CommandContext(ctx, program, args...)}
	t.cmd.Stderr = os.Stderr
	var err error
	if t.in, err = t.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := t.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	t.out = bufio.NewScanner(out)
	return t, t.cmd.Start()
}

// turn has it work once, and returns the milliseconds.
func (t *turner) turn() (float64, error) {
	if _, err := io.WriteString(t.in, "\n"); err != nil {
		return 0, err
	}
	for t.out.Scan() {
		var v timing
		if err := json.Unmarshal(t.out.Bytes(), &v); err != nil {
			return 0, err
		}
		if v.MS > 0 {
			return v.MS, nil
		}
	}
	return 0, errors.Join(fmt.Errorf("%s ended", t.cmd.Path), t.out.Err())
}

func (t *turner) stop() { _ = t.in.Close(); _ = t.cmd.Wait() }

// encoders measures encoders of the released sizes with random weights beside
// the same modules in PyTorch, eager and fp32.
func (e *env) encoders(ctx context.Context) ([]Result, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	python := filepath.Join(filepath.Dir(e.llama), "torch", "bin", "python")
	var out []Result
	for _, p := range []struct{ precision, want string }{{"fp32", "≥ 1.3"}, {"int8", "≥ 2.0"}} {
		dir, err := filepath.Abs(filepath.Join(e.work, "encoders-"+p.precision))
		if err != nil {
			return out, err
		}
		err = e.export(dir, "exporter/encoder/full_test.go", func() error {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return err
			}
			_, err := output(ctx, "go", "test", "./exporter/encoder", "-run", "^TestFullSize$", "-full", "-full-dir", dir, "-full-precision", p.precision, "-timeout", "60m")
			return err
		})
		if err != nil {
			return out, err
		}
		for _, name := range []string{"vision", "audio"} {
			graph := filepath.Join(dir, name+".onnx")
			if !has(graph) {
				continue
			}
			for _, batch := range []int{1, 8} {
				for _, threads := range e.threads {
					r := Result{Work: fmt.Sprintf("ImageBind-huge %s, %s, batch %d", name, p.precision, batch), Threads: threads, Unit: "ms", Lower: true, Peer: "PyTorch fp32", Want: p.want}
					r, err := e.encoder(ctx, r, self, python, graph, name, batch)
					out = append(out, r)
					if err != nil {
						return out, err
					}
				}
			}
		}
	}
	return out, nil
}

func (e *env) encoder(ctx context.Context, r Result, self, python, graph, name string, batch int) (Result, error) {
	ours, err := startTurner(ctx, self, "encoder", "-graph", graph, "-threads", fmt.Sprint(r.Threads), "-batch", fmt.Sprint(batch))
	if err != nil {
		return r, err
	}
	defer ours.stop()
	var theirs *turner
	if has(python) {
		if theirs, err = startTurner(ctx, python, "scripts/bench_encoders.py", "--wait", "--threads", fmt.Sprint(r.Threads), "--batch", fmt.Sprint(batch), "--encoder", name, "--rounds", fmt.Sprint(e.rounds)); err != nil {
			return r, err
		}
		defer theirs.stop()
	} else {
		r.Note = "PyTorch missing: run scripts/peers.sh torch"
	}
	for round := range e.rounds {
		v, err := ours.turn()
		if err != nil {
			return r, err
		}
		r.Ours = append(r.Ours, v)
		if theirs == nil {
			continue
		}
		w, err := theirs.turn()
		if err != nil {
			return r, err
		}
		r.Theirs = append(r.Theirs, w)
		say("%s, %d threads, round %d: %.4g / %.4g ms, load %s", r.Work, r.Threads, round+1, v, w, loadAverage())
	}
	return r, nil
}
