package llama

import (
	"context"
	"fmt"
	"runtime/debug"
	"slices"
	"time"

	"imagebind-llm/internal/ort"
)

// schedule runs the graph until the decoder closes. It alone does, and it alone
// changes what the rows hold.
func (d *Decoder) schedule() {
	defer close(d.stopped)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		d.mu.Lock()
		d.dropCanceled()
		p := d.plan(time.Now())
		over := d.closing && len(d.slots) == len(d.rows)
		d.mu.Unlock()
		switch {
		case over:
			return
		case p.read != nil:
			d.readPart(p)
		case p.step:
			d.step()
		default:
			var late <-chan time.Time
			if p.wait > 0 {
				timer.Reset(p.wait)
				late = timer.C
			}
			select {
			case <-d.wake:
			case <-late:
			}
		}
	}
}

// A plan is what to do next.
type plan struct {
	read   *Slot // read that many tokens of its prompt,
	tokens int
	paced  bool          // between two steps of others,
	step   bool          // or a step of all that have begun one,
	wait   time.Duration // or wait for news, at most so long; 0 is for ever
}

// plan decides. A step begins when every sequence that just had one has begun
// its next, or has taken too long; the time until then, and after each step, is
// for a part of a prompt. d.mu is held.
func (d *Decoder) plan(now time.Time) plan {
	var ready, coming int
	var wait time.Duration
	for _, r := range d.rows {
		switch s := r.owner; {
		case s == nil:
		case s.state == begun:
			ready++
		case s.state == done || s.state == taken:
			if left := s.due.Sub(now); left > 0 {
				coming++
				wait = max(wait, left)
			}
		}
	}
	switch {
	case len(d.reads) > 0 && ready+coming == 0:
		return plan{read: d.reads[0], tokens: d.chunk}
	case len(d.reads) > 0 && d.pace.chunk(len(d.reads)) > 0:
		return plan{read: d.reads[0], tokens: min(d.pace.left, d.chunk), paced: true}
	case ready > 0 && coming == 0:
		return plan{step: true}
	}
	return plan{wait: wait}
}

// dropCanceled ends the prompts whose owners have left. d.mu is held.
func (d *Decoder) dropCanceled() {
	d.reads = slices.DeleteFunc(d.reads, func(s *Slot) bool {
		err := s.read.ctx.Err()
		if err != nil {
			s.over(nil, err)
		}
		return err != nil
	})
}

// over ends the reading of s's prompt. d.mu is held.
func (s *Slot) over(logits []float32, err error) {
	s.read = reading{}
	s.deliver(logits, nil, err)
}

// readPart reads the next tokens of a prompt.
func (d *Decoder) readPart(p plan) {
	start, s := time.Now(), p.read
	n, err := d.readNext(s, p.tokens)
	took := time.Since(start)
	d.mu.Lock()
	defer d.mu.Unlock()
	if p.paced && err == nil {
		d.pace.readTook(n, len(d.reads), took)
	}
	if err != nil || len(s.row.ids) == len(s.read.ids) {
		d.reads = d.reads[1:]
		s.over(s.own, err)
	}
	if d.o.Observe != nil {
		d.o.Observe(0, n, took)
	}
}

// part returns how many of the remaining tokens to read at once, about n. It
// neither reads nor leaves a single one: attention over one token adds up in
// another order than over several, and a prompt's logits would depend on how it
// was cut.
func (d *Decoder) part(remaining, n int) int {
	n = max(n, 2)
	if remaining-n == 1 {
		n += 1 - 2*min(n-2, 1) // one less, or three
	}
	return min(n, remaining, d.chunk)
}

// readNext returns how many tokens it read. s is the first of d.reads.
func (d *Decoder) readNext(s *Slot, n int) (int, error) {
	d.mu.Lock()
	r, read := s.row, &s.read
	if !read.started {
		read.started = true
		var err error
		if s.cached, err = d.reuse(r, read.ids, read.injection, s.want.Exact); err != nil {
			d.mu.Unlock()
			return 0, err
		}
	}
	past := len(r.ids)
	d.mu.Unlock()

	next := read.ids[past : past+d.part(len(read.ids)-past, n)]
	b := &d.buffers
	for i, id := range next {
		b.prompt[i] = int64(id)
	}
	x, err := b.bind(span{r.n, 1})
	if err != nil {
		return 0, err
	}
	ids, err := ort.Int64s(b.prompt[:len(next)], 1, len(next))
	if err != nil {
		return 0, err
	}
	defer ort.Destroy(ids)
	in, out := slices.Clone(x.in), slices.Clone(x.out)
	in[d.session.Input("input_ids")], in[d.session.Input("logit_index")] = ids, b.lastValue
	out[d.session.Output("logits")] = s.first
	b.seqlens[r.n], b.last[0] = int32(past+len(next)-1), int64(len(next)-1)
	b.total.Set(int32(past + len(next)))
	if err := d.run(read.ctx, in, out); err != nil {
		return 0, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if r.read == len(r.ids) {
		r.read += len(next)
	}
	r.ids = append(r.ids, next...)
	return len(next), nil
}

// step takes all sequences that have begun one through the graph together.
func (d *Decoder) step() {
	start := time.Now()
	d.mu.Lock()
	batch := d.batch[:0] // by row
	for _, r := range d.rows {
		if r.owner != nil && r.owner.state == begun {
			r.owner.running = true
			batch = append(batch, r.owner)
		}
	}
	d.batch = batch
	err := d.pack(batch)
	at, n := d.spanOf(batch)
	total := d.lengths(at, n)
	l, v, e := d.buffers.free(n)
	d.mu.Unlock()
	if err == nil {
		err = e
	}
	if err == nil {
		err = d.stepSpan(span{at, n}, total, v)
	}
	now := time.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.pace.stepTook(now.Sub(start))
	for _, s := range batch {
		if err != nil {
			s.deliver(nil, nil, err)
			continue
		}
		i, size := s.row.n-at, d.cfg.Vocab
		s.row.ids = append(s.row.ids, s.id)
		s.deliver(l.v[i*size:(i+1)*size:(i+1)*size], l, nil)
	}
	if d.o.Observe != nil {
		d.o.Observe(len(batch), 0, now.Sub(start))
	}
}

// spanOf returns the rows from the first of batch to its last. One alone whose
// logits must not depend on who else runs has an idle row beside it: in
// onnxruntime's own operator a product of one row with int4 weights rounds
// otherwise than that of several.
func (d *Decoder) spanOf(batch []*Slot) (at, n int) {
	first := batch[0]
	at = first.row.n
	n = batch[len(batch)-1].row.n + 1 - at
	if n == 1 && first.want.Exact && d.cfg.Precision == "int4" && d.session.Kernels == 0 && len(d.rows) > 1 {
		at, n = min(at, len(d.rows)-2), 2
	}
	return at, n
}

// lengths fills in the inputs of a step over n rows, and returns the largest
// length after it. A row that takes no step writes a key and a value behind its
// last, where its next will be; a full one loses its last. d.mu is held.
func (d *Decoder) lengths(at, n int) (total int) {
	b := &d.buffers
	for _, r := range d.rows[at : at+n] {
		b.ids[r.n] = 0
		if s := r.owner; s != nil && s.running {
			b.ids[r.n] = int64(s.id)
		} else if len(r.ids) == d.context {
			r.keep(d.context - 1)
		}
		b.seqlens[r.n] = int32(len(r.ids))
		total = max(total, len(r.ids)+1)
	}
	return total
}

func (d *Decoder) stepSpan(s span, total int, logits ort.Value) error {
	x, err := d.buffers.bind(s)
	if err != nil {
		return err
	}
	d.buffers.total.Set(int32(total))
	x.out[d.session.Output("logits")] = logits
	return d.run(context.Background(), x.in, x.out)
}

// run runs the graph. A panic of the binding is an error: it must not end the
// schedule, on which all wait.
func (d *Decoder) run(ctx context.Context, in, out []ort.Value) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v\n%s", r, debug.Stack())
		}
	}()
	if err := d.session.Run(ctx, in, out); err != nil {
		if ctx.Err() != nil {
			return err
		}
		return fmt.Errorf("decoder: %w", err)
	}
	return nil
}
