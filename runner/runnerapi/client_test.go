package runnerapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	imagebind "imagebind-llm"
	"imagebind-llm/internal/httpapi"
)

func client(t *testing.T, h http.HandlerFunc) *Client {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	c, err := NewClient(srv.URL+"/", Options{Key: "secret"})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func question() ChatRequest {
	return ChatRequest{Messages: Messages{{Role: "user", Content: Content{Parts: []Part{Text("What?"), Media("image_url", "data:,x")}}}}}
}

func TestChat(t *testing.T) {
	c := client(t, func(w http.ResponseWriter, r *http.Request) {
		var q ChatRequest
		if err := json.NewDecoder(r.Body).Decode(&q); err != nil || q.Stream || q.Messages[0].Content.Parts[1].URL != "data:,x" || r.Header.Get("Authorization") != "Bearer secret" {
			t.Errorf("%+v, %v", q, err)
		}
		httpapi.WriteJSON(w, http.StatusOK, ChatResponse{Choices: []Choice{{Message: Reply{Content: "A dog."}}}})
	})
	q := question()
	q.Stream = true
	if got, err := c.Chat(t.Context(), q); err != nil || got.Choices[0].Message.Content != "A dog." {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestStream(t *testing.T) {
	const good = ": comment\n\ndata: {\"choices\":[{\"delta\":{\"content\":\"A \"}}]}\n\nevent: x\ndata:{\"choices\":[{\"delta\":{\"content\":\"dog.\"}}]}\r\n\r\n"
	cut := "the runner at"
	for _, tt := range []struct {
		name, body string
		kind       imagebind.Kind
		words      string // "": no error
	}{
		{"whole", good + "data: [DONE]\n\n", 0, ""},
		{"cut off", good, imagebind.Unavailable, cut},
		{"cut in a line", good + "data: {\"cho", imagebind.Unavailable, cut},
		{"an error midway", good + `data: {"error":{"message":"too late","type":"server_error","param":null,"code":"timeout"}}` + "\n\n", imagebind.Timeout, "too late"},
		{"an unknown error midway", good + `data: {"error":{"message":"internal error","type":"server_error","param":null,"code":"internal_error"}}` + "\n\n", imagebind.Unavailable, "internal error"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := client(t, func(w http.ResponseWriter, r *http.Request) {
				var q ChatRequest
				if err := json.NewDecoder(r.Body).Decode(&q); err != nil || !q.Stream {
					t.Errorf("%+v, %v", q, err)
				}
				fmt.Fprint(w, tt.body)
			})
			var text strings.Builder
			err := c.Stream(t.Context(), question(), func(e ChatChunk) error {
				text.WriteString(*e.Choices[0].Delta.Content)
				return nil
			})
			if text.String() != "A dog." {
				t.Errorf("text %q", text.String())
			}
			if tt.words == "" && err != nil || tt.words != "" && (imagebind.KindOf(err) != tt.kind || err == nil || !strings.Contains(err.Error(), tt.words)) {
				t.Errorf("%v", err)
			}
		})
	}
	stop := errors.New("enough")
	c := client(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, good) })
	if err := c.Stream(t.Context(), question(), func(ChatChunk) error { return stop }); !errors.Is(err, stop) {
		t.Error(err)
	}
}

func TestEmbed(t *testing.T) {
	n := 1
	c := client(t, func(w http.ResponseWriter, r *http.Request) {
		var q EmbeddingRequest
		if err := json.NewDecoder(r.Body).Decode(&q); err != nil || q.EncodingFormat != FormatBase64 || q.Input[0].Content.Text != "a dog" {
			t.Errorf("%+v, %v", q, err)
		}
		httpapi.WriteJSON(w, http.StatusOK, EmbeddingResponse{Data: make([]EmbeddingData, 0, n), Object: "list"})
	})
	r := EmbeddingRequest{Input: Inputs{{Content{Text: "a dog"}}}}
	if _, err := c.Embed(t.Context(), r); imagebind.KindOf(err) != imagebind.Unavailable {
		t.Errorf("an answer of another length: %v", err)
	}
}

func TestErrors(t *testing.T) {
	c := client(t, func(w http.ResponseWriter, r *http.Request) {
		httpapi.WriteError(w, r, imagebind.WithParam(imagebind.Errorf(imagebind.Busy, "later"), "messages"))
	})
	if _, err := c.Models(t.Context()); imagebind.KindOf(err) != imagebind.Busy || imagebind.ParamOf(err) != "messages" {
		t.Error(err)
	}
	if err := c.Ready(t.Context()); imagebind.KindOf(err) != imagebind.Busy {
		t.Error(err)
	}
	if err := c.Stream(t.Context(), question(), nil); imagebind.KindOf(err) != imagebind.Busy {
		t.Error(err)
	}
	release := make(chan struct{})
	defer close(release)
	slow := client(t, func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := slow.Ready(ctx); imagebind.KindOf(err) != imagebind.Timeout {
		t.Error(err)
	}
	gone, leave := context.WithCancel(t.Context())
	leave()
	if err := slow.Ready(gone); imagebind.KindOf(err) != imagebind.Canceled {
		t.Error(err)
	}
	nobody, err := NewClient("http://127.0.0.1:1", Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := nobody.Ready(t.Context()); imagebind.KindOf(err) != imagebind.Unavailable {
		t.Error(err)
	}
	for _, bad := range []string{"", "localhost:8080", "ftp://x", "http://"} {
		if _, err := NewClient(bad, Options{}); imagebind.KindOf(err) != imagebind.Invalid {
			t.Errorf("URL %q: %v", bad, err)
		}
	}
}
