package constrain

import (
	"cmp"
	"slices"
	"strings"
)

// A trie is a set of tokens by their texts, whose nodes lie in depth-first
// order: what begins alike is walked once, and skipped once.
type trie struct {
	bytes  []byte   // of each node, the last of its text
	depths []uint16 // bytes before it
	skips  []int32  // the node after all that begin with its text
	begins []int32  // ids[begins[i]:begins[i+1]] are the tokens of node i's text
	ids    []int32
}

type entry struct {
	text string
	id   int32
}

func newTrie(entries []entry) trie {
	slices.SortFunc(entries, func(a, b entry) int { return cmp.Or(strings.Compare(a.text, b.text), cmp.Compare(a.id, b.id)) })
	t := trie{begins: []int32{}}
	var open []int32 // nodes of the last text
	last := ""
	for _, e := range entries {
		common := 0
		for common < min(len(last), len(e.text)) && last[common] == e.text[common] {
			common++
		}
		for _, i := range open[common:] {
			t.skips[i] = int32(len(t.bytes))
		}
		open = open[:common]
		for i := common; i < len(e.text); i++ {
			open = append(open, int32(len(t.bytes)))
			t.bytes, t.depths = append(t.bytes, e.text[i]), append(t.depths, uint16(i))
			t.skips, t.begins = append(t.skips, 0), append(t.begins, int32(len(t.ids)))
		}
		t.ids = append(t.ids, e.id)
		last = e.text
	}
	for _, i := range open {
		t.skips[i] = int32(len(t.bytes))
	}
	t.begins = append(t.begins, int32(len(t.ids)))
	return t
}

// walk adds the tokens to out that m takes from st on. path is a buffer.
func (t *trie) walk(m *machine, st *state, out []uint64, path []*state) []*state {
	path = append(path[:0], st) // path[d] is the state after d bytes
	for i := 0; i < len(t.bytes); {
		d := int(t.depths[i])
		to := m.step(path[d], t.bytes[i])
		if to == dead {
			i = int(t.skips[i])
			continue
		}
		path = append(path[:d+1], to)
		for _, id := range t.ids[t.begins[i]:t.begins[i+1]] {
			set(out, int(id))
		}
		i++
	}
	return path
}
