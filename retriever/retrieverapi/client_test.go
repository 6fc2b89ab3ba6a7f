package retrieverapi

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	imagebind "imagebind-llm"
	"imagebind-llm/internal/httpapi"
)

// client talks to h, counted.
func client(t *testing.T, o Options, h http.HandlerFunc) (*Client, *atomic.Int32) {
	t.Helper()
	var calls atomic.Int32
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		h(w, r)
	}))
	t.Cleanup(srv.Close)
	c, err := NewClient(srv.URL+"/", o)
	if err != nil {
		t.Fatal(err)
	}
	return c, &calls
}

var away = imagebind.Errorf(imagebind.Unavailable, "the store is away")

func TestReadsAreTriedAgainAndWritesAreNot(t *testing.T) {
	first := true
	c, calls := client(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
		if first {
			first = false
			httpapi.WriteError(w, r, away)
			return
		}
		httpapi.WriteJSON(w, http.StatusOK, SearchResponse{Neighbours: [][]Neighbour{{{ID: "a", Score: 0.5}}}})
	})
	got, err := c.Search(t.Context(), "pets", []imagebind.Embedding{{1, 0}}, 1, nil)
	if err != nil || got[0][0].ID != "a" || got[0][0].Similarity != 0.5 || calls.Load() != 2 {
		t.Errorf("got %v, %v after %d calls", got, err, calls.Load())
	}
	first = true
	_, err = c.Upsert(t.Context(), "pets", []Item{{Vector: Vector{1, 0}}})
	if imagebind.KindOf(err) != imagebind.Unavailable || calls.Load() != 3 {
		t.Errorf("write: %v after %d calls", err, calls.Load())
	}
}

func TestCallersMistakesAreNotTriedAgain(t *testing.T) {
	c, calls := client(t, Options{BreakAfter: 1}, func(w http.ResponseWriter, r *http.Request) {
		httpapi.WriteError(w, r, imagebind.WithParam(imagebind.Errorf(imagebind.Invalid, "k is 0"), "k"))
	})
	for range 3 {
		_, err := c.Search(t.Context(), "pets", []imagebind.Embedding{{1, 0}}, 0, nil)
		if imagebind.KindOf(err) != imagebind.Invalid || imagebind.ParamOf(err) != "k" {
			t.Fatal(err)
		}
	}
	if calls.Load() != 3 {
		t.Errorf("%d calls, want 3: no retry and no open breaker", calls.Load())
	}
}

func TestBreakerOpensAndCloses(t *testing.T) {
	down := atomic.Bool{}
	down.Store(true)
	c, calls := client(t, Options{Retries: -1, BreakAfter: 2, BreakFor: 50 * time.Millisecond}, func(w http.ResponseWriter, r *http.Request) {
		if down.Load() {
			httpapi.WriteError(w, r, away)
			return
		}
		httpapi.WriteJSON(w, http.StatusOK, CollectionList{})
	})
	for range 5 {
		if _, err := c.Collections(t.Context()); imagebind.KindOf(err) != imagebind.Unavailable {
			t.Fatal(err)
		}
	}
	if n := calls.Load(); n != 2 {
		t.Errorf("%d calls reached the server, want 2: then the breaker is open", n)
	}
	down.Store(false)
	for deadline := time.Now().Add(5 * time.Second); ; {
		if _, err := c.Collections(t.Context()); err == nil {
			return
		} else if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

func TestDeadlinesAndAbsence(t *testing.T) {
	release := make(chan struct{})
	c, _ := client(t, Options{Retries: -1}, func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	})
	defer close(release)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := c.Collections(ctx); imagebind.KindOf(err) != imagebind.Timeout {
		t.Errorf("caller's deadline: %v", err)
	}
	gone, cancelNow := context.WithCancel(t.Context())
	cancelNow()
	if _, err := c.Collections(gone); imagebind.KindOf(err) != imagebind.Canceled {
		t.Errorf("caller left: %v", err)
	}
	nobody, err := NewClient("http://127.0.0.1:1", Options{Retries: -1})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := nobody.Collections(t.Context()); imagebind.KindOf(err) != imagebind.Unavailable {
		t.Errorf("nobody listens: %v", err)
	}
	for _, bad := range []string{"", "localhost:8081", "ftp://x", "http://"} {
		if _, err := NewClient(bad, Options{}); imagebind.KindOf(err) != imagebind.Invalid {
			t.Errorf("URL %q: %v", bad, err)
		}
	}
}

func TestEnhanceRefusesAnAnswerOfAnotherShape(t *testing.T) {
	answers := []EnhanceResponse{
		{Vectors: []Vector{{1}}, Neighbours: [][]Neighbour{{}}},
		{Vectors: []Vector{{1, 0}, {1, 0}}, Neighbours: [][]Neighbour{{}}},
		{Vectors: []Vector{{1, 0}}},
	}
	i := 0
	c, _ := client(t, Options{Retries: -1}, func(w http.ResponseWriter, r *http.Request) {
		httpapi.WriteJSON(w, http.StatusOK, answers[i])
	})
	for i = range answers {
		_, _, err := c.Enhance(t.Context(), "pets", []imagebind.Embedding{{0, 1}}, imagebind.DefaultEnhance(), nil)
		if imagebind.KindOf(err) != imagebind.Unavailable {
			t.Errorf("answer %d: %v", i, err)
		}
	}
}

func TestWaitGoesOnAfterABreak(t *testing.T) {
	part := 0
	c, _ := client(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
		part++
		send := func(j Job) {
			b, err := json.Marshal(j)
			if err != nil {
				t.Error(err)
			}
			fmt.Fprintf(w, "data: %s\n\n", b)
		}
		switch part {
		case 1:
			send(Job{ID: "1", State: JobRunning, RowsDone: 1}) // and the connection ends
		case 2:
			httpapi.WriteError(w, r, away)
		default:
			send(Job{ID: "1", State: JobRunning, RowsDone: 2})
			send(Job{ID: "1", State: JobDone, RowsDone: 3})
			fmt.Fprint(w, "data: [DONE]\n\n")
		}
	})
	var seen []int
	j, err := c.Wait(t.Context(), "1", time.Minute, func(j Job) { seen = append(seen, j.RowsDone) })
	if err != nil || j.State != JobDone || fmt.Sprint(seen) != "[1 2 3]" {
		t.Errorf("got %+v, %v, seen %v", j, err, seen)
	}
}

// TestTimeoutIsNotRetried: a retriever that hangs costs one Timeout, not three.
func TestTimeoutIsNotRetried(t *testing.T) {
	var tries atomic.Int32
	release := make(chan struct{})
	c, _ := client(t, Options{Timeout: 30 * time.Millisecond}, func(w http.ResponseWriter, r *http.Request) {
		tries.Add(1)
		select {
		case <-release:
		case <-r.Context().Done():
		}
	})
	defer close(release)
	if _, err := c.Collections(t.Context()); imagebind.KindOf(err) != imagebind.Timeout {
		t.Errorf("error is %v", err)
	}
	if n := tries.Load(); n != 1 {
		t.Errorf("%d tries", n)
	}
}
