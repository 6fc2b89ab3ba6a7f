// Package server answers the runner's HTTP API (docs/api.md, "Runner HTTP")
// with a pipeline. Routes stand here; query.go and settings.go make a pipeline's
// query of a request, chat.go answers it whole or as a stream, ask.go reads forms,
// embeddings.go embeds, metrics.go counts, and openapi.yaml describes all of it.
package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/gin-gonic/gin"

	imagebind "imagebind-llm"
	"imagebind-llm/internal/httpapi"
	"imagebind-llm/runner/bundle"
	"imagebind-llm/runner/media"
	"imagebind-llm/runner/modality/all"
	"imagebind-llm/runner/pipeline"
	"imagebind-llm/runner/runnerapi"
	"imagebind-llm/runner/web"
)

// A Pipeline is what answers. Package pipeline has the one for the service.
type Pipeline interface {
	// Answer answers q. emit, which may be nil, gets the text of all choices as
	// it comes, one call at a time; its error ends the answer.
	Answer(ctx context.Context, q pipeline.Query, emit func(pipeline.Event) error) (pipeline.Answer, error)
	// Embed returns a unit embedding for each item.
	Embed(ctx context.Context, r pipeline.EmbedRequest) ([]pipeline.Embedded, error)
	// DefaultQuery returns what a request that says nothing gets.
	DefaultQuery() pipeline.Query
	// Ready is nil when a query would be answered.
	Ready(ctx context.Context) error
	// Bundle returns what is served.
	Bundle() *bundle.Bundle
	// Modalities names the kinds of input that can be embedded.
	Modalities() []string
	// Dim returns the values of an embedding, 0 without encoders.
	Dim() int
	// Context returns the tokens of prompt and answer together, 0 without a decoder.
	Context() int
	// TokenBytes returns what a token adds to a text: part of a rune, perhaps.
	TokenBytes(id int) []byte
}

var _ Pipeline = (*pipeline.Pipeline)(nil)

// Options of a Server. Pipeline is needed.
type Options struct {
	Pipeline Pipeline
	Media    *media.Fetcher // nil: data: URLs only
	Metrics  *Metrics       // what the Pipeline's Observer is; default a new one
	Keys     []string       // bearer keys; none means no check
	MaxBody  int64          // bytes of a request's body, and of all files it names; default 64 MiB
	MaxFile  int64          // bytes of a file in it; default 32 MiB
	MaxParts int            // media and embeddings of a chat request; default 64
	// MaxRequests bounds the requests whose bodies are held in memory at a time;
	// more are refused as Busy before anything is read. Default 128.
	MaxRequests int
	// MaxInFlight bounds the bytes of bodies, and of the files in them or fetched
	// for them, of all requests together; more are refused as Busy. Default 1 GiB.
	MaxInFlight int64
	Timeout     time.Duration // of a request, queue included; default 5 min
}

// A Server is an http.Handler.
type Server struct {
	o        Options
	p        Pipeline
	model    string
	started  time.Time
	handler  http.Handler
	routes   gin.RoutesInfo
	places   chan struct{}  // one for each request that is let in
	bytes    httpapi.Budget // that those may hold
	draining chan struct{}
	drain    sync.Once
}

// New returns a server of o.Pipeline.
func New(o Options) (*Server, error) {
	if o.MaxBody <= 0 {
		o.MaxBody = 64 << 20
	}
	if o.MaxFile <= 0 {
		o.MaxFile = 32 << 20
	}
	if o.MaxParts <= 0 {
		o.MaxParts = 64
	}
	if o.Timeout <= 0 {
		o.Timeout = 5 * time.Minute
	}
	if o.MaxRequests <= 0 {
		o.MaxRequests = 128
	}
	if o.MaxInFlight <= 0 {
		o.MaxInFlight = 1 << 30
	}
	if o.Metrics == nil {
		o.Metrics = NewMetrics()
	}
	if o.Media == nil {
		var err error
		if o.Media, err = media.New(media.Options{MaxBytes: o.MaxFile}); err != nil {
			return nil, err
		}
	}
	s := &Server{o: o, p: o.Pipeline, model: o.Pipeline.Bundle().Name, started: time.Now(),
		places: make(chan struct{}, o.MaxRequests), draining: make(chan struct{})}
	s.bytes.Size = o.MaxInFlight
	if s.model == "" {
		s.model = "imagebind-llm"
	}
	gin.SetMode(gin.ReleaseMode)
	g := gin.New()
	g.HandleMethodNotAllowed = true
	g.UseRawPath, g.UnescapePathValues = true, true
	g.Use(o.Metrics.observe, s.bounded)
	g.NoRoute(func(c *gin.Context) {
		httpapi.WriteError(c.Writer, c.Request, imagebind.Errorf(imagebind.NotFound, "no route %s; GET /openapi.json lists them", c.Request.URL.Path))
	})
	g.NoMethod(func(c *gin.Context) {
		body, _ := httpapi.ErrorOf(imagebind.Errorf(imagebind.Invalid, "%s is not for %s; GET /openapi.json lists the routes", c.Request.Method, c.Request.URL.Path))
		httpapi.WriteJSON(c.Writer, http.StatusMethodNotAllowed, body)
	})
	g.POST("/v1/chat/completions", s.admitted, s.chat)
	g.POST("/v1/ask", s.admitted, s.ask)
	g.POST("/v1/embeddings", s.admitted, answer(s.embeddings))
	g.GET("/v1/models", answer(s.models))
	g.GET("/v1/models/:model", answer(s.oneModel))
	g.GET("/healthz", answer(func(*gin.Context) (any, error) { return gin.H{"status": "ok"}, nil }))
	g.GET("/readyz", answer(s.ready))
	g.GET("/metrics", gin.WrapH(o.Metrics.handler()))
	g.GET("/openapi.json", func(c *gin.Context) { c.Data(http.StatusOK, "application/json", openapiJSON()) })
	page := gin.WrapH(web.Handler())
	g.GET("/", page)
	for _, p := range web.Assets() {
		g.GET(p, page)
	}
	s.routes = g.Routes()
	origins := http.NewCrossOriginProtection() // a page of another site must not spend this machine's time
	origins.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		body, _ := httpapi.ErrorOf(imagebind.Errorf(imagebind.Invalid, "pages of other origins may not ask this server"))
		httpapi.WriteJSON(w, http.StatusForbidden, body)
	}))
	h := httpapi.WithBodyLimit(g, o.MaxBody)
	h = origins.Handler(h)
	h = httpapi.WithKeys(h, o.Keys, append([]string{"/healthz", "/readyz", "/metrics", "/openapi.json", "/"}, web.Assets()...)...)
	h = httpapi.WithLog(h, nil)
	s.handler = httpapi.WithRequestID(h)
	return s, nil
}

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.handler.ServeHTTP(w, r) }

// Drain makes readiness fail, before a shutdown. Answers under way go on.
func (s *Server) Drain() { s.drain.Do(func() { close(s.draining) }) }

// bounded gives a request its time, the reading of its body included.
func (s *Server) bounded(c *gin.Context) {
	ctx, cancel := context.WithTimeout(c.Request.Context(), s.o.Timeout)
	defer cancel()
	c.Request = c.Request.WithContext(ctx)
	conn := http.NewResponseController(c.Writer)
	if conn.SetReadDeadline(time.Now().Add(s.o.Timeout+time.Second)) == nil { // a test's recorder has none
		defer func() { _ = conn.SetReadDeadline(time.Time{}) }()
	}
	c.Next()
}

// admitted lets a request in before its body is read, or says Busy.
func (s *Server) admitted(c *gin.Context) {
	select {
	case s.places <- struct{}{}:
		defer func() { <-s.places }()
	default:
		writeError(c, imagebind.Errorf(imagebind.Busy, "%d requests are under way, which is all that are let in: try again later", s.o.MaxRequests))
		c.Abort()
		return
	}
	r, hold, err := s.bytes.Holding(c.Request)
	defer hold.Free()
	if err != nil {
		writeError(c, err)
		c.Abort()
		return
	}
	c.Request = r
	c.Next()
}

// answer writes what a handler returns: JSON, or its error.
func answer(h func(*gin.Context) (any, error)) gin.HandlerFunc {
	return func(c *gin.Context) {
		v, err := h(c)
		if err != nil {
			writeError(c, err)
			return
		}
		httpapi.WriteJSON(c.Writer, http.StatusOK, v)
	}
}

// errModel is a model that is not served here.
var errModel = errors.New("model")

// writeError is httpapi's, with the code that OpenAI's clients know for a model.
func writeError(c *gin.Context, err error) {
	if !errors.Is(err, errModel) {
		httpapi.WriteError(c.Writer, c.Request, err)
		return
	}
	body, status := httpapi.ErrorOf(err)
	code := "model_not_found"
	body.Error.Type, body.Error.Code = "invalid_request_error", &code
	httpapi.WriteJSON(c.Writer, status, body)
}

// checkModel takes the served model's name, or none.
func (s *Server) checkModel(name string) error {
	if name == "" || name == s.model {
		return nil
	}
	return &imagebind.Error{Kind: imagebind.NotFound, Message: fmt.Sprintf("The model `%s` does not exist; this server has `%s`", short(name), s.model), Param: "model", Err: errModel}
}

// short is s for an error.
func short(s string) string {
	if len(s) > 100 {
		return s[:100] + "…"
	}
	return s
}

// readBody returns the whole body.
func readBody(r *http.Request) ([]byte, error) {
	b, err := io.ReadAll(r.Body) // at most Options.MaxBody
	if err != nil {
		return nil, bodyError(err)
	}
	return b, nil
}

// bodyError says why a body could not be read.
func bodyError(err error) error {
	var typed *imagebind.Error
	var tooLarge *http.MaxBytesError
	var timeout interface{ Timeout() bool }
	switch {
	case errors.As(err, &typed):
		return typed
	case errors.As(err, &tooLarge):
		return imagebind.Errorf(imagebind.TooLarge, "the body has more than %d bytes, which is the limit", tooLarge.Limit)
	case errors.As(err, &timeout) && timeout.Timeout():
		return imagebind.Errorf(imagebind.Timeout, "the body took too long to arrive")
	}
	return imagebind.Errorf(imagebind.Invalid, "the body cannot be read: %w", err)
}

func (s *Server) entry() runnerapi.Model {
	b := s.p.Bundle()
	m := runnerapi.Model{ID: s.model, Object: "model", Created: s.started.Unix(), OwnedBy: "imagebind-llm",
		Modalities: append([]string{}, s.p.Modalities()...), Dimensions: s.p.Dim(), Fingerprint: b.Fingerprint(), MaxContext: s.p.Context(), Licences: []runnerapi.Licence{}, Inputs: []runnerapi.Kind{}}
	for _, spec := range all.Specs {
		if !slices.Contains(m.Modalities, spec.Name) {
			continue
		}
		k := runnerapi.Kind{Modality: spec.Name, Part: spec.Part, Field: fieldOf(spec.Part), Media: spec.Media, Params: []runnerapi.ParamInfo{}}
		for _, p := range spec.Params {
			k.Params = append(k.Params, runnerapi.ParamInfo{Name: p.Name, Doc: p.Doc, Type: p.Type(), Default: p.Default, Min: p.Min, Max: p.Max})
		}
		m.Inputs = append(m.Inputs, k)
	}
	q := s.p.DefaultQuery()
	m.MaxTokens = q.Generate.MaxTokens
	m.Cache = &runnerapi.Cache{Enabled: &q.Cache.Enabled, Collection: q.Cache.Collection, K: &q.Cache.K, Temperature: &q.Cache.Temperature, Weight: &q.Cache.Weight}
	for _, l := range b.Licences {
		m.Licences = append(m.Licences, runnerapi.Licence{Part: l.Part, Licence: l.Name, Notice: l.Notice})
	}
	return m
}

func (s *Server) models(*gin.Context) (any, error) {
	return runnerapi.ModelList{Object: "list", Data: []runnerapi.Model{s.entry()}}, nil
}

func (s *Server) oneModel(c *gin.Context) (any, error) {
	if err := s.checkModel(c.Param("model")); err != nil {
		return nil, err
	}
	return s.entry(), nil
}

func (s *Server) ready(c *gin.Context) (any, error) {
	select {
	case <-s.draining:
		return nil, imagebind.Errorf(imagebind.Unavailable, "the server is stopping")
	default:
	}
	return gin.H{"status": "ready"}, s.p.Ready(c.Request.Context())
}
