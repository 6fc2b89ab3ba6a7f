package rebuild

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"

	imagebind "imagebind-llm"
	"imagebind-llm/retriever/retrieverapi"
)

// serve answers as a retriever does that goes through the given states of one job.
func serve(t *testing.T, states ...retrieverapi.Job) (url string, asked *retrieverapi.JobRequest) {
	t.Helper()
	asked = new(retrieverapi.JobRequest)
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/jobs", func(w http.ResponseWriter, r *http.Request) {
		if err := json.NewDecoder(r.Body).Decode(asked); err != nil {
			t.Error(err)
		}
		w.WriteHeader(http.StatusAccepted)
		_ = json.NewEncoder(w).Encode(retrieverapi.Job{ID: "j1", State: retrieverapi.JobQueued})
	})
	mux.HandleFunc("GET /v1/jobs", func(w http.ResponseWriter, r *http.Request) {
		_ = json.NewEncoder(w).Encode(retrieverapi.JobList{})
	})
	mux.HandleFunc("GET /v1/jobs/j1/events", func(w http.ResponseWriter, r *http.Request) {
		for _, s := range states {
			b, _ := json.Marshal(s)
			fmt.Fprintf(w, "data: %s\n\n", b)
			w.(http.Flusher).Flush()
		}
		if last := states[len(states)-1]; !last.Over() {
			<-r.Context().Done()
		}
	})
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s.URL, asked
}

func TestRun(t *testing.T) {
	running := retrieverapi.Job{ID: "j1", Collection: "pets", State: retrieverapi.JobRunning, Phase: "copy", RowsDone: 5, RowsTotal: 10}
	done := retrieverapi.Job{ID: "j1", Collection: "pets", State: retrieverapi.JobDone, Phase: "done", RowsDone: 10, RowsTotal: 10, Generation: 2, Notes: []string{"x.index, SQ8: values are rebuilt from 8-bit codes"},
		Checks: &retrieverapi.Checks{Rows: 10, Dim: 4, Recall: 1}}
	failed := retrieverapi.Job{ID: "j1", Collection: "pets", State: retrieverapi.JobFailed, Phase: "check", Error: "recall is 0.2"}
	tests := []struct {
		name   string
		states []retrieverapi.Job
		wait   bool
		out    string // that the output has
		err    string // that the error has
	}{
		{"not waited for", []retrieverapi.Job{running}, false, "it goes on by itself", ""},
		{"done", []retrieverapi.Job{running, done}, true, "generation 2 serves: 10 rows", ""},
		{"of codes", []retrieverapi.Job{running, done}, true, "note: x.index, SQ8: values are rebuilt", ""},
		{"failed", []retrieverapi.Job{running, failed}, true, "", "job j1 failed: recall is 0.2"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			url, asked := serve(t, tt.states...)
			var out bytes.Buffer
			err := Run(t.Context(), Options{Retriever: url, Collection: "pets", Path: "features.npy", Wait: tt.wait}, &out)
			if got := fmt.Sprint(err); tt.err == "" && err != nil || !strings.Contains(got, tt.err) {
				t.Errorf("error %v, want %q", err, tt.err)
			}
			if !strings.Contains(out.String(), tt.out) {
				t.Errorf("output %q lacks %q", out.String(), tt.out)
			}
			if asked.Type != retrieverapi.JobRebuild || asked.Collection != "pets" || asked.Source.Path != "features.npy" {
				t.Errorf("asked %+v", *asked)
			}
		})
	}
}

// What is said of media reaches the retriever, and the first left out are told.
func TestMedia(t *testing.T) {
	done := retrieverapi.Job{ID: "j1", Collection: "pets", State: retrieverapi.JobDone, Phase: "done", RowsDone: 10, RowsTotal: 10, RowsFailed: 9,
		Checks: &retrieverapi.Checks{Rows: 1, Dim: 4}}
	for i := range 9 {
		done.RowErrors = append(done.RowErrors, retrieverapi.RowError{Row: i, Message: fmt.Sprint("no picture ", i)})
	}
	url, asked := serve(t, done)
	var out bytes.Buffer
	err := Run(t.Context(), Options{Retriever: url, Collection: "pets", Path: "pets", Wait: true, Runner: "http://runner", Modality: "imu",
		Params: []string{"rate=200", "flip=true", "gain=-1e-3"}}, &out)
	if err != nil {
		t.Fatal(err)
	}
	want := retrieverapi.Source{Path: "pets", Runner: "http://runner", Modality: "imu", Params: map[string]any{"rate": 200.0, "flip": true, "gain": -1e-3}}
	if !reflect.DeepEqual(asked.Source, want) {
		t.Errorf("asked %+v, want %+v", asked.Source, want)
	}
	for _, says := range []string{"10 media", "row 4: no picture 4\n", "9 rows were left out"} {
		if !strings.Contains(out.String(), says) {
			t.Errorf("output %q lacks %q", out.String(), says)
		}
	}
	if strings.Contains(out.String(), "row 5:") {
		t.Errorf("too much is told: %q", out.String())
	}
}

// An interrupt stops the watching, says that the job goes on, and how to end it.
func TestInterrupt(t *testing.T) {
	url, _ := serve(t, retrieverapi.Job{ID: "j1", State: retrieverapi.JobRunning, Phase: "copy"})
	ctx, cancel := context.WithCancel(t.Context())
	w := writerFunc(func(b []byte) { cancel() })
	err := Run(ctx, Options{Retriever: url, Collection: "pets", Path: "f.npy", Wait: true}, w)
	if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "job j1 goes on") {
		t.Errorf("error %v", err)
	}
}

type writerFunc func([]byte)

func (f writerFunc) Write(b []byte) (int, error) { f(b); return len(b), nil }

func TestRefusals(t *testing.T) {
	for name, o := range map[string]Options{
		"no path":       {Retriever: "http://localhost:1", Collection: "c"},
		"no collection": {Retriever: "http://localhost:1", Path: "p"},
		"param":         {Retriever: "http://localhost:1", Collection: "c", Path: "p", Params: []string{"rate"}},
		"no name":       {Retriever: "http://localhost:1", Collection: "c", Path: "p", Params: []string{"=1"}},
		"no number":     {Retriever: "http://localhost:1", Collection: "c", Path: "p", Params: []string{"rate=fast"}},
		"not finite":    {Retriever: "http://localhost:1", Collection: "c", Path: "p", Params: []string{"rate=NaN"}},
		"bad URL":       {Retriever: "localhost", Collection: "c", Path: "p"},
	} {
		if err := Run(t.Context(), o, &bytes.Buffer{}); imagebind.KindOf(err) != imagebind.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}
