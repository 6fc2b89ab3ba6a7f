// Package load asks a server that speaks OpenAI's chat completions, ours or
// another, in streams, and notes when every piece of the answer came. It is the
// one client of all benchmarks, so that both sides are measured alike.
package load

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// A Client asks one server. Its methods may be called concurrently.
type Client struct {
	Base string // as in http://127.0.0.1:8080
	http *http.Client
}

// New returns a client of the server at base that keeps n connections open.
func New(base string, n int) *Client {
	return &Client{Base: strings.TrimRight(base, "/"), http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: n, IdleConnTimeout: time.Second}}}
}

// A Body is a request's JSON object.
type Body map[string]any

// Chat is a body that asks prompt, without chance, for an answer of tokens.
func Chat(prompt string, tokens int) Body {
	return Body{"messages": []map[string]any{{"role": "user", "content": prompt}}, "max_tokens": tokens, "temperature": 0}
}

// An Answer is what came of a request.
type Answer struct {
	Texts  []string // by choice
	Finish []string // by choice: stop, length
	Usage  Usage
	Bind   Bind
	Sent   time.Time   // when the request began
	Pieces []time.Time // when each piece of text came, of all choices
	Done   time.Time
}

// Usage counts tokens, as the server says.
type Usage struct {
	Prompt     int `json:"prompt_tokens"`
	Completion int `json:"completion_tokens"`
}

// Bind is what our server says beside the answer.
type Bind struct {
	Timings map[string]float64 `json:"timings_ms"` // by stage, with include timings
}

// First is the time to the first piece of text.
func (a Answer) First() time.Duration {
	if len(a.Pieces) == 0 {
		return 0
	}
	return a.Pieces[0].Sub(a.Sent)
}

// A StatusError is an answer that is no success.
type StatusError struct {
	Status  int
	Message string // of the error object, or the body's beginning
}

func (e *StatusError) Error() string { return fmt.Sprintf("status %d: %s", e.Status, e.Message) }

// errCut is a stream without its end.
var errCut = errors.New("the stream was cut off")

type chunk struct {
	Choices []struct {
		Index int `json:"index"`
		Delta struct {
			Content *string `json:"content"`
		} `json:"delta"`
		Message struct {
			Content string `json:"content"`
		} `json:"message"`
		Finish *string `json:"finish_reason"`
	} `json:"choices"`
	Usage *Usage `json:"usage"`
	Bind  *Bind  `json:"bind"`
	Error *struct {
		Message string `json:"message"`
		Code    any    `json:"code"`
	} `json:"error"`
}

// Stream sends body as a streamed chat completion and reads the answer to its
// end. piece, which may be nil, is called for every piece of text; its error ends
// the stream and is returned. The Answer holds what there was, whatever the error.
func (c *Client) Stream(ctx context.Context, body Body, piece func(choice int, text string) error) (Answer, error) {
	var a Answer
	b := Body{"stream": true, "stream_options": map[string]any{"include_usage": true}}
	for k, v := range body {
		b[k] = v
	}
	raw, err := json.Marshal(b)
	if err != nil {
		return a, err
	}
	a.Sent = time.Now()
	resp, err := c.post(ctx, "/v1/chat/completions", "application/json", bytes.NewReader(raw))
	if err != nil {
		return a, err
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		data, ok := bytes.CutPrefix(lines.Bytes(), []byte("data:"))
		if !ok {
			continue
		}
		now := time.Now()
		if data = bytes.TrimSpace(data); string(data) == "[DONE]" {
			a.Done = now
			return a, nil
		}
		var e chunk
		if err := json.Unmarshal(data, &e); err != nil {
			return a, fmt.Errorf("event %.80q: %w", data, err)
		}
		if e.Error != nil {
			return a, fmt.Errorf("the stream ended with an error: %s (%v)", e.Error.Message, e.Error.Code)
		}
		if err := a.add(e, now, piece); err != nil {
			return a, err
		}
	}
	if err := lines.Err(); err != nil {
		return a, err
	}
	return a, errCut
}

func (a *Answer) add(e chunk, now time.Time, piece func(int, string) error) error {
	if e.Usage != nil {
		a.Usage = *e.Usage
	}
	if e.Bind != nil {
		a.Bind = *e.Bind
	}
	for _, c := range e.Choices {
		a.choice(c.Index)
		if c.Finish != nil {
			a.Finish[c.Index] = *c.Finish
		}
		if c.Delta.Content == nil || *c.Delta.Content == "" {
			continue
		}
		a.Texts[c.Index] += *c.Delta.Content
		a.Pieces = append(a.Pieces, now)
		if piece != nil {
			if err := piece(c.Index, *c.Delta.Content); err != nil {
				return err
			}
		}
	}
	return nil
}

func (a *Answer) choice(i int) {
	for len(a.Texts) <= i {
		a.Texts, a.Finish = append(a.Texts, ""), append(a.Finish, "")
	}
}

// Post sends a whole body to a route and returns the answer's. A status of 400
// and more is a *StatusError.
func (c *Client) Post(ctx context.Context, route, contentType string, body io.Reader) ([]byte, error) {
	resp, err := c.post(ctx, route, contentType, body)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	return io.ReadAll(resp.Body)
}

// Whole sends body as a chat completion that is not streamed.
func (c *Client) Whole(ctx context.Context, body Body) (Answer, error) {
	var a Answer
	raw, err := json.Marshal(body)
	if err != nil {
		return a, err
	}
	a.Sent = time.Now()
	raw, err = c.Post(ctx, "/v1/chat/completions", "application/json", bytes.NewReader(raw))
	a.Done = time.Now()
	if err != nil {
		return a, err
	}
	return a, a.Read(raw)
}

// Read fills in what the body of a whole chat completion says.
func (a *Answer) Read(raw []byte) error {
	var e chunk
	if err := json.Unmarshal(raw, &e); err != nil {
		return fmt.Errorf("answer %.80q: %w", raw, err)
	}
	for _, c := range e.Choices {
		a.choice(c.Index)
		a.Texts[c.Index] = c.Message.Content
		if c.Finish != nil {
			a.Finish[c.Index] = *c.Finish
		}
	}
	return a.add(chunk{Usage: e.Usage, Bind: e.Bind}, a.Done, nil)
}

func (c *Client) post(ctx context.Context, route, contentType string, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.Base+route, body)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", contentType)
	req.Header["Idempotency-Key"] = nil // not sent: try again where the server just closed the connection
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode < 400 {
		return resp, nil
	}
	defer resp.Body.Close()
	raw, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	var e chunk
	if json.Unmarshal(raw, &e) == nil && e.Error != nil {
		return nil, &StatusError{resp.StatusCode, e.Error.Message}
	}
	return nil, &StatusError{resp.StatusCode, fmt.Sprintf("%.200q, without an error object", raw)}
}

// Get returns the body of a route.
func (c *Client) Get(ctx context.Context, route string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.Base+route, nil)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode >= 400 {
		err = &StatusError{resp.StatusCode, fmt.Sprintf("%.200s", raw)}
	}
	return raw, err
}

// Close closes the connections that are idle.
func (c *Client) Close() { c.http.CloseIdleConnections() }
