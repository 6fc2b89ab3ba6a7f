package load

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func serve(t *testing.T, status int, body string) *Client {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var got map[string]any
		if err := json.NewDecoder(r.Body).Decode(&got); err != nil || got["max_tokens"] != 7.0 {
			t.Errorf("the server got %v, %v", got, err)
		}
		w.WriteHeader(status)
		fmt.Fprint(w, body)
	}))
	t.Cleanup(srv.Close)
	c := New(srv.URL+"/", 1)
	t.Cleanup(c.Close)
	return c
}

const piece = "data: {\"choices\":[{\"index\":1,\"delta\":{\"content\":\"A \"},\"finish_reason\":null}]}\n\n"

// A stream of either server: pieces by choice, usage on a chunk of its own, timings on the last.
func TestStream(t *testing.T) {
	c := serve(t, 200, ": comment\n\n"+piece+`data: {"choices":[{"index":0,"delta":{"content":""}},{"index":1,"delta":{"content":"dog"},"finish_reason":"length"}]}`+"\n\n"+
		`data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2},"bind":{"timings_ms":{"total":5}}}`+"\n\ndata: [DONE]\n\n")
	var heard []string
	a, err := c.Stream(t.Context(), Chat("what?", 7), func(choice int, text string) error {
		heard = append(heard, fmt.Sprint(choice, text))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(a.Texts) != 2 || a.Texts[1] != "A dog" || a.Finish[1] != "length" || a.Usage != (Usage{3, 2}) || a.Bind.Timings["total"] != 5 || len(a.Pieces) != 2 || len(heard) != 2 {
		t.Errorf("%+v, heard %q", a, heard)
	}
	if a.First() <= 0 || a.Done.Before(a.Pieces[1]) {
		t.Errorf("first piece after %v, done %v", a.First(), a.Done)
	}
}

func TestStreamFails(t *testing.T) {
	var status *StatusError
	for _, tt := range []struct {
		name, body, says string
		code             int
	}{
		{"cut off", piece, "cut off", 200},
		{"an error midway", piece + "data: {\"error\":{\"message\":\"too late\",\"code\":\"timeout\"}}\n\n", "too late (timeout)", 200},
		{"no JSON", "data: {\n\n", "event", 200},
		{"refused", `{"error":{"message":"no room","code":"overloaded"}}`, "status 429: no room", 429},
		{"refused without an object", "oops", "without an error object", 500},
	} {
		_, err := serve(t, tt.code, tt.body).Stream(t.Context(), Chat("what?", 7), nil)
		if err == nil || !strings.Contains(err.Error(), tt.says) || errors.As(err, &status) != (tt.code >= 400) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	stop := errors.New("enough")
	if a, err := serve(t, 200, piece+piece).Stream(t.Context(), Chat("what?", 7), func(int, string) error { return stop }); !errors.Is(err, stop) || a.Texts[1] != "A " {
		t.Errorf("%+v, %v", a, err)
	}
}

func TestWhole(t *testing.T) {
	c := serve(t, 200, `{"choices":[{"index":0,"message":{"content":"A dog."},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":4}}`)
	a, err := c.Whole(t.Context(), Chat("what?", 7))
	if err != nil || a.Texts[0] != "A dog." || a.Finish[0] != "stop" || a.Usage.Completion != 4 {
		t.Errorf("%+v, %v", a, err)
	}
}
