package tokenizer

import (
	"strings"
	"unicode/utf8"
)

// Decode returns the text of ids. Control tokens and unknown ids are left out;
// bytes that are no UTF-8 become U+FFFD.
func (t *Tokenizer) Decode(ids []int) string {
	d := t.NewDecoder()
	var b strings.Builder
	for _, id := range ids {
		b.WriteString(d.Next(id))
	}
	b.WriteString(d.Flush())
	return b.String()
}

// A Decoder decodes ids one by one and never splits a rune. What it returned,
// joined, is what Decode returns for all ids.
type Decoder struct {
	t       *Tokenizer
	pending []byte // begins no complete rune yet, at most 3 bytes
	begun   bool   // some text is out, or the mark that begins it was dropped
}

// NewDecoder returns a Decoder at the begin of a text.
func (t *Tokenizer) NewDecoder() *Decoder { return &Decoder{t: t} }

// Next returns the text that id completes, often "".
func (d *Decoder) Next(id int) string {
	t := d.t
	if id < 0 || id >= len(t.tokens) {
		return ""
	}
	tok := t.tokens[id]
	if tok.kind == control {
		if t.flushOnSkip {
			return d.Flush()
		}
		return ""
	}
	text := tok.text
	if tok.lead && t.dropLead && !d.begun && len(d.pending) == 0 {
		text = text[1:]
		d.begun = !t.dropLeads
	}
	if len(d.pending) == 0 && utf8.ValidString(text) { // nearly always
		d.begun = d.begun || text != ""
		return text
	}
	d.pending = append(d.pending, text...)
	return d.take(false)
}

// Flush ends the text: what is left of a rune becomes U+FFFD.
func (d *Decoder) Flush() string { return d.take(true) }

// take returns all complete runes of pending; at the end also the rest.
func (d *Decoder) take(end bool) string {
	var b strings.Builder
	p := d.pending
	for len(p) > 0 && (end || utf8.FullRune(p)) {
		r, n := utf8.DecodeRune(p)
		if r == utf8.RuneError && n == 1 && d.t.subpart {
			for n < len(p) && !utf8.FullRune(p[:n+1]) {
				n++
			}
		}
		b.WriteRune(r)
		p = p[n:]
	}
	d.pending = d.pending[:copy(d.pending, p)]
	d.begun = d.begun || b.Len() > 0
	return b.String()
}
