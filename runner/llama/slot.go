package llama

import (
	"context"
	"fmt"
	"time"

	imagebind "imagebind-llm"
	"imagebind-llm/internal/ort"
)

// A Slot is one sequence's place, from Acquire to Release. It is for one
// goroutine at a time.
type Slot struct {
	d     *Decoder
	want  Want
	ready chan struct{} // gets a token when state becomes taken while the owner waits; capacity 1
	own   []float32     // [V]: the prompt's logits
	first ort.Value     // over own

	// Below: d.mu is held.
	row     *row
	state   state
	waits   bool      // the owner waits at ready
	due     time.Time // done or taken: until when the others' next step waits for it
	running bool      // a run that has it is under way
	left    bool      // released while one was
	id      int       // that the begun step appends
	read    reading   // the prompt that is being read
	logits  []float32 // what the last run gave
	held    *logits   // where that lies; nil: in own
	err     error
	cached  int
}

// state is where a sequence is between two tokens.
type state int

const (
	idle  state = iota // acquired, or over: no logits are wanted
	reads              // its prompt is being read
	begun              // a step is wanted
	done               // its logits are there; the owner has not come for them
	taken              // the owner has the logits, and will begin a step or release
)

// A reading is a prompt on its way.
type reading struct {
	ctx       context.Context
	ids       []int
	injection []float32
	started   bool // rows were searched for what it shares
}

// begin hands s to a new owner. d.mu is held.
func (s *Slot) begin(r *row, w Want) {
	s.want, s.row, s.state, s.cached = w, r, idle, 0
	s.left, s.err = false, nil
	r.owner = s
	r.used = s.d.tick()
}

func (d *Decoder) tick() uint64 { d.clock++; return d.clock }

// Release gives the slot back. A step that was begun is dropped; where its run
// is under way the row is free after it.
func (s *Slot) Release() {
	s.d.mu.Lock()
	defer s.d.mu.Unlock()
	s.row.used = s.d.tick()
	if s.running {
		s.left = true
		return
	}
	s.d.give(s)
	s.d.poke()
}

// Capacity returns the tokens that the sequence can have in all.
func (s *Slot) Capacity() int { return s.d.context }

// Cached returns how many tokens of the prompt were in the cache already.
func (s *Slot) Cached() int { return s.cached }

// Len returns the tokens in the cache.
func (s *Slot) Len() int {
	s.d.mu.Lock()
	defer s.d.mu.Unlock()
	return len(s.row.ids)
}

// Prefill begins a sequence with ids, under an injection [La, D] that holds for
// all of it; nil is plain chat. It returns the logits [V] of the last id, valid
// until the next call. Both arguments must not change before it returns. When
// ctx ends, a run of it is stopped within an operator.
func (s *Slot) Prefill(ctx context.Context, ids []int, injection []float32) ([]float32, error) {
	d := s.d
	if n := d.cfg.AdaptedLayers * d.cfg.Width; injection != nil && len(injection) != n {
		panic(fmt.Sprintf("llama: injection of %d values, want [%d, %d]", len(injection), d.cfg.AdaptedLayers, d.cfg.Width))
	}
	if len(ids) == 0 {
		return nil, imagebind.Errorf(imagebind.Invalid, "the prompt is empty")
	}
	if err := d.fit(len(ids)); err != nil {
		return nil, err
	}
	for _, id := range ids {
		if err := d.known(id); err != nil {
			return nil, err
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, d.poke)
	defer stop()
	d.mu.Lock()
	s.drop()
	s.state, s.waits, s.read = reads, true, reading{ctx: ctx, ids: ids, injection: injection}
	d.reads = append(d.reads, s)
	d.mu.Unlock()
	d.poke()
	<-s.ready // the schedule watches ctx
	return s.logits, s.err
}

// Begin starts the step that appends id, and returns at once. End or Release
// must follow.
func (s *Slot) Begin(id int) error {
	d := s.d
	if err := d.known(id); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.fit(len(s.row.ids) + 1); err != nil {
		return err
	}
	s.drop()
	s.id, s.state = id, begun
	d.poke()
	return nil
}

// End returns the logits [V] after the begun step, valid until the next Begin.
func (s *Slot) End(ctx context.Context) ([]float32, error) {
	d := s.d
	d.mu.Lock()
	if s.state == done {
		s.state = taken
		d.mu.Unlock()
		return s.logits, s.err
	}
	s.waits = true
	d.mu.Unlock()
	select {
	case <-s.ready:
		return s.logits, s.err
	case <-ctx.Done():
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if !s.waits { // it came meanwhile
		<-s.ready
	}
	s.waits = false
	if !s.running {
		s.state = idle
		d.poke()
	}
	return nil, ctx.Err()
}

// drop lets go of the logits. d.mu is held.
func (s *Slot) drop() {
	if s.held != nil {
		s.held.users--
	}
	s.logits, s.held = nil, nil
}

// deliver hands over what a run gave: logits [V], which lie in l, or in own
// where that is nil. d.mu is held.
func (s *Slot) deliver(v []float32, l *logits, err error) {
	s.running, s.logits, s.held, s.err = false, v, l, err
	s.due = time.Now().Add(s.d.pace.patience())
	if l != nil {
		l.users++
	}
	switch {
	case s.left:
		s.d.give(s)
	case s.waits:
		s.waits, s.state = false, taken
		s.ready <- struct{}{}
	default:
		s.state = done
	}
}

// fit keeps every run inside the cache: some onnxruntime versions write past it.
func (d *Decoder) fit(n int) error {
	if n > d.context {
		return imagebind.Errorf(imagebind.Invalid, "%d tokens do not fit: the model reads %d, prompt and answer together", n, d.context)
	}
	return nil
}

func (d *Decoder) known(id int) error {
	if id < 0 || id >= d.cfg.Vocab {
		return fmt.Errorf("token id %d is outside of the decoder's vocabulary of %d", id, d.cfg.Vocab)
	}
	return nil
}
