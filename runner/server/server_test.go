package server

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/legacy"

	imagebind "imagebind-llm"
	"imagebind-llm/runner/bundle"
	"imagebind-llm/runner/generate"
	"imagebind-llm/runner/media"
	"imagebind-llm/runner/pipeline"
	"imagebind-llm/runner/prompt"
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
	return []string{"image", "audio", "text"}
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

// transcript holds an answer, without what differs each time, against a file.
func transcript(t *testing.T, name string, raw []byte) {
	t.Helper()
	raw = regexp.MustCompile(`chatcmpl-[0-9a-f-]{36}`).ReplaceAll(raw, []byte("chatcmpl-ID"))
	raw = regexp.MustCompile(`"created":\d{10}`).ReplaceAll(raw, []byte(`"created":0`))
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, raw, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(raw, want) {
		t.Errorf("%s differs; got\n%s\nwant\n%s", name, raw, want)
	}
}

const picture = `{"type":"image_url","image_url":{"url":"data:image/png;base64,aW1n"}}`

func TestTranscripts(t *testing.T) {
	s := newSite(t, &fake{}, Options{})
	const messages = `"messages":[{"role":"user","content":[{"type":"text","text":"What is this?"},` + picture + `]}]`
	for _, tt := range []struct{ file, body string }{
		{"plain.json", `{"messages":[{"role":"user","content":"Hello"}]}`},
		{"picture.json", `{"model":"tiny",` + messages + `,"include":["neighbours"]}`},
		{"choices.json", `{` + messages + `,"n":2,"cache":{"enabled":false}}`},
		{"logprobs.json", `{` + messages + `,"logprobs":true,"top_logprobs":2}`},
		{"picture.sse", `{` + messages + `,"stream":true,"include":["neighbours"]}`},
		{"usage.sse", `{` + messages + `,"stream":true,"stream_options":{"include_usage":true},"logprobs":true}`},
		{"choices.sse", `{"messages":[{"role":"user","content":"Hello"}],"stream":true,"n":2}`},
	} {
		t.Run(tt.file, func(t *testing.T) {
			status, raw := s.post("/v1/chat/completions", tt.body)
			if status != http.StatusOK {
				t.Fatalf("%d: %s", status, raw)
			}
			transcript(t, tt.file, raw)
			if strings.HasSuffix(tt.file, ".sse") {
				s.chunks(t, raw)
			}
		})
	}
}

// chunks holds every event of a stream against the document.
func (s *site) chunks(t *testing.T, raw []byte) []runnerapi.ChatChunk {
	t.Helper()
	doc, err := openapi3.NewLoader().LoadFromData(openapiJSON())
	if err != nil {
		t.Fatal(err)
	}
	schema := doc.Components.Schemas["ChatChunk"].Value
	var out []runnerapi.ChatChunk
	events := strings.Split(strings.TrimSuffix(string(raw), "\n\n"), "\n\n")
	for i, e := range events {
		data, ok := strings.CutPrefix(e, "data: ")
		if !ok || strings.Contains(data, "\n") {
			t.Fatalf("event %q", e)
		}
		if i == len(events)-1 {
			if data != "[DONE]" {
				t.Errorf("the last event is %s", data)
			}
			return out
		}
		var v any
		var chunk runnerapi.ChatChunk
		if err := errors.Join(json.Unmarshal([]byte(data), &v), json.Unmarshal([]byte(data), &chunk)); err != nil {
			t.Fatal(err)
		}
		if err := schema.VisitJSON(v); err != nil {
			t.Errorf("%s: %v", data, err)
		}
		out = append(out, chunk)
	}
	return out
}

func TestTimings(t *testing.T) {
	s := newSite(t, &fake{}, Options{})
	status, raw := s.post("/v1/chat/completions", `{"messages":[{"role":"user","content":"hi"}],"include":["timings"]}`)
	var r runnerapi.ChatResponse
	if err := json.Unmarshal(raw, &r); err != nil || status != http.StatusOK {
		t.Fatalf("%d: %s", status, raw)
	}
	if m := r.Bind.Timings; m["encode"] != 12 || m["encode_image"] != 12 || m["total"] < 34.567 || len(m) != 10 {
		t.Errorf("%v", m)
	}
}

// TestQuery looks at the query that requests become.
func TestQuery(t *testing.T) {
	f := &fake{}
	s := newSite(t, f, Options{})
	user := func(parts string) string {
		return `{"role":"user","content":[{"type":"text","text":"q"},` + parts + `]}`
	}
	part := func(modality, data string, weight float32, param string) pipeline.Part {
		return pipeline.Part{Modality: modality, Data: []byte(data), Weight: weight, Param: param}
	}
	bind := func(text string) string { return `{"type":"bind_text","bind_text":{"text":"` + text + `"}}` }
	texts := func(m ...string) (out []prompt.Message) {
		for i := 0; i < len(m); i += 2 {
			out = append(out, prompt.Message{Role: m[i], Content: m[i+1]})
		}
		return out
	}
	embedding := pipeline.Part{Modality: "depth", Embedding: imagebind.Embedding{1, 0}, Weight: 1, Param: "messages[0].content[1]"}
	for _, tt := range []struct {
		name, messages string
		texts          []prompt.Message
		parts          []pipeline.Part
	}{
		{"text alone", `{"role":"user","content":"hi"}`, texts("user", "hi"), nil},
		{"texts are joined", `{"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]}`, texts("user", "a\nb"), nil},
		{"roles", `{"role":"developer","content":"s"},{"role":"user","content":"a"},{"role":"assistant","content":"b"},{"role":"user","content":"c"}`,
			texts("developer", "s", "user", "a", "assistant", "b", "user", "c"), nil},
		{"kinds and weights", user(picture[:len(picture)-1] + `,"weight":0.7},` + bind("rain") + `,{"type":"input_audio","input_audio":{"data":"d2F2","format":"wav"}},{"type":"audio_url","audio_url":{"url":"data:,wav2"}}`),
			texts("user", "q"), []pipeline.Part{part("image", "img", 0.7, "messages[0].content[1].image_url.url"), part("text", "rain", 1, "messages[0].content[2]"),
				part("audio", "wav", 1, "messages[0].content[3].input_audio.data"), part("audio", "wav2", 1, "messages[0].content[4].audio_url.url")}},
		{"embedding", user(`{"type":"embedding","embedding":{"data":[1,0],"modality":"depth"}}`), texts("user", "q"), []pipeline.Part{embedding}},
		{"the latest turn that has media", user(bind("old")) + `,{"role":"assistant","content":"a"},` + user(bind("new")) + `,{"role":"assistant","content":"b"},{"role":"user","content":"c"}`,
			texts("user", "q", "assistant", "a", "user", "q", "assistant", "b", "user", "c"), []pipeline.Part{part("text", "new", 1, "messages[2].content[1]")}},
		{"a turn of two messages", user(bind("one")) + `,` + user(bind("two")), texts("user", "q", "user", "q"),
			[]pipeline.Part{part("text", "one", 1, "messages[0].content[1]"), part("text", "two", 1, "messages[1].content[1]")}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if status, raw := s.post("/v1/chat/completions", `{"messages":[`+tt.messages+`]}`); status != http.StatusOK {
				t.Fatalf("%d: %s", status, raw)
			}
			if !reflect.DeepEqual(f.query.Messages, tt.texts) {
				t.Errorf("messages %+v", f.query.Messages)
			}
			if len(f.query.Parts) != len(tt.parts) || len(tt.parts) > 0 && !reflect.DeepEqual(f.query.Parts, tt.parts) {
				t.Errorf("parts %+v, want %+v", f.query.Parts, tt.parts)
			}
		})
	}

	s.post("/v1/chat/completions", `{"messages":[{"role":"user","content":"hi"}],"max_tokens":7,"temperature":0,"top_p":0.5,"seed":-1,"stop":["a","b"],"n":3,"user":"u","tools":[],
		"logprobs":true,"top_logprobs":4,"cache":{"enabled":false,"collection":"pets","k":3,"temperature":5,"weight":0.25},"include":["neighbours"]}`)
	q := f.query
	if seed := q.Generate.Sample.Seed; seed == nil || *seed != math.MaxUint64 {
		t.Errorf("seed %v", seed)
	}
	q.Generate.Sample.Seed = nil
	want := pipeline.Query{Messages: q.Messages, Parts: q.Parts, N: 3, Neighbours: true, Cache: pipeline.Cache{Collection: "pets", EnhanceParams: imagebind.EnhanceParams{K: 3, Temperature: 5, Weight: 0.25}}}
	want.Generate = generate.Request{MaxTokens: 7, Stop: []string{"a", "b"}, Logprobs: true, TopLogprobs: 4, Sample: sample.Params{TopP: 0.5}}
	if !reflect.DeepEqual(q, want) {
		t.Errorf("got %+v\nwant %+v", q, want)
	}
	s.post("/v1/chat/completions", `{"messages":[{"role":"user","content":"hi"}],"max_tokens":7,"max_completion_tokens":9}`)
	if f.query.Generate.MaxTokens != 9 || f.query.Generate.Sample != sample.Default() || !f.query.Cache.Enabled {
		t.Errorf("%+v", f.query)
	}
}

func TestChatRefuses(t *testing.T) {
	s := newSite(t, &fake{answer: func(context.Context, pipeline.Query, func(pipeline.Event) error) (pipeline.Answer, error) {
		return pipeline.Answer{}, errors.New("the pipeline was asked")
	}}, Options{MaxParts: 2, MaxFile: 8})
	content := func(parts string) string { return `{"messages":[{"role":"user","content":[` + parts + `]}]}` }
	weighted := func(w string) string { return content(picture[:len(picture)-1] + `,"weight":` + w + `}`) }
	hello := func(fields string) string {
		return `{"messages":[{"role":"user","content":"hi"}],` + fields + `}`
	}
	for _, tt := range []struct {
		name, body   string
		status       int
		param, words string
	}{
		{"no body", ``, 400, "", "empty"},
		{"no JSON", `{`, 400, "", "JSON"},
		{"model", hello(`"model":"gpt-4"`), 404, "model", "`gpt-4` does not exist"},
		{"temperature", hello(`"temperature":2.1`), 400, "temperature", "0 to 2"},
		{"temperature below", hello(`"temperature":-1`), 400, "temperature", "0 to 2"},
		{"top_p", hello(`"top_p":1.1`), 400, "top_p", "0 to 1"},
		{"max_tokens", hello(`"max_tokens":0`), 400, "max_tokens", "at least 1"},
		{"max_completion_tokens", hello(`"max_completion_tokens":-1`), 400, "max_completion_tokens", "at least 1"},
		{"stops", hello(`"stop":["a"` + strings.Repeat(`,"a"`, 16) + `]`), 400, "stop", "at most 16"},
		{"top_logprobs alone", hello(`"top_logprobs":2`), 400, "top_logprobs", "logprobs"},
		{"top_logprobs", hello(`"logprobs":true,"top_logprobs":21`), 400, "top_logprobs", "0 to 20"},
		{"include", hello(`"include":["weather"]`), 400, "include", "weather"},
		{"weight 0", weighted("0"), 400, "messages[0].content[0].weight", "positive"},
		{"weight below 0", weighted("-1"), 400, "messages[0].content[0].weight", "positive"},
		{"weight NaN", weighted("NaN"), 400, "", "JSON"},
		{"weight as a text", weighted(`"NaN"`), 400, "messages[0].content[0].weight", "number"},
		{"weight too large", weighted("1e300"), 400, "messages[0].content[0].weight", "positive"},
		{"weight too small", weighted("1e-300"), 400, "messages[0].content[0].weight", "positive"},
		{"unknown part", content(`{"type":"smell","smell":{}}`), 400, "messages[0].content[0]", "text, image_url, audio_url, bind_text, input_audio, embedding"},
		{"a modality that is not here", content(`{"type":"video_url","video_url":{"url":"data:,x"}}`), 415, "messages[0].content[0]", "it has image, audio, text"},
		{"bad base64", content(`{"type":"image_url","image_url":{"url":"data:image/png;base64,!!"}}`), 400, "messages[0].content[0].image_url.url", "base64"},
		{"bad sound", content(`{"type":"input_audio","input_audio":{"data":"!!","format":"wav"}}`), 400, "messages[0].content[0].input_audio.data", "base64"},
		{"data URL too large", content(`{"type":"image_url","image_url":{"url":"data:,123456789"}}`), 413, "messages[0].content[0].image_url.url", "8 bytes"},
		{"sound too large", content(`{"type":"input_audio","input_audio":{"data":"MTIzNDU2Nzg5"}}`), 413, "messages[0].content[0].input_audio.data", "8 bytes"},
		{"file: is off", content(`{"type":"image_url","image_url":{"url":"file:///etc/passwd"}}`), 400, "messages[0].content[0].image_url.url", "off"},
		{"http is off", content(`{"type":"image_url","image_url":{"url":"http://127.0.0.1/x"}}`), 400, "messages[0].content[0].image_url.url", "off"},
		{"no URL", content(`{"type":"image_url","image_url":{"url":""}}`), 400, "messages[0].content[0].image_url.url", "no URL"},
		{"parts", content(picture + `,` + picture + `,` + picture), 413, "messages", "at most 2"},
		{"embedding without data", content(`{"type":"embedding","embedding":{}}`), 400, "messages[0].content[0].embedding", "no data"},
		{"embedding's modality", content(`{"type":"embedding","embedding":{"data":[1],"modality":"<b>"}}`), 400, "messages[0].content[0].embedding.modality", "modality"},
		{"media of the assistant", `{"messages":[{"role":"assistant","content":[` + picture + `]},{"role":"user","content":"hi"}]}`, 400, "messages[0].content[0].image_url.url", "user's"},
		{"an error within", hello(`"n":1`), 500, "", "internal error"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			status, raw := s.post("/v1/chat/completions", tt.body)
			s.refused(status, raw, tt.status, tt.param, tt.words)
		})
	}
	_, raw := s.post("/v1/chat/completions", hello(`"model":"gpt-4"`))
	if !bytes.Contains(raw, []byte(`"type":"invalid_request_error"`)) || !bytes.Contains(raw, []byte(`"code":"model_not_found"`)) {
		t.Errorf("%s", raw)
	}
}

// TestFiles reads file: URLs below the media root, and holds the sum of a
// request's files against the limit of a body.
func TestFiles(t *testing.T) {
	root := t.TempDir()
	if err := os.WriteFile(filepath.Join(root, "dog.jpg"), []byte("0123456789"), 0o644); err != nil {
		t.Fatal(err)
	}
	fetcher, err := media.New(media.Options{Root: root})
	if err != nil {
		t.Fatal(err)
	}
	defer fetcher.Close()
	f := &fake{}
	s := newSite(t, f, Options{Media: fetcher, MaxBody: 1000, MaxParts: 1000})
	dog := `{"type":"image_url","image_url":{"url":"file:dog.jpg"}}`
	if status, raw := s.post("/v1/chat/completions", `{"messages":[{"role":"user","content":[`+dog+`]}]}`); status != http.StatusOK || string(f.query.Parts[0].Data) != "0123456789" {
		t.Errorf("%d: %s", status, raw)
	}
	sources := make([]source, 101)
	for i := range sources {
		if sources[i], err = s.server.source(runnerapi.Media("image_url", "file:dog.jpg"), "p"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.server.load(t.Context(), sources); imagebind.KindOf(err) != imagebind.TooLarge {
		t.Errorf("1010 bytes of files: %v", err)
	}
	if _, err := s.server.load(t.Context(), sources[:100]); err != nil {
		t.Error(err)
	}
}

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

// TestStreamErrors has an answer fail before and after its first text.
func TestStreamErrors(t *testing.T) {
	const body = `{"messages":[{"role":"user","content":"hi"}],"stream":true}`
	f := &fake{}
	s := newSite(t, f, Options{})
	busy := imagebind.Errorf(imagebind.Busy, "try again later")
	f.answer = func(context.Context, pipeline.Query, func(pipeline.Event) error) (pipeline.Answer, error) {
		return pipeline.Answer{}, busy
	}
	resp, raw := s.do(http.MethodPost, "/v1/chat/completions", "application/json", strings.NewReader(body))
	s.refused(resp.StatusCode, raw, 429, "", "later")
	if resp.Header.Get("Retry-After") == "" || resp.Header.Get("Content-Type") != "application/json; charset=utf-8" {
		t.Errorf("%v", resp.Header)
	}
	f.answer = func(_ context.Context, q pipeline.Query, emit func(pipeline.Event) error) (pipeline.Answer, error) {
		if err := emit(pipeline.Event{Event: generate.Event{Text: "A "}}); err != nil {
			return pipeline.Answer{}, err
		}
		return pipeline.Answer{}, context.DeadlineExceeded
	}
	status, raw := s.post("/v1/chat/completions", body)
	if status != http.StatusOK || bytes.Contains(raw, []byte("[DONE]")) {
		t.Errorf("%d: %s", status, raw)
	}
	transcript(t, "error.sse", raw)
	// An answer without text still has its role and its end.
	f.answer = func(context.Context, pipeline.Query, func(pipeline.Event) error) (pipeline.Answer, error) {
		return pipeline.Answer{Choices: []generate.Result{{FinishReason: generate.FinishLength}}}, nil
	}
	_, raw = s.post("/v1/chat/completions", body)
	chunks := s.chunks(t, raw)
	if len(chunks) != 2 || chunks[0].Choices[0].Delta.Role != "assistant" || *chunks[1].Choices[0].FinishReason != "length" || chunks[1].Bind == nil {
		t.Errorf("%s", raw)
	}
}

// TestLeaving has the client go while the answer is under way: the pipeline's
// context ends.
func TestLeaving(t *testing.T) {
	for _, stream := range []string{"true", "false"} {
		begun, over := make(chan struct{}), make(chan error, 1)
		f := &fake{answer: func(ctx context.Context, q pipeline.Query, emit func(pipeline.Event) error) (pipeline.Answer, error) {
			if emit != nil {
				_ = emit(pipeline.Event{Event: generate.Event{Text: "A "}})
			}
			close(begun)
			<-ctx.Done()
			over <- ctx.Err()
			return pipeline.Answer{}, ctx.Err()
		}}
		s := newSite(t, f, Options{})
		ctx, leave := context.WithCancel(t.Context())
		body, contentType := multi(t, "prompt", "hi", "@image", "img", "stream", stream)
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url+"/v1/ask", body)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", contentType)
		go func() { <-begun; leave() }()
		if resp, err := http.DefaultClient.Do(req); err == nil {
			_, _ = io.ReadAll(resp.Body)
			resp.Body.Close()
		}
		select {
		case err := <-over:
			if !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("the answer goes on for a client that left")
		}
	}
}

// TestTimeout has an answer take longer than a request may.
func TestTimeout(t *testing.T) {
	f := &fake{answer: func(ctx context.Context, _ pipeline.Query, _ func(pipeline.Event) error) (pipeline.Answer, error) {
		<-ctx.Done()
		return pipeline.Answer{}, ctx.Err()
	}}
	s := newSite(t, f, Options{Timeout: 20 * time.Millisecond})
	status, raw := s.post("/v1/chat/completions", `{"messages":[{"role":"user","content":"hi"}]}`)
	s.refused(status, raw, 504, "", "too long")
}

// TestHeartbeat lets a queue take a minute, in a bubble's time.
func TestHeartbeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{answer: func(_ context.Context, q pipeline.Query, emit func(pipeline.Event) error) (pipeline.Answer, error) {
			time.Sleep(50 * time.Second)
			return dog(q, emit)
		}}
		server, err := New(Options{Pipeline: f})
		if err != nil {
			t.Fatal(err)
		}
		w := httptest.NewRecorder()
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/v1/chat/completions", strings.NewReader(`{"messages":[{"role":"user","content":"hi"}],"stream":true}`))
		server.ServeHTTP(w, r)
		if got := strings.Count(w.Body.String(), ": still there\n\n"); got != 3 || !strings.HasSuffix(w.Body.String(), "[DONE]\n\n") {
			t.Errorf("%d heartbeats in %s", got, w.Body)
		}
	})
}

// multi writes a multipart body of names and values; a file's name has an @ before.
func multi(t *testing.T, fields ...string) (io.Reader, string) {
	t.Helper()
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	for i := 0; i < len(fields); i += 2 {
		var to io.Writer
		var err error
		if name, file := strings.CutPrefix(fields[i], "@"); file {
			to, err = w.CreateFormFile(name, name+".bin")
		} else {
			to, err = w.CreateFormField(name)
		}
		if err == nil {
			_, err = io.WriteString(to, fields[i+1])
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &b, w.FormDataContentType()
}

func TestAsk(t *testing.T) {
	f := &fake{}
	s := newSite(t, f, Options{})
	body, contentType := multi(t, "image_weight", "3", "prompt", "What is this?", "@image", "one", "bind_text", "rain", "@image", "two", "image_weight", "0.5", "@audio", "wav",
		"system", "Be brief.", "temperature", "0", "max_tokens", "9", "seed", "4", "stop", "\n", "n", "2", "top_p", "0.5", "cache", `{"k":3}`, "include", "neighbours, timings", "logprobs", "on", "top_logprobs", "1")
	resp, raw := s.do(http.MethodPost, "/v1/ask", contentType, body)
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("%d: %s", resp.StatusCode, raw)
	}
	var a runnerapi.ChatResponse
	if err := json.Unmarshal(raw, &a); err != nil || len(a.Choices) != 2 || len(a.Bind.Neighbours) != 2 || a.Bind.Timings == nil || a.Choices[1].Message.Content != "A dog." {
		t.Errorf("%v: %s", err, raw)
	}
	q := f.query
	wantParts := []pipeline.Part{{Modality: "image", Data: []byte("one"), Weight: 3, Param: "image"}, {Modality: "text", Data: []byte("rain"), Weight: 1, Param: "bind_text"},
		{Modality: "image", Data: []byte("two"), Weight: 0.5, Param: "image"}, {Modality: "audio", Data: []byte("wav"), Weight: 1, Param: "audio"}}
	if !reflect.DeepEqual(q.Parts, wantParts) {
		t.Errorf("parts %+v", q.Parts)
	}
	if want := []prompt.Message{{Role: "system", Content: "Be brief."}, {Role: "user", Content: "What is this?"}}; !reflect.DeepEqual(q.Messages, want) {
		t.Errorf("messages %+v", q.Messages)
	}
	g := q.Generate
	if g.Sample.Temperature != 0 || g.Sample.TopP != 0.5 || *g.Sample.Seed != 4 || g.MaxTokens != 9 || !slices.Equal(g.Stop, []string{"\n"}) || q.Cache.K != 3 || !g.Logprobs || g.TopLogprobs != 1 {
		t.Errorf("%+v", q)
	}

	body, contentType = multi(t, "prompt", "hi", "stream", "true", "stream_options", `{"include_usage":true}`)
	resp, raw = s.do(http.MethodPost, "/v1/ask", contentType, body)
	if chunks := s.chunks(t, raw); resp.Header.Get("Content-Type") != "text/event-stream" || chunks[len(chunks)-1].Usage == nil || len(f.query.Parts) > 0 {
		t.Errorf("%s", raw)
	}
}

func TestAskRefuses(t *testing.T) {
	s := newSite(t, &fake{}, Options{MaxFile: 8, MaxParts: 2})
	for _, tt := range []struct {
		name         string
		fields       []string
		status       int
		param, words string
	}{
		{"no prompt", []string{"@image", "img"}, 400, "prompt", "prompt"},
		{"an unknown field", []string{"prompt", "hi", "imge", "x"}, 400, "imge", "bind_text_weight"},
		{"an unknown file", []string{"prompt", "hi", "@smell", "x"}, 415, "smell", "it has image, audio, text"},
		{"a modality that is not here", []string{"prompt", "hi", "@video", "x"}, 415, "video", "it has image, audio, text"},
		{"its weight", []string{"prompt", "hi", "video_weight", "1"}, 400, "video_weight", "unknown"},
		{"a name for a file", []string{"prompt", "hi", "image", "dog.jpg"}, 400, "image", "-F image=@FILE"},
		{"a large file", []string{"prompt", "hi", "@image", "123456789"}, 413, "image", "8 bytes"},
		{"many files", []string{"prompt", "hi", "@image", "1", "@image", "2", "@image", "3"}, 413, "image", "2 media"},
		{"weight no number", []string{"prompt", "hi", "@image", "1", "image_weight", "heavy"}, 400, "image_weight", "number"},
		{"weight 0", []string{"prompt", "hi", "@image", "1", "image_weight", "0"}, 400, "image_weight", "positive"},
		{"weight NaN", []string{"prompt", "hi", "@image", "1", "image_weight", "NaN"}, 400, "image_weight", "positive"},
		{"weight infinite", []string{"prompt", "hi", "@image", "1", "image_weight", "Inf"}, 400, "image_weight", "positive"},
		{"one weight for two", []string{"prompt", "hi", "@image", "1", "@image", "2", "image_weight", "1"}, 400, "image_weight", "one for each"},
		{"a weight for nothing", []string{"prompt", "hi", "bind_text_weight", "1"}, 400, "bind_text_weight", "0 of bind_text"},
		{"temperature", []string{"prompt", "hi", "temperature", "NaN"}, 400, "temperature", "0 to 2"},
		{"temperature no number", []string{"prompt", "hi", "temperature", ""}, 400, "temperature", "number"},
		{"n", []string{"prompt", "hi", "n", "1.5"}, 400, "n", "integer"},
		{"seed", []string{"prompt", "hi", "seed", "x"}, 400, "seed", "integer"},
		{"stream", []string{"prompt", "hi", "stream", "perhaps"}, 400, "stream", "true nor false"},
		{"cache", []string{"prompt", "hi", "cache", "off"}, 400, "cache", "JSON object"},
		{"cache k", []string{"prompt", "hi", "cache", `{"k":"x"}`}, 400, "k", "integer"},
		{"cache array", []string{"prompt", "hi", "cache", `[]`}, 400, "cache", "object"},
		{"include", []string{"prompt", "hi", "include", "neighbours,weather"}, 400, "include", "weather"},
		{"model", []string{"prompt", "hi", "model", "x"}, 404, "model", "does not exist"},
		{"a large field", []string{"prompt", strings.Repeat("a", maxField+1)}, 413, "prompt", "bytes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			body, contentType := multi(t, tt.fields...)
			resp, raw := s.do(http.MethodPost, "/v1/ask", contentType, body)
			s.refused(resp.StatusCode, raw, tt.status, tt.param, tt.words)
		})
	}
	resp, raw := s.do(http.MethodPost, "/v1/ask", "application/json", strings.NewReader(`{}`))
	s.refused(resp.StatusCode, raw, 400, "", "multipart/form-data")
	resp, raw = s.do(http.MethodPost, "/v1/ask", "multipart/form-data; boundary=x", strings.NewReader("--x\r\nContent-Disposition: form-data; name=\"prompt\"\r\n\r\nhi"))
	s.refused(resp.StatusCode, raw, 400, "prompt", "read")
	many := make([]string, 0, 2*maxFields+4)
	for range maxFields + 1 {
		many = append(many, "stop", "x")
	}
	body, contentType := multi(t, many...)
	resp, raw = s.do(http.MethodPost, "/v1/ask", contentType, body)
	s.refused(resp.StatusCode, raw, 413, "stop", "fields")
}

// TestAskBrowser sends what a browser's form does: an empty file input, blobs.
func TestAskBrowser(t *testing.T) {
	f := &fake{}
	s := newSite(t, f, Options{})
	body := "--x\r\nContent-Disposition: form-data; name=\"prompt\"\r\n\r\nhi\r\n" +
		"--x\r\nContent-Disposition: form-data; name=\"image\"; filename=\"\"\r\nContent-Type: application/octet-stream\r\n\r\n\r\n" +
		"--x\r\nContent-Disposition: form-data; name=\"audio\"\r\nContent-Type: audio/wav\r\n\r\nwav\r\n--x--\r\n"
	resp, raw := s.do(http.MethodPost, "/v1/ask", "multipart/form-data; boundary=x", strings.NewReader(body))
	if resp.StatusCode != http.StatusOK || len(f.query.Parts) != 1 || string(f.query.Parts[0].Data) != "wav" {
		t.Errorf("%d: %s; %+v", resp.StatusCode, raw, f.query.Parts)
	}
}

func TestEmbeddings(t *testing.T) {
	f := &fake{}
	s := newSite(t, f, Options{})
	embed := func(body string) runnerapi.EmbeddingResponse {
		t.Helper()
		status, raw := s.post("/v1/embeddings", body)
		var r runnerapi.EmbeddingResponse
		if err := json.Unmarshal(raw, &r); err != nil || status != http.StatusOK {
			t.Fatalf("%d: %s", status, raw)
		}
		return r
	}
	text := func(s, param string) pipeline.Part {
		return pipeline.Part{Modality: "text", Data: []byte(s), Weight: 1, Param: param}
	}
	for body, want := range map[string][][]pipeline.Part{
		`"a dog"`:   {{text("a dog", "input[0]")}},
		`["a","b"]`: {{text("a", "input[0]")}, {text("b", "input[1]")}},
		`[{"content":"c"},{"content":[{"type":"text","text":"d"},` + picture[:len(picture)-1] + `,"weight":2}]}]`: {{text("c", "input[0]")},
			{text("d", "input[1].content[0]"), {Modality: "image", Data: []byte("img"), Weight: 2, Param: "input[1].content[1].image_url.url"}}},
	} {
		r := embed(`{"model":"tiny","input":` + body + `}`)
		if !reflect.DeepEqual(f.embed, pipeline.EmbedRequest{Items: want}) {
			t.Errorf("%s: %+v", body, f.embed)
		}
		if len(r.Data) != len(want) || r.Data[len(want)-1].Index != len(want)-1 || !slices.Equal(r.Data[len(want)-1].Embedding, runnerapi.Vector{float32(len(want) - 1), 1}) || r.Data[0].Bind != nil {
			t.Errorf("%+v", r)
		}
	}
	_, raw := s.post("/v1/embeddings", `{"input":"a","encoding_format":"base64","dimensions":2}`)
	if !bytes.Contains(raw, []byte(`"embedding":"`+base64.StdEncoding.EncodeToString([]byte{0, 0, 0, 0, 0, 0, 0x80, 0x3f})+`"`)) {
		t.Errorf("%s", raw)
	}
	r := embed(`{"input":"a","cache":{"k":4},"include":["neighbours"]}`)
	if c := f.embed.Cache; c == nil || !c.Enabled || c.K != 4 || c.Collection != "default" || !r.Data[0].Bind.Cache.Applied || r.Data[0].Bind.Neighbours[0].ID != "7" {
		t.Errorf("%+v, %+v", f.embed, r)
	}
	embed(`{"input":"a","cache":{"enabled":false}}`)
	if f.embed.Cache.Enabled {
		t.Error("a cache that is off")
	}
	for _, tt := range []struct {
		name, body   string
		status       int
		param, words string
	}{
		{"no input", `{}`, 400, "input", "empty"},
		{"no inputs", `{"input":[]}`, 400, "input", "empty"},
		{"token ids", `{"input":[1,2]}`, 400, "input[0]", "token ids"},
		{"an empty text", `{"input":["a",""]}`, 400, "input[1]", "empty"},
		{"no parts", `{"input":[{"content":[]}]}`, 400, "input[0].content", "1 to 64"},
		{"a bad part", `{"input":[{"content":[{"type":"image_url","image_url":{"url":"x"}}]}]}`, 400, "input[0].content[0].image_url.url", "URL"},
		{"format", `{"input":"a","encoding_format":"int8"}`, 400, "encoding_format", "int8"},
		{"dimensions", `{"input":"a","dimensions":1}`, 400, "dimensions", "have 2"},
		{"model", `{"input":"a","model":"x"}`, 404, "model", "does not exist"},
		{"include", `{"input":"a","include":["x"]}`, 400, "include", "x"},
		{"parts in all", `{"input":[` + strings.TrimSuffix(strings.Repeat(`{"content":[`+strings.TrimSuffix(strings.Repeat(`{"type":"text","text":"a"},`, 64), ",")+`]},`, 65), ",") + `]}`, 413, "input", "in all"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			status, raw := s.post("/v1/embeddings", tt.body)
			s.refused(status, raw, tt.status, tt.param, tt.words)
		})
	}
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
	if m := list.Data[0]; m.ID != "tiny" || m.Dimensions != 2 || m.MaxContext != 512 || m.MaxTokens != 128 || !slices.Equal(m.Modalities, []string{"image", "audio", "text"}) || m.Licences[0].Licence != "CC BY-NC-SA 4.0" || *m.Cache.K != 10 {
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

// FuzzChat sends arbitrary bodies to the whole handler, which must answer them
// with 200 or a 4xx.
func FuzzChat(f *testing.F) {
	for _, s := range []string{`{"messages":[{"role":"user","content":[{"type":"text","text":"q"},` + picture + `]}],"n":2,"logprobs":true,"top_logprobs":1}`,
		`{"messages":[{"role":"user","content":"hi"}],"stream":true,"stop":"x","cache":{"k":1}}`, `{"messages":[{"content":[{"type":"embedding","embedding":{"data":[1]}}]}]}`} {
		f.Add([]byte(s))
	}
	server, err := New(Options{Pipeline: &fake{answer: func(_ context.Context, q pipeline.Query, emit func(pipeline.Event) error) (pipeline.Answer, error) {
		for _, p := range q.Parts {
			if !(p.Weight > 0) || math.IsInf(float64(p.Weight), 0) || p.Param == "" {
				return pipeline.Answer{}, fmt.Errorf("part %+v", p)
			}
		}
		if q.Generate.Sample.Check() != nil || q.Generate.MaxTokens < 1 {
			return pipeline.Answer{}, fmt.Errorf("query %+v", q)
		}
		q.N = 1
		return dog(q, emit)
	}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		w := httptest.NewRecorder()
		server.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/v1/chat/completions", bytes.NewReader(body)))
		if w.Code != http.StatusOK && (w.Code < 400 || w.Code > 499 || !json.Valid(w.Body.Bytes())) {
			t.Errorf("%d: %s", w.Code, w.Body)
		}
	})
}

// FuzzAsk sends arbitrary forms.
func FuzzAsk(f *testing.F) {
	f.Add([]byte("--x\r\nContent-Disposition: form-data; name=\"prompt\"\r\n\r\nhi\r\n--x\r\nContent-Disposition: form-data; name=\"image\"; filename=\"a\"\r\n\r\nimg\r\n--x--\r\n"))
	f.Add([]byte("--x\r\nContent-Disposition: form-data; name=\"cache\"\r\n\r\n{\"k\":2}\r\n--x\r\nContent-Disposition: form-data; name=\"image_weight\"\r\n\r\n2\r\n--x--\r\n"))
	server, err := New(Options{Pipeline: &fake{}})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		w := httptest.NewRecorder()
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/v1/ask", bytes.NewReader(body))
		r.Header.Set("Content-Type", "multipart/form-data; boundary=x")
		server.ServeHTTP(w, r)
		if w.Code != http.StatusOK && (w.Code < 400 || w.Code > 499 || !json.Valid(w.Body.Bytes())) {
			t.Errorf("%d: %s", w.Code, w.Body)
		}
	})
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
