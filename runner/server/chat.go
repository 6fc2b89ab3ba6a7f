package server

import (
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/google/uuid"

	imagebind "imagebind-llm"
	"imagebind-llm/internal/httpapi"
	"imagebind-llm/runner/generate"
	"imagebind-llm/runner/pipeline"
	"imagebind-llm/runner/runnerapi"
	"imagebind-llm/runner/sample"
)

func (s *Server) chat(c *gin.Context) {
	var r runnerapi.ChatRequest
	body, err := readBody(c.Request)
	if err == nil {
		err = runnerapi.Decode(body, &r)
	}
	if err != nil {
		writeError(c, err)
		return
	}
	q, inc, err := s.settings(r)
	if err != nil {
		writeError(c, err)
		return
	}
	var sources []source
	if q.Messages, sources, err = s.conversation(r.Messages); err != nil {
		writeError(c, err)
		return
	}
	start := time.Now()
	if q.Parts, err = s.load(c.Request.Context(), sources); err != nil {
		writeError(c, err)
		return
	}
	s.respond(c, reply{r: r, q: q, inc: inc, fetch: time.Since(start)})
}

// A reply is a query with how its answer is to be written.
type reply struct {
	r     runnerapi.ChatRequest // without its messages' use
	q     pipeline.Query
	inc   include
	fetch time.Duration // of the parts
}

// respond runs the query and writes the answer, whole or as a stream.
func (s *Server) respond(c *gin.Context, p reply) {
	p.q.Client = s.client(c.Request)
	id, created := "chatcmpl-"+uuid.NewString(), time.Now().Unix()
	if p.r.Stream {
		s.stream(c, p, runnerapi.ChatChunk{ID: id, Object: "chat.completion.chunk", Created: created, Model: s.model, Choices: []runnerapi.ChunkChoice{}})
		return
	}
	a, err := s.p.Answer(c.Request.Context(), p.q, nil)
	s.o.Metrics.answered(a)
	if err != nil {
		writeError(c, err)
		return
	}
	out := runnerapi.ChatResponse{ID: id, Object: "chat.completion", Created: created, Model: s.model, Usage: usage(a), Bind: p.bind(a)}
	for i, choice := range a.Choices {
		out.Choices = append(out.Choices, runnerapi.Choice{Index: i, Message: runnerapi.Reply{Role: "assistant", Content: choice.Text},
			FinishReason: choice.FinishReason, Logprobs: s.logprobs(p.r.Logprobs, choice.Tokens)})
	}
	httpapi.WriteJSON(c.Writer, http.StatusOK, out)
}

// client tells who asks: a key where keys are checked, else an address.
func (s *Server) client(r *http.Request) string {
	if len(s.o.Keys) > 0 {
		return r.Header.Get("Authorization")
	}
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

// usage counts the prompt once, as OpenAI does.
func usage(a pipeline.Answer) runnerapi.Usage {
	var u runnerapi.Usage
	for _, c := range a.Choices {
		u.PromptTokens = c.PromptTokens
		u.PromptDetails.CachedTokens = max(u.PromptDetails.CachedTokens, c.CachedTokens)
		u.CompletionTokens += c.CompletionTokens
	}
	u.TotalTokens = u.PromptTokens + u.CompletionTokens
	return u
}

func (p reply) bind(a pipeline.Answer) *runnerapi.Bind {
	b := bind(a.Bind, p.inc)
	if p.inc.timings {
		t := a.Timings
		b.Timings = map[string]float64{}
		for name, d := range map[string]time.Duration{"fetch": p.fetch, "queue": t.Queue, "read": t.Read, "encode": t.Encode, "retrieve": t.Retrieve,
			"bridge": t.Bridge, "prefill": t.Prefill, "decode": t.Decode, "total": p.fetch + t.Total} {
			b.Timings[name] = milliseconds(d)
		}
		for modality, d := range t.Encoders {
			b.Timings["encode_"+modality] = milliseconds(d)
		}
	}
	return b
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func bind(a pipeline.Bind, inc include) *runnerapi.Bind {
	b := &runnerapi.Bind{Modalities: []runnerapi.Modality{}, Cache: runnerapi.CacheState{Applied: a.CacheApplied, Degraded: a.Degraded, Reason: a.DegradedReason}}
	for _, m := range a.Modalities {
		b.Modalities = append(b.Modalities, runnerapi.Modality(m))
	}
	if inc.neighbours {
		for _, n := range a.Neighbours {
			b.Neighbours = append(b.Neighbours, runnerapi.Neighbour{ID: n.ID, Score: n.Similarity, Weight: n.Weight, Caption: n.Caption, URI: n.URI})
		}
	}
	return b
}

func (s *Server) logprobs(wanted bool, tokens []generate.Token) *runnerapi.Logprobs {
	if !wanted {
		return nil
	}
	l := &runnerapi.Logprobs{Content: []runnerapi.TokenLogprob{}}
	for _, t := range tokens {
		out := runnerapi.TokenLogprob{Logprob: s.logprob(t.Logprob), Top: []runnerapi.Logprob{}}
		for _, alt := range t.Top {
			out.Top = append(out.Top, s.logprob(alt))
		}
		l.Content = append(l.Content, out)
	}
	return l
}

func (s *Server) logprob(l sample.Logprob) runnerapi.Logprob {
	text := s.p.TokenBytes(l.ID)
	bytes := make([]int, len(text))
	for i, b := range text {
		bytes[i] = int(b)
	}
	return runnerapi.Logprob{Token: strings.ToValidUTF8(string(text), "\uFFFD"), Logprob: max(l.Value, runnerapi.MinLogprob), Bytes: bytes}
}

const (
	heartbeat  = 15 * time.Second // keeps proxies from cutting a quiet stream
	writeLimit = 30 * time.Second // a reader that takes longer for an event is gone
)

// An eventStream writes server-sent events. Its header goes out with the first,
// so that what fails before has a status of its own.
type eventStream struct {
	mu    sync.Mutex
	w     gin.ResponseWriter
	conn  *http.ResponseController
	begun bool
}

func (e *eventStream) send(v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return e.write("data: " + string(b) + "\n\n")
}

func (e *eventStream) write(event string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.begun {
		e.begun = true
		h := e.w.Header()
		h.Set("Content-Type", "text/event-stream")
		h.Set("Cache-Control", "no-cache")
		h.Set("X-Accel-Buffering", "no")
		e.w.WriteHeader(http.StatusOK)
	}
	_ = e.conn.SetWriteDeadline(time.Now().Add(writeLimit)) // a test's recorder has none
	if _, err := e.w.WriteString(event); err != nil {
		return err
	}
	return e.conn.Flush()
}

// beat sends comments until ctx ends.
func (e *eventStream) beat(ctx context.Context) {
	tick := time.NewTicker(heartbeat)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if e.write(": still there\n\n") != nil {
				return
			}
		}
	}
}

// stream answers in chunks: the role, texts, an end for each choice, the usage
// where it is asked for. The last chunk has bind. chunk is what all have.
func (s *Server) stream(c *gin.Context, p reply, chunk runnerapi.ChatChunk) {
	events := &eventStream{w: c.Writer, conn: http.NewResponseController(c.Writer)}
	defer func() { _ = events.conn.SetWriteDeadline(time.Time{}) }()
	ctx, stop := context.WithCancel(c.Request.Context())
	var beating sync.WaitGroup
	beating.Go(func() { events.beat(ctx) })
	defer beating.Wait()
	defer stop()

	one := func(choice runnerapi.ChunkChoice) error {
		out := chunk
		out.Choices = []runnerapi.ChunkChoice{choice}
		return events.send(out)
	}
	begun := make(map[int]bool)
	begin := func(choice int) error {
		if begun[choice] {
			return nil
		}
		begun[choice] = true
		return one(runnerapi.ChunkChoice{Index: choice, Delta: runnerapi.Delta{Role: "assistant", Content: new(string)}})
	}
	a, err := s.p.Answer(ctx, p.q, func(e pipeline.Event) error {
		if err := begin(e.Choice); err != nil {
			return err
		}
		return one(runnerapi.ChunkChoice{Index: e.Choice, Delta: runnerapi.Delta{Content: &e.Text}, Logprobs: s.logprobs(p.r.Logprobs, e.Tokens)})
	})
	s.o.Metrics.answered(a)
	stop()
	beating.Wait()
	if err != nil {
		s.streamError(c, events, err)
		return
	}
	usage, bind := usage(a), p.bind(a)
	wantUsage := p.r.StreamOptions != nil && p.r.StreamOptions.IncludeUsage
	for i, choice := range a.Choices {
		if begin(i) != nil {
			return
		}
		out := chunk
		out.Choices = []runnerapi.ChunkChoice{{Index: i, FinishReason: &choice.FinishReason}}
		if i == len(a.Choices)-1 && !wantUsage {
			out.Bind = bind
		}
		if events.send(out) != nil {
			return
		}
	}
	if wantUsage {
		chunk.Usage, chunk.Bind = &usage, bind
		if events.send(chunk) != nil {
			return
		}
	}
	_ = events.write("data: [DONE]\n\n") // the client may have left
}

// streamError ends a stream with its error: as a status while nothing is out,
// else as an event, without [DONE].
func (s *Server) streamError(c *gin.Context, events *eventStream, err error) {
	if !events.begun {
		writeError(c, err)
		return
	}
	body, status := httpapi.ErrorOf(err)
	level := slog.LevelInfo
	if imagebind.KindOf(err) == imagebind.Internal {
		level = slog.LevelError
	}
	slog.Log(c.Request.Context(), level, "stream ended with an error", "status", status, "request_id", httpapi.RequestID(c.Request.Context()), "err", err)
	_ = events.send(body) // the client may have left
}
