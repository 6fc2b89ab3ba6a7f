package server

import (
	"bytes"
	"encoding/json"
	"io"
	"maps"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"testing"

	"imagebind-llm/runner/constrain"
	"imagebind-llm/runner/modality"
	"imagebind-llm/runner/pipeline"
	"imagebind-llm/runner/prompt"
	"imagebind-llm/runner/runnerapi"
)

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
		"system", "Be brief.", "temperature", "0", "max_tokens", "9", "seed", "4", "stop", "\n", "n", "2", "top_p", "0.5", "top_k", "9", "min_p", "0.1", "repetition_penalty", "1.2", "frequency_penalty", "0.5", "presence_penalty", "-1", "choices", "yes", "choices", "no", "cache", `{"k":3}`, "include", "neighbours, timings", "logprobs", "on", "top_logprobs", "1")
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
	if want, _ := constrain.Choices([]string{"yes", "no"}); !reflect.DeepEqual(q.Grammar, want) {
		t.Errorf("the choices are another grammar")
	}
	if p := g.Sample; p.TopK != 9 || p.MinP != 0.1 || p.RepetitionPenalty != 1.2 || p.FrequencyPenalty != 0.5 || p.PresencePenalty != -1 {
		t.Errorf("drawn by %+v", p)
	}
	if g.Sample.Temperature != 0 || g.Sample.TopP != 0.5 || *g.Sample.Seed != 4 || g.MaxTokens != 9 || !slices.Equal(g.Stop, []string{"\n"}) || q.Cache.K != 3 || !g.Logprobs || g.TopLogprobs != 1 {
		t.Errorf("%+v", q)
	}

	body, contentType = multi(t, "prompt", "hi", "@imu", "a", "imu_acc_in_g", "true", "@imu", "b", "imu_rate", "100", "imu_rate", "200")
	if resp, raw := s.do(http.MethodPost, "/v1/ask", contentType, body); resp.StatusCode != http.StatusOK {
		t.Fatalf("%d: %s", resp.StatusCode, raw)
	}
	for i, rate := range []float64{100, 200} { // one switch for both, a rate each
		if p := f.query.Parts[i]; !maps.Equal(p.Params, modality.Params{"rate": rate, "acc_in_g": 1}) {
			t.Errorf("part %d: %+v", i, p.Params)
		}
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
		{"its weight", []string{"prompt", "hi", "smell_weight", "1"}, 400, "smell_weight", "unknown"},
		{"its parameter", []string{"prompt", "hi", "image_rate", "1"}, 400, "image_rate", "unknown"},
		{"a parameter for nothing", []string{"prompt", "hi", "imu_rate", "200"}, 400, "imu", "has none"},
		{"parameters for another number of files", []string{"prompt", "hi", "@imu", "1", "imu_rate", "200", "imu_rate", "100"}, 400, "imu_rate", "one for all"},
		{"a parameter no number", []string{"prompt", "hi", "@imu", "1", "imu_rate", "fast"}, 400, "imu_rate", "number"},
		{"a parameter out of range", []string{"prompt", "hi", "@imu", "1", "imu_rate", "-5"}, 400, "imu", "rate is -5"},
		{"a switch as a number", []string{"prompt", "hi", "@imu", "1", "imu_acc_in_g", "2"}, 400, "imu", "true or false"},
		{"a name for a file", []string{"prompt", "hi", "image", "dog.jpg"}, 400, "image", "-F image=@FILE"},
		{"a large file", []string{"prompt", "hi", "@image", "123456789"}, 413, "image", "8 bytes"},
		{"many files", []string{"prompt", "hi", "@image", "1", "@image", "2", "@image", "3"}, 413, "image", "2 media"},
		{"weight no number", []string{"prompt", "hi", "@image", "1", "image_weight", "heavy"}, 400, "image_weight", "number"},
		{"weight 0", []string{"prompt", "hi", "@image", "1", "image_weight", "0"}, 400, "image_weight", "positive"},
		{"weight NaN", []string{"prompt", "hi", "@image", "1", "image_weight", "NaN"}, 400, "image_weight", "positive"},
		{"weight infinite", []string{"prompt", "hi", "@image", "1", "image_weight", "Inf"}, 400, "image_weight", "positive"},
		{"one weight for two", []string{"prompt", "hi", "@image", "1", "@image", "2", "image_weight", "1"}, 400, "image_weight", "one for each"},
		{"a weight for nothing", []string{"prompt", "hi", "bind_text_weight", "1"}, 400, "bind_text_weight", "0 of bind_text"},
		{"response_format", []string{"prompt", "hi", "response_format", `{"type":"xml"}`}, 400, "response_format.type", "json_object"},
		{"response_format no JSON", []string{"prompt", "hi", "response_format", "json_object"}, 400, "response_format", "JSON"},
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
