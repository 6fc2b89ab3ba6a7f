package pipeline

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	imagebind "imagebind-llm"
	"imagebind-llm/runner/llama"
	"imagebind-llm/runner/modality/all"
	"imagebind-llm/runner/sample"
)

// health is whether the graphs run.
type health struct {
	warm    chan struct{} // closed when the warm-up is over
	failed  atomic.Bool   // the last run of a graph failed
	probing sync.Mutex
}

// note takes the outcome of a run. Errors that are the caller's say nothing.
func (h *health) note(err error) {
	switch {
	case err == nil:
		h.failed.Store(false)
	case imagebind.KindOf(err) == imagebind.Internal:
		h.failed.Store(true)
	}
}

func (p *Pipeline) warmUp() {
	defer close(p.health.warm)
	start := time.Now()
	if err := p.probe(p.life); err != nil {
		p.health.failed.Store(true)
		if p.life.Err() == nil {
			slog.Error("warm-up failed", "err", err)
		}
		return
	}
	slog.Info("warm", "duration", time.Since(start))
}

// probe runs every graph once: each encoder, the bridge, the decoder's prefill
// and steps.
func (p *Pipeline) probe(ctx context.Context) error {
	for _, s := range all.Specs {
		if !p.encoders.Has(s.Name) {
			continue
		}
		shape := append([]int{1}, p.encoders.Input(s.Name)...)
		input := imagebind.NewFloats(shape...)
		if s.Encoder.Ints {
			input = imagebind.NewInts(shape...)
		}
		if _, err := p.encoders.Embed(ctx, s.Name, input); err != nil {
			return fmt.Errorf("encode %s: %w", s.Name, err)
		}
	}
	if p.decoder == nil {
		return nil
	}
	var injection []float32
	if p.bridge != nil {
		unit := make(imagebind.Embedding, p.Dim())
		unit[0] = 1
		var err error
		if injection, err = p.inject(ctx, unit, &Timings{}); err != nil {
			return fmt.Errorf("bridge: %w", err)
		}
	}
	slot, err := p.decoder.Acquire(ctx, llama.Want{})
	if err != nil {
		return err
	}
	defer slot.Release()
	greedy := sample.New(sample.Params{}, nil)
	logits, err := slot.Prefill(ctx, make([]int, min(8, p.decoder.Context())), injection)
	for range 3 {
		if err != nil {
			return fmt.Errorf("decode: %w", err)
		}
		id, e := greedy.Next(logits, nil)
		if e != nil {
			return e
		}
		if slot.Len() == slot.Capacity() {
			break
		}
		if err = slot.Begin(id); err == nil {
			logits, err = slot.End(ctx)
		}
	}
	return err
}

// Ready is nil when a query would be answered: the warm-up is over, the last
// run of a graph went well, and the retriever answers or is not needed. After a
// failure it tries the graphs again.
func (p *Pipeline) Ready(ctx context.Context) error {
	select {
	case <-p.health.warm:
	default:
		return imagebind.Errorf(imagebind.Unavailable, "the model is warming up")
	}
	if p.health.failed.Load() {
		if err := p.again(ctx); err != nil {
			return imagebind.Errorf(imagebind.Unavailable, "the model failed; the log says why")
		}
	}
	if p.o.Retriever != nil && p.o.OnRetrieverFailure == Fail {
		if err := p.o.Retriever.Ready(ctx); err != nil {
			return &imagebind.Error{Kind: imagebind.Unavailable, Message: "the retriever is not ready", Err: err}
		}
	}
	return nil
}

// again probes after a failure, one at a time.
func (p *Pipeline) again(ctx context.Context) error {
	if !p.health.probing.TryLock() {
		return fmt.Errorf("another probe is under way")
	}
	defer p.health.probing.Unlock()
	ctx, leave, err := p.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	if err := p.probe(ctx); err != nil {
		slog.Error("the model failed again", "err", err)
		return err
	}
	p.health.failed.Store(false)
	return nil
}
