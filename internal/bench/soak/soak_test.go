package soak

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"imagebind-llm/internal/bench/load"
)

// line is samples of memory that grows by a number of MiB a minute, for ten minutes.
func line(perMinute float64) []Sample {
	var v []Sample
	for i := range 100 {
		at := time.Duration(i) * 6 * time.Second
		v = append(v, Sample{At: at, Memory: 200 + perMinute*at.Minutes() + float64(i%3)})
	}
	return v
}

func TestVerdict(t *testing.T) {
	base := Sample{Goroutines: 8, Files: 14}
	for _, tt := range []struct {
		name    string
		samples []Sample
		end     Sample
		says    string // "": no fault
	}{
		{"flat", line(0), base, ""},
		{"a little", line(2), Sample{Goroutines: 10, Files: 13}, ""},
		{"memory", line(20), base, "memory grew by 9"},
		{"goroutines", line(0), Sample{Goroutines: 30, Files: 14}, "30 goroutines"},
		{"files", line(0), Sample{Goroutines: 8, Files: 40}, "40 files"},
		{"too short to say", line(1000)[:6], base, ""},
	} {
		got := strings.Join(verdict(tt.samples, base, tt.end), "; ")
		if (tt.says == "") != (got == "") || !strings.Contains(got, tt.says) {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.says)
		}
	}
	if x := slope(line(20)); x < 19 || x > 21 {
		t.Errorf("the slope is %g", x)
	}
	if slope(nil) != 0 {
		t.Error("nothing has a slope")
	}
}

func soaking(t *testing.T, h http.HandlerFunc) *soak {
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	s := &soak{client: load.New(srv.URL, 1), Options: Options{Root: "../../..", PID: os.Getpid(), Body: 100}, context: 64, modalities: []string{"image"}}
	t.Cleanup(s.client.Close)
	return s
}

// An answer that is another than the one alone is an error that shows both.
func TestKnown(t *testing.T) {
	answers := []string{"A dog.", "A dog.", "A cat."}
	s := soaking(t, func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"choices":[{"index":0,"message":{"content":%q},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":4}}`, answers[0])
		answers = answers[1:]
	})
	k := chat("chat", "x", load.Chat("what?", 4))
	var err error
	if k.want, err = k.ask(t.Context(), s.client, false); err != nil {
		t.Fatal(err)
	}
	if err := k.check(t.Context(), s.client, false); err != nil {
		t.Error(err)
	}
	if err := k.check(t.Context(), s.client, false); err == nil || !strings.Contains(err.Error(), "A cat.") || !strings.Contains(err.Error(), "A dog.") {
		t.Errorf("another answer: %v", err)
	}
	if (reply{vector: []float64{1, 2}}).differs(reply{vector: []float64{1, 2.1}}) == nil || (reply{vector: []float64{1}}).differs(reply{}) == nil {
		t.Error("another vector passed")
	}
}

// Every piece of nonsense has a body, and another status than wanted is an error.
func TestNonsense(t *testing.T) {
	for _, b := range nonsense {
		for status, right := range map[int]bool{b.status[0]: true, 200: false, 500: false} {
			s := soaking(t, func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(status)
				fmt.Fprint(w, `{"error":{"message":"no"}}`)
			})
			if err := b.check(t.Context(), s); (err == nil) != right {
				t.Errorf("%s answered by %d: %v", b.name, status, err)
			}
		}
	}
}

func TestSample(t *testing.T) {
	if _, err := os.Stat("/proc/self/status"); err != nil {
		t.Skip("wants /proc")
	}
	s := soaking(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "# HELP\ngo_goroutines 12\nx 3\n") })
	v, err := s.sample(t.Context())
	if err != nil || v.Goroutines != 12 || v.Memory < 1 || v.Own > v.Memory || v.Files < 3 {
		t.Errorf("%+v, %v", v, err)
	}
}
