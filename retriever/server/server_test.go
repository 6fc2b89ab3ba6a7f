package server

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/legacy"

	imagebind "imagebind-llm"
	"imagebind-llm/internal/golden"
	"imagebind-llm/internal/httpapi"
	"imagebind-llm/retriever/flat"
	"imagebind-llm/retriever/jobs"
	"imagebind-llm/retriever/retrieverapi"
	"imagebind-llm/retriever/source"
)

// A site is a server on an embedded store, held to openapi.yaml: every answer
// that its client gets is checked against the document.
type site struct {
	t      *testing.T
	url    string
	client *retrieverapi.Client
	server *Server
	router routers.Router
}

func newSite(t *testing.T, dir string, o Options) *site {
	t.Helper()
	st, err := flat.Open(filepath.Join(dir, "collections"), flat.Options{})
	if err != nil {
		t.Fatal(err)
	}
	root := jobs.Root(filepath.Join(dir, "sources"))
	open := func(_ context.Context, s retrieverapi.Source, _ string) (jobs.Source, error) {
		at, name, err := root.Find(s.Path)
		if err != nil {
			return nil, err
		}
		return source.Open(filepath.Join(at, name))
	}
	check := func(s retrieverapi.Source) error { _, _, err := root.Find(s.Path); return err }
	m, err := jobs.Open(jobs.Options{Dir: filepath.Join(dir, "jobs"), Store: st, Open: open, Check: check,
		Room: func(ctx context.Context, name string, rows int) error {
			return o.Tenants.Room(ctx, st, name, rows, false)
		}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	over := make(chan struct{})
	go func() { defer close(over); m.Run(ctx) }()
	o.Jobs = m
	if o.Store == nil { // else it stands in for some of the store, as in a fake
		o.Store = st
	}
	doc, err := openapi3.NewLoader().LoadFromData(openapiJSON())
	if err != nil {
		t.Fatal(err)
	}
	doc.Servers = nil // paths as they are; the router would look for the host "/"
	s := &site{t: t, server: New(o)}
	if s.router, err = legacy.NewRouter(doc); err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(s.server)
	s.url = srv.URL
	key := ""
	if len(o.Tenants.Owners) > 0 {
		key = o.Tenants.Owners[0].Key
	}
	s.client, err = retrieverapi.NewClient(srv.URL, retrieverapi.Options{Key: key, HTTP: &http.Client{Transport: s}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.server.Drain()
		srv.Close()
		cancel()
		<-over
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// RoundTrip sends a request and holds what comes back against the document.
func (s *site) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err != nil || strings.HasSuffix(r.URL.Path, "/events") || resp.StatusCode == 200 && strings.HasSuffix(r.URL.Path, "/export") {
		return resp, err
	}
	route, params, err := s.router.FindRoute(&http.Request{Method: r.Method, URL: &url.URL{Path: r.URL.EscapedPath()}, Header: r.Header})
	if err != nil {
		if resp.StatusCode != http.StatusNotFound && resp.StatusCode != http.StatusMethodNotAllowed {
			s.t.Errorf("%s %s: %d, of a route that openapi.yaml does not have: %v", r.Method, r.URL.Path, resp.StatusCode, err)
		}
		return resp, nil
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	resp.Body.Close()
	resp.Body = io.NopCloser(bytes.NewReader(body))
	in := &openapi3filter.ResponseValidationInput{
		RequestValidationInput: &openapi3filter.RequestValidationInput{Request: r, PathParams: params, Route: route},
		Status:                 resp.StatusCode, Header: resp.Header, Body: io.NopCloser(bytes.NewReader(body)),
		Options: &openapi3filter.Options{IncludeResponseStatus: true},
	}
	if err := openapi3filter.ValidateResponse(r.Context(), in); err != nil {
		s.t.Errorf("%s %s: the answer is not as openapi.yaml says: %v", r.Method, r.URL.Path, err)
	}
	return resp, nil
}

// ask sends a raw request.
func (s *site) ask(method, path, contentType, body string) (int, string) {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), method, s.url+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Content-Type", contentType)
	resp, err := (&http.Client{Transport: s}).Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func TestCollectionsAndVectors(t *testing.T) {
	dir := t.TempDir()
	s, ctx := newSite(t, dir, Options{}), t.Context()
	if got, err := s.client.Collections(ctx); err != nil || len(got) != 0 {
		t.Fatal(got, err)
	}
	for range 2 { // the second finds it
		got, err := s.client.Create(ctx, "pets-1", retrieverapi.CreateCollection{Dim: 3})
		if err != nil || got.Name != "pets-1" || got.Dim != 3 || got.Count != 0 || got.Backend != "embedded" {
			t.Fatal(got, err)
		}
	}
	if _, err := s.client.Create(ctx, "pets-1", retrieverapi.CreateCollection{Dim: 4}); imagebind.KindOf(err) != imagebind.Conflict {
		t.Errorf("another dim: %v", err)
	}
	ids, err := s.client.Upsert(ctx, "pets-1", []retrieverapi.Item{
		{ID: "cat", Vector: retrieverapi.Vector{1, 0, 0}, Caption: "a cat", URI: "file:cat.png", Metadata: map[string]any{"legs": 4.0, "wild": false}},
		{ID: "bird", Vector: retrieverapi.Vector{0, 1, 0}, Metadata: map[string]any{"legs": 2.0}},
		{Vector: retrieverapi.Vector{0, 0, 1}},
	})
	if err != nil || len(ids) != 3 || ids[0] != "cat" || len(ids[2]) < 8 {
		t.Fatal(ids, err)
	}
	// Base64 of little-endian float32 reads as the same row.
	if code, body := s.ask("POST", "/v1/collections/pets-1/vectors", "application/json", `{"items":[{"id":"cat2","vector":"AACAPwAAAAAAAAAA"}]}`); code != 200 {
		t.Fatal(code, body)
	}
	got, err := s.client.Search(ctx, "pets-1", []imagebind.Embedding{{2, 1, 0}, {0, 0, 0.5}}, 2, nil, "metadata", "vector")
	if err != nil {
		t.Fatal(err)
	}
	if a := got[0]; len(a) != 2 || a[0].ID != "cat" || a[1].ID != "cat2" || a[0].Similarity != 2 || a[0].Caption != "a cat" || a[0].URI != "file:cat.png" ||
		a[0].Metadata["legs"] != 4.0 || !slices.Equal(a[0].Prototype, imagebind.Embedding{1, 0, 0}) {
		t.Errorf("first query: %+v", a)
	}
	if b := got[1]; b[0].ID != ids[2] || b[0].Similarity != 0.5 {
		t.Errorf("second query: %+v", b)
	}
	got, err = s.client.Search(ctx, "pets-1", []imagebind.Embedding{{1, 0, 0}}, 10, map[string]any{"legs": 2.0})
	if err != nil || len(got[0]) != 1 || got[0][0].ID != "bird" || got[0][0].Metadata != nil || got[0][0].Prototype != nil {
		t.Errorf("filter: %+v, %v", got, err)
	}
	if n, err := s.client.Delete(ctx, "pets-1", []string{"cat2", "nobody"}); err != nil || n != 1 {
		t.Errorf("delete: %d, %v", n, err)
	}
	ids, err = s.client.UpsertRows(ctx, "pets-1", "raw-", [][]float32{{0, 2, 0}, {0, 0, 3}})
	if err != nil || !slices.Equal(ids, []string{"raw-0", "raw-1"}) {
		t.Errorf("bytes: %v, %v", ids, err)
	}
	if code, body := s.ask("POST", "/v1/collections/pets-1/vectors?id_prefix=raw-&id_start=2", "application/octet-stream", string(make([]byte, 11))); code != 400 {
		t.Errorf("11 bytes: %d %s", code, body)
	}
	if c, err := s.client.Collection(ctx, "pets-1"); err != nil || c.Count != 5 {
		t.Errorf("%+v, %v", c, err)
	}
	if err := s.client.Drop(ctx, "pets-1"); err != nil {
		t.Error(err)
	}
	if _, err := s.client.Collection(ctx, "pets-1"); imagebind.KindOf(err) != imagebind.NotFound {
		t.Errorf("dropped: %v", err)
	}
	if err := s.client.Ready(ctx); err != nil {
		t.Error(err)
	}
	code, body := s.ask("GET", "/metrics", "", "")
	for _, want := range []string{`retriever_requests_total{method="POST",route="/v1/collections/:name/search",status="200"} 2`, "retriever_store_up 1", `retriever_jobs{state="done"} 0`, "retriever_lookup_seconds_count"} {
		if code != 200 || !strings.Contains(body, want) {
			t.Errorf("metrics lack %s", want)
		}
	}
}

func TestRefusals(t *testing.T) {
	s, ctx := newSite(t, t.TempDir(), Options{MaxBody: 4096}), t.Context()
	if _, err := s.client.Create(ctx, "c", retrieverapi.CreateCollection{Dim: 2}); err != nil {
		t.Fatal(err)
	}
	const search, vectors = "/v1/collections/c/search", "/v1/collections/c/vectors"
	tests := []struct {
		name, method, path, body string
		code                     int
		says                     string // part of the message
	}{
		{"no route", "GET", "/v2", "", 404, "openapi.json"},
		{"method", "PATCH", "/v1/jobs", "", 405, "PATCH"},
		{"empty body", "POST", search, "", 400, "empty"},
		{"no JSON", "POST", search, "{", 400, "ends too early"},
		{"two objects", "POST", search, `{"vectors":[[1,0]]}{}`, 400, "goes on"},
		{"unknown field", "POST", search, `{"vectors":[[1,0]],"top_k":3}`, 400, "top_k"},
		{"wrong type", "POST", search, `{"vectors":[[1,0]],"k":"3"}`, 400, "k is"},
		{"no vectors", "POST", search, `{"vectors":[]}`, 400, "0 vectors"},
		{"k 0", "POST", search, `{"vectors":[[1,0]],"k":0}`, 400, "k is 0"},
		{"k 1001", "POST", search, `{"vectors":[[1,0]],"k":1001}`, 400, "k is 1001"},
		{"include", "POST", search, `{"vectors":[[1,0]],"include":["vectors"]}`, 400, "include"},
		{"dim", "POST", search, `{"vectors":[[1,0,0]]}`, 400, "dim"},
		{"too many neighbours", "POST", search, `{"vectors":[` + strings.Repeat(`[1,0],`, 65) + `[1,0]],"k":1000}`, 400, "66000 neighbours"},
		{"too many prototypes", "POST", search, `{"vectors":[` + strings.Repeat(`[1,0],`, 8) + `[1,0]],"k":1000,"include":["vector"]}`, 400, "9000 neighbours"},
		{"zero query", "POST", "/v1/collections/c/enhance", `{"vectors":[[1,0],[0,0]]}`, 400, "length 0"},
		{"collection", "POST", "/v1/collections/none/search", `{"vectors":[[1,0]]}`, 404, "none"},
		{"collection name", "PUT", "/v1/collections/a%2Fb", `{"dim":2}`, 400, "collection name"},
		{"dim 0", "PUT", "/v1/collections/d", `{"dim":0}`, 400, "dim is 0"},
		{"dim too large", "PUT", "/v1/collections/d", `{"dim":32769}`, 400, "dim is"},
		{"temperature", "POST", "/v1/collections/c/enhance", `{"vectors":[[1,0]],"temperature":-1}`, 400, "temperature"},
		{"weight", "POST", "/v1/collections/c/enhance", `{"vectors":[[1,0]],"weight":1.5}`, 400, "weight"},
		{"zero row", "POST", vectors, `{"items":[{"vector":[0,0]}]}`, 400, "length 0"},
		{"row without vector", "POST", vectors, `{"items":[{"id":"a"}]}`, 400, "without a vector"},
		{"row of another dim", "POST", vectors, `{"items":[{"id":"a","vector":[1]}]}`, 400, "dim"},
		{"number as id", "POST", vectors, `{"items":[{"id":1,"vector":[1,0]}]}`, 400, "id"},
		{"over float32", "POST", vectors, `{"items":[{"vector":[1e40,0]}]}`, 400, "float32"},
		{"long id", "POST", vectors, `{"items":[{"id":"` + strings.Repeat("x", 257) + `","vector":[1,0]}]}`, 400, "257"},
		{"body too large", "POST", vectors, `{"items":[{"id":"` + strings.Repeat("x", 4096) + `"}]}`, 413, "4096"},
		{"no ids", "DELETE", vectors, `{"ids":[]}`, 400, "0 ids"},
		{"job type", "POST", "/v1/jobs", `{"type":"x","collection":"c","source":{"path":"a"}}`, 400, "rebuild"},
		{"modality without a runner", "POST", "/v1/jobs", `{"type":"rebuild","collection":"c","source":{"modality":"depth","path":"a"}}`, 400, "runner"},
		{"no job", "GET", "/v1/jobs/none", "", 404, "none"},
		{"no job's events", "GET", "/v1/jobs/none/events", "", 404, "none"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			code, body := s.ask(tt.method, tt.path, "application/json", tt.body)
			var e httpapi.ErrorBody
			if err := json.Unmarshal([]byte(body), &e); err != nil || code != tt.code || !strings.Contains(e.Error.Message, tt.says) {
				t.Errorf("got %d %s", code, body)
			}
		})
	}
	if c, err := s.client.Collection(ctx, "c"); err != nil || c.Count != 0 {
		t.Errorf("rows were stored: %+v, %v", c, err)
	}
}

func TestKeys(t *testing.T) {
	s := newSite(t, t.TempDir(), Options{Tenants: Tenants{Owners: []httpapi.Owner{{Key: "secret"}}}})
	for path, want := range map[string]int{"/v1/collections": 401, "/v1/jobs": 401, "/healthz": 200, "/readyz": 200, "/metrics": 200, "/openapi.json": 200} {
		if code, body := s.ask("GET", path, "", ""); code != want {
			t.Errorf("%s without a key: %d %.100s", path, code, body)
		}
	}
	if _, err := s.client.Collections(t.Context()); err != nil {
		t.Errorf("with the key: %v", err)
	}
}

func TestDrainingIsNotReady(t *testing.T) {
	s := newSite(t, t.TempDir(), Options{})
	s.server.Drain()
	if code, _ := s.ask("GET", "/readyz", "", ""); code != 503 {
		t.Errorf("readyz while stopping: %d", code)
	}
	if code, _ := s.ask("GET", "/healthz", "", ""); code != 200 {
		t.Errorf("healthz while stopping: %d", code)
	}
}

// prototypes returns the golden rows [500, 64] as they stand in the .npy file,
// little-endian float32.
func prototypes(t *testing.T) (file, rows []byte) {
	t.Helper()
	file = golden.Bytes(t, "testdata/golden/prototypes.npy")
	return file, file[10+int(binary.LittleEndian.Uint16(file[8:])):]
}

// TestEnhanceGolden asks over HTTP what the reference answered.
func TestEnhanceGolden(t *testing.T) {
	s, ctx := newSite(t, t.TempDir(), Options{}), t.Context()
	if _, err := s.client.Create(ctx, "default", retrieverapi.CreateCollection{Dim: 64}); err != nil {
		t.Fatal(err)
	}
	_, rows := prototypes(t)
	if code, body := s.ask("POST", "/v1/collections/default/vectors?id_prefix=p", "application/octet-stream", string(rows)); code != 200 {
		t.Fatal(code, body)
	}
	want := golden.Open(t, "testdata/golden/enhance.safetensors")
	cases := 0
	for _, name := range want.Names() {
		mix, setting, ok := strings.Cut(name, "/k")
		if !ok || strings.HasSuffix(name, "/ids") || strings.HasSuffix(name, "/sims") {
			continue
		}
		cases++
		t.Run(name, func(t *testing.T) {
			var p imagebind.EnhanceParams
			if _, err := fmt.Sscanf(strings.NewReplacer("_t", " ", "_w", " ").Replace(setting), "%d %f %f", &p.K, &p.Temperature, &p.Weight); err != nil {
				t.Fatal(err)
			}
			in := want.Tensor(t, mix+"/off").Values
			queries := []imagebind.Embedding{in[:64], in[64:]}
			got, near, err := s.client.Enhance(ctx, "default", queries, p, nil)
			if err != nil {
				t.Fatal(err)
			}
			golden.Close(t, slices.Concat(got[0], got[1]), want.Tensor(t, name).Values, 1e-6)
			ids, sims := want.Tensor(t, name+"/ids").Values, want.Tensor(t, name+"/sims").Values
			for q := range near {
				sum := 0.0
				for i, n := range near[q] {
					if at := q*p.K + i; n.ID != fmt.Sprintf("p%d", int(ids[at])) || abs(n.Similarity-sims[at]) > 1e-6 {
						t.Fatalf("query %d, neighbour %d: %s at %v, want p%d at %v", q, i, n.ID, n.Similarity, int(ids[at]), sims[at])
					}
					sum += float64(n.Weight)
				}
				if len(near[q]) != p.K || sum < 1-1e-5 || sum > 1+1e-5 {
					t.Errorf("query %d: %d neighbours whose weights sum to %v", q, len(near[q]), sum)
				}
			}
		})
	}
	if cases != 42 {
		t.Errorf("%d cases in the golden file, want 42", cases)
	}
}

func abs(x float32) float32 { return max(x, -x) }

func TestRebuildOverHTTP(t *testing.T) {
	dir := t.TempDir()
	file, _ := prototypes(t)
	var meta bytes.Buffer
	for i := range 500 {
		fmt.Fprintf(&meta, `{"id":"p%d","caption":"prototype %d"}`+"\n", i, i)
	}
	if err := os.MkdirAll(filepath.Join(dir, "sources"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{"knn.npy": file, "knn.jsonl": meta.Bytes()} {
		if err := os.WriteFile(filepath.Join(dir, "sources", name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("rebuild", func(t *testing.T) {
		s, ctx := newSite(t, dir, Options{}), t.Context()
		if _, err := s.client.Create(ctx, "default", retrieverapi.CreateCollection{Dim: 64}); err != nil {
			t.Fatal(err)
		}
		j, err := s.client.Start(ctx, retrieverapi.JobRequest{Type: "rebuild", Collection: "default", Source: retrieverapi.Source{Path: "knn.npy"}})
		if err != nil || j.ID == "" || j.State != "queued" {
			t.Fatal(j, err)
		}
		seen := 0
		j, err = s.client.Wait(ctx, j.ID, time.Second, func(retrieverapi.Job) { seen++ })
		if err != nil || j.State != "done" || j.RowsDone != 500 || j.Generation != 2 || j.Checks == nil || j.Checks.Recall != 1 || seen == 0 {
			t.Fatalf("%+v, %v, %d events", j, err, seen)
		}
		for path, kind := range map[string]imagebind.Kind{"../jobs": imagebind.Invalid, "nothing.npy": imagebind.NotFound} {
			_, err := s.client.Start(ctx, retrieverapi.JobRequest{Type: "rebuild", Collection: "default", Source: retrieverapi.Source{Path: path}})
			if imagebind.KindOf(err) != kind || imagebind.ParamOf(err) != "source.path" {
				t.Errorf("source %s: %v", path, err)
			}
		}
		// What is no source is found when it is read.
		if err := os.WriteFile(filepath.Join(dir, "sources", "bad.npy"), []byte("no array"), 0o600); err != nil {
			t.Fatal(err)
		}
		bad, err := s.client.Start(ctx, retrieverapi.JobRequest{Type: "rebuild", Collection: "default", Source: retrieverapi.Source{Path: "bad.npy"}})
		if err != nil {
			t.Fatal(err)
		}
		bad, err = s.client.Wait(ctx, bad.ID, time.Second, nil)
		if err != nil || bad.State != "failed" || !strings.Contains(bad.Error, ".npy") {
			t.Errorf("%+v, %v", bad, err)
		}
		if list, err := s.client.Jobs(ctx); err != nil || len(list) != 2 || list[0].ID != bad.ID {
			t.Errorf("%+v, %v", list, err)
		}
		if _, err := s.client.Cancel(ctx, j.ID); imagebind.KindOf(err) != imagebind.Conflict {
			t.Errorf("cancel of a job that is done: %v", err)
		}
	})
	t.Run("after a restart", func(t *testing.T) {
		s, ctx := newSite(t, dir, Options{}), t.Context()
		c, err := s.client.Collection(ctx, "default")
		if err != nil || c.Count != 500 || c.Generation != 2 || c.BuiltAt == nil {
			t.Fatalf("%+v, %v", c, err)
		}
		q := golden.Open(t, "testdata/golden/enhance.safetensors").Tensor(t, "image/off").Values[:64]
		got, err := s.client.Search(ctx, "default", []imagebind.Embedding{q}, 1, nil)
		if err != nil || got[0][0].Caption == "" {
			t.Errorf("%+v, %v", got, err)
		}
		if list, err := s.client.Jobs(ctx); err != nil || len(list) != 2 {
			t.Errorf("%+v, %v", list, err)
		}
	})
}
