package server

import (
	"container/list"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"math"
	"slices"
	"sync"
	"time"

	imagebind "imagebind-llm"
	"imagebind-llm/retriever/retrieverapi"
	"imagebind-llm/retriever/store"
)

// answers keeps the neighbours that were found last, so that a query that comes
// again, as a conversation's next turn does, costs no search. Rows that change
// change the store's version, and with it the key.
type answers struct {
	size int64         // bytes; 0 keeps none
	last time.Duration // how long an answer is kept at most; 0 for as long as there is room

	mu      sync.Mutex
	used    int64
	entries map[answerKey]*list.Element
	recent  list.List // of found, the last used first
}

// An answerKey is the hash of all that neighbours depend on.
type answerKey [sha256.Size]byte

type found struct {
	key        answerKey
	neighbours []imagebind.Neighbour // never changed
	bytes      int64
	at         time.Time
}

func newAnswers(size int64, last time.Duration) *answers {
	return &answers{size: max(0, size), last: last, entries: map[answerKey]*list.Element{}}
}

// version is of the rows that a search would see; "" where nothing is to be
// kept, or the store does not know.
func (a *answers) version(s store.Store, name string) string {
	if a.size == 0 {
		return ""
	}
	return s.Version(name)
}

func answerKeyOf(name, version string, q store.Query, v imagebind.Embedding) (key answerKey) {
	h := sha256.New()
	field := func(b []byte) {
		h.Write(binary.LittleEndian.AppendUint64(nil, uint64(len(b))))
		h.Write(b)
	}
	field([]byte(name))
	field([]byte(version))
	filter, _ := json.Marshal(q.Filter) // of what came as JSON; keys in order
	field(filter)
	b := binary.LittleEndian.AppendUint64(make([]byte, 0, 8+4*len(v)), uint64(q.K))
	for _, x := range v {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(x))
	}
	field(b)
	h.Sum(key[:0])
	return key
}

// get returns the neighbours under key, which are not to be changed; nil for
// none.
func (a *answers) get(key answerKey, version string) []imagebind.Neighbour {
	if version == "" {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	e := a.entries[key]
	if e == nil {
		return nil
	}
	x := e.Value.(found)
	if a.last > 0 && time.Since(x.at) > a.last {
		a.drop(e)
		return nil
	}
	a.recent.MoveToFront(e)
	return x.neighbours
}

// drop lets go of an answer. a.mu is held.
func (a *answers) drop(e *list.Element) {
	x := a.recent.Remove(e).(found)
	delete(a.entries, x.key)
	a.used -= x.bytes
}

// put keeps neighbours, and lets go of those that were not asked for the longest.
func (a *answers) put(key answerKey, neighbours []imagebind.Neighbour) {
	x := found{key, slices.Clone(neighbours), 256, time.Now()}
	for i, n := range neighbours {
		x.neighbours[i].Prototype = slices.Clone(n.Prototype) // not a part of a larger answer
		x.bytes += int64(4*len(n.Prototype) + len(n.ID) + len(n.Caption) + len(n.URI) + 256)
		if n.Metadata != nil { // not more than that
			x.bytes += retrieverapi.MaxText
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if x.bytes > a.size || a.entries[key] != nil || neighbours == nil {
		return
	}
	a.entries[key] = a.recent.PushFront(x)
	for a.used += x.bytes; a.used > a.size; {
		a.drop(a.recent.Back())
	}
}
