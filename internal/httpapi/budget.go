package httpapi

import (
	"context"
	"io"
	"net/http"
	"sync/atomic"

	imagebind "imagebind-llm"
)

// A Budget is how many bytes of bodies, and of what is made of them, all
// requests may hold together. Size is set before its first use.
type Budget struct {
	Size int64
	used atomic.Int64
}

// Used is how many bytes are held.
func (b *Budget) Used() int64 { return b.used.Load() }

// A Hold is one request's part of a Budget.
type Hold struct {
	of *Budget
	n  atomic.Int64
}

// take reserves n bytes more, or says Busy.
func (h *Hold) take(n int64) error {
	for {
		used := h.of.used.Load()
		if used+n > h.of.Size {
			return imagebind.Errorf(imagebind.Busy, "the requests under way hold %d bytes of the %d that are let in; this one needs %d more: try again later", used, h.of.Size, n)
		}
		if h.of.used.CompareAndSwap(used, used+n) {
			h.n.Add(n)
			return nil
		}
	}
}

// Free gives all of it back.
func (h *Hold) Free() { h.of.used.Add(-h.n.Swap(0)) }

type holdKey struct{}

// Holding returns r with a Hold on the budget: of its body's length, or of what
// is read of a body that does not say it.
func (b *Budget) Holding(r *http.Request) (*http.Request, *Hold, error) {
	h := &Hold{of: b}
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

// TakeFor reserves bytes for the request that ctx is of; where that has no Hold
// it does nothing.
func TakeFor(ctx context.Context, n int64) error {
	if h, ok := ctx.Value(holdKey{}).(*Hold); ok {
		return h.take(n)
	}
	return nil
}

// A countedBody reserves bytes before it reads them.
type countedBody struct {
	io.ReadCloser
	hold  *Hold
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
