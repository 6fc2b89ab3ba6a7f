package embed

import (
	"context"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	imagebind "imagebind-llm"
)

// A batcher runs one encoder for all its callers, a batch at a time. A batch is
// begun at once when none runs, and holds what came while the last one ran, so
// that nobody waits for company unless it is known to come ([Encoders.Expect]).
// All clips of an encoder have one shape: a batch has no padding, and its rows
// do not depend on one another.
type batcher struct {
	// run gives the embeddings of clips [n, …], one behind the other: n·E values.
	run    func(ctx context.Context, clips imagebind.Tensor) ([]float32, error)
	embed  int                 // E
	clips  int                 // of a batch, at most
	window time.Duration       // that the first batch waits for inputs that are being read
	room   *semaphore.Weighted // clips that are queued or run

	mu     sync.Mutex
	queue  []*Job
	coming int           // inputs that are being read
	busy   bool          // a loop runs
	change chan struct{} // holds a signal when queue or coming have changed
	loops  sync.WaitGroup

	floats []float32 // a batch's clips when they are of several callers; the loop's own
	ints   []int64
}

// batches is how many may be queued or run: what was read and is not yet
// encoded is bounded.
const batches = 3

// A Job is an input on its way through batches, of which a long one takes several.
type Job struct {
	ctx    context.Context
	enc    string           // the encoder's name
	input  imagebind.Tensor // [S, …]
	weight int64            // of the room that it has
	next   int              // clips that have been in a batch
	sum    []float64        // [E], of the clips' embeddings
	err    error
	done   chan struct{} // closed when sum or err is final
}

// A share is what a batch holds of a job: clips from, …, to-1.
type share struct {
	*Job
	from, to int
}

func (s share) last() bool { return s.to == s.input.Shape[0] }

func newBatcher(embed int, o Options, run func(context.Context, imagebind.Tensor) ([]float32, error)) *batcher {
	return &batcher{run: run, embed: embed, clips: o.Clips, window: o.Window,
		room: semaphore.NewWeighted(batches * int64(o.Clips)), change: make(chan struct{}, 1)}
}

// expect counts inputs that are being read.
func (b *batcher) expect(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.coming += n
	b.signal()
}

func (b *batcher) signal() {
	select {
	case b.change <- struct{}{}:
	default:
	}
}

// put queues an input, once there is room.
func (b *batcher) put(ctx context.Context, enc string, input imagebind.Tensor) (*Job, error) {
	j := &Job{ctx: ctx, enc: enc, input: input, weight: int64(min(input.Shape[0], batches*b.clips)),
		sum: make([]float64, b.embed), done: make(chan struct{})}
	if err := b.room.Acquire(ctx, j.weight); err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.queue = append(b.queue, j)
	if b.busy {
		b.signal()
	} else {
		b.busy = true
		b.loops.Go(b.loop)
	}
	return j, nil
}

// finish gives a job its outcome.
func (b *batcher) finish(j *Job, err error) {
	j.err = err
	close(j.done)
	b.room.Release(j.weight)
}

// loop runs batches until nothing is queued.
func (b *batcher) loop() {
	b.gather()
	for {
		b.mu.Lock()
		shares := b.take()
		b.busy = len(shares) > 0
		b.mu.Unlock()
		if len(shares) == 0 {
			return
		}
		b.batch(shares)
		if s := shares[len(shares)-1]; !s.last() && s.err == nil {
			b.mu.Lock()
			b.queue = append(b.queue, s.Job) // behind the others: a long input does not keep them out
			b.mu.Unlock()
		}
	}
}

// gather waits, no longer than the window, until what is being read is there or
// a batch is full.
func (b *batcher) gather() {
	var over <-chan time.Time
	for {
		b.mu.Lock()
		enough := b.coming == 0 || b.window <= 0 || b.queued() >= b.clips
		b.mu.Unlock()
		if enough {
			return
		}
		if over == nil {
			timer := time.NewTimer(b.window)
			defer timer.Stop()
			over = timer.C
		}
		select {
		case <-b.change:
		case <-over:
			return
		}
	}
}

func (b *batcher) queued() (clips int) {
	for _, j := range b.queue {
		clips += j.input.Shape[0] - j.next
	}
	return clips
}

// take makes the next batch of the queue, and drops those whose callers left.
// Only the last share may leave clips of its job for another batch. It is called
// with mu held.
func (b *batcher) take() (shares []share) {
	for n := 0; len(b.queue) > 0 && n < b.clips; {
		j := b.queue[0]
		b.queue = slices.Delete(b.queue, 0, 1)
		if err := j.ctx.Err(); err != nil {
			b.finish(j, err)
			continue
		}
		s := share{j, j.next, min(j.input.Shape[0], j.next+b.clips-n)}
		n += s.to - s.from
		j.next = s.to
		shares = append(shares, s)
	}
	return shares
}

// batch runs shares and gives each job its part. A run of several that fails is
// done again one by one, so that whose input is broken fails alone.
func (b *batcher) batch(shares []share) {
	out, err := b.compute(shares)
	if err != nil && len(shares) > 1 {
		for i := range shares {
			b.batch(shares[i : i+1])
		}
		return
	}
	for _, s := range shares {
		if err == nil {
			n := (s.to - s.from) * b.embed
			for i, v := range out[:n] {
				s.sum[i%b.embed] += float64(v)
			}
			out = out[n:]
		}
		if err != nil || s.last() {
			b.finish(s.Job, err)
		}
	}
}

// compute runs the graph on the clips of shares. The run is stopped when the
// callers of all have left.
func (b *batcher) compute(shares []share) (out []float32, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v\n%s", r, debug.Stack())
		}
	}()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var live atomic.Int64
	live.Store(int64(len(shares)))
	for _, s := range shares {
		defer context.AfterFunc(s.ctx, func() {
			if live.Add(-1) == 0 {
				cancel()
			}
		})()
	}
	clips := b.clipsOf(shares)
	out, err = b.run(ctx, clips)
	if err == nil && len(out) != clips.Shape[0]*b.embed {
		err = fmt.Errorf("encoder %s gave %d values for %d clips, want %d each", shares[0].enc, len(out), clips.Shape[0], b.embed)
	}
	return out, err
}

// clipsOf returns the clips of shares: those of one caller where they are, of
// several copied to the loop's buffer.
func (b *batcher) clipsOf(shares []share) imagebind.Tensor {
	t := slice(shares[0].input, shares[0].from, shares[0].to)
	if len(shares) == 1 {
		return t
	}
	b.floats, b.ints = append(b.floats[:0], t.Floats...), append(b.ints[:0], t.Ints...)
	for _, s := range shares[1:] {
		x := slice(s.input, s.from, s.to)
		b.floats, b.ints = append(b.floats, x.Floats...), append(b.ints, x.Ints...)
		t.Shape[0] += x.Shape[0]
	}
	if t.Floats != nil {
		t.Floats = b.floats
	} else {
		t.Ints = b.ints
	}
	return t
}
