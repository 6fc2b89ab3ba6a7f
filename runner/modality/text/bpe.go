package text

import (
	"bufio"
	"container/heap"
	"fmt"
	"io"
	"iter"
	"strings"
	"sync"
	"unicode/utf8"
)

// The number of merges that CLIP takes from the vocabulary file, behind its
// first line, and the ids of the special tokens behind them.
const (
	merges = 49152 - 256 - 2
	start  = 49406
	end    = 49407
)

// A Tokenizer is CLIP's byte-pair encoding (SimpleTokenizer). It is safe for
// concurrent use.
type Tokenizer struct {
	ids     map[string]int32 // pieces to ids; those that end a word carry "</w>"
	ranks   map[[2]int32]merge
	letters [256]int32 // the id of a byte inside a word; +256 at its end

	mu    sync.Mutex
	cache map[string][]int32 // words seen lately
}

// A merge is what two adjacent pieces become, and how early.
type merge struct{ rank, id int32 }

// The cache of words is emptied when it holds so many; longer words stay out.
const cacheWords, cacheWord = 1 << 14, 64

// NewTokenizer reads the text of a merge file: a line to skip, then two pieces
// a line.
func NewTokenizer(r io.Reader) (*Tokenizer, error) {
	t := &Tokenizer{ids: make(map[string]int32, end+1), ranks: make(map[[2]int32]merge, merges), cache: map[string][]int32{}}
	// The bytes come in the order of CLIP's bytes_to_unicode: printable ones
	// first, as themselves, then the rest, as U+0100 on.
	n, other := int32(0), rune(256)
	var runes [256]rune
	add := func(from, to int) {
		for b := from; b <= to; b++ {
			runes[b] = rune(b)
			t.letters[b] = n
			n++
		}
	}
	add('!', '~')
	add(0xa1, 0xac)
	add(0xae, 0xff)
	for b := range 256 {
		if runes[b] == 0 {
			runes[b] = other
			t.letters[b] = n
			other, n = other+1, n+1
		}
	}
	for b, c := range runes {
		t.ids[string(c)] = t.letters[b]
		t.ids[string(c)+"</w>"] = t.letters[b] + 256
	}
	lines := bufio.NewScanner(r)
	lines.Scan() // the version
	for i := range int32(merges) {
		if !lines.Scan() {
			if err := lines.Err(); err != nil {
				return nil, fmt.Errorf("the BPE vocabulary: %w", err)
			}
			return nil, fmt.Errorf("the BPE vocabulary has %d merges, not %d", i, merges)
		}
		a, b, _ := strings.Cut(lines.Text(), " ")
		left, ok1 := t.ids[a]
		right, ok2 := t.ids[b]
		if !ok1 || !ok2 {
			return nil, fmt.Errorf("merge %d of the BPE vocabulary, %q, is of unknown pieces", i, lines.Text())
		}
		id := 512 + i
		t.ids[a+b] = id
		t.ranks[[2]int32{left, right}] = merge{i, id}
	}
	return t, nil
}

// EncodeTo fills ids [T] with the start token, the text's, the end token and
// zeros. Where they are too many, the text's are cut. T is at least 2.
func (t *Tokenizer) EncodeTo(ids []int64, text string) {
	clear(ids)
	ids[0] = start
	n := 1
	for word := range words(clean(text)) {
		for _, id := range t.word(word) {
			if n == len(ids)-1 {
				break
			}
			ids[n] = int64(id)
			n++
		}
		if n == len(ids)-1 {
			break
		}
	}
	ids[n] = end
}

// word returns the ids of one word.
func (t *Tokenizer) word(w string) []int32 {
	switch w {
	case "<|startoftext|>":
		return []int32{start}
	case "<|endoftext|>":
		return []int32{end}
	}
	if len(w) > cacheWord {
		return t.merge(w)
	}
	t.mu.Lock()
	ids, ok := t.cache[w]
	t.mu.Unlock()
	if ok {
		return ids
	}
	ids = t.merge(w)
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.cache) >= cacheWords {
		clear(t.cache)
	}
	t.cache[strings.Clone(w)] = ids
	return ids
}

// A pair is two adjacent pieces that can merge: the left one's place, and what
// both were when the pair was found.
type pair struct {
	merge
	at          int
	left, right int32
}

type pairs []pair

func (p pairs) Len() int { return len(p) }
func (p pairs) Less(i, j int) bool {
	return p[i].rank < p[j].rank || p[i].rank == p[j].rank && p[i].at < p[j].at
}
func (p pairs) Swap(i, j int) { p[i], p[j] = p[j], p[i] }
func (p *pairs) Push(x any)   { *p = append(*p, x.(pair)) }
func (p *pairs) Pop() any     { x := (*p)[len(*p)-1]; *p = (*p)[:len(*p)-1]; return x }

// merge joins the earliest-ranked neighbours, leftmost first, until none can
// be joined: in O(n log n) for a word of n bytes.
func (t *Tokenizer) merge(w string) []int32 {
	n := len(w)
	piece, next, prev := make([]int32, n), make([]int, n), make([]int, n)
	for i := range n {
		piece[i], next[i], prev[i] = t.letters[w[i]], i+1, i-1
	}
	piece[n-1] += 256
	var queue pairs
	offer := func(at int) {
		if at < 0 || next[at] >= n {
			return
		}
		l, r := piece[at], piece[next[at]]
		if m, ok := t.ranks[[2]int32{l, r}]; ok {
			heap.Push(&queue, pair{m, at, l, r})
		}
	}
	for i := range n {
		offer(i)
	}
	for len(queue) > 0 {
		p := heap.Pop(&queue).(pair)
		if next[p.at] >= n || piece[p.at] != p.left || piece[next[p.at]] != p.right {
			continue // merged away meanwhile
		}
		gone := next[p.at]
		piece[p.at], piece[gone] = p.id, -1
		next[p.at] = next[gone]
		if next[gone] < n {
			prev[next[gone]] = p.at
		}
		offer(prev[p.at])
		offer(p.at)
	}
	var ids []int32
	for i := 0; i < n; i = next[i] {
		ids = append(ids, piece[i])
	}
	return ids
}

// words yields the words of a cleaned text, as CLIP's expression finds them:
// special tokens, the contractions 's 't 're 've 'm 'll 'd, runs of letters,
// single numerals, runs of all else but spaces.
func words(text string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for text != "" {
			n := wordLen(text)
			if n > 0 && !yield(text[:n]) {
				return
			}
			text = text[max(n, 1):] // else a space
		}
	}
}

// wordLen returns the length of the word that text begins with, 0 before a space.
func wordLen(text string) int {
	for _, special := range []string{"<|startoftext|>", "<|endoftext|>"} {
		if strings.HasPrefix(text, special) {
			return len(special)
		}
	}
	if text[0] == '\'' {
		for _, c := range []string{"s", "\u017f", "t", "re", "ve", "m", "ll", "d"} { // long s folds to s
			if strings.HasPrefix(text[1:], c) {
				return 1 + len(c)
			}
		}
	}
	first := classOf(text)
	if first == space {
		return 0
	}
	n := 0
	for n < len(text) && classOf(text[n:]) == first {
		_, size := utf8.DecodeRuneInString(text[n:])
		n += size
		if first == numeral {
			break
		}
	}
	return n
}
