package constrain

import (
	"math/bits"
	"slices"
	"sync"
	"unicode/utf8"

	"imagebind-llm/runner/tokenizer"
)

// maxMachines bounds the grammars whose states are kept for answers to come.
const maxMachines = 16

// A Vocabulary is a model's tokens as texts. It is safe for concurrent use.
type Vocabulary struct {
	texts []string // by id; "" for those that add nothing, and for ends
	ends  []int
	// leads are tokens whose leading space is dropped when they begin an answer, as
	// SentencePiece's are; of those that are then empty, blank may begin one.
	leads []bool
	blank []int
	// plain is a bit for each token that is plain; the longest has so many characters.
	plain   []uint64
	longest int
	// tries of all tokens, of those that are not plain, and of all as they begin an answer.
	all, rest, first trie

	mu       sync.Mutex
	machines []*machine // the one used last comes last
}

// NewVocabulary returns the tokens of tok, whose end tokens are ends. It takes
// some ten milliseconds.
func NewVocabulary(tok *tokenizer.Tokenizer, ends []int) *Vocabulary {
	n := tok.VocabSize()
	v := &Vocabulary{texts: make([]string, n), leads: make([]bool, n), ends: ends}
	for id := range n {
		if slices.Contains(ends, id) || tok.Piece(id) == "<unk>" {
			continue
		}
		text := string(tok.Bytes(id))
		v.texts[id] = text
		if text != "" && text[0] == ' ' {
			begin := tok.NewDecoder()
			out := begin.Next(id)
			v.leads[id] = out == "" || out[0] != ' '
			if text == " " && out == "" && begin.Next(id) == " " { // else it could be drawn for ever
				v.blank = append(v.blank, id)
			}
		}
	}
	v.index()
	return v
}

// index builds the tries and sets.
func (v *Vocabulary) index() {
	v.plain = v.empty()
	var all, rest, first []entry
	for id, s := range v.texts {
		if s == "" {
			continue
		}
		all = append(all, entry{s, int32(id)})
		if plain(s) {
			set(v.plain, id)
			v.longest = max(v.longest, utf8.RuneCountInString(s))
		} else {
			rest = append(rest, entry{s, int32(id)})
		}
		if s := v.text(id, true); s != "" {
			first = append(first, entry{s, int32(id)})
		}
	}
	v.all, v.rest = newTrie(all), newTrie(rest)
	v.first = v.all
	if slices.Contains(v.leads, true) {
		v.first = newTrie(first)
	}
}

// text returns what a token adds to an answer, which it may begin.
func (v *Vocabulary) text(id int, begins bool) string {
	if id < 0 || id >= len(v.texts) {
		return ""
	}
	if s := v.texts[id]; !begins || !v.leads[id] {
		return s
	}
	return v.texts[id][1:]
}

// empty returns a set of tokens without any.
func (v *Vocabulary) empty() []uint64 { return make([]uint64, (len(v.texts)+63)/64) }

func set(mask []uint64, id int) { mask[id/64] |= 1 << (id % 64) }

// Begin returns the match of an answer that has yet to begin. With lead it may
// begin with a space, which the caller drops: many models write one.
func (v *Vocabulary) Begin(g *Grammar, lead bool) *Match {
	m := v.machine(g)
	m.mu.Lock()
	defer m.mu.Unlock()
	if lead {
		return &Match{m: m, st: m.starts[1]}
	}
	return &Match{m: m, st: m.starts[0]}
}

// machine returns the one that is kept for a grammar, or a new one.
func (v *Vocabulary) machine(g *Grammar) *machine {
	v.mu.Lock()
	defer v.mu.Unlock()
	at := slices.IndexFunc(v.machines, func(m *machine) bool { return m.g.key == g.key })
	var m *machine
	switch {
	case at >= 0:
		m = v.machines[at]
	case len(v.machines) == maxMachines:
		at, m = 0, newMachine(g, v)
	default:
		m = newMachine(g, v)
		v.machines = append(v.machines, m)
		return m
	}
	v.machines = append(slices.Delete(v.machines, at, at+1), m)
	return m
}

// mask returns the tokens that may follow st.
func (m *machine) mask(st *state, begins bool) []uint64 {
	out := m.v.empty()
	m.size += 8 * len(out)
	tokens := &m.v.all
	switch {
	case begins:
		tokens = &m.v.first
		for _, id := range m.v.blank {
			set(out, id)
		}
	case int(st.run) >= m.v.longest:
		copy(out, m.v.plain)
		tokens = &m.v.rest
	}
	m.path = tokens.walk(m, st, out, m.path)
	if st.end {
		for _, id := range m.v.ends {
			if id >= 0 && id < len(m.v.texts) {
				set(out, id)
			}
		}
	}
	return out
}

// Count returns how many tokens a mask allows.
func Count(mask []uint64) int {
	n := 0
	for _, w := range mask {
		n += bits.OnesCount64(w)
	}
	return n
}

// VocabSize returns the number of ids.
func (v *Vocabulary) VocabSize() int { return len(v.texts) }
