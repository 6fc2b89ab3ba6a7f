package source

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	imagebind "imagebind-llm"
	"imagebind-llm/internal/httpapi"
	"imagebind-llm/retriever/retrieverapi"
)

func TestMediaRefused(t *testing.T) {
	f, root := newFakeRunner(t), photos(t, 16)
	for _, i := range []int{0, 5, 6, 15} {
		write(t, fmt.Sprintf("%s/p/%03d.jpg", root, i), fmt.Appendf(nil, "bad %d", i))
	}
	write(t, root+"/p/003.jpg", nil)
	write(t, root+"/p/004.jpg", []byte(strings.Repeat("x", 100)))
	o := quick
	o.File, o.Batch = 50, 8
	m, err := openMedia(t, f, o, root, "p", retrieverapi.Source{}, filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	check(t, everyRow(t, m), 0, 3, 4, 5, 6, 15)
	for row, want := range map[int]string{0: "p/000.jpg: bad 0 is no picture", 3: "it is empty", 4: "100 bytes; at most 50", 6: "bad 6 is no picture", 7: ""} {
		if why := m.Why(row); !strings.Contains(why, want) || (want == "") != (why == "") {
			t.Errorf("row %d: %q, want %q", row, why, want)
		}
	}
	for c, n := range f.seen {
		if n != 1 {
			t.Errorf("%q was embedded %d times", c, n)
		}
	}
}

// What is wrong with no one item, or with all.
func TestMediaRunnerFails(t *testing.T) {
	answer := func(kind imagebind.Kind, param string, when func(contents []string) bool) func(http.ResponseWriter, *http.Request, []string) bool {
		return func(w http.ResponseWriter, r *http.Request, contents []string) bool {
			if !when(contents) {
				return false
			}
			httpapi.WriteError(w, r, imagebind.WithParam(imagebind.Errorf(kind, "as the test says"), param))
			return true
		}
	}
	always := func([]string) bool { return true }
	many := func(c []string) bool { return len(c) > 2 }
	seven := func(c []string) bool { return slices.Contains(c, "7") }
	twice := func() func([]string) bool {
		var mu sync.Mutex
		n := 0
		return func([]string) bool { mu.Lock(); defer mu.Unlock(); n++; return n <= 2 }
	}
	tests := []struct {
		name string
		hook func(http.ResponseWriter, *http.Request, []string) bool
		kind imagebind.Kind // of the error
		says string         // "" : no error
		bad  []int          // rows left out then
	}{
		{"too large together", answer(imagebind.TooLarge, "", many), 0, "", nil},
		{"one too large by itself", answer(imagebind.TooLarge, "", seven), 0, "", []int{7}},
		{"one that breaks the runner", answer(imagebind.Internal, "", seven), 0, "", []int{7}},
		{"one that takes too long", answer(imagebind.Timeout, "", seven), 0, "", []int{7}},
		{"busy, then not", answer(imagebind.Busy, "", twice()), 0, "", nil},
		{"away, then not", answer(imagebind.Unavailable, "", twice()), 0, "", nil},
		{"always busy", answer(imagebind.Busy, "", always), imagebind.Unavailable, "overloaded", nil},
		{"always away", answer(imagebind.Unavailable, "", always), imagebind.Unavailable, "as the test says", nil},
		{"a wrong key", answer(imagebind.Unauthorized, "", always), imagebind.Unauthorized, "--runner-key", nil},
		{"another model", answer(imagebind.NotFound, "model", always), imagebind.NotFound, "as the test says", nil},
		{"a request that it cannot read", answer(imagebind.Invalid, "", always), imagebind.Invalid, "as the test says", nil},
		{"an item that was not sent", answer(imagebind.Invalid, "input[99]", always), imagebind.Invalid, "as the test says", nil},
		{"a redirect", func(w http.ResponseWriter, r *http.Request, _ []string) bool {
			http.Redirect(w, r, "http://127.0.0.1:1/", http.StatusTemporaryRedirect)
			return true
		}, imagebind.Invalid, "redirect", nil},
		{"no JSON", func(w http.ResponseWriter, _ *http.Request, _ []string) bool {
			_, _ = io.WriteString(w, "<html>")
			return true
		}, imagebind.Unavailable, "does not answer", nil},
		{"a proxy without its runner", func(w http.ResponseWriter, _ *http.Request, _ []string) bool {
			http.Error(w, "<html>", http.StatusBadGateway)
			return true
		}, imagebind.Unavailable, "answered 502", nil},
		{"too few embeddings", func(w http.ResponseWriter, _ *http.Request, _ []string) bool {
			_, _ = io.WriteString(w, `{"data":[]}`)
			return true
		}, imagebind.Conflict, "8 values for each item", nil},
		{"of another dim", func(w http.ResponseWriter, _ *http.Request, _ []string) bool {
			_, _ = io.WriteString(w, `{"data":[{"index":0,"embedding":"AAAA"}]}`)
			return true
		}, imagebind.Conflict, "8 values", nil},
		{"an answer without end", func(w http.ResponseWriter, _ *http.Request, _ []string) bool {
			_, _ = io.WriteString(w, `{"data":[{"index":0,"embedding":"`+strings.Repeat("A", 1<<20))
			return true
		}, imagebind.Unavailable, "", nil},
		{"a cut connection", func(http.ResponseWriter, *http.Request, []string) bool { panic(http.ErrAbortHandler) }, imagebind.Unavailable, "does not answer", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f, root := newFakeRunner(t), photos(t, 9)
			f.hook = tt.hook
			m, err := openMedia(t, f, quick, root, "p", retrieverapi.Source{}, filepath.Join(t.TempDir(), "s"))
			if err != nil {
				t.Fatal(err)
			}
			if tt.kind == 0 {
				check(t, everyRow(t, m), tt.bad...)
				for _, i := range tt.bad {
					if m.Why(i) == "" {
						t.Errorf("row %d has no reason", i)
					}
				}
				return
			}
			_, err = m.Read(t.Context(), 0, 9)
			if imagebind.KindOf(err) != tt.kind || !strings.Contains(imagebind.MessageOf(err), tt.says) {
				t.Errorf("%v, want %q", err, tt.says)
			}
		})
	}
}

// A runner that hangs is given up, and a job that is cancelled waits for nothing.
func TestMediaDoesNotHang(t *testing.T) {
	f, root := newFakeRunner(t), photos(t, 9)
	reached := make(chan struct{}, 100)
	f.hook = func(_ http.ResponseWriter, r *http.Request, _ []string) bool {
		reached <- struct{}{}
		<-r.Context().Done()
		return true
	}
	o := quick
	o.Timeout, o.Retries = 50*time.Millisecond, -1
	m, err := openMedia(t, f, o, root, "p", retrieverapi.Source{}, filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err = m.Read(t.Context(), 0, 9); imagebind.KindOf(err) != imagebind.Unavailable || !strings.Contains(err.Error(), "within 50ms") {
		t.Errorf("a runner that hangs: %v", err)
	}
	for len(reached) > 0 {
		<-reached
	}
	m, err = openMedia(t, f, quick, root, "p", retrieverapi.Source{}, filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-reached; cancel() }()
	if _, err := m.Read(ctx, 0, 9); imagebind.KindOf(err) != imagebind.Canceled {
		t.Errorf("cancelled: %v", err)
	}
	if err := m.Close(); err != nil { // which ends the requests
		t.Error(err)
	}
}

// A request is bounded in bytes too.
func TestMediaBatchBytes(t *testing.T) {
	f := newFakeRunner(t)
	files := map[string]string{}
	for i := range 6 {
		files[fmt.Sprintf("p/%d.jpg", i)] = strings.Repeat(fmt.Sprint(i), 7<<10)
	}
	o := quick
	o.Batch, o.Bytes = 32, 24<<10
	m, err := openMedia(t, f, o, tree(t, files), "p", retrieverapi.Source{}, filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	if rows := everyRow(t, m); len(rows) != 6 || !slices.Equal(f.sizes, []int{2, 2, 2}) || f.largest > 24<<10+1024 {
		t.Errorf("%d rows; requests of %v files, at most %d bytes", len(rows), f.sizes, f.largest)
	}
}

func TestRunnersAreThoseNamed(t *testing.T) {
	rs, err := NewRunners([]string{"http://Runner.example:80/", "https://[::1]:8443/base/"}, RunnerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	none, err := NewRunners(nil, RunnerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		rs    *Runners
		s     retrieverapi.Source
		param string // "": it may be asked
		says  string
	}{
		{rs, retrieverapi.Source{Runner: "http://runner.example"}, "", ""},
		{rs, retrieverapi.Source{Runner: "HTTP://RUNNER.example/"}, "", ""},
		{rs, retrieverapi.Source{Runner: "https://[::1]:8443/base"}, "", ""},
		{rs, retrieverapi.Source{Runner: "https://runner.example"}, "source.runner", "none of the runners"},
		{rs, retrieverapi.Source{Runner: "http://runner.example:8080"}, "source.runner", "--runners"},
		{rs, retrieverapi.Source{Runner: "http://runner.example/other"}, "source.runner", "none of the runners"},
		{rs, retrieverapi.Source{Runner: "http://runner.example.evil"}, "source.runner", "none of the runners"},
		{rs, retrieverapi.Source{Runner: "http://u:p@runner.example"}, "source.runner", "no runner's URL"},
		{rs, retrieverapi.Source{Runner: "http://runner.example/?x"}, "source.runner", "no runner's URL"},
		{rs, retrieverapi.Source{Runner: "file:///etc/passwd"}, "source.runner", "no runner's URL"},
		{none, retrieverapi.Source{Runner: "http://runner.example"}, "source.runner", "start it with --runners"},
		{rs, retrieverapi.Source{Runner: "http://runner.example", Modality: "Depth!"}, "source.modality", "no name"},
		{rs, retrieverapi.Source{Runner: "http://runner.example", Params: map[string]any{"rate": "x"}}, "source.params", "neither a number"},
		{rs, retrieverapi.Source{Runner: "http://runner.example", Params: map[string]any{"url": 1.0}}, "source.params", "no name"},
		{rs, retrieverapi.Source{Runner: "http://runner.example", Params: map[string]any{`r":{`: 1.0}}, "source.params", "no name"},
		{rs, retrieverapi.Source{Runner: "http://runner.example", Modality: "text", Params: map[string]any{"rate": 1.0}}, "source.params", "texts have no"},
	}
	for _, tt := range tests {
		err := tt.rs.Check(tt.s)
		if tt.param == "" && err != nil || tt.param != "" && (imagebind.KindOf(err) != imagebind.Invalid || imagebind.ParamOf(err) != tt.param || !strings.Contains(err.Error(), tt.says)) {
			t.Errorf("%+v: %v", tt.s, err)
		}
	}
	for _, bad := range []string{"", "runner:8080", "ftp://x", "http://"} {
		if _, err := NewRunners([]string{bad}, RunnerOptions{}); imagebind.KindOf(err) != imagebind.Invalid {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
