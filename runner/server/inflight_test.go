package server

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"imagebind-llm/runner/media"
	"imagebind-llm/runner/pipeline"
)

// A request that would hold more than what is left is answered 429 before its
// body is read, and what a request held is free when it is over.
func TestInFlight(t *testing.T) {
	inside, release := make(chan struct{}), make(chan struct{})
	f := &fake{answer: func(_ context.Context, q pipeline.Query, emit func(pipeline.Event) error) (pipeline.Answer, error) {
		if strings.HasPrefix(q.Messages[0].Content, "wait") {
			inside <- struct{}{}
			<-release
		}
		return dog(q, emit)
	}}
	files := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(w, strings.NewReader(strings.Repeat("a", len(r.URL.Path)*1000))) // no Content-Length, in pieces
	}))
	defer files.Close()
	fetcher, err := media.New(media.Options{Hosts: []string{"127.0.0.1:" + files.URL[strings.LastIndexByte(files.URL, ':')+1:]}, Private: true})
	if err != nil {
		t.Fatal(err)
	}
	const limit = 200_000
	server, err := New(Options{Pipeline: f, Media: fetcher, MaxInFlight: limit})
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(server)
	defer s.Close()
	hello := func(text string) string { return `{"messages":[{"role":"user","content":"` + text + `"}]}` }
	fetch := func(kilobytes int) string {
		return fmt.Sprintf(`{"messages":[{"role":"user","content":[{"type":"text","text":"hi"},{"type":"image_url","image_url":{"url":"%s/%s"}}]}]}`, files.URL, strings.Repeat("x", kilobytes-1))
	}
	post := func(body io.Reader) int {
		t.Helper()
		resp, err := http.Post(s.URL+"/v1/chat/completions", "application/json", body)
		if err != nil {
			t.Error(err)
			return 0
		}
		defer resp.Body.Close()
		if resp.StatusCode == http.StatusTooManyRequests && resp.Header.Get("Retry-After") == "" {
			t.Error("429 without Retry-After")
		}
		return resp.StatusCode
	}
	hundred := strings.Repeat("a", 100_000)
	first := make(chan int, 1)
	go func() { first <- post(strings.NewReader(hello("wait" + hundred))) }()
	<-inside

	unread := &watched{r: strings.NewReader(hello(hundred))}
	r := httptest.NewRequest(http.MethodPost, "/v1/chat/completions", unread)
	r.ContentLength = int64(len(hello(hundred)))
	w := httptest.NewRecorder()
	if server.ServeHTTP(w, r); w.Code != http.StatusTooManyRequests || unread.n != 0 {
		t.Errorf("the second is answered %d, %d bytes are read", w.Code, unread.n)
	}
	for _, tt := range []struct {
		name string
		body io.Reader
		want int
	}{
		{"as it grows", io.MultiReader(strings.NewReader(hello(hundred))), 429},
		{"small, of unknown length", io.MultiReader(strings.NewReader(hello("hi"))), 200},
		{"small", strings.NewReader(hello("hi")), 200},
		{"a fetched file", strings.NewReader(fetch(150)), 429},
		{"a small fetched file", strings.NewReader(fetch(10)), 200},
		{"a data: URL", strings.NewReader(`{"messages":[{"role":"user","content":[{"type":"text","text":"hi"},{"type":"image_url","image_url":{"url":"data:;base64,` + hundred[:80_000] + `"}}]}]}`), 429},
	} {
		if got := post(tt.body); got != tt.want {
			t.Errorf("%s: %d, want %d", tt.name, got, tt.want)
		}
	}
	close(release)
	if got := <-first; got != http.StatusOK {
		t.Errorf("the first is answered %d", got)
	}
	if got := post(strings.NewReader(fetch(120))); got != http.StatusOK {
		t.Errorf("afterwards: %d", got)
	}
	if used := server.bytes.Used(); used != 0 {
		t.Errorf("%d bytes are held by nobody", used)
	}
}

// A watched reader counts.
type watched struct {
	r io.Reader
	n int
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.r.Read(p)
	w.n += n
	return n, err
}
