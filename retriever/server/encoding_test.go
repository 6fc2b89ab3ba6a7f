package server

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	imagebind "imagebind-llm"
	"imagebind-llm/retriever/retrieverapi"
)

// Answers are arrays unless base64 is asked for; both hold the same numbers.
func TestEncoding(t *testing.T) {
	s := newSite(t, t.TempDir(), Options{})
	if _, err := s.client.Create(t.Context(), "c", retrieverapi.CreateCollection{Dim: 3}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.client.Upsert(t.Context(), "c", []retrieverapi.Item{{ID: "a", Vector: []float32{0.1, 0.7, -0.3}}, {ID: "b", Vector: []float32{1e-20, -1, 3}}}); err != nil {
		t.Fatal(err)
	}
	enhanced, near, err := s.client.Enhance(t.Context(), "c", []imagebind.Embedding{{0.3, 0.2, 0.1}}, imagebind.DefaultEnhance(), nil, retrieverapi.IncludeVector)
	if err != nil {
		t.Fatal(err)
	}
	for query, first := range map[string]byte{"": '[', "?encoding=float": '[', "?encoding=base64": '"'} {
		code, body := s.ask("POST", "/v1/collections/c/enhance"+query, "application/json", `{"vectors": [[0.3, 0.2, 0.1]], "include": ["vector"]}`)
		var raw struct {
			Vectors    []json.RawMessage
			Neighbours [][]struct{ Vector json.RawMessage }
		}
		if err := json.Unmarshal([]byte(body), &raw); code != 200 || err != nil || raw.Vectors[0][0] != first || raw.Neighbours[0][0].Vector[0] != first {
			t.Fatalf("%q: %d %s", query, code, body)
		}
		var got retrieverapi.EnhanceResponse
		if err := json.Unmarshal([]byte(body), &got); err != nil || !slices.Equal(got.Vectors[0], retrieverapi.Vector(enhanced[0])) || !slices.Equal(got.Neighbours[0][1].Vector, retrieverapi.Vector(near[0][1].Prototype)) {
			t.Errorf("%q: %v, %v", query, got, err)
		}
	}
	for _, op := range []string{"search", "enhance"} {
		if code, body := s.ask("POST", "/v1/collections/c/"+op+"?encoding=hex", "application/json", `{"vectors": [[1, 0, 0]]}`); code != 400 || !strings.Contains(body, `"param":"encoding"`) {
			t.Errorf("%s in hex: %d %s", op, code, body)
		}
	}
}
