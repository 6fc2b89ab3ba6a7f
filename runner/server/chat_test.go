package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/getkin/kin-openapi/openapi3"

	imagebind "imagebind-llm"
	"imagebind-llm/runner/constrain"
	"imagebind-llm/runner/generate"
	"imagebind-llm/runner/media"
	"imagebind-llm/runner/modality"
	"imagebind-llm/runner/pipeline"
	"imagebind-llm/runner/prompt"
	"imagebind-llm/runner/runnerapi"
	"imagebind-llm/runner/sample"
)

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
	motion := part("imu", "csv", 1, "messages[0].content[1].imu_url.url")
	motion.Params = modality.Params{"rate": 200, "acc_in_g": 1}
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
		{"parameters", user(`{"type":"imu_url","imu_url":{"url":"data:,csv","rate":200,"acc_in_g":true,"detail":"low","window":null}}`), texts("user", "q"), []pipeline.Part{motion}},
		{"a file of any kind", user(`{"type":"media_url","media_url":{"url":"data:,file"}}`), texts("user", "q"), []pipeline.Part{part("", "file", 1, "messages[0].content[1].media_url.url")}},
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

	s.post("/v1/chat/completions", `{"messages":[{"role":"user","content":"hi"}],"max_tokens":7,"temperature":0,"top_p":0.5,"top_k":9,"min_p":0.1,"repetition_penalty":1.2,"frequency_penalty":0.5,"presence_penalty":-1,"seed":-1,"stop":["a","b"],"n":3,"user":"u","tools":[],
		"logprobs":true,"top_logprobs":4,"cache":{"enabled":false,"collection":"pets","k":3,"temperature":5,"weight":0.25},"include":["neighbours"]}`)
	q := f.query
	if seed := q.Generate.Sample.Seed; seed == nil || *seed != math.MaxUint64 {
		t.Errorf("seed %v", seed)
	}
	q.Generate.Sample.Seed = nil
	if q.Client != "127.0.0.1" {
		t.Errorf("the client is %q", q.Client)
	}
	want := pipeline.Query{Client: q.Client, Messages: q.Messages, Parts: q.Parts, N: 3, Neighbours: true, Cache: pipeline.Cache{Collection: "pets", EnhanceParams: imagebind.EnhanceParams{K: 3, Temperature: 5, Weight: 0.25}}}
	want.Generate = generate.Request{MaxTokens: 7, Stop: []string{"a", "b"}, Logprobs: true, TopLogprobs: 4, Sample: sample.Params{TopP: 0.5, TopK: 9, MinP: 0.1,
		RepetitionPenalty: 1.2, FrequencyPenalty: 0.5, PresencePenalty: -1}}
	if !reflect.DeepEqual(q, want) {
		t.Errorf("got %+v\nwant %+v", q, want)
	}
	s.post("/v1/chat/completions", `{"messages":[{"role":"user","content":"hi"}],"max_tokens":7,"max_completion_tokens":9}`)
	if f.query.Generate.MaxTokens != 9 || f.query.Generate.Sample != sample.Default() || !f.query.Cache.Enabled {
		t.Errorf("%+v", f.query)
	}
}

func TestFormats(t *testing.T) {
	f := &fake{}
	s := newSite(t, f, Options{})
	for _, tt := range []struct {
		fields string
		want   func() (*constrain.Grammar, error)
	}{
		{`"choices":["yes","no"]`, func() (*constrain.Grammar, error) { return constrain.Choices([]string{"yes", "no"}) }},
		{`"response_format":{"type":"text"},"choices":["a"]`, func() (*constrain.Grammar, error) { return constrain.Choices([]string{"a"}) }},
		{`"response_format":{"type":"text"}`, nil},
		{`"response_format":null,"choices":null`, nil},
		{`"response_format":{"type":"json_object"}`, constrain.Object},
		{`"response_format":{"type":"json_schema","json_schema":{"name":"n","strict":true,"schema":{"type":"integer"}}}`,
			func() (*constrain.Grammar, error) { return constrain.Schema([]byte(`{"type":"integer"}`), "") }},
	} {
		if status, raw := s.post("/v1/chat/completions", `{"messages":[{"role":"user","content":"hi"}],`+tt.fields+`}`); status != http.StatusOK {
			t.Fatalf("%s: %d: %s", tt.fields, status, raw)
		}
		var want *constrain.Grammar
		if tt.want != nil {
			want, _ = tt.want()
		}
		if !reflect.DeepEqual(f.query.Grammar, want) {
			t.Errorf("%s is another grammar", tt.fields)
		}
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
		{"top_k", hello(`"top_k":-2`), 400, "top_k", "-1"},
		{"min_p", hello(`"min_p":2`), 400, "min_p", "0 to 1"},
		{"repetition_penalty", hello(`"repetition_penalty":0`), 400, "repetition_penalty", "1 is none"},
		{"frequency_penalty", hello(`"frequency_penalty":3`), 400, "frequency_penalty", "-2 to 2"},
		{"top_p", hello(`"top_p":1.1`), 400, "top_p", "0 to 1"},
		{"no choices", hello(`"choices":[]`), 400, "choices", "no choices"},
		{"an empty choice", hello(`"choices":["a",""]`), 400, "choices", "empty"},
		{"two formats", hello(`"choices":["a"],"response_format":{"type":"json_object"}`), 400, "choices", "give one"},
		{"format", hello(`"response_format":{"type":"xml"}`), 400, "response_format.type", "json_object"},
		{"no schema", hello(`"response_format":{"type":"json_schema"}`), 400, "response_format.json_schema", "schema"},
		{"schema", hello(`"response_format":{"type":"json_schema","json_schema":{"name":"n","schema":{"type":"object","properties":{"a":{"not":{}}}}}}`), 400,
			"response_format.json_schema.schema.properties.a.not", "keyword not is not supported"},
		{"schema without a text", hello(`"response_format":{"type":"json_schema","json_schema":{"name":"n","schema":{"enum":[1],"type":"string"}}}`), 400,
			"response_format.json_schema.schema", "no text"},
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
		{"unknown part", content(`{"type":"smell","smell":{}}`), 400, "messages[0].content[0]", "media_url, input_audio, embedding"},
		{"unknown parameter", content(`{"type":"imu_url","imu_url":{"url":"data:,x","speed":2}}`), 400, "messages[0].content[0].imu_url", "it has rate, "},
		{"parameter out of range", content(`{"type":"imu_url","imu_url":{"url":"data:,x","rate":1e9}}`), 400, "messages[0].content[0].imu_url", "rate is 1e+09"},
		{"parameter no number", content(`{"type":"imu_url","imu_url":{"url":"data:,x","rate":"fast"}}`), 400, "messages[0].content[0].imu_url", "neither a number"},
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
