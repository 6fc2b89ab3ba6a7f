package ask

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	imagebind "imagebind-llm"
	"imagebind-llm/internal/httpapi"
	"imagebind-llm/runner/runnerapi"
)

// read parses a command line; the prompt is its last argument.
func read(t *testing.T, in string, args ...string) (*Question, error) {
	t.Helper()
	q := &Question{}
	fs := pflag.NewFlagSet("ask", pflag.ContinueOnError)
	q.Flags(fs)
	if err := fs.Parse(args); err != nil {
		return q, err
	}
	return q, q.Read(fs.Args(), strings.NewReader(in))
}

// a pictureFile is a PNG's signature: enough to be sent as one.
func pictureFile(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "dog, big.png")
	if err := os.WriteFile(path, []byte("\x89PNG\r\n\x1a\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestRead(t *testing.T) {
	png := pictureFile(t)
	schema := filepath.Join(t.TempDir(), "schema.json")
	if err := os.WriteFile(schema, []byte(`{"type": "integer"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	const data = "data:image/png;base64,iVBORw0KGgo="
	for _, tt := range []struct {
		name, in string
		args     []string
		want     string // the request as JSON
	}{
		{"text", "", []string{"What", "now?"}, `{"messages":[{"role":"user","content":"What now?"}]}`},
		{"standard input", " a\nb \n", []string{"-"}, `{"messages":[{"role":"user","content":"a\nb"}]}`},
		{"in order, weights by kind", "", []string{"--bind-text", "a, b", "--image", png, "--weight", "image=0.7", "--image", "https://example.com/x.png", "--weight", "bind_text=2", "--weight", "image=.3", "Q"},
			`{"messages":[{"role":"user","content":[
				{"type":"bind_text","bind_text":{"text":"a, b"},"weight":2},
				{"type":"image_url","image_url":{"url":"` + data + `"},"weight":0.7},
				{"type":"image_url","image_url":{"url":"https://example.com/x.png"},"weight":0.3},
				{"type":"text","text":"Q"}]}]}`},
		{"the last without weight", "", []string{"--image", png, "--image", png, "--weight", "image=3", "Q"},
			`{"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"` + data + `"},"weight":3},{"type":"image_url","image_url":{"url":"` + data + `"}},{"type":"text","text":"Q"}]}]}`},
		{"sampling", "", []string{"--temperature", "0", "--top-p", "0.5", "--top-k", "9", "--min-p", "0.1", "--repetition-penalty", "1.2", "--frequency-penalty", "0", "--presence-penalty", "-1", "--seed", "0", "--max-tokens", "7", "--n", "2", "--stop", "a,b", "--system", "Be brief.", "Q"},
			`{"messages":[{"role":"system","content":"Be brief."},{"role":"user","content":"Q"}],"temperature":0,"top_p":0.5,"top_k":9,"min_p":0.1,"repetition_penalty":1.2,"frequency_penalty":0,"presence_penalty":-1,"seed":0,"max_tokens":7,"n":2,"stop":["a,b"]}`},
		{"cache", "", []string{"--collection", "pets", "--k", "3", "--cache-weight", "0", "--cache-temperature", "5", "--neighbours", "Q"},
			`{"messages":[{"role":"user","content":"Q"}],"cache":{"collection":"pets","k":3,"temperature":5,"weight":0},"include":["neighbours"]}`},
		{"choices", "", []string{"--choice", "yes", "--choice", "no, never", "Q"}, `{"messages":[{"role":"user","content":"Q"}],"choices":["yes","no, never"]}`},
		{"object", "", []string{"--json-object", "Q"}, `{"messages":[{"role":"user","content":"Q"}],"response_format":{"type":"json_object"}}`},
		{"schema", "", []string{"--json-schema", schema, "Q"}, `{"messages":[{"role":"user","content":"Q"}],"response_format":{"type":"json_schema","json_schema":{"name":"answer","schema":{"type":"integer"}}}}`},
		{"no cache, JSON", "", []string{"--no-cache", "--json", "Q"},
			`{"messages":[{"role":"user","content":"Q"}],"cache":{"enabled":false},"include":["neighbours","timings"]}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			q, err := read(t, tt.in, tt.args...)
			if err != nil {
				t.Fatal(err)
			}
			raw, err := json.Marshal(q.request)
			if err != nil {
				t.Fatal(err)
			}
			var got, want any
			if err := json.Unmarshal(raw, &got); err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal([]byte(tt.want), &want); err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("%s\nwant %s", raw, tt.want)
			}
		})
	}
	for _, tt := range []struct {
		args []string
		says string
	}{
		{[]string{""}, "prompt is empty"},
		{[]string{"-"}, "prompt is empty"},
		{[]string{"--image", "absent.png", "Q"}, "absent.png"},
		{[]string{"--image", "", "Q"}, "file is wanted"},
		{[]string{"--weight", "image=1", "Q"}, "no --image"},
		{[]string{"--image", png, "--weight", "image=0", "Q"}, "positive"},
		{[]string{"--image", png, "--weight", "image=NaN", "Q"}, "positive"},
		{[]string{"--image", png, "--weight", "image", "Q"}, "image=0.7"},
		{[]string{"--choice", "a", "--json-object", "Q"}, "give one"},
		{[]string{"--json-schema", "absent.json", "Q"}, "absent.json"},
		{[]string{"--json-schema", png, "Q"}, "no JSON"},
		{[]string{"--hologram", png, "Q"}, "hologram"},
	} {
		if _, err := read(t, "", tt.args...); err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%q: %v says nothing of %q", tt.args, err, tt.says)
		}
	}
}

// serve answers every request with h.
func serve(t *testing.T, h http.HandlerFunc) *runnerapi.Client {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	c, err := runnerapi.NewClient(s.URL, runnerapi.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestAsk(t *testing.T) {
	bind := &runnerapi.Bind{Cache: runnerapi.CacheState{Applied: true},
		Neighbours: []runnerapi.Neighbour{{ID: "dog/1", Score: 0.75, Weight: 0.5, Caption: "a\x1b[31m dog"}, {ID: "猫", Score: 0.5, Weight: 0.25, Caption: "一只猫"}}}
	lost := &runnerapi.Bind{Cache: runnerapi.CacheState{Degraded: true, Reason: "the retriever does not answer"}}
	stream := func(b *runnerapi.Bind, texts ...string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			event := func(c runnerapi.ChatChunk) {
				raw, _ := json.Marshal(c)
				fmt.Fprintf(w, "data: %s\n\n", raw)
			}
			for i := range texts {
				event(runnerapi.ChatChunk{Choices: []runnerapi.ChunkChoice{{Delta: runnerapi.Delta{Content: &texts[i]}}}})
			}
			event(runnerapi.ChatChunk{Choices: []runnerapi.ChunkChoice{{}}, Bind: b})
			fmt.Fprint(w, "data: [DONE]\n\n")
		}
	}
	whole := func(w http.ResponseWriter, _ *http.Request) {
		httpapi.WriteJSON(w, 200, runnerapi.ChatResponse{ID: "x", Bind: bind, Choices: []runnerapi.Choice{{Message: runnerapi.Reply{Content: "A <dog>."}}, {Index: 1, Message: runnerapi.Reply{Content: "狗"}}}})
	}
	refuse := func(w http.ResponseWriter, r *http.Request) {
		httpapi.WriteError(w, r, imagebind.WithParam(imagebind.Errorf(imagebind.Unsupported, "no picture"), "messages[0].content[0]"))
	}
	for _, tt := range []struct {
		name      string
		h         http.HandlerFunc
		args      []string
		out, warn string
		fails     string
	}{
		{"streamed", stream(bind, "A ", "dog."), []string{"Q"}, "A dog.\n", "", ""},
		{"neighbours", stream(bind, "A dog."), []string{"--neighbours", "Q"}, "A dog.\nneighbour  score   weight  caption\ndog/1      0.7500  0.5000  a [31m dog\n猫          0.5000  0.2500  一只猫\n", "", ""},
		{"no neighbours", stream(lost, "A dog."), []string{"--neighbours", "Q"}, "A dog.\nno neighbours were used\n", "note: answered without the feature cache: the retriever does not answer\n", ""},
		{"nothing said", stream(nil), []string{"Q"}, "\n", "", ""},
		{"several", whole, []string{"--n", "2", "Q"}, "1. A <dog>.\n2. 狗\n", "", ""},
		{"refused", refuse, []string{"Q"}, "", "", "no picture (messages[0].content[0])"},
		{"broken off", func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, "data: {\"choices\":[{\"delta\":{\"content\":\"A d\"}}]}\n\n")
		}, []string{"Q"}, "A d\n", "", "cut off"},
		{"error in the middle", func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, "data: {\"choices\":[{\"delta\":{\"content\":\"A d\"}}]}\n\ndata: {\"error\":{\"message\":\"the request took too long\",\"code\":\"timeout\"}}\n\n")
		}, []string{"Q"}, "A d\n", "", "too long"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			q, err := read(t, "", tt.args...)
			if err != nil {
				t.Fatal(err)
			}
			var out, warn bytes.Buffer
			err = q.Ask(t.Context(), serve(t, tt.h), &out, &warn)
			if out.String() != tt.out || warn.String() != tt.warn {
				t.Errorf("it wrote %q and %q\nwant     %q and %q", out.String(), warn.String(), tt.out, tt.warn)
			}
			if (err != nil) != (tt.fails != "") || err != nil && !strings.Contains(err.Error(), tt.fails) {
				t.Errorf("error %v, want %q", err, tt.fails)
			}
		})
	}
	t.Run("JSON", func(t *testing.T) {
		q, err := read(t, "", "--json", "Q")
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		if err := q.Ask(t.Context(), serve(t, whole), &out, &out); err != nil {
			t.Fatal(err)
		}
		var a runnerapi.ChatResponse
		if err := json.Unmarshal(out.Bytes(), &a); err != nil || len(a.Choices) != 2 || len(a.Bind.Neighbours) != 2 || !strings.Contains(out.String(), "A <dog>.") {
			t.Errorf("%v in %s", err, out.String())
		}
	})
}
