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
type Client struct{ peer *httpapi.Peer }

// NewClient returns a client of the runner at base, as in
// "http://localhost:8080". It does not connect yet.
func NewClient(base string, o Options) (*Client, error) {
	p, err := httpapi.NewPeer("runner", base, "http://localhost:8080", o.Key, o.HTTP)
	if err != nil {
		return nil, err
	}
	return &Client{p}, nil
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
		return c.peer.Broken(ctx, err)
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
		return out, imagebind.Errorf(imagebind.Unavailable, "the runner at %s answered %d embeddings for %d inputs", c.peer.Base(), len(out.Data), len(r.Input))
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
		return c.peer.Broken(ctx, err)
	}
	return nil
}

// send returns an answer below 400, or an error.
func (c *Client) send(ctx context.Context, method, path string, in any, accept string) (*http.Response, error) {
	var body io.Reader
	content := ""
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil { // a weight of NaN, say
			return nil, imagebind.Errorf(imagebind.Invalid, "the request cannot be written as JSON: %w", err)
		}
		body, content = bytes.NewReader(b), "application/json"
	}
	return c.peer.Send(ctx, method, path, body, content, accept)
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
