package server

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"

	"imagebind-llm/runner/pipeline"
	"imagebind-llm/runner/runnerapi"
)

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
