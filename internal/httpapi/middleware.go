package httpapi

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"github.com/google/uuid"

	imagebind "imagebind-llm"
)

type requestIDKey struct{}

// RequestID returns the id of the request that ctx belongs to, or "".
func RequestID(ctx context.Context) string {
	id, _ := ctx.Value(requestIDKey{}).(string)
	return id
}

// WithRequestID takes x-request-id from the request, or makes one, echoes it in
// the answer and keeps it in the context.
func WithRequestID(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := r.Header.Get("X-Request-Id")
		if id == "" || len(id) > 128 || strings.ContainsFunc(id, func(c rune) bool { return c < '!' || c > '~' }) {
			id = uuid.NewString()
		}
		w.Header().Set("X-Request-Id", id)
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), requestIDKey{}, id)))
	})
}

// A recorder remembers the status and size of an answer.
type recorder struct {
	http.ResponseWriter
	status int
	bytes  int64
}

func (r *recorder) WriteHeader(code int) {
	if r.status == 0 {
		r.status = code
	}
	r.ResponseWriter.WriteHeader(code)
}

func (r *recorder) Write(b []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	n, err := r.ResponseWriter.Write(b)
	r.bytes += int64(n)
	return n, err
}

// Flush lets server-sent events through.
func (r *recorder) Flush() {
	if f, ok := r.ResponseWriter.(http.Flusher); ok {
		f.Flush()
	}
}

// Unwrap lets http.ResponseController reach the connection.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// WithLog writes a line a request, tells observe (which may be nil) its status
// and duration, and turns a panic into an internal error, but for
// http.ErrAbortHandler, with which a handler cuts an answer short.
func WithLog(next http.Handler, observe func(r *http.Request, status int, d time.Duration)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		rec := &recorder{ResponseWriter: w}
		defer func() { //nolint:contextcheck // r carries the context
			p := recover()
			cut := p == http.ErrAbortHandler //nolint:errorlint // a panic's value, and never wrapped
			if p != nil && !cut {
				slog.ErrorContext(r.Context(), "panic", "path", r.URL.Path, "panic", p, "stack", string(debug.Stack()))
				if rec.status == 0 {
					WriteError(rec, r, imagebind.Errorf(imagebind.Internal, "panic"))
				}
			}
			d := time.Since(start)
			if observe != nil {
				observe(r, rec.status, d)
			}
			level := slog.LevelInfo
			if r.URL.Path == "/healthz" || r.URL.Path == "/readyz" || r.URL.Path == "/metrics" {
				level = slog.LevelDebug
			}
			slog.Log(r.Context(), level, "request", "method", r.Method, "path", r.URL.Path, "status", rec.status,
				"bytes", rec.bytes, "duration", d, "request_id", RequestID(r.Context()), "remote", r.RemoteAddr)
			if cut {
				panic(p)
			}
		}()
		next.ServeHTTP(rec, r)
	})
}

// An Owner is who sends a key.
type Owner struct {
	Name string // "" for one who may see everything
	Key  string
}

type ownerKey struct{}

// OwnerOf returns the name of the owner whose key the request carried; "" for
// one who may see everything, and where no key is asked for.
func OwnerOf(ctx context.Context) string {
	name, _ := ctx.Value(ownerKey{}).(string)
	return name
}

// WithKeys lets a request pass that carries one of the keys as a bearer token.
// No keys means no check. The paths of open are always let through.
func WithKeys(next http.Handler, keys []string, open ...string) http.Handler {
	owners := make([]Owner, len(keys))
	for i, k := range keys {
		owners[i].Key = k
	}
	return WithOwners(next, owners, open...)
}

// WithOwners is WithKeys, and tells handlers whose the key was, by [OwnerOf].
func WithOwners(next http.Handler, owners []Owner, open ...string) http.Handler {
	if len(owners) == 0 {
		return next
	}
	sums := make([][32]byte, len(owners))
	for i, o := range owners {
		sums[i] = sha256.Sum256([]byte(o.Key))
	}
	free := map[string]bool{}
	for _, p := range open {
		free[p] = true
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if free[r.URL.Path] {
			next.ServeHTTP(w, r)
			return
		}
		scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		sum, who := sha256.Sum256([]byte(token)), -1
		for i, s := range sums { // all of them, whichever it is
			who = subtle.ConstantTimeSelect(subtle.ConstantTimeCompare(s[:], sum[:]), i, who)
		}
		if who < 0 || !strings.EqualFold(scheme, "Bearer") {
			WriteError(w, r, imagebind.Errorf(imagebind.Unauthorized, "a valid key is needed: send the header Authorization: Bearer KEY"))
			return
		}
		if name := owners[who].Name; name != "" {
			r = r.WithContext(context.WithValue(r.Context(), ownerKey{}, name))
		}
		next.ServeHTTP(w, r)
	})
}

// WithBodyLimit refuses bodies of more than n bytes before they are read whole.
func WithBodyLimit(next http.Handler, n int64) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength > n {
			WriteError(w, r, imagebind.Errorf(imagebind.TooLarge, "the body has %d bytes; at most %d are read", r.ContentLength, n))
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, n)
		next.ServeHTTP(w, r)
	})
}
