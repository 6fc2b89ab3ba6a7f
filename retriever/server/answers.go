package server

import (
	"container/list"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"math"
	"sync"

	imagebind "imagebind-llm"
	"imagebind-llm/retriever/retrieverapi"
	"imagebind-llm/retriever/store"
)

// answers keeps the neighbours that were found last, so that a query that comes
// again, as a conversation's next turn does, costs no search. Rows that change
// change the store's version, and with it the key.
type answers struct {
	size int64 // bytes; 0 keeps none

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
}

func newAnswers(size int64) *answers {
	return &answers{size: max(0, size), entries: map[answerKey]*list.Element{}}
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
	a.recent.MoveToFront(e)
	return e.Value.(found).neighbours
}

// put keeps neighbours, and lets go of those that were not asked for the longest.
func (a *answers) put(key answerKey, neighbours []imagebind.Neighbour) {
	x := found{key, neighbours, 256}
	for _, n := range neighbours {
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
		last := a.recent.Remove(a.recent.Back()).(found)
		delete(a.entries, last.key)
		a.used -= last.bytes
	}
}
