package server

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	imagebind "imagebind-llm"
	"imagebind-llm/retriever/flat"
	"imagebind-llm/retriever/jobs"
	"imagebind-llm/retriever/store"
	"imagebind-llm/retriever/storetest"
)

// counting counts the queries that reach the store.
type counting struct {
	store.Store
	queries int
}

func (c *counting) Search(ctx context.Context, name string, q store.Query) ([][]imagebind.Neighbour, error) {
	c.queries += len(q.Vectors)
	return c.Store.Search(ctx, name, q)
}

func counted(t *testing.T, o Options) (*Server, *counting) {
	t.Helper()
	st, err := flat.Open(t.TempDir(), flat.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() })
	c := &counting{Store: st}
	if o.Jobs, err = jobs.Open(jobs.Options{Dir: t.TempDir(), Store: c}); err != nil {
		t.Fatal(err)
	}
	if _, err := st.Create(t.Context(), "pets", store.Spec{Dim: 4}); err != nil {
		t.Fatal(err)
	}
	if err := st.Upsert(t.Context(), "pets", storetest.Rows(0, 30, 4)); err != nil {
		t.Fatal(err)
	}
	o.Store = c
	return New(o), c
}

func ask(t *testing.T, s *Server, path, body string) string {
	t.Helper()
	w := httptest.NewRecorder()
	s.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/v1/collections/pets/"+path, strings.NewReader(body)))
	if w.Code != http.StatusOK {
		t.Fatalf("%s: %d %s", path, w.Code, w.Body)
	}
	return w.Body.String()
}

// A query that comes again is answered without a search, the same, until the
// rows, or what is asked of them, are others.
func TestAnswers(t *testing.T) {
	s, c := counted(t, Options{CacheBytes: 1 << 20})
	const q = `{"vectors": [[1, 0, 0, 0], [0, 1, 0, 0]], "k": 3}`
	first := ask(t, s, "enhance", q)
	if c.queries != 2 {
		t.Fatalf("%d queries", c.queries)
	}
	for _, tt := range []struct {
		path, body string
		want       int // of queries more
	}{
		{"enhance", q, 0},
		{"search", q, 0}, // the neighbours are the same
		{"enhance", `{"vectors": [[1, 0, 0, 0], [0, 1, 0, 0]], "k": 3, "temperature": 1}`, 0},
		{"search", `{"vectors": [[0, 1, 0, 0], [0, 0, 1, 0]], "k": 3}`, 1},
		{"search", `{"vectors": [[0, 1, 0, 0]], "k": 4}`, 1},
		{"search", `{"vectors": [[0, 1, 0, 0]], "k": 3, "filter": {"a": 1}}`, 1},
	} {
		before := c.queries
		ask(t, s, tt.path, tt.body)
		if got := c.queries - before; got != tt.want {
			t.Errorf("%s %s: %d queries, want %d", tt.path, tt.body, got, tt.want)
		}
	}
	if again := ask(t, s, "enhance", q); again != first {
		t.Errorf("the second answer is\n%s, the first\n%s", again, first)
	}
	if err := c.Upsert(t.Context(), "pets", []store.Row{{ID: "best", Vector: imagebind.Embedding{9, 0, 0, 0}}}); err != nil {
		t.Fatal(err)
	}
	if now := ask(t, s, "search", q); !strings.Contains(now, `"best"`) {
		t.Errorf("after a write: %s", now)
	}
}

// No more is kept than there is room for, and the oldest goes first.
func TestAnswersAreBounded(t *testing.T) {
	s, c := counted(t, Options{CacheBytes: 3000})
	for i := range 50 {
		ask(t, s, "search", fmt.Sprintf(`{"vectors": [[1, %d, 0, 0]], "k": 1}`, i))
	}
	if s.answers.used > 3000 || len(s.answers.entries) < 2 || len(s.answers.entries) != s.answers.recent.Len() {
		t.Errorf("%d bytes in %d answers", s.answers.used, len(s.answers.entries))
	}
	before := c.queries
	ask(t, s, "search", `{"vectors": [[1, 49, 0, 0], [1, 0, 0, 0]], "k": 1}`)
	if got := c.queries - before; got != 1 {
		t.Errorf("%d queries for a new one and an old one", got)
	}
	brief, c := counted(t, Options{CacheBytes: 1 << 20, CacheFor: time.Nanosecond})
	for range 2 {
		ask(t, brief, "search", `{"vectors": [[1, 0, 0, 0]], "k": 1}`)
	}
	if c.queries != 2 || len(brief.answers.entries) != 1 {
		t.Errorf("%d queries, %d answers that are too old", c.queries, len(brief.answers.entries))
	}
	off, c := counted(t, Options{})
	for range 2 {
		ask(t, off, "search", `{"vectors": [[1, 0, 0, 0]], "k": 1}`)
	}
	if c.queries != 2 {
		t.Errorf("%d queries with nothing kept", c.queries)
	}
}

// Bodies that are more than there is room for are refused before they are read.
func TestInFlight(t *testing.T) {
	s, _ := counted(t, Options{MaxBody: 1000, MaxInFlight: 1500})
	started, release, done := make(chan struct{}), make(chan struct{}), make(chan int)
	go func() {
		body := &slow{text: strings.NewReader(`{"vectors": [[1, 0, 0, 0]]}` + strings.Repeat(" ", 900)), started: started, release: release}
		r := httptest.NewRequest(http.MethodPost, "/v1/collections/pets/search", body)
		r.ContentLength = 927
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		done <- w.Code
	}()
	<-started
	w := httptest.NewRecorder()
	s.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/v1/collections/pets/search", strings.NewReader(strings.Repeat("x", 900))))
	if w.Code != http.StatusTooManyRequests || w.Header().Get("Retry-After") == "" {
		t.Errorf("%d, Retry-After %q: %s", w.Code, w.Header().Get("Retry-After"), w.Body)
	}
	close(release)
	if code := <-done; code != http.StatusOK {
		t.Errorf("the one that was there: %d", code)
	}
	if s.bytes.Used() != 0 {
		t.Errorf("%d bytes are held after all", s.bytes.Used())
	}
}

// slow is a body that waits before its first byte.
type slow struct {
	text             *strings.Reader
	started, release chan struct{}
	begun            bool
}

func (s *slow) Read(b []byte) (int, error) {
	if !s.begun {
		s.begun = true
		close(s.started)
		<-s.release
	}
	return s.text.Read(b)
}
