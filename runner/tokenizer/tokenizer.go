// Package tokenizer turns text into the ids that a decoder reads, and back.
// It reads SentencePiece BPE models (tokenizer.model, as LLaMA's) and Hugging
// Face's tokenizer.json of BPE kind: byte-level (SmolLM2, Llama 3) and with
// byte fallback (LLaMA's own). [FromGGUF] makes either file from a .gguf's metadata.
//
// What a user writes is always text: "</s>" or "<|im_start|>" in it is spelled
// out in ordinary tokens. Control tokens are parsed only in a [Segment] marked
// Special, which is what a prompt template wrote.
//
// decode(encode(s)) is s for valid UTF-8, but for two kinds of characters, both as
// in the reference: where a model writes spaces as U+2581, that one comes back as
// a space; and what a vocabulary lacks is lost (SmolLM2's lacks a few control
// characters; models with byte fallback lack nothing). Each byte of invalid
// UTF-8 is read as U+FFFD.
package tokenizer

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"unicode/utf8"

	imagebind "imagebind-llm"
)

// Limits on a file; the largest published ones have 256k tokens in 33 MB.
const (
	maxFile   = 256 << 20 // bytes
	maxTokens = 1 << 22
	maxToken  = 4096 // bytes of one token
)

// A kind is what an id does when it is decoded and where it is encoded.
type kind uint8

const (
	normal  kind = iota
	control      // special: only templates write it, decodes to nothing
	user         // user-defined: taken whole wherever it stands in a text
	unknown
	rawByte
	unused
)

// A token is an id's meaning.
type token struct {
	piece string // as the file writes it
	text  string // what it decodes to, spaces as spaces; bytes where rawByte
	kind  kind
	lead  bool // text begins with the model's mark for a space
}

// A Tokenizer is safe for concurrent use.
type Tokenizer struct {
	tokens   []token
	ids      map[string]int // by piece
	special  matcher        // control tokens
	defined  matcher        // user-defined tokens
	model    model
	bos, eos int // -1 for none

	// How ids are decoded.
	dropLead    bool // the mark for a space that begins the text goes
	dropLeads   bool // all such marks
	subpart     bool // one U+FFFD for a maximal part of a rune, not one a byte (byte-level models)
	flushOnSkip bool // a control token ends a run of bytes
}

// A model is what the two kinds of files do differently.
type model interface {
	// encode appends the ids of a text without user-defined tokens. first says
	// that nothing precedes it, after that a special token does.
	encode(ids []int, text string, first bool) []int
}

// Open reads a tokenizer.model or tokenizer.json; the content tells which.
func Open(path string) (*Tokenizer, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	t, err := Parse(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return t, nil
}

// Parse reads the content of a tokenizer.model or tokenizer.json.
func Parse(data []byte) (*Tokenizer, error) {
	if len(data) > maxFile {
		return nil, imagebind.Errorf(imagebind.TooLarge, "a tokenizer of more than %d MiB is not read", maxFile>>20)
	}
	if s := bytes.TrimSpace(data); len(s) > 0 && s[0] == '{' {
		return parseJSON(s)
	}
	return parseSentencePiece(data)
}

// finish builds the look-ups from the tokens.
func (t *Tokenizer) finish() error {
	t.ids = make(map[string]int, len(t.tokens))
	var special, defined []int
	for id, tok := range t.tokens {
		if len(tok.piece) > maxToken {
			return invalid("token %d has %d bytes, more than %d", id, len(tok.piece), maxToken)
		}
		if _, dup := t.ids[tok.piece]; !dup {
			t.ids[tok.piece] = id
		}
		switch {
		case tok.piece == "":
		case tok.kind == control:
			special = append(special, id)
		case tok.kind == user:
			defined = append(defined, id)
		}
	}
	t.special, t.defined = newMatcher(t.tokens, special), newMatcher(t.tokens, defined)
	return nil
}

// VocabSize returns the number of ids.
func (t *Tokenizer) VocabSize() int { return len(t.tokens) }

// BOS returns the id that begins a prompt, or -1 where the model wants none.
func (t *Tokenizer) BOS() int { return t.bos }

// EOS returns the id that ends an answer, or -1. A tokenizer.json does not say
// it: there it is the first of the usual names that is a special token, and a
// bundle's manifest knows better.
func (t *Tokenizer) EOS() int { return t.eos }

// Special returns the id of a control token.
func (t *Tokenizer) Special(token string) (int, bool) {
	id, ok := t.special.ids[token]
	return id, ok
}

// Piece returns the token as the file writes it, or "" for an unknown id.
func (t *Tokenizer) Piece(id int) string {
	if id < 0 || id >= len(t.tokens) {
		return ""
	}
	return t.tokens[id].piece
}

// Bytes returns what the id alone adds to a text: part of a rune, perhaps.
// Control tokens add nothing.
func (t *Tokenizer) Bytes(id int) []byte {
	if id < 0 || id >= len(t.tokens) {
		return nil
	}
	return []byte(t.tokens[id].text)
}

// Encode returns the ids of a user's text, after BOS where bos is set and the
// model has one.
func (t *Tokenizer) Encode(text string, bos bool) []int {
	return t.EncodeSegments([]Segment{{Text: text}}, bos)
}

// EncodeWithSpecial is Encode for a text whose control tokens count. It is for
// templates; see EncodeSegments for a template around a user's text.
func (t *Tokenizer) EncodeWithSpecial(text string, bos bool) []int {
	return t.EncodeSegments([]Segment{{Text: text, Special: true}}, bos)
}

// A Segment is a part of a prompt.
type Segment struct {
	Text    string
	Special bool // control tokens in Text are parsed: a template wrote it, not a user
}

// EncodeSegments returns the ids of the segments as one text: what stands
// between two control tokens is encoded together, whoever wrote it.
func (t *Tokenizer) EncodeSegments(segments []Segment, bos bool) []int {
	var ids []int
	if bos && t.bos >= 0 {
		ids = append(ids, t.bos)
	}
	var run strings.Builder
	first := true
	flush := func() {
		ids = t.encodeRun(ids, run.String(), first)
		run.Reset()
	}
	for _, s := range segments {
		if !s.Special {
			run.WriteString(s.Text)
			continue
		}
		for text := s.Text; text != ""; {
			at, id, n := t.special.find(text)
			if n == 0 {
				run.WriteString(text)
				break
			}
			run.WriteString(text[:at])
			flush()
			ids, text, first = append(ids, id), text[at+n:], false
		}
	}
	flush()
	return ids
}

// encodeRun encodes a text without control tokens.
func (t *Tokenizer) encodeRun(ids []int, text string, first bool) []int {
	text = valid(text)
	if _, ok := t.model.(*spm); ok { // it takes its user-defined symbols along
		return t.model.encode(ids, text, first)
	}
	for text != "" {
		at, id, n := t.defined.find(text)
		if n == 0 {
			return t.model.encode(ids, text, first)
		}
		ids = t.model.encode(ids, text[:at], first)
		ids, text, first = append(ids, id), text[at+n:], false
	}
	return ids
}

// valid returns text with U+FFFD for each byte that is not UTF-8.
func valid(text string) string {
	if utf8.ValidString(text) {
		return text
	}
	return string([]rune(text))
}

// A matcher finds tokens in a text, the leftmost first and of those the longest.
type matcher struct {
	ids     map[string]int
	lengths []int // that occur, longest first
	begins  [256]bool
}

func newMatcher(tokens []token, ids []int) matcher {
	m := matcher{ids: make(map[string]int, len(ids))}
	for _, id := range ids {
		p := tokens[id].piece
		if _, dup := m.ids[p]; dup {
			continue
		}
		m.ids[p] = id
		m.begins[p[0]] = true
		if !slices.Contains(m.lengths, len(p)) {
			m.lengths = append(m.lengths, len(p))
		}
	}
	slices.SortFunc(m.lengths, func(a, b int) int { return cmp.Compare(b, a) })
	return m
}

// find returns where in text the first token stands, its id and its length; 0
// is none.
func (m *matcher) find(text string) (at, id, n int) {
	if len(m.ids) == 0 {
		return 0, 0, 0
	}
	for i := range len(text) {
		if id, n := m.prefix(text[i:]); n > 0 {
			return i, id, n
		}
	}
	return 0, 0, 0
}

// prefix returns the longest token that text begins with.
func (m *matcher) prefix(text string) (id, n int) {
	if text == "" || !m.begins[text[0]] {
		return 0, 0
	}
	for _, n := range m.lengths {
		if n > len(text) {
			continue
		}
		if id, ok := m.ids[text[:n]]; ok {
			return id, n
		}
	}
	return 0, 0
}

func invalid(format string, args ...any) error {
	return imagebind.Errorf(imagebind.Invalid, "tokenizer: "+format, args...)
}

func unsupported(format string, args ...any) error {
	return imagebind.Errorf(imagebind.Unsupported, "tokenizer: "+format, args...)
}
