package runnerapi

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	imagebind "imagebind-llm"
	"imagebind-llm/internal/httpapi"
)

// Options of a Client. The zero value works.
type Options struct {
	HTTP *http.Client // default: a client of its own without a timeout: contexts bound every call
	Key  string       // sent as a bearer token when set
}

// A Client talks to one runner. Its methods may be called concurrently. Nothing
// is tried twice. Errors are imagebind's: Unavailable when the runner does not
// answer.
type Client struct {
	base string
	o    Options
}

// NewClient returns a client of the runner at base, as in
// "http://localhost:8080". It does not connect yet.
func NewClient(base string, o Options) (*Client, error) {
	u, err := url.Parse(base)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return nil, imagebind.Errorf(imagebind.Invalid, "the runner's URL is %q; it looks like http://localhost:8080", base)
	}
	if o.HTTP == nil {
		o.HTTP = &http.Client{Transport: http.DefaultTransport.(*http.Transport).Clone()}
	}
	return &Client{base: strings.TrimRight(base, "/"), o: o}, nil
}

// Chat answers r whole; r.Stream is not looked at.
func (c *Client) Chat(ctx context.Context, r ChatRequest) (ChatResponse, error) {
	var out ChatResponse
	r.Stream, r.StreamOptions = false, nil
	err := c.call(ctx, http.MethodPost, "/v1/chat/completions", r, &out)
	return out, err
}

// Stream answers r in chunks, which emit gets as they come; its error ends the
// stream and is returned. The last chunk holds the Bind.
func (c *Client) Stream(ctx context.Context, r ChatRequest, emit func(ChatChunk) error) error {
	r.Stream = true
	resp, err := c.send(ctx, http.MethodPost, "/v1/chat/completions", r, "text/event-stream")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	err = readEvents(resp.Body, emit)
	if errors.Is(err, errCut) {
		return c.transport(ctx, err)
	}
	return err
}

// Embed returns the embeddings of r.Input, in its order.
func (c *Client) Embed(ctx context.Context, r EmbeddingRequest) (EmbeddingResponse, error) {
	var out EmbeddingResponse
	r.EncodingFormat = FormatBase64
	if err := c.call(ctx, http.MethodPost, "/v1/embeddings", r, &out); err != nil {
		return out, err
	}
	if len(out.Data) != len(r.Input) {
		return out, imagebind.Errorf(imagebind.Unavailable, "the runner at %s answered %d embeddings for %d inputs", c.base, len(out.Data), len(r.Input))
	}
	return out, nil
}

// Models lists what is served.
func (c *Client) Models(ctx context.Context) ([]Model, error) {
	var out ModelList
	err := c.call(ctx, http.MethodGet, "/v1/models", nil, &out)
	return out.Data, err
}

// Ready is nil when the runner would answer a query now.
func (c *Client) Ready(ctx context.Context) error {
	return c.call(ctx, http.MethodGet, "/readyz", nil, nil)
}

func (c *Client) call(ctx context.Context, method, path string, in, out any) error {
	resp, err := c.send(ctx, method, path, in, "application/json")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if out == nil {
		return nil
	}
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		return c.transport(ctx, err)
	}
	return nil
}

// send returns an answer below 400, or an error.
func (c *Client) send(ctx context.Context, method, path string, in any, accept string) (*http.Response, error) {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil { // a weight of NaN, say
			return nil, imagebind.Errorf(imagebind.Invalid, "the request cannot be written as JSON: %w", err)
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, body)
	if err != nil {
		return nil, imagebind.Errorf(imagebind.Invalid, "request to the runner: %w", err)
	}
	req.Header.Set("Accept", accept)
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.o.Key != "" {
		req.Header.Set("Authorization", "Bearer "+c.o.Key)
	}
	if id := httpapi.RequestID(ctx); id != "" {
		req.Header.Set("X-Request-Id", id)
	}
	resp, err := c.o.HTTP.Do(req)
	if err != nil {
		return nil, c.transport(ctx, err)
	}
	if resp.StatusCode >= 400 {
		defer resp.Body.Close()
		return nil, httpapi.ReadError(resp)
	}
	return resp, nil
}

// transport says what a broken connection means: the caller left, the time ran
// out, or the runner is not there.
func (c *Client) transport(ctx context.Context, err error) error {
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return imagebind.Errorf(imagebind.Canceled, "request to the runner: %w", ctx.Err())
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return imagebind.Errorf(imagebind.Timeout, "the runner at %s took too long: %w", c.base, ctx.Err())
	}
	return imagebind.Errorf(imagebind.Unavailable, "the runner at %s does not answer: %w", c.base, err)
}

// errCut is a stream without its end.
var errCut = errors.New("the stream was cut off")

// maxEvent bounds a line of a stream, bytes: a thousand neighbours fit.
const maxEvent = 32 << 20

// readEvents reads server-sent events up to [DONE]. Comments are skipped, and
// fields other than data.
func readEvents(r io.Reader, emit func(ChatChunk) error) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxEvent)
	for lines.Scan() {
		data, ok := bytes.CutPrefix(lines.Bytes(), []byte("data:"))
		if !ok {
			continue
		}
		data = bytes.TrimSpace(data)
		if string(data) == "[DONE]" {
			return nil
		}
		var event struct {
			ChatChunk
			Error *httpapi.ErrorObject `json:"error"`
		}
		if err := json.Unmarshal(data, &event); err != nil {
			return fmt.Errorf("%w: %w", errCut, err)
		}
		if event.Error != nil {
			return eventError(*event.Error)
		}
		if err := emit(event.ChatChunk); err != nil {
			return err
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("%w: %w", errCut, err)
	}
	return errCut
}

// kinds are the error codes that come in the middle of an answer; all others
// are told as Unavailable.
var kinds = map[string]imagebind.Kind{
	"invalid_value": imagebind.Invalid, "unsupported_media": imagebind.Unsupported, "too_large": imagebind.TooLarge,
	"overloaded": imagebind.Busy, "canceled": imagebind.Canceled, "timeout": imagebind.Timeout,
}

// eventError is the error that ended a stream.
func eventError(o httpapi.ErrorObject) error {
	kind := imagebind.Unavailable
	if o.Code != nil && kinds[*o.Code] != imagebind.Internal {
		kind = kinds[*o.Code]
	}
	err := imagebind.Errorf(kind, "%s", o.Message)
	if o.Param != nil {
		err.Param = *o.Param
	}
	return err
}
