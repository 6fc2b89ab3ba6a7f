package server

import (
	"context"
	"io"
	"net/http"
	"sync/atomic"

	imagebind "imagebind-llm"
)

// A budget is how many bytes of bodies and files all requests may hold together.
type budget struct {
	size int64
	used atomic.Int64
}

// A hold is one request's part of a budget.
type hold struct {
	of *budget
	n  atomic.Int64
}

// take reserves n bytes more, or says Busy.
func (h *hold) take(n int64) error {
	for {
		used := h.of.used.Load()
		if used+n > h.of.size {
			return imagebind.Errorf(imagebind.Busy, "the requests under way hold %d bytes of the %d that are let in; this one needs %d more: try again later", used, h.of.size, n)
		}
		if h.of.used.CompareAndSwap(used, used+n) {
			h.n.Add(n)
			return nil
		}
	}
}

// free gives all of it back.
func (h *hold) free() { h.of.used.Add(-h.n.Swap(0)) }

type holdKey struct{}

// holding returns r with a hold on the budget: of its body's length, or of what
// is read of a body that does not say it.
func (b *budget) holding(r *http.Request) (*http.Request, *hold, error) {
	h := &hold{of: b}
	if r.ContentLength > 0 {
		if err := h.take(r.ContentLength); err != nil {
			return r, h, err
		}
	}
	r = r.WithContext(context.WithValue(r.Context(), holdKey{}, h))
	if r.ContentLength < 0 {
		r.Body = &countedBody{ReadCloser: r.Body, hold: h}
	}
	return r, h, nil
}

// takeFor reserves bytes for the request that ctx is of.
func takeFor(ctx context.Context, n int64) error {
	if h, ok := ctx.Value(holdKey{}).(*hold); ok {
		return h.take(n)
	}
	return nil
}

// A countedBody reserves bytes before it reads them.
type countedBody struct {
	io.ReadCloser
	hold  *hold
	ahead int64 // reserved, and not read yet
}

const piece = 64 << 10

func (b *countedBody) Read(p []byte) (int, error) {
	if b.ahead == 0 {
		if err := b.hold.take(piece); err != nil {
			return 0, err
		}
		b.ahead = piece
	}
	n, err := b.ReadCloser.Read(p[:min(int64(len(p)), b.ahead)])
	b.ahead -= int64(n)
	return n, err
}
