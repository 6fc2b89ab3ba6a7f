package rebuild

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	imagebind "imagebind-llm"
	"imagebind-llm/retriever/retrieverapi"
)

// cache answers as a retriever with a collection pets does.
func cache(t *testing.T, asked *[]string) string {
	t.Helper()
	mux := http.NewServeMux()
	say := func(w http.ResponseWriter, r *http.Request, v any) {
		body, _ := io.ReadAll(r.Body)
		*asked = append(*asked, strings.TrimSpace(r.Method+" "+r.URL.Path+" "+string(body)))
		_ = json.NewEncoder(w).Encode(v)
	}
	two := retrieverapi.Collection{Name: "pets", Dim: 4, Count: 12, Generation: 2, Model: "m"}
	one := two
	one.Generation = 1
	mux.HandleFunc("GET /v1/collections/pets", func(w http.ResponseWriter, r *http.Request) { say(w, r, two) })
	mux.HandleFunc("GET /v1/collections/pets/generations", func(w http.ResponseWriter, r *http.Request) {
		say(w, r, retrieverapi.GenerationList{Generations: []retrieverapi.Generation{{Collection: two, Serves: true}, {Collection: one}}})
	})
	mux.HandleFunc("POST /v1/collections/pets/rollback", func(w http.ResponseWriter, r *http.Request) { say(w, r, one) })
	mux.HandleFunc("DELETE /v1/collections/pets/generations/1", func(w http.ResponseWriter, r *http.Request) { say(w, r, struct{}{}) })
	mux.HandleFunc("GET /v1/collections/pets/export", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("x") == "" && len(*asked) > 100 {
			panic(http.ErrAbortHandler)
		}
		_, _ = io.WriteString(w, "PAR1 rows PAR1")
	})
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s.URL
}

func TestCache(t *testing.T) {
	var asked []string
	o := Options{Retriever: cache(t, &asked), Collection: "pets"}
	var out bytes.Buffer
	if err := Generations(t.Context(), o, &out); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 3 || !strings.HasPrefix(lines[1], "2 ") || !strings.HasSuffix(lines[1], "serves") || strings.Contains(lines[2], "serves") {
		t.Errorf("generations:\n%s", out.String())
	}
	out.Reset()
	if err := Rollback(t.Context(), o, 1, &out); err != nil || !strings.Contains(out.String(), "generation 1 of pets serves: 12 rows") {
		t.Errorf("%q, %v", out.String(), err)
	}
	if err := Forget(t.Context(), o, 1, &out); err != nil {
		t.Error(err)
	}
	if want := `POST /v1/collections/pets/rollback {"generation":1}`; !slices.Contains(asked, want) {
		t.Errorf("asked %q, not %s", asked, want)
	}
	if !slices.Contains(asked, "DELETE /v1/collections/pets/generations/1") {
		t.Errorf("asked %q", asked)
	}
	if err := Rollback(t.Context(), Options{Retriever: o.Retriever}, 0, &out); imagebind.KindOf(err) != imagebind.Invalid {
		t.Errorf("no collection: %v", err)
	}
}

// An export that breaks off leaves no file, and an older one as it was.
func TestExport(t *testing.T) {
	var asked []string
	o := Options{Retriever: cache(t, &asked), Collection: "pets"}
	path := filepath.Join(t.TempDir(), "pets.parquet")
	if err := Export(t.Context(), o, path, io.Discard); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "PAR1 rows PAR1" {
		t.Errorf("%q, %v", b, err)
	}
	asked = make([]string, 200) // from now on exports are cut
	if err := Export(t.Context(), o, path, io.Discard); imagebind.KindOf(err) != imagebind.Unavailable {
		t.Errorf("cut short: %v", err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "PAR1 rows PAR1" {
		t.Errorf("after a cut: %q, %v", b, err)
	}
	if list, err := os.ReadDir(filepath.Dir(path)); err != nil || len(list) != 1 {
		t.Errorf("left: %v, %v", list, err)
	}
}

// A job that is under way is followed and not begun again.
func TestUnderWay(t *testing.T) {
	at := retrieverapi.Job{ID: "j9", Collection: "pets", State: retrieverapi.JobRunning, Source: retrieverapi.Source{Path: "p.npy"}}
	over := at
	over.ID, over.State = "j8", retrieverapi.JobDone
	started := 0
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			started++
			w.WriteHeader(http.StatusAccepted)
			_ = json.NewEncoder(w).Encode(retrieverapi.Job{ID: "j10", State: retrieverapi.JobQueued})
			return
		}
		_ = json.NewEncoder(w).Encode(retrieverapi.JobList{Jobs: []retrieverapi.Job{over, at}})
	}))
	defer s.Close()
	for _, tt := range []struct {
		o     Options
		want  string
		start int
	}{
		{Options{Path: "p.npy"}, "job j9", 0},
		{Options{Path: "p.npy", New: true}, "job j10", 1},
		{Options{Path: "other.npy"}, "job j10", 1},
		{Options{Path: "p.npy", Runner: "http://r"}, "job j10", 1},
	} {
		started = 0
		tt.o.Retriever, tt.o.Collection = s.URL, "pets"
		var out bytes.Buffer
		if err := Run(t.Context(), tt.o, &out); err != nil || started != tt.start || !strings.Contains(out.String(), tt.want) {
			t.Errorf("%+v: %d started, %q, %v", tt.o, started, out.String(), err)
		}
	}
}
