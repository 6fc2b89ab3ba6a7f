// Package llama runs a bundle's decoder graph: prefill and decode over KV
// caches that live in one arena, many sequences side by side. It turns ids into
// logits; what the ids mean and which comes next is for runner/generate.
//
// The arena holds Slots rows a layer, [Slots, KH, Context, Dh] for keys and for
// values. A sequence has one row from Acquire to Release. One goroutine, the
// schedule (schedule.go), runs the graph: all sequences that have begun a step
// go through it together, each with its own length and its own injection, and
// between two such steps a part of one prompt does, as long as about half a step
// takes. So sequences join and leave at every step, and a long prompt does not
// hold up the others' tokens. Every run writes the cache in place:
// past_key_values and present are the same memory.
//
// A row keeps its keys and values when its sequence ends. A prompt that begins
// as some row's ids do, under the same injection, is not read again as far as
// they agree (prefix.go): the template, a conversation's earlier turns, the other
// choices of one request. Who waits for a row is served in turn (queue.go).
package llama

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"imagebind-llm/internal/ort"
	"imagebind-llm/runner/bundle"
)

// Options of a Decoder.
type Options struct {
	Slots   int // sequences at a time, 1 or more
	Context int // tokens of a sequence, prompt and answer together; 0 means the bundle's
	Chunk   int // tokens of a prompt in one run, at most; 0 means 512, fewer than 4 are 4
	ORT     ort.Options
	// Observe, which may be nil, hears of every run of the graph: how many
	// sequences took a step, or how many tokens of a prompt were read.
	Observe func(steps, prompt int, d time.Duration)
}

// A Decoder is an open decoder graph with its KV cache.
type Decoder struct {
	cfg     bundle.Decoder
	o       Options
	session *ort.Session
	context int
	chunk   int
	cache   cache
	buffers buffers

	mu      sync.Mutex
	rows    []*row
	slots   []*Slot // those that nobody has
	waiting queue
	reads   []*Slot // sequences whose prompt is being read, the first first
	pace    pace
	batch   []*Slot // of the step under way; the schedule's
	clock   uint64  // ticks with every use of a row
	closing bool

	wake    chan struct{} // something changed
	stopped chan struct{} // the schedule has ended
}

// A row is a place of the arena.
type row struct {
	n     int
	owner *Slot // nil: free
	// ids are the tokens whose keys and values it holds, under the injection in
	// its part of buffers.injection. They stay when the owner leaves.
	ids  []int
	read int    // how many of them, from the first, were read as a prompt; steps wrote the others
	used uint64 // when, by the Decoder's clock
}

// keep forgets all ids but the first n.
func (r *row) keep(n int) { r.ids, r.read = r.ids[:n], min(r.read, n) }

// Open opens the decoder of b. It reserves the KV cache, whose pages cost
// memory only once they are written.
func Open(b *bundle.Bundle, o Options) (*Decoder, error) {
	cfg := b.Decoder
	if cfg == nil {
		return nil, fmt.Errorf("bundle %s has no decoder", b.Dir)
	}
	d := &Decoder{cfg: *cfg, o: o, context: o.Context, chunk: o.Chunk, wake: make(chan struct{}, 1), stopped: make(chan struct{})}
	if d.context == 0 {
		d.context = cfg.Context
	}
	if d.context > cfg.Context {
		return nil, fmt.Errorf("context %d is more than the decoder's %d positions", o.Context, cfg.Context)
	}
	if d.chunk <= 0 {
		d.chunk = 512
	}
	d.chunk = max(d.chunk, 4) // see part
	if o.Slots < 1 {
		return nil, fmt.Errorf("%d slots: at least one is needed", o.Slots)
	}
	session, err := ort.Open(b.Path(cfg.Graph), o.ORT)
	if err != nil {
		return nil, err
	}
	d.session = session
	if err := d.check(); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", cfg.Graph, err), session.Close())
	}
	if err := d.allocate(); err != nil {
		return nil, errors.Join(err, d.free())
	}
	slog.Info("decoder", "graph", cfg.Graph, "precision", cfg.Precision, "slots", o.Slots, "context", d.context, "kv_cache_mib", d.cache.bytes()>>20)
	go d.schedule()
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
		for _, kv := range kinds {
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
	for i := range d.cfg.Layers {
		for _, kv := range kinds {
			if d.session.Output(presentName(i, kv)) < 0 {
				return fmt.Errorf("the graph has no output %s", presentName(i, kv))
			}
		}
	}
	if d.session.Output("logits") < 0 {
		return errors.New("the graph has no output logits")
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

var kinds = []string{"key", "value"}

func pastName(layer int, kv string) string    { return fmt.Sprintf("past_key_values.%d.%s", layer, kv) }
func presentName(layer int, kv string) string { return fmt.Sprintf("present.%d.%s", layer, kv) }

// allocate makes the cache, the buffers, rows and slots.
func (d *Decoder) allocate() (err error) {
	if d.cache, err = newCache(d.session, d.cfg, d.o.Slots, d.context); err != nil {
		return err
	}
	if err := d.buffers.make(d); err != nil {
		return err
	}
	for i := range d.o.Slots {
		d.rows = append(d.rows, &row{n: i, ids: make([]int, 0, d.context)})
		s := &Slot{d: d, ready: make(chan struct{}, 1), own: make([]float32, d.cfg.Vocab)}
		if s.first, err = ort.Floats(s.own, 1, d.cfg.Vocab); err != nil {
			return err
		}
		d.slots = append(d.slots, s)
	}
	return nil
}

// Context returns the tokens that a sequence can have, prompt and answer together.
func (d *Decoder) Context() int { return d.context }

// Close frees the graph and the cache, once all slots are released.
func (d *Decoder) Close() error {
	d.mu.Lock()
	d.closing = true
	d.mu.Unlock()
	d.poke()
	<-d.stopped
	return d.free()
}

func (d *Decoder) free() error {
	d.buffers.destroy()
	for _, s := range d.slots {
		ort.Destroy(s.first)
	}
	return errors.Join(d.cache.close(), d.session.Close())
}

// poke wakes the schedule.
func (d *Decoder) poke() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// A Want says who asks for a slot and for what prompt. The zero Want is nobody's.
type Want struct {
	IDs       []int     // of the prompt: a row whose cache begins so is preferred
	Injection []float32 // [La, D], or nil
	// Client and Request share the slots fairly: of those that wait, the client
	// that holds the fewest comes first, then the request that does.
	Client, Request any
	// Exact asks for logits that do not depend on who else runs, nor on what the
	// cache holds from answers: the same to the bit each time. Alone, with int4
	// weights and without package kernel's operators, it costs a second row.
	Exact bool
}

// Acquire waits for a free row. Its owner calls Release.
func (d *Decoder) Acquire(ctx context.Context, w Want) (*Slot, error) {
	d.mu.Lock()
	if s := d.grant(w); s != nil {
		d.mu.Unlock()
		return s, nil
	}
	place := d.waiting.join(w)
	d.mu.Unlock()
	select {
	case s := <-place.slot:
		return s, nil
	case <-ctx.Done():
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.waiting.leave(place) { // it was served meanwhile
		d.give(<-place.slot)
	}
	return nil, ctx.Err()
}

// grant returns a slot on the best free row, or nil. d.mu is held.
func (d *Decoder) grant(w Want) *Slot {
	r := d.bestFree(w)
	if r == nil {
		return nil
	}
	s := d.slots[len(d.slots)-1]
	d.slots = d.slots[:len(d.slots)-1]
	s.begin(r, w)
	d.waiting.hold(w, 1)
	return s
}

// give takes a slot's row back and hands it to who waits. d.mu is held.
func (d *Decoder) give(s *Slot) {
	s.drop()
	s.row.owner, s.row, s.state = nil, nil, idle
	d.waiting.hold(s.want, -1)
	s.want = Want{}
	d.slots = append(d.slots, s)
	for d.waiting.len() > 0 {
		next := d.waiting.next()
		granted := d.grant(next.want)
		if granted == nil {
			return
		}
		d.waiting.leave(next)
		next.slot <- granted
	}
	if d.closing {
		d.poke()
	}
}
