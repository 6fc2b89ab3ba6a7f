package server

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/legacy"

	imagebind "imagebind-llm"
	"imagebind-llm/runner/bundle"
	"imagebind-llm/runner/generate"
	"imagebind-llm/runner/pipeline"
	"imagebind-llm/runner/runnerapi"
	"imagebind-llm/runner/sample"
)

var update = flag.Bool("update", false, "write the transcripts in testdata anew")

// A fake is a pipeline that answers what a test wants and remembers the query.
type fake struct {
	mu         sync.Mutex
	query      pipeline.Query
	embed      pipeline.EmbedRequest
	modalities []string
	ready      error
	answer     func(ctx context.Context, q pipeline.Query, emit func(pipeline.Event) error) (pipeline.Answer, error)
}

func (f *fake) Answer(ctx context.Context, q pipeline.Query, emit func(pipeline.Event) error) (pipeline.Answer, error) {
	f.mu.Lock()
	f.query = q
	f.mu.Unlock()
	if f.answer != nil {
		return f.answer(ctx, q, emit)
	}
	return dog(q, emit)
}

// dog answers "A dog." in two tokens for every choice, with two neighbours.
func dog(q pipeline.Query, emit func(pipeline.Event) error) (pipeline.Answer, error) {
	a := pipeline.Answer{Timings: pipeline.Timings{Encode: 12 * time.Millisecond, Total: 34*time.Millisecond + 567*time.Microsecond, Encoders: map[string]time.Duration{"image": 12 * time.Millisecond}}}
	for _, p := range q.Parts {
		a.Bind.Modalities = append(a.Bind.Modalities, pipeline.Modality{Type: p.Modality, Weight: p.Weight})
	}
	if q.Cache.Enabled && len(q.Parts) > 0 {
		a.Bind.CacheApplied = true
		if q.Neighbours {
			a.Bind.Neighbours = []imagebind.Neighbour{{ID: "7", Similarity: 0.5, Weight: 0.75, Caption: "a dog <b>", URI: "s3://x/7"}, {ID: "9", Similarity: 0.25, Weight: 0.25}}
		}
	}
	for i := range q.N {
		r := generate.Result{Text: "A dog.", FinishReason: generate.FinishStop, PromptTokens: 5, CompletionTokens: 3}
		for j, text := range []string{"A ", "dog."} {
			var tokens []generate.Token
			if q.Generate.Logprobs {
				tokens = []generate.Token{{Logprob: sample.Logprob{ID: j, Value: -0.5}, Top: []sample.Logprob{{ID: j, Value: -0.5}, {ID: 2, Value: math.Inf(-1)}}}}
				r.Tokens = append(r.Tokens, tokens...)
			}
			if emit != nil {
				if err := emit(pipeline.Event{Choice: i, Event: generate.Event{Text: text, Tokens: tokens}}); err != nil {
					return a, err
				}
			}
		}
		a.Choices = append(a.Choices, r)
	}
	return a, nil
}

func (f *fake) Embed(_ context.Context, r pipeline.EmbedRequest) ([]pipeline.Embedded, error) {
	f.embed = r
	out := make([]pipeline.Embedded, len(r.Items))
	for i, parts := range r.Items {
		out[i].Embedding = imagebind.Embedding{float32(i), 1}
		for _, p := range parts {
			if p.Embedding == nil && len(p.Data) == 0 {
				return nil, imagebind.WithParam(imagebind.Errorf(imagebind.Invalid, "the part is empty"), p.Param)
			}
			out[i].Bind.Modalities = append(out[i].Bind.Modalities, pipeline.Modality{Type: p.Modality, Weight: p.Weight})
		}
		if r.Cache != nil && r.Cache.Enabled {
			out[i].Bind.CacheApplied = true
			out[i].Bind.Neighbours = []imagebind.Neighbour{{ID: "7", Similarity: 0.5, Weight: 1}}
		}
	}
	return out, nil
}

func (f *fake) DefaultQuery() pipeline.Query {
	q := pipeline.Query{N: 1, Cache: pipeline.Cache{Enabled: true, Collection: "default", EnhanceParams: imagebind.DefaultEnhance()}}
	q.Generate.MaxTokens = 128
	q.Generate.Sample = sample.Default()
	return q
}
func (f *fake) Ready(context.Context) error { return f.ready }
func (f *fake) Bundle() *bundle.Bundle {
	return &bundle.Bundle{Manifest: bundle.Manifest{Name: "tiny", Licences: []bundle.Licence{{Part: "imagebind", Name: "CC BY-NC-SA 4.0"}}}}
}
func (f *fake) Modalities() []string {
	if f.modalities != nil {
		return f.modalities
	}
	return []string{"image", "audio", "text", "imu"}
}
func (f *fake) Dim() int     { return 2 }
func (f *fake) Context() int { return 512 }
func (f *fake) TokenBytes(id int) []byte {
	return [][]byte{[]byte("A "), []byte("dog."), {0xe2, 0x82}}[id]
}

func init() { openapi3filter.RegisterBodyDecoder("text/html", openapi3filter.PlainBodyDecoder) }

// A site is a server on a port, whose answers are held against openapi.yaml.
type site struct {
	t      *testing.T
	url    string
	fake   *fake
	server *Server
	router routers.Router
}

func newSite(t *testing.T, f *fake, o Options) *site {
	t.Helper()
	doc, err := openapi3.NewLoader().LoadFromData(openapiJSON())
	if err != nil {
		t.Fatal(err)
	}
	doc.Servers = nil
	s := &site{t: t, fake: f}
	if s.router, err = legacy.NewRouter(doc); err != nil {
		t.Fatal(err)
	}
	o.Pipeline = f
	if s.server, err = New(o); err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(s.server)
	t.Cleanup(srv.Close)
	s.url = srv.URL
	return s
}

// do sends a request and holds the answer against the document.
func (s *site) do(method, path, contentType string, body io.Reader, header ...string) (*http.Response, []byte) {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), method, s.url+path, body)
	if err != nil {
		s.t.Fatal(err)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	route, params, err := s.router.FindRoute(&http.Request{Method: req.Method, URL: req.URL, Header: req.Header})
	if err != nil || strings.HasPrefix(resp.Header.Get("Content-Type"), "text/event-stream") {
		return resp, raw
	}
	in := &openapi3filter.ResponseValidationInput{
		RequestValidationInput: &openapi3filter.RequestValidationInput{Request: req, PathParams: params, Route: route},
		Status:                 resp.StatusCode, Header: resp.Header, Body: io.NopCloser(bytes.NewReader(raw)),
		Options: &openapi3filter.Options{IncludeResponseStatus: true},
	}
	if err := openapi3filter.ValidateResponse(s.t.Context(), in); err != nil {
		s.t.Errorf("%s %s: the answer is not as openapi.yaml says: %v", method, path, err)
	}
	return resp, raw
}

func (s *site) post(path, body string) (int, []byte) {
	s.t.Helper()
	resp, raw := s.do(http.MethodPost, path, "application/json", strings.NewReader(body))
	return resp.StatusCode, raw
}

// refused holds an answer against the error that it should be.
func (s *site) refused(status int, raw []byte, want int, param, words string) {
	s.t.Helper()
	var body struct {
		Error struct {
			Message, Type string
			Param, Code   *string
		}
	}
	if err := json.Unmarshal(raw, &body); err != nil {
		s.t.Fatalf("%d: %s", status, raw)
	}
	got := ""
	if body.Error.Param != nil {
		got = *body.Error.Param
	}
	if status != want || got != param || !strings.Contains(body.Error.Message, words) || body.Error.Type == "" || body.Error.Code == nil {
		s.t.Errorf("%d, want %d; param %q, want %q; %s, want %q in it", status, want, got, param, raw, words)
	}
}

const picture = `{"type":"image_url","image_url":{"url":"data:image/png;base64,aW1n"}}`

func TestBodyLimit(t *testing.T) {
	s := newSite(t, &fake{}, Options{MaxBody: 1000})
	big := `{"messages":[{"role":"user","content":"` + strings.Repeat("a", 1000) + `"}]}`
	status, raw := s.post("/v1/chat/completions", big)
	s.refused(status, raw, 413, "", "bytes")
	for _, path := range []string{"/v1/chat/completions", "/v1/embeddings"} { // without a Content-Length
		resp, raw := s.do(http.MethodPost, path, "application/json", io.MultiReader(strings.NewReader(big)))
		s.refused(resp.StatusCode, raw, 413, "", "1000 bytes")
	}
	body, contentType := multi(t, "prompt", "hi", "@image", strings.Repeat("a", 1000))
	resp, raw := s.do(http.MethodPost, "/v1/ask", contentType, io.MultiReader(body))
	s.refused(resp.StatusCode, raw, 413, "image", "1000 bytes")
}

func TestService(t *testing.T) {
	f := &fake{}
	s := newSite(t, f, Options{})
	get := func(path string, want int) (*http.Response, []byte) {
		t.Helper()
		resp, raw := s.do(http.MethodGet, path, "", nil)
		if resp.StatusCode != want {
			t.Errorf("%s: %d %s", path, resp.StatusCode, raw)
		}
		return resp, raw
	}
	var list runnerapi.ModelList
	_, raw := get("/v1/models", 200)
	if err := json.Unmarshal(raw, &list); err != nil || len(list.Data) != 1 {
		t.Fatalf("%s", raw)
	}
	if m := list.Data[0]; m.ID != "tiny" || m.Dimensions != 2 || m.MaxContext != 512 || m.MaxTokens != 128 || !slices.Equal(m.Modalities, []string{"image", "audio", "text", "imu"}) || len(m.Inputs) != 4 || m.Inputs[3].Part != "imu_url" || m.Inputs[3].Params[0].Name != "rate" || m.Licences[0].Licence != "CC BY-NC-SA 4.0" || *m.Cache.K != 10 {
		t.Errorf("%+v", m)
	}
	get("/v1/models/tiny", 200)
	resp, raw := get("/v1/models/other", 404)
	s.refused(resp.StatusCode, raw, 404, "model", "other")
	get("/healthz", 200)
	get("/readyz", 200)
	f.ready = imagebind.Errorf(imagebind.Unavailable, "the model is warming up")
	_, raw = get("/readyz", 503)
	s.refused(503, raw, 503, "", "warming up")
	f.ready = nil
	s.server.Drain()
	get("/readyz", 503)
	get("/healthz", 200)
	_, raw = get("/openapi.json", 200)
	if !json.Valid(raw) {
		t.Error("openapi.json is no JSON")
	}
	get("/v1/nothing", 404)
	get("/v1/ask", 405)
	resp, _ = s.do(http.MethodGet, "/v1/models", "", nil, "X-Request-Id", "abc")
	if resp.Header.Get("X-Request-Id") != "abc" {
		t.Error("the request's id is not echoed")
	}
	resp, raw = get("/", 200)
	if !strings.Contains(resp.Header.Get("Content-Security-Policy"), "script-src 'self'") || !bytes.Contains(raw, []byte("/assets/app.js")) {
		t.Errorf("%v %s", resp.Header, raw)
	}
	get("/assets/app.js", 200)
	get("/assets/style.css", 200)
	get("/assets/other", 404)
}

func TestKeysAndOrigins(t *testing.T) {
	s := newSite(t, &fake{}, Options{Keys: []string{"one", "two"}})
	for path, open := range map[string]bool{"/": true, "/assets/app.js": true, "/healthz": true, "/readyz": true, "/metrics": true, "/openapi.json": true, "/v1/models": false} {
		resp, raw := s.do(http.MethodGet, path, "", nil)
		if open && resp.StatusCode != http.StatusOK {
			t.Errorf("%s: %d", path, resp.StatusCode)
		}
		if !open {
			s.refused(resp.StatusCode, raw, 401, "", "key")
		}
	}
	if resp, _ := s.do(http.MethodGet, "/v1/models", "", nil, "Authorization", "Bearer two"); resp.StatusCode != http.StatusOK {
		t.Error(resp.Status)
	}
	resp, raw := s.do(http.MethodPost, "/v1/ask", "text/plain", strings.NewReader("x"), "Authorization", "Bearer one", "Sec-Fetch-Site", "cross-site", "Origin", "https://evil.test")
	s.refused(resp.StatusCode, raw, 403, "", "origins")
}

func TestMetrics(t *testing.T) {
	m := NewMetrics()
	f := &fake{answer: func(context.Context, pipeline.Query, func(pipeline.Event) error) (pipeline.Answer, error) {
		m.Queue(3, 2)
		m.Encoded("image", 20*time.Millisecond)
		m.Retrieved(time.Second, imagebind.Errorf(imagebind.Timeout, "slow"))
		m.Prefilled(40, 80*time.Millisecond)
		m.Generated(10, time.Second)
		return pipeline.Answer{Choices: []generate.Result{{FinishReason: generate.FinishStop}}, Bind: pipeline.Bind{Degraded: true, DegradedReason: "the retriever took too long"}}, nil
	}}
	s := newSite(t, f, Options{Metrics: m})
	_, _ = s.fake.answer(t.Context(), pipeline.Query{}, nil) // for its metrics
	_, raw := s.do(http.MethodPost, "/v1/chat/completions", "application/json", strings.NewReader(`{"messages":[{"role":"user","content":"hi"}]}`))
	if !bytes.Contains(raw, []byte(`"degraded":true,"reason":"the retriever took too long"`)) {
		t.Errorf("%s", raw)
	}
	s.do(http.MethodGet, "/secret/path", "", nil)
	_, raw = s.do(http.MethodGet, "/metrics", "", nil)
	for _, line := range []string{
		`runner_requests_total{method="POST",route="/v1/chat/completions",status="200"} 1`, `runner_requests_total{method="GET",route="none",status="404"} 1`,
		`runner_requests_inside 3`, `runner_choices_running 2`, `runner_encode_seconds_count{modality="image"} 2`, `runner_retrieve_seconds_count{outcome="timeout"} 2`,
		`runner_prompt_tokens_total 80`, `runner_generated_tokens_total 20`, `runner_first_token_seconds_count 2`, `runner_token_seconds_sum 0.2`, `runner_degraded_total 1`,
	} {
		if !bytes.Contains(raw, []byte(line+"\n")) {
			t.Errorf("no %s", line)
		}
	}
	if bytes.Contains(raw, []byte("secret")) {
		t.Error("a path that does not exist became a label")
	}
}

// TestClient asks through runnerapi's client.
func TestClient(t *testing.T) {
	s := newSite(t, &fake{}, Options{Keys: []string{"k"}})
	c, err := runnerapi.NewClient(s.url, runnerapi.Options{Key: "k"})
	if err != nil {
		t.Fatal(err)
	}
	r := runnerapi.ChatRequest{Messages: runnerapi.Messages{{Role: "user", Content: runnerapi.Content{Parts: []runnerapi.Part{runnerapi.Text("hi"), runnerapi.BindText("rain").Weighted(2),
		{Type: runnerapi.PartEmbedding, Embedding: &runnerapi.Embedding{Data: runnerapi.Vector{1, 0}}}}}}}}
	var text strings.Builder
	var last runnerapi.ChatChunk
	if err := c.Stream(t.Context(), r, func(e runnerapi.ChatChunk) error {
		if len(e.Choices) > 0 && e.Choices[0].Delta.Content != nil {
			text.WriteString(*e.Choices[0].Delta.Content)
		}
		last = e
		return nil
	}); err != nil || text.String() != "A dog." || last.Bind == nil || len(last.Bind.Modalities) != 2 || last.Bind.Modalities[0].Weight != 2 {
		t.Errorf("%v: %q, %+v", err, text.String(), last)
	}
	if a, err := c.Chat(t.Context(), r); err != nil || a.Choices[0].Message.Content != "A dog." || a.Usage.TotalTokens != 8 {
		t.Errorf("%+v, %v", a, err)
	}
	if m, err := c.Models(t.Context()); err != nil || m[0].ID != "tiny" {
		t.Errorf("%+v, %v", m, err)
	}
	e, err := c.Embed(t.Context(), runnerapi.EmbeddingRequest{Input: runnerapi.Inputs{{Content: runnerapi.Content{Text: "a"}}, {Content: runnerapi.Content{Text: "b"}}}})
	if err != nil || !slices.Equal(e.Data[1].Embedding, runnerapi.Vector{1, 1}) {
		t.Errorf("%+v, %v", e, err)
	}
	if err := c.Ready(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestBusy: a request beyond MaxRequests is refused before its body is read.
func TestBusy(t *testing.T) {
	inside, release := make(chan struct{}), make(chan struct{})
	f := &fake{answer: func(_ context.Context, q pipeline.Query, emit func(pipeline.Event) error) (pipeline.Answer, error) {
		inside <- struct{}{}
		<-release
		return dog(q, emit)
	}}
	s := newSite(t, f, Options{MaxRequests: 1})
	const ask = `{"messages":[{"role":"user","content":"Hi"}]}`
	first := make(chan int, 1)
	go func() {
		resp, err := http.Post(s.url+"/v1/chat/completions", "application/json", strings.NewReader(ask))
		if err != nil {
			first <- 0
			return
		}
		resp.Body.Close()
		first <- resp.StatusCode
	}()
	<-inside
	resp, raw := s.do("POST", "/v1/embeddings", "application/json", strings.NewReader(`no JSON`))
	if resp.StatusCode != http.StatusTooManyRequests || resp.Header.Get("Retry-After") == "" {
		t.Errorf("%d %s", resp.StatusCode, raw)
	}
	close(release)
	if status := <-first; status != http.StatusOK {
		t.Errorf("the first is answered %d", status)
	}
	go func() { <-inside }()
	if resp, raw = s.do("POST", "/v1/chat/completions", "application/json", strings.NewReader(ask)); resp.StatusCode != http.StatusOK {
		t.Errorf("afterwards: %d %s", resp.StatusCode, raw)
	}
}
