package tokenizer

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/dlclark/regexp2"
)

// bpe is the BPE model of Hugging Face's tokenizers: the text is normalised,
// cut into words, and in each word the neighbours of the earliest merge are
// joined, the leftmost first.
type bpe struct {
	t           *Tokenizer
	normalizers []func(text string, first bool) string
	cutters     []func(words []string, first bool) []string
	byteLevel   bool

	merges       map[[2]int32]merge
	words        map[string]int // for ignoreMerges: by decoded text
	bytes        [256]int       // byte-level: of a byte; else of <0xHH>; -1 where missing
	unk          int            // -1 for none
	fuseUnk      bool
	byteFallback bool
	ignoreMerges bool
}

// A merge is what two neighbours become, and its place in the list.
type merge struct{ rank, id int32 }

// encode appends the ids of text.
func (m *bpe) encode(ids []int, text string, first bool) []int {
	for _, f := range m.normalizers {
		text = f(text, first)
	}
	if text == "" {
		return ids
	}
	words := []string{text}
	for _, f := range m.cutters {
		words = f(words, first)
	}
	var s scratch
	for _, w := range words {
		ids = m.word(ids, &s, w)
	}
	return ids
}

// word appends the ids of one word.
func (m *bpe) word(ids []int, s *scratch, w string) []int {
	if m.ignoreMerges {
		if id, ok := m.words[w]; ok {
			return append(ids, id)
		}
	}
	s.syms = s.syms[:0]
	unknown := func(start, end int) {
		switch n := len(s.syms); {
		case m.unk < 0: // the reference drops it too
		case m.fuseUnk && n > 0 && int(s.syms[n-1].id) == m.unk:
			s.syms[n-1].end = int32(end)
		default:
			s.add(start, end, m.unk, false)
		}
	}
	if m.byteLevel {
		for i := range len(w) {
			if id := m.bytes[w[i]]; id >= 0 {
				s.add(i, i+1, id, false)
			} else {
				unknown(i, i+1)
			}
		}
	} else {
		for i, r := range w {
			n := utf8.RuneLen(r)
			if id, ok := m.t.ids[w[i:i+n]]; ok {
				s.add(i, i+n, id, false)
				continue
			}
			fallback := m.byteFallback
			for j := range n {
				fallback = fallback && m.bytes[w[i+j]] >= 0
			}
			if !fallback {
				unknown(i, i+n)
				continue
			}
			for j := range n {
				s.add(i+j, i+j+1, m.bytes[w[i+j]], false)
			}
		}
	}
	if len(s.syms) == 0 {
		return ids
	}
	s.merge(func(l, r *symbol) (int32, int32, bool) {
		x, ok := m.merges[[2]int32{l.id, r.id}]
		return x.rank, x.id, ok
	})
	for i := int32(0); i >= 0; i = s.syms[i].next {
		ids = append(ids, int(s.syms[i].id))
	}
	return ids
}

// gpt2 is the pattern of ByteLevel (tokenizers, pre_tokenizers/byte_level.rs).
const gpt2 = `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`

// each applies a cutter of one word to all.
func each(cut func(out []string, w string) []string) func([]string, bool) []string {
	return func(words []string, _ bool) []string {
		out := make([]string, 0, len(words))
		for _, w := range words {
			out = cut(out, w)
		}
		return out
	}
}

// isolate cuts before and after each match of re. Its patterns are a file's: a
// user's text chooses none.
func isolate(re *regexp2.Regexp) func([]string, bool) []string {
	return each(func(out []string, w string) []string {
		rest, done := w, 0 // done counts runes, as regexp2 does
		next := func(n int) string {
			i := runes(rest, n)
			s := rest[:i]
			rest = rest[i:]
			return s
		}
		match, err := re.FindStringMatch(w)
		for ; err == nil && match != nil; match, err = re.FindNextMatch(match) {
			if match.Length == 0 {
				continue
			}
			if s := next(match.Index - done); s != "" {
				out = append(out, s)
			}
			out = append(out, next(match.Length))
			done = match.Index + match.Length
		}
		if rest != "" {
			out = append(out, rest)
		}
		return out
	})
}

// runes returns the bytes of the first n runes of s.
func runes(s string, n int) int {
	i := 0
	for ; n > 0 && i < len(s); n-- {
		_, size := utf8.DecodeRuneInString(s[i:])
		i += size
	}
	return i
}

// digits cuts numbers out, whole or digit by digit.
func digits(individual bool) func([]string, bool) []string {
	return each(func(out []string, w string) []string {
		start, inNumber := 0, false
		for i, r := range w {
			number := unicode.Is(unicode.N, r)
			if i > start && (number != inNumber || number && individual) {
				out = append(out, w[start:i])
				start = i
			}
			inNumber = number
		}
		return append(out, w[start:])
	})
}

// metaspace writes spaces as the replacement, puts one before the text (scheme
// always, or first: where nothing precedes) and cuts before each where split.
func metaspace(replacement, scheme string, split bool) func([]string, bool) []string {
	return func(words []string, first bool) []string {
		var out []string
		for i, w := range words {
			w = strings.ReplaceAll(w, " ", replacement)
			if (scheme == "always" || scheme == "first" && first && i == 0) && !strings.HasPrefix(w, replacement) {
				w = replacement + w
			}
			if !split {
				out = append(out, w)
				continue
			}
			for w != "" {
				n := len(w)
				from := 0
				if strings.HasPrefix(w, replacement) {
					from = len(replacement)
				}
				if j := strings.Index(w[from:], replacement); j >= 0 {
					n = from + j
				}
				if n == 0 {
					break
				}
				out, w = append(out, w[:n]), w[n:]
			}
		}
		return out
	}
}

// byteChars are the characters that byte-level vocabularies write for bytes
// (GPT-2, bytes_to_unicode): itself where it prints, else U+0100 and on.
var byteChars, charBytes = func() ([256]rune, map[rune]byte) {
	var chars [256]rune
	back := make(map[rune]byte, 256)
	next := rune(256)
	for b := range 256 {
		r := rune(b)
		prints := b >= '!' && b <= '~' || b >= 0xA1 && b <= 0xAC || b >= 0xAE
		if !prints {
			r, next = next, next+1
		}
		chars[b], back[r] = r, byte(b)
	}
	return chars, back
}()

// fromChars undoes byteChars; a token that is not written so stays as it is.
func fromChars(piece string) string {
	b := make([]byte, 0, len(piece))
	for _, r := range piece {
		c, ok := charBytes[r]
		if !ok {
			return piece
		}
		b = append(b, c)
	}
	return string(b)
}
