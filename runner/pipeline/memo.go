package pipeline

import (
	"container/list"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	imagebind "imagebind-llm"
)

// A memo holds the embeddings of the parts seen last, so that the later turns
// of a conversation neither read nor encode its pictures again, and mean the
// same to the last bit. What is asked for by several at once is made once.
type memo struct {
	size int // embeddings kept; 0 keeps none, and still makes what is the same at the same time once

	mu      sync.Mutex
	entries map[memoKey]*entry
	recent  list.List // of memoKey, the last used first; those that are made are not in it
	making  sync.WaitGroup
}

// A memoKey is the hash of all that an embedding depends on, but for the bundle
// and the options that a Pipeline has for its life.
type memoKey [sha256.Size]byte

// An encoded is a part's embedding, which is not to be changed, and what it took.
type encoded struct {
	imagebind.Embedding
	read, encode time.Duration
	unread       bool // the error is the file's
}

// An entry is there, or is being made for those who wait.
type entry struct {
	done    chan struct{} // closed when encoded and err are final
	encoded               // valid when done
	err     error
	waiting int // callers; the last to leave stops the making
	stop    context.CancelFunc
	at      *list.Element // nil while it is made
}

func newMemo(size int) *memo { return &memo{size: max(0, size), entries: map[memoKey]*entry{}} }

// keyOf hashes a part.
func keyOf(modality string, part Part) (key memoKey) {
	h := sha256.New()
	field := func(s string) {
		h.Write(binary.LittleEndian.AppendUint64(nil, uint64(len(s))))
		h.Write([]byte(s))
	}
	field(modality)
	names := make([]string, 0, len(part.Params))
	for name := range part.Params {
		names = append(names, name)
	}
	slices.SortFunc(names, strings.Compare)
	for _, name := range names {
		field(name)
		h.Write(binary.LittleEndian.AppendUint64(nil, math.Float64bits(part.Params[name])))
	}
	field("") // the parameters' end
	h.Write(part.Data)
	h.Sum(key[:0])
	return key
}

// get returns what is kept under key, or has it made by f; hit says which.
// Errors are not kept. When ctx ends get returns; f's context ends when all who
// wait have left.
func (m *memo) get(ctx context.Context, key memoKey, f func(context.Context) (encoded, error)) (x encoded, hit bool, err error) {
	m.mu.Lock()
	e := m.entries[key]
	if e != nil && e.at != nil {
		m.recent.MoveToFront(e.at)
		m.mu.Unlock()
		return encoded{Embedding: e.Embedding}, true, nil
	}
	if e == nil {
		e = m.begin(key, f) //nolint:contextcheck // it is for all who wait
	} else {
		hit = true
	}
	e.waiting++
	m.mu.Unlock()
	select {
	case <-e.done:
		return e.encoded, hit, e.err
	case <-ctx.Done():
		m.mu.Lock()
		defer m.mu.Unlock()
		if e.waiting--; e.waiting == 0 {
			e.stop()
			if m.entries[key] == e && e.at == nil {
				delete(m.entries, key) // who comes now begins anew
			}
		}
		return encoded{}, false, ctx.Err()
	}
}

// begin starts f. It is called with mu held.
func (m *memo) begin(key memoKey, f func(context.Context) (encoded, error)) *entry {
	ctx, stop := context.WithCancel(context.Background())
	e := &entry{done: make(chan struct{}), stop: stop}
	m.entries[key] = e
	m.making.Go(func() {
		defer stop()
		e.err = guard(func() (err error) { e.encoded, err = f(ctx); return err })()
		m.mu.Lock()
		defer m.mu.Unlock()
		close(e.done)
		switch {
		case m.entries[key] != e:
		case e.err != nil || m.size == 0:
			delete(m.entries, key)
		default:
			e.at = m.recent.PushFront(key)
			if m.recent.Len() > m.size {
				delete(m.entries, m.recent.Remove(m.recent.Back()).(memoKey))
			}
		}
	})
	return e
}

// wait returns when nothing is being made.
func (m *memo) wait() { m.making.Wait() }
