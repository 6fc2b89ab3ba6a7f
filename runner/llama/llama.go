// Package llama runs a bundle's decoder graph: prefill and decode over KV
// caches that live in one arena. It turns ids into logits; what the ids mean
// and which comes next is for runner/generate.
//
// The arena holds Slots caches a layer, [Slots, KH, Context, Dh] for keys and
// for values. A sequence owns one slot from Acquire to Release and runs as a
// batch of one over its part of the arena, in place: past_key_values and
// present are the same memory. Runs of different slots take turns, one graph
// run each, so a long answer does not hold up another. Joining the slots' decode
// steps into one batch changes this package alone: the arena is laid out for it.
package llama

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	imagebind "imagebind-llm"
	"imagebind-llm/runner/bundle"
	"imagebind-llm/runner/ort"
)

// Options of a Decoder.
type Options struct {
	Slots   int // sequences at a time, 1 or more
	Context int // tokens of a slot, prompt and answer together; 0 means the bundle's
	Chunk   int // tokens of a prompt in one run; 0 means 512
	ORT     ort.Options
}

// A Decoder is an open decoder graph with its KV cache.
type Decoder struct {
	cfg     bundle.Decoder
	session *ort.Session
	arena   *ort.Arena
	context int
	chunk   int
	free    chan *Slot
	turn    chan struct{} // holds one token: whoever has it runs the graph
	slots   []*Slot
}

// Open opens the decoder of b. It reserves the KV cache, whose pages cost
// memory only once they are written.
func Open(b *bundle.Bundle, o Options) (*Decoder, error) {
	cfg := b.Decoder
	if cfg == nil {
		return nil, fmt.Errorf("bundle %s has no decoder", b.Dir)
	}
	d := &Decoder{cfg: *cfg, context: o.Context, chunk: o.Chunk}
	if d.context == 0 {
		d.context = cfg.Context
	}
	if d.context > cfg.Context {
		return nil, fmt.Errorf("context %d is more than the decoder's %d positions", o.Context, cfg.Context)
	}
	if d.chunk <= 0 {
		d.chunk = 512
	}
	if o.Slots < 1 {
		return nil, fmt.Errorf("%d slots: at least one is needed", o.Slots)
	}
	session, err := ort.Open(b.Path(cfg.Graph), o.ORT)
	if err != nil {
		return nil, err
	}
	d.session = session
	if err := d.check(); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", cfg.Graph, err), d.Close())
	}
	elem := 4
	if cfg.KVType == "float16" {
		elem = 2
	}
	cache := cfg.KVHeads * d.context * cfg.HeadDim * elem // bytes of one layer's keys, one slot
	if d.arena, err = ort.NewArena(2 * cfg.Layers * o.Slots * cache); err != nil {
		return nil, errors.Join(fmt.Errorf("KV cache: %w", err), d.Close())
	}
	d.free, d.turn = make(chan *Slot, o.Slots), make(chan struct{}, 1)
	d.turn <- struct{}{}
	for i := range o.Slots {
		s, err := d.newSlot(i, o.Slots, cache)
		if err != nil {
			return nil, errors.Join(err, d.Close())
		}
		d.slots = append(d.slots, s)
		d.free <- s
	}
	slog.Info("decoder", "graph", cfg.Graph, "precision", cfg.Precision, "slots", o.Slots, "context", d.context,
		"kv_cache_mib", 2*cfg.Layers*o.Slots*cache>>20)
	return d, nil
}

// check holds the graph against the manifest, so that a wrong pair fails here
// and not inside an operator.
func (d *Decoder) check() error {
	want := []ort.Info{
		{Name: "input_ids", Type: "int64", Shape: []int{-1, -1}},
		{Name: "seqlens_k", Type: "int32", Shape: []int{-1}},
		{Name: "total_sequence_length", Type: "int32"},
		{Name: "logit_index", Type: "int64", Shape: []int{-1}},
	}
	if d.cfg.AdaptedLayers > 0 {
		want = append(want, ort.Info{Name: "injection", Type: "float32", Shape: []int{-1, d.cfg.AdaptedLayers, d.cfg.Width}})
	}
	for i := range d.cfg.Layers {
		for _, kv := range []string{"key", "value"} {
			want = append(want, ort.Info{Name: pastName(i, kv), Type: d.cfg.KVType, Shape: []int{-1, d.cfg.KVHeads, -1, d.cfg.HeadDim}})
		}
	}
	if len(d.session.Inputs) != len(want) || len(d.session.Outputs) != 1+2*d.cfg.Layers {
		return fmt.Errorf("the graph has %d inputs and %d outputs, the manifest's decoder %d and %d", len(d.session.Inputs), len(d.session.Outputs), len(want), 1+2*d.cfg.Layers)
	}
	for _, w := range want {
		i := d.session.Input(w.Name)
		if i < 0 {
			return fmt.Errorf("the graph has no input %s", w.Name)
		}
		if g := d.session.Inputs[i]; g.Type != w.Type || !fits(g.Shape, w.Shape) {
			return fmt.Errorf("input %s is %s %v, the manifest says %s %v", w.Name, g.Type, g.Shape, w.Type, w.Shape)
		}
	}
	return nil
}

func fits(graph, want []int) bool {
	if len(graph) != len(want) {
		return false
	}
	for i, w := range want {
		if w >= 0 && graph[i] >= 0 && graph[i] != w {
			return false
		}
	}
	return true
}

func pastName(layer int, kv string) string { return fmt.Sprintf("past_key_values.%d.%s", layer, kv) }

// Context returns the tokens that a sequence can have, prompt and answer together.
func (d *Decoder) Context() int { return d.context }

// Acquire waits for a free slot. Its owner calls Release.
func (d *Decoder) Acquire(ctx context.Context) (*Slot, error) {
	select {
	case s := <-d.free:
		s.past = 0
		return s, nil
	default:
	}
	select {
	case s := <-d.free:
		s.past = 0
		return s, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Close frees the graph and the cache. All slots must have been released.
func (d *Decoder) Close() error {
	for _, s := range d.slots {
		s.destroy()
	}
	var errs []error
	if d.session != nil {
		errs = append(errs, d.session.Close())
	}
	if d.arena != nil {
		errs = append(errs, d.arena.Close())
	}
	return errors.Join(errs...)
}

// A Slot is the KV cache of one sequence. It is for one goroutine at a time.
type Slot struct {
	d    *Decoder
	past int // tokens in the cache

	// Buffers that every run reuses; the values of a decode step (S = 1) are
	// made once.
	id        []int64
	seqlens   []int32
	total     ort.Scalar
	index     []int64
	injection []float32 // [La, D]
	logits    []float32 // [V]
	in, out   []ort.Value
	ids       int // the place of input_ids in in
	stepIDs   ort.Value
}

func (d *Decoder) newSlot(n, slots, cache int) (*Slot, error) {
	c := d.cfg
	s := &Slot{d: d, id: make([]int64, 1), seqlens: make([]int32, 1), index: make([]int64, 1),
		injection: make([]float32, c.AdaptedLayers*c.Width), logits: make([]float32, c.Vocab),
		in: make([]ort.Value, len(d.session.Inputs)), out: make([]ort.Value, len(d.session.Outputs))}
	var errs []error
	put := func(list []ort.Value, i int, v ort.Value, err error) {
		errs = append(errs, err)
		if i < 0 {
			errs = append(errs, errors.New("the graph lacks an input or output of the contract"))
			return
		}
		list[i] = v
	}
	v, err := ort.Int64s(s.id, 1, 1)
	s.ids, s.stepIDs = d.session.Input("input_ids"), v
	put(s.in, s.ids, v, err)
	v, err = ort.Int32s(s.seqlens, 1)
	put(s.in, d.session.Input("seqlens_k"), v, err)
	s.total, err = ort.NewScalar()
	put(s.in, d.session.Input("total_sequence_length"), s.total.Value, err)
	v, err = ort.Int64s(s.index, 1)
	put(s.in, d.session.Input("logit_index"), v, err)
	if c.AdaptedLayers > 0 {
		v, err = ort.Floats(s.injection, 1, c.AdaptedLayers, c.Width)
		put(s.in, d.session.Input("injection"), v, err)
	}
	v, err = ort.Floats(s.logits, 1, c.Vocab)
	put(s.out, d.session.Output("logits"), v, err)
	for layer := range c.Layers {
		for i, kv := range []string{"key", "value"} {
			v, err := d.arena.View(((2*layer+i)*slots+n)*cache, c.KVType, 1, c.KVHeads, d.context, c.HeadDim)
			put(s.in, d.session.Input(pastName(layer, kv)), v, err)
			put(s.out, d.session.Output(fmt.Sprintf("present.%d.%s", layer, kv)), v, nil)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *Slot) destroy() {
	ort.Destroy(s.in...)
	ort.Destroy(s.out[s.d.session.Output("logits")])
}

// Release gives the slot back.
func (s *Slot) Release() { s.d.free <- s }

// Capacity returns the tokens that the sequence can have in all.
func (s *Slot) Capacity() int { return s.d.context }

// Len returns the tokens in the cache.
func (s *Slot) Len() int { return s.past }

// Prefill begins a sequence with ids, under an injection [La, D] that holds for
// all of it; nil is plain chat. It returns the logits [V] of the last id, valid
// until the next call.
func (s *Slot) Prefill(ctx context.Context, ids []int, injection []float32) ([]float32, error) {
	if injection != nil && len(injection) != len(s.injection) {
		panic(fmt.Sprintf("llama: injection of %d values, want [%d, %d]", len(injection), s.d.cfg.AdaptedLayers, s.d.cfg.Width))
	}
	if copy(s.injection, injection) == 0 {
		clear(s.injection)
	}
	s.past = 0
	return s.extend(ctx, ids)
}

// Step appends an id and returns the logits [V] after it, valid until the next
// call.
func (s *Slot) Step(ctx context.Context, id int) ([]float32, error) {
	if err := s.fit(1); err != nil {
		return nil, err
	}
	if err := s.known(id); err != nil {
		return nil, err
	}
	s.id[0] = int64(id)
	return s.logits, s.run(ctx, s.stepIDs, 1)
}

// extend runs ids in chunks.
func (s *Slot) extend(ctx context.Context, ids []int) ([]float32, error) {
	if len(ids) == 0 {
		return nil, imagebind.Errorf(imagebind.Invalid, "the prompt is empty")
	}
	if err := s.fit(len(ids)); err != nil {
		return nil, err
	}
	buf := make([]int64, min(len(ids), s.d.chunk))
	for len(ids) > 0 {
		chunk := buf[:min(len(ids), len(buf))]
		for i := range chunk {
			if err := s.known(ids[i]); err != nil {
				return nil, err
			}
			chunk[i] = int64(ids[i])
		}
		v, err := ort.Int64s(chunk, 1, len(chunk))
		if err != nil {
			return nil, err
		}
		err = s.run(ctx, v, len(chunk))
		ort.Destroy(v)
		if err != nil {
			return nil, err
		}
		ids = ids[len(chunk):]
	}
	return s.logits, nil
}

// fit keeps every run inside the cache: some onnxruntime versions write past it.
func (s *Slot) fit(n int) error {
	if s.past+n > s.d.context {
		return imagebind.Errorf(imagebind.Invalid, "%d tokens do not fit: the model reads %d, prompt and answer together", s.past+n, s.d.context)
	}
	return nil
}

func (s *Slot) known(id int) error {
	if id < 0 || id >= s.d.cfg.Vocab {
		return fmt.Errorf("token id %d is outside of the decoder's vocabulary of %d", id, s.d.cfg.Vocab)
	}
	return nil
}

// run is one pass of n new tokens.
func (s *Slot) run(ctx context.Context, ids ort.Value, n int) error {
	select {
	case <-s.d.turn:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { s.d.turn <- struct{}{} }()
	s.in[s.ids] = ids
	s.seqlens[0] = int32(s.past + n - 1)
	s.total.Set(int32(s.past + n))
	s.index[0] = int64(n - 1)
	err := s.d.session.Run(ctx, s.in, s.out)
	s.in[s.ids] = s.stepIDs
	if err != nil {
		return fmt.Errorf("decoder: %w", err)
	}
	s.past += n
	return nil
}
