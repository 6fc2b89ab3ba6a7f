package httpapi

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"

	imagebind "imagebind-llm"
)

// A Peer is another server of this project, as its client sees it. Its methods
// may be called concurrently; nothing is tried twice.
type Peer struct {
	name string // for messages: runner, retriever
	base string
	key  string
	http *http.Client
}

// NewPeer returns the peer at base, a URL like example. key, where set, is sent
// as a bearer token. client may be nil: then contexts alone bound a call.
func NewPeer(name, base, example, key string, client *http.Client) (*Peer, error) {
	u, err := url.Parse(base)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return nil, imagebind.Errorf(imagebind.Invalid, "the %s's URL is %q; it looks like %s", name, base, example)
	}
	if client == nil {
		client = &http.Client{Transport: http.DefaultTransport.(*http.Transport).Clone()}
	}
	return &Peer{name, strings.TrimRight(base, "/"), key, client}, nil
}

// Base returns the URL.
func (p *Peer) Base() string { return p.base }

// Send sends body, of the type content where that is not "", and returns an
// answer below 400, or an error. The id of the request that ctx belongs to goes
// along.
func (p *Peer) Send(ctx context.Context, method, path string, body io.Reader, content, accept string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, p.base+path, body)
	if err != nil {
		return nil, imagebind.Errorf(imagebind.Invalid, "request to the %s: %w", p.name, err)
	}
	req.Header.Set("Accept", accept)
	if content != "" {
		req.Header.Set("Content-Type", content)
	}
	if p.key != "" {
		req.Header.Set("Authorization", "Bearer "+p.key)
	}
	if id := RequestID(ctx); id != "" {
		req.Header.Set("X-Request-Id", id)
	}
	resp, err := p.http.Do(req)
	if err != nil {
		return nil, p.Broken(ctx, err)
	}
	if resp.StatusCode >= 400 {
		defer resp.Body.Close()
		return nil, ReadError(resp)
	}
	return resp, nil
}

// Broken says what a broken connection means: the caller left, the time ran out,
// or the peer is not there.
func (p *Peer) Broken(ctx context.Context, err error) error {
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return imagebind.Errorf(imagebind.Canceled, "request to the %s: %w", p.name, ctx.Err())
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return imagebind.Errorf(imagebind.Timeout, "the %s at %s took too long: %w", p.name, p.base, ctx.Err())
	}
	return imagebind.Errorf(imagebind.Unavailable, "the %s at %s does not answer: %w", p.name, p.base, err)
}
