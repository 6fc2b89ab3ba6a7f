// Package pipeline is a whole request: its parts become embeddings, the
// embeddings one mix, the feature cache moves the mix, the bridge makes it an
// injection, and the decoder answers the prompt under that injection. [Pipeline.Answer]
// has it on one screen; parts.go, cache.go and health.go are its stages.
//
// It knows nothing of HTTP: runner/server makes a [Query] of a request. What is
// right about many requests at once is here: how many are let in, how many run
// side by side, and that each stops when its caller leaves.
package pipeline

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	imagebind "imagebind-llm"
	"imagebind-llm/internal/ort"
	"imagebind-llm/retriever/retrieverapi"
	"imagebind-llm/runner/bundle"
	"imagebind-llm/runner/constrain"
	"imagebind-llm/runner/embed"
	"imagebind-llm/runner/generate"
	"imagebind-llm/runner/llama"
	"imagebind-llm/runner/modality"
	"imagebind-llm/runner/modality/all"
	"imagebind-llm/runner/prompt"
	"imagebind-llm/runner/tokenizer"
)

// What happens to a query whose cache cannot be had.
const (
	Degrade = "degrade" // it is answered without, and the answer says so
	Fail    = "fail"    // it fails with Unavailable
)

// Options of a Pipeline. The zero value works.
type Options struct {
	ORT                ort.Options
	Slots              int                  // answers under way at a time; default 4
	Context            int                  // tokens of prompt and answer together; default the bundle's
	Chunk              int                  // tokens of a prompt in one run of the decoder; default 512
	MaxQueue           int                  // requests let in beyond Slots; default 64, negative for none
	Retriever          *retrieverapi.Client // nil: no feature cache
	OnRetrieverFailure string               // Degrade, the default, or Fail
	BatchClips         int                  // that go through an encoder at once; default 2 on the CPU, else 16
	BatchWindow        time.Duration        // that an idle encoder waits for inputs that are being read; 0 for none
	EmbedCache         int                  // embeddings of parts that are kept; 0 for none
	Read               modality.Options
	Observer           Observer // may be nil
}

// A Pipeline answers queries with a bundle. Its methods may be called
// concurrently.
type Pipeline struct {
	b        *bundle.Bundle
	o        Options
	encoders *embed.Encoders
	bridge   *ort.Session                 // nil: embeddings have no way to the decoder
	decoder  *llama.Decoder               // nil: embeddings only
	tok      *tokenizer.Tokenizer         // nil without a decoder
	template *prompt.Template             // nil without a decoder
	words    func() *constrain.Vocabulary // of tok, made when it is first needed
	work     chan struct{}                // a place for each part that is read and embedded at a time
	running  atomic.Int64                 // choices that have a slot
	health   health
	memo     *memo

	mu     sync.Mutex
	inside int // requests
	left   sync.Cond
	closed bool
	life   context.Context // ends with Close
	end    context.CancelFunc
}

// Open opens the graphs of b and starts a warm-up, whose end [Pipeline.Ready]
// tells of. A bundle may lack encoders, bridge or decoder; what needs them is
// then refused.
func Open(b *bundle.Bundle, o Options) (_ *Pipeline, err error) {
	if o.Slots == 0 {
		o.Slots = 4
	}
	if o.MaxQueue == 0 {
		o.MaxQueue = 64
	}
	if o.OnRetrieverFailure == "" {
		o.OnRetrieverFailure = Degrade
	}
	if o.OnRetrieverFailure != Degrade && o.OnRetrieverFailure != Fail {
		return nil, fmt.Errorf("on_retriever_failure is %q; it is %s or %s", o.OnRetrieverFailure, Degrade, Fail)
	}
	p := &Pipeline{b: b, o: o, work: make(chan struct{}, runtime.GOMAXPROCS(0)), health: health{warm: make(chan struct{})}, memo: newMemo(o.EmbedCache)}
	p.left.L = &p.mu
	p.life, p.end = context.WithCancel(context.Background())
	defer func() {
		if err != nil {
			err = errors.Join(err, p.free())
		}
	}()
	if p.encoders, err = embed.Open(b, all.Specs, embed.Options{ORT: o.ORT, Clips: o.BatchClips, Window: o.BatchWindow}); err != nil {
		return nil, err
	}
	if b.Bridge != nil {
		if p.bridge, err = ort.Open(b.Path(b.Bridge.Graph), o.ORT); err != nil {
			return nil, err
		}
	}
	if b.Decoder != nil {
		if p.tok, err = tokenizer.Open(b.Path(b.Decoder.Tokenizer)); err != nil {
			return nil, err
		}
		if n := p.tok.VocabSize(); n > b.Decoder.Vocab {
			return nil, fmt.Errorf("%s has %d tokens, the decoder %d", b.Path(b.Decoder.Tokenizer), n, b.Decoder.Vocab)
		}
		p.words = sync.OnceValue(func() *constrain.Vocabulary {
			return constrain.NewVocabulary(p.tok, append([]int{p.tok.EOS()}, b.Decoder.Stop...))
		})
		if p.template, err = prompt.Parse(b.Decoder.Template); err != nil {
			return nil, err
		}
		lo := llama.Options{Slots: o.Slots, Context: o.Context, Chunk: o.Chunk, ORT: o.ORT}
		if o.Observer != nil {
			lo.Observe = o.Observer.Ran
		}
		if p.decoder, err = llama.Open(b, lo); err != nil {
			return nil, err
		}
	}
	go p.warmUp()
	return p, nil
}

// Answer answers q and hands the text of all choices to emit as it comes, one
// call at a time; emit may be nil. With an error the Answer holds what there was.
func (p *Pipeline) Answer(ctx context.Context, q Query, emit func(Event) error) (a Answer, err error) {
	start := time.Now()
	defer func() { a.Timings.Total = time.Since(start) }()
	if q.Generate, err = p.request(q); err != nil {
		return a, err
	}
	ctx, leave, err := p.enter(ctx)
	if err != nil {
		return a, err
	}
	defer leave()
	if len(q.Parts) > 0 {
		parts, err := p.embed(ctx, q.Parts, &a)
		if err != nil {
			return a, err
		}
		mix, err := imagebind.Mix(parts)
		if err != nil {
			return a, err
		}
		if q.Cache.Enabled {
			if mix, err = p.enhanceOne(ctx, mix, q, &a); err != nil {
				return a, err
			}
		}
		if q.Generate.Injection, err = p.inject(ctx, mix, &a.Timings); err != nil {
			return a, err
		}
	}
	err = p.choices(ctx, start, q, &a, emit)
	return a, err
}

// request checks all of q that can be wrong before any work is done, and
// returns its Generate with the prompt's ids.
func (p *Pipeline) request(q Query) (generate.Request, error) {
	req := q.Generate
	if p.decoder == nil {
		return req, imagebind.Errorf(imagebind.Unsupported, "this bundle has no decoder: it gives embeddings only")
	}
	if q.N < 1 || q.N > MaxChoices {
		return req, imagebind.WithParam(imagebind.Errorf(imagebind.Invalid, "n is %d; it is 1 to %d", q.N, MaxChoices), "n")
	}
	if len(q.Parts) > 0 && p.bridge == nil {
		return req, imagebind.WithParam(imagebind.Errorf(imagebind.Unsupported, "this bundle answers text only: it has no bridge from embeddings to the decoder"), q.Parts[0].Param)
	}
	if err := q.Cache.check(); err != nil {
		return req, err
	}
	segments, err := p.template.Render(q.Messages)
	if err != nil {
		return req, err
	}
	req.PromptIDs = p.tok.EncodeSegments(segments, p.b.Decoder.BOS >= 0)
	req.StopIDs = append(append([]int(nil), p.b.Decoder.Stop...), req.StopIDs...)
	if g := q.Grammar; g != nil {
		req.Constrain = func() generate.Constraint { return p.words().Begin(g, req.Trim) }
	}
	return req, imagebind.WithParam(req.Check(p.decoder.Context()), "messages")
}

// inject runs the bridge: mix [E] to injection [La, D].
func (p *Pipeline) inject(ctx context.Context, mix imagebind.Embedding, t *Timings) ([]float32, error) {
	start := time.Now()
	out, err := p.bridge.Compute(ctx, map[string]imagebind.Tensor{"embedding": {Shape: []int{1, len(mix)}, Floats: mix}}, "injection")
	t.Bridge = time.Since(start)
	p.health.note(err)
	if err != nil {
		return nil, err
	}
	return out["injection"].Floats, nil
}

// choices makes the answers, as many side by side as there are slots.
func (p *Pipeline) choices(ctx context.Context, start time.Time, q Query, a *Answer, emit func(Event) error) error {
	a.Choices = make([]generate.Result, q.N)
	want := llama.Want{IDs: q.Generate.PromptIDs, Injection: q.Generate.Injection, Request: a, Exact: q.Generate.Sample.Seed != nil}
	if q.Client != "" {
		want.Client = q.Client
	}
	queued := make([]time.Duration, q.N)
	var emitting sync.Mutex
	g, ctx := errgroup.WithContext(ctx)
	for i := range q.N {
		g.Go(guard(func() error {
			asked := time.Now()
			slot, err := p.decoder.Acquire(ctx, want)
			queued[i] = time.Since(asked)
			if err != nil {
				return err
			}
			p.observeRunning(1)
			defer func() { slot.Release(); p.observeRunning(-1) }()
			req := q.Generate
			if req.Sample.Seed != nil {
				seed := *req.Sample.Seed + uint64(i)
				req.Sample.Seed = &seed
			}
			begun := time.Now()
			a.Choices[i], err = generate.Generate(ctx, slot, p.tok, req, func(e generate.Event) error {
				if emit == nil {
					return nil
				}
				emitting.Lock()
				defer emitting.Unlock()
				return gone(emit(Event{Choice: i, Event: e}))
			})
			p.health.note(err)
			if o := p.o.Observer; o != nil && err == nil {
				r := a.Choices[i]
				o.Prefilled(r.PromptTokens, begun.Add(r.Prefill).Sub(start))
				o.Generated(r.CompletionTokens, r.Decode)
			}
			return err
		}))
	}
	err := g.Wait()
	for i, r := range a.Choices {
		a.Timings.Queue = max(a.Timings.Queue, queued[i])
		a.Timings.Prefill = max(a.Timings.Prefill, r.Prefill)
		a.Timings.Decode = max(a.Timings.Decode, r.Decode)
	}
	return err
}

// gone says what an untyped error of emit means: nobody reads on.
func gone(err error) error {
	if err == nil || imagebind.KindOf(err) != imagebind.Internal {
		return err
	}
	return imagebind.Errorf(imagebind.Canceled, "the answer could not be sent: %w", err)
}

// guard turns a panic into an error: one broken file must not end the program.
func guard(f func() error) func() error {
	return func() (err error) {
		defer func() {
			if r := recover(); r != nil {
				err = fmt.Errorf("panic: %v\n%s", r, debug.Stack())
			}
		}()
		return f()
	}
}

// Embed gives each item's unit embedding; with r.Cache the enhanced one.
func (p *Pipeline) Embed(ctx context.Context, r EmbedRequest) ([]Embedded, error) {
	if r.Cache != nil {
		if err := r.Cache.check(); err != nil {
			return nil, err
		}
	}
	ctx, leave, err := p.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	out := make([]Embedded, len(r.Items))
	mixes := make([]imagebind.Embedding, len(r.Items))
	g, each := errgroup.WithContext(ctx)
	g.SetLimit(2 * cap(p.work)) // goroutines; work is bounded by its places
	for i, parts := range r.Items {
		g.Go(func() error {
			var a Answer
			weighted, err := p.embed(each, parts, &a)
			if err != nil {
				return err
			}
			out[i].Bind = a.Bind
			mixes[i], err = imagebind.Mix(weighted)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	if r.Cache != nil && r.Cache.Enabled {
		for from := 0; from < len(mixes); from += retrieverapi.MaxQueries {
			to := min(from+retrieverapi.MaxQueries, len(mixes))
			enhanced, neighbours, reason, err := p.enhance(ctx, mixes[from:to], *r.Cache)
			if err != nil {
				return nil, err
			}
			for i := from; i < to; i++ {
				b := &out[i].Bind
				b.CacheApplied, b.Degraded, b.DegradedReason = reason == "", reason != "", reason
				mixes[i] = enhanced[i-from]
				if neighbours != nil {
					b.Neighbours = neighbours[i-from]
				}
			}
		}
	}
	for i, m := range mixes {
		m.Normalize() // a mix of several is shorter than 1
		out[i].Embedding = m
	}
	return out, nil
}

// enter lets a request in, or says Busy. The context that it returns ends with
// the request's and with the Pipeline.
func (p *Pipeline) enter(ctx context.Context) (context.Context, func(), error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.closed:
		return nil, nil, imagebind.Errorf(imagebind.Unavailable, "the server is stopping")
	case p.inside >= p.o.Slots+max(0, p.o.MaxQueue):
		return nil, nil, imagebind.Errorf(imagebind.Busy, "%d requests are under way or wait, which is all that are let in: try again later", p.inside)
	}
	p.inside++
	p.observeQueue(p.inside)
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(p.life, cancel)
	return ctx, func() {
		stop()
		cancel()
		p.mu.Lock()
		defer p.mu.Unlock()
		p.inside--
		p.observeQueue(p.inside)
		p.left.Broadcast()
	}, nil
}

func (p *Pipeline) observeRunning(n int64) {
	p.running.Add(n)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.observeQueue(p.inside)
}

// observeQueue is called with p.mu held.
func (p *Pipeline) observeQueue(inside int) {
	if p.o.Observer != nil {
		p.o.Observer.Queue(inside, int(p.running.Load()))
	}
}

// DefaultQuery returns a query with the bundle's defaults, without messages.
// Without a retriever the cache is off: a query that turns it on gets what
// OnRetrieverFailure says.
func (p *Pipeline) DefaultQuery() Query {
	s, c := p.b.Sampling, p.b.Cache
	q := Query{N: 1, Cache: Cache{
		Enabled: c.Enabled && p.o.Retriever != nil, Collection: c.Collection,
		EnhanceParams: imagebind.EnhanceParams{K: c.K, Temperature: c.Temperature, Weight: c.Weight},
	}}
	q.Generate.MaxTokens = s.MaxTokens
	q.Generate.Sample.Temperature, q.Generate.Sample.TopP = s.Temperature, s.TopP
	q.Generate.Trim = p.template != nil && p.template.Name == "alpaca" // as the reference's demo
	return q
}

// Bundle returns what is served.
func (p *Pipeline) Bundle() *bundle.Bundle { return p.b }

// Context returns the tokens that prompt and answer can have together, or 0
// without a decoder.
func (p *Pipeline) Context() int {
	if p.decoder == nil {
		return 0
	}
	return p.decoder.Context()
}

// TokenBytes returns what a token adds to a text; it may be part of a rune.
func (p *Pipeline) TokenBytes(id int) []byte {
	if p.tok == nil {
		return nil
	}
	return p.tok.Bytes(id)
}

// Modalities returns the kinds of input that can be embedded, as in image.
func (p *Pipeline) Modalities() []string {
	var names []string
	for _, s := range all.Specs {
		if p.encoders.Has(s.Name) {
			names = append(names, s.Name)
		}
	}
	return names
}

// Dim returns E.
func (p *Pipeline) Dim() int {
	if p.b.Bridge != nil {
		return p.b.Bridge.Embed
	}
	return p.b.Embed()
}

// Close stops all requests, waits until they are out, and frees the graphs.
func (p *Pipeline) Close() error {
	p.mu.Lock()
	p.closed = true
	p.end()
	if p.inside > 0 {
		slog.Info("stopping requests under way", "requests", p.inside)
	}
	for p.inside > 0 {
		p.left.Wait()
	}
	p.mu.Unlock()
	<-p.health.warm
	p.memo.wait()
	return p.free()
}

func (p *Pipeline) free() error {
	var errs []error
	if p.decoder != nil {
		errs = append(errs, p.decoder.Close())
	}
	if p.bridge != nil {
		errs = append(errs, p.bridge.Close())
	}
	if p.encoders != nil {
		errs = append(errs, p.encoders.Close())
	}
	return errors.Join(errs...)
}
