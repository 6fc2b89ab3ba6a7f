// Package generate is the loop of an answer: prefill, then sample, step and
// stream until the model ends it, a stop string appears, or the room is used
// up. It neither knows what an id's text is (runner/tokenizer) nor how logits
// come about (runner/llama).
package generate

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	imagebind "imagebind-llm"
	"imagebind-llm/runner/sample"
	"imagebind-llm/runner/tokenizer"
)

// A Decoder is one sequence in a model's KV cache. A slot of runner/llama is
// one. A step is begun and ended apart, so that other sequences' steps do not
// wait for the text of this one to reach its reader.
type Decoder interface {
	// Prefill begins the sequence with ids, under an injection [La, D] that
	// holds for all of it; nil is plain chat. It returns the logits [V] of the
	// last id, valid until the next Begin.
	Prefill(ctx context.Context, ids []int, injection []float32) ([]float32, error)
	// Begin starts the step that appends id and returns at once. End must follow,
	// unless the sequence is given up.
	Begin(id int) error
	// End returns the logits [V] after the begun step, valid until the next Begin.
	End(ctx context.Context) ([]float32, error)
	// Capacity returns the tokens the sequence can have, prompt and answer together.
	Capacity() int
}

// A Request is one answer to be made.
type Request struct {
	PromptIDs []int
	Injection []float32 // [La, D], or nil for plain chat
	MaxTokens int       // of the answer; 0, and what is more than fits, means as many as fit
	Stop      []string  // texts that end the answer and are no part of it
	StopIDs   []int     // ids that end it beside the tokenizer's EOS
	Trim      bool      // without white space at both ends, as the reference's demo strips answers
	Sample    sample.Params
	// Constrain begins what the answer keeps to; nil is any text.
	Constrain func() Constraint
	// Logprobs asks for each token's log probability, with TopLogprobs others.
	Logprobs    bool
	TopLogprobs int
}

// A Constraint says what an answer may go on with. A match of runner/constrain is one.
type Constraint interface {
	// Allowed returns a bit for each id that may come next, the lowest first: at
	// least one, and end tokens exactly where the text is complete.
	Allowed() []uint64
	// Accept takes an id that is no end token, and reports whether it was allowed.
	Accept(id int) bool
	// Done reports whether the text is complete and cannot go on.
	Done() bool
}

// A Token is one of the answer with its log probability.
type Token struct {
	sample.Logprob
	Top []sample.Logprob // the likeliest, whether drawn or not
}

// An Event is a part of the answer.
type Event struct {
	Text   string  // whole runes; all events' texts are the answer
	Tokens []Token // where Logprobs are asked: the tokens of the text so far that no event had yet
}

// Why an answer ended, in OpenAI's words.
const (
	FinishStop   = "stop"   // an end token, a stop string, or nothing that a constraint allows to follow
	FinishLength = "length" // MaxTokens, or the decoder's capacity
)

// A Result is the whole answer.
type Result struct {
	Text             string
	IDs              []int   // as drawn, the end token included
	Tokens           []Token // where Logprobs are asked: of Text, without the end token or a stop string's
	FinishReason     string
	PromptTokens     int
	CachedTokens     int // of the prompt, that were in the decoder's KV cache before; see [Generate]
	CompletionTokens int // len(IDs)
	Prefill, Decode  time.Duration
}

// Generate answers req and hands the text to emit as it comes; emit may be nil.
// It stops with ctx's error between two steps, and with emit's error. The
// Result then holds what there was. Tokens of the prompt that dec need not read
// again are counted where it has a method Cached() int that tells them after Prefill.
func Generate(ctx context.Context, dec Decoder, tok *tokenizer.Tokenizer, req Request, emit func(Event) error) (Result, error) {
	res := Result{PromptTokens: len(req.PromptIDs)}
	if err := req.Check(dec.Capacity()); err != nil {
		return res, err
	}
	limit := dec.Capacity() - len(req.PromptIDs)
	if req.MaxTokens > 0 {
		limit = min(limit, req.MaxTokens)
	}
	if limit == 0 { // the reference answers a prompt that fills its context with nothing
		res.FinishReason = FinishLength
		return res, nil
	}
	start := time.Now()
	logits, err := dec.Prefill(ctx, req.PromptIDs, req.Injection)
	res.Prefill = time.Since(start)
	if err != nil {
		return res, err
	}
	if d, ok := dec.(interface{ Cached() int }); ok {
		res.CachedTokens = d.Cached()
	}
	start = time.Now()
	a := answer{req: req, text: text{stops: req.Stop, trim: req.Trim}, emit: emit, res: &res}
	err = a.run(ctx, dec, tok, logits, limit)
	res.Decode, res.Text = time.Since(start), a.out.String()
	res.CompletionTokens = len(res.IDs)
	return res, err
}

// Check returns why a decoder of capacity tokens cannot answer r, or nil.
func (r Request) Check(capacity int) error {
	n := len(r.PromptIDs)
	switch {
	case n == 0:
		return imagebind.Errorf(imagebind.Invalid, "the prompt is empty")
	case n > capacity:
		return imagebind.Errorf(imagebind.Invalid, "the prompt has %d tokens; the model reads %d, prompt and answer together: shorten it", n, capacity)
	case r.MaxTokens < 0:
		return imagebind.WithParam(imagebind.Errorf(imagebind.Invalid, "max_tokens is %d; it is at least 1", r.MaxTokens), "max_tokens")
	case slices.Contains(r.Stop, ""):
		return imagebind.WithParam(imagebind.Errorf(imagebind.Invalid, "a stop string is empty"), "stop")
	case r.TopLogprobs < 0:
		return imagebind.WithParam(imagebind.Errorf(imagebind.Invalid, "top_logprobs is %d; it is at least 0", r.TopLogprobs), "top_logprobs")
	}
	return r.Sample.Check()
}

// An answer is one under way.
type answer struct {
	req  Request
	text text
	emit func(Event) error
	res  *Result
	out  strings.Builder

	decoded int // bytes of text that the tokens so far decode to
	tops    []sample.Logprob
	pending []pendingToken
	ready   []Token // of text that is out of text's hands, for the next event
}

// A pendingToken waits for its text to be released.
type pendingToken struct {
	Token
	from int // bytes of text before it
}

func (a *answer) run(ctx context.Context, dec Decoder, tok *tokenizer.Tokenizer, logits []float32, limit int) error {
	sampler := sample.New(a.req.Sample, a.req.PromptIDs)
	defer sampler.Free()
	decoder := tok.NewDecoder()
	var constraint Constraint
	var allowed []uint64 // nil: all
	if a.req.Constrain != nil {
		constraint = a.req.Constrain()
		allowed = constraint.Allowed()
	}
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		id, err := sampler.Next(logits, allowed)
		if err != nil {
			return err
		}
		a.res.IDs = append(a.res.IDs, id)
		if id == tok.EOS() || slices.Contains(a.req.StopIDs, id) {
			return a.end(decoder, FinishStop)
		}
		if a.req.Logprobs {
			a.pending = append(a.pending, pendingToken{a.logprobs(logits, id), a.decoded})
		}
		out, stopped := a.push(decoder.Next(id))
		done := false
		if constraint != nil {
			if !constraint.Accept(id) {
				return fmt.Errorf("token %d was drawn against the constraint", id)
			}
			done = constraint.Done()
		}
		last := stopped || done || len(a.res.IDs) == limit
		if !last {
			if err := dec.Begin(id); err != nil {
				return err
			}
		}
		if err := a.send(out, stopped); stopped || err != nil {
			return err
		}
		switch {
		case done:
			return a.end(decoder, FinishStop)
		case last:
			return a.end(decoder, FinishLength)
		case constraint != nil: // while the step runs
			allowed = constraint.Allowed()
		}
		if logits, err = dec.End(ctx); err != nil {
			return err
		}
	}
}

// logprobs returns id with its log probability and the likeliest. Their memory
// is taken in pieces, since the Result keeps them all.
func (a *answer) logprobs(logits []float32, id int) Token {
	n := a.req.TopLogprobs
	if cap(a.tops)-len(a.tops) < n {
		a.tops = make([]sample.Logprob, 0, 64*n)
	}
	begin := len(a.tops)
	t := Token{Logprob: sample.Logprob{ID: id}}
	t.Value, a.tops = sample.Logprobs(a.tops, logits, id, n)
	t.Top = a.tops[begin:len(a.tops):len(a.tops)]
	return t
}

// push takes decoded text and returns what may be sent. It reports whether a
// stop string came; the answer is then complete.
func (a *answer) push(s string) (out string, stopped bool) {
	a.decoded += len(s)
	out, stopped = a.text.push(s)
	a.release(a.text.released)
	if stopped {
		a.res.FinishReason = FinishStop
	}
	return out, stopped
}

// end sends what is still held back.
func (a *answer) end(d *tokenizer.Decoder, reason string) error {
	out, stopped := a.push(d.Flush())
	if err := a.send(out, stopped); stopped || err != nil {
		return err
	}
	a.res.FinishReason = reason
	a.release(a.decoded + 1)
	return a.send(a.text.end(), true)
}

// release makes the tokens ready whose text begins before the offset.
func (a *answer) release(offset int) {
	n := 0
	for n < len(a.pending) && a.pending[n].from < offset {
		a.ready = append(a.ready, a.pending[n].Token)
		n++
	}
	a.pending = a.pending[n:]
}

// send emits text with the tokens that are ready; without text they wait for
// the next, or the last event.
func (a *answer) send(text string, last bool) error {
	if text == "" && (!last || len(a.ready) == 0) {
		return nil
	}
	a.out.WriteString(text)
	a.res.Tokens = append(a.res.Tokens, a.ready...)
	e := Event{Text: text, Tokens: a.ready}
	a.ready = nil
	if a.emit == nil {
		return nil
	}
	return a.emit(e)
}
