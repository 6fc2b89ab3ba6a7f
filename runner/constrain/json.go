package constrain

import (
	"maps"
	"slices"
	"strings"
	"unicode/utf8"
)

// Numbers have at most so many digits, which every reader can hold: int64 before
// the point, float64 in all.
const (
	maxDigits    = 18 // before the point
	maxDecimals  = 16 // behind it
	maxExponents = 2  // digits of an exponent
)

// tails are what follows the first byte of a character of several: rules.
type tails struct {
	one, two, three int32 // continuation bytes
	e0, ed, f0, f4  int32 // the same, without overlong forms, surrogates, and what is above U+10FFFF
	escape          int32 // after a backslash
}

func (b *builder) newTails() tails {
	var t tails
	cont := func(lo, hi byte, to int32) int32 { return b.on(edge{lo, hi, to, none}) }
	t.one = cont(0x80, 0xbf, b.stop)
	t.two = cont(0x80, 0xbf, t.one)
	t.three = cont(0x80, 0xbf, t.two)
	t.e0, t.ed = cont(0xa0, 0xbf, t.one), cont(0x80, 0x9f, t.one)
	t.f0, t.f4 = cont(0x90, 0xbf, t.two), cont(0x80, 0x8f, t.two)

	hex := func(to int32) int32 {
		return b.on(edge{'0', '9', to, none}, edge{'A', 'F', to, none}, edge{'a', 'f', to, none})
	}
	h2 := hex(hex(b.stop))
	h3 := hex(h2)
	low := b.on(edge{'C', 'F', h2, none}, edge{'c', 'f', h2, none})
	second := b.literal(`\u`, b.on(edge{'D', 'D', low, none}, edge{'d', 'd', low, none}))
	pair := hex(hex(second)) // a surrogate's pair is one character
	d := b.on(edge{'0', '7', h2, none}, edge{'8', '9', pair, none}, edge{'A', 'B', pair, none}, edge{'a', 'b', pair, none})
	u := b.on(edge{'0', '9', h3, none}, edge{'A', 'C', h3, none}, edge{'E', 'F', h3, none}, edge{'a', 'c', h3, none}, edge{'e', 'f', h3, none},
		edge{'D', 'D', d, none}, edge{'d', 'd', d, none})
	t.escape = b.on(edge{'u', 'u', u, none})
	for _, c := range `"\/bfnrt` {
		b.nodes[t.escape].edges = append(b.nodes[t.escape].edges, edge{byte(c), byte(c), b.stop, none})
	}
	return t
}

// plain reports whether every character of s stands in a JSON string as it is.
func plain(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == '"' || r == '\\' })
}

// character returns the edges of one character of a JSON string.
func (b *builder) character(next int32, escapes bool) []edge {
	t := b.tails
	edges := []edge{{' ', '!', next, none}, {'#', '[', next, none}, {']', 0x7f, next, none},
		{0xc2, 0xdf, t.one, next}, {0xe0, 0xe0, t.e0, next}, {0xe1, 0xec, t.two, next}, {0xed, 0xed, t.ed, next}, {0xee, 0xef, t.two, next},
		{0xf0, 0xf0, t.f0, next}, {0xf1, 0xf3, t.three, next}, {0xf4, 0xf4, t.f4, next}}
	if escapes {
		edges = append(edges, edge{'\\', '\\', t.escape, next})
	}
	return edges
}

// string returns the node of a JSON string of lowest to most characters; most
// below 0 is no bound.
func (b *builder) string(lowest, most int, next int32) int32 {
	length := most
	if most < 0 {
		length = lowest
	}
	if length >= maxNodes {
		fail("", "strings of %d characters are too long to be counted", length)
	}
	at := none
	for i := length; i >= 0; i-- {
		n := node{call: none}
		if i >= lowest {
			n.edges = append(n.edges, edge{'"', '"', next, none})
		}
		switch {
		case most < 0 && i == length:
			n.run = endless
			n.edges = append(n.edges, b.character(int32(len(b.nodes)), true)...) // itself
		case i < length:
			n.run = uint16(min(length-i, int(endless)-1))
			if most < 0 {
				n.run = endless
			}
			n.edges = append(n.edges, b.character(at, true)...)
		}
		at = b.add(n)
	}
	return b.byte('"', at)
}

// text returns the node of any JSON string.
func (b *builder) text(next int32) int32 { return b.string(0, -1, next) }

// otherKey returns the node of a string without escapes that is none of names.
func (b *builder) otherKey(names []string, next int32) int32 {
	free := b.add(node{call: none, run: endless})
	b.nodes[free].edges = append(b.character(free, false), edge{'"', '"', next, none})
	if names = keep(names, plain); len(names) == 0 {
		return b.byte('"', free)
	}
	// At the end of what a name begins with, all goes on to free but the next
	// bytes of names; within a character only those are allowed.
	type prefix struct {
		ends bool
		next map[byte]*prefix
	}
	root := &prefix{next: map[byte]*prefix{}}
	for _, name := range names {
		p := root
		for _, c := range []byte(name) {
			if p.next[c] == nil {
				p.next[c] = &prefix{next: map[byte]*prefix{}}
			}
			p = p.next[c]
		}
		p.ends = true
	}
	var grow func(p *prefix, part string) int32 // part of a character that is read
	grow = func(p *prefix, part string) int32 {
		n := node{call: none}
		bytes := slices.Sorted(maps.Keys(p.next))
		if part == "" {
			for _, e := range b.character(free, false) {
				n.edges = append(n.edges, without(e, bytes)...)
			}
			if !p.ends {
				n.edges = append(n.edges, edge{'"', '"', next, none})
			}
		}
		for _, c := range bytes {
			read := part + string([]byte{c})
			if utf8.ValidString(read) {
				read = ""
			}
			n.edges = append(n.edges, edge{c, c, grow(p.next[c], read), none})
		}
		return b.add(n)
	}
	return b.byte('"', grow(root, ""))
}

// without returns an edge in pieces that leave out some bytes, sorted.
func without(e edge, bytes []byte) []edge {
	var pieces []edge
	lo := int(e.lo)
	for _, c := range append(bytes[:len(bytes):len(bytes)], 0xff) {
		hi := int(e.hi)
		if int(c) <= hi {
			hi = int(c) - 1
		}
		if lo <= hi {
			pieces = append(pieces, edge{byte(lo), byte(hi), e.to, e.push})
		}
		lo = max(lo, int(c)+1)
	}
	return pieces
}

func keep(list []string, ok func(string) bool) []string {
	var out []string
	for _, s := range list {
		if ok(s) {
			out = append(out, s)
		}
	}
	return out
}

// space returns the node of an optional space.
func (b *builder) space(next int32) int32 {
	return b.add(node{call: none, edges: []edge{{' ', ' ', next, none}}, eps: []int32{next}})
}

// comma returns the node of a comma.
func (b *builder) comma(next int32) int32 { return b.byte(',', b.space(next)) }

// colon returns the node of a colon.
func (b *builder) colon(next int32) int32 { return b.byte(':', b.space(next)) }

// any returns the node of any JSON value.
func (b *builder) any(next int32) int32 {
	if b.value == none {
		b.value = b.add(node{call: none})
		b.nodes[b.value].eps = []int32{b.object(b.stop), b.array(b.stop), b.text(b.stop), b.number(b.stop),
			b.literals([]string{"true", "false", "null"}, b.stop)}
	}
	return b.after(b.value, next)
}

// object returns the node of any JSON object.
func (b *builder) object(next int32) int32 {
	more := b.add(node{call: none})
	key := b.text(b.colon(b.any(more)))
	b.nodes[more].eps = []int32{b.comma(key), b.byte('}', next)}
	return b.byte('{', b.either(key, b.byte('}', next)))
}

// array returns the node of any JSON array.
func (b *builder) array(next int32) int32 {
	more := b.add(node{call: none})
	item := b.any(more)
	b.nodes[more].eps = []int32{b.comma(item), b.byte(']', next)}
	return b.byte('[', b.either(item, b.byte(']', next)))
}

// digits returns the node of up to n digits.
func (b *builder) digits(n int, next int32) int32 {
	at := next
	for range n {
		at = b.add(node{call: none, edges: []edge{{'0', '9', at, none}}, eps: []int32{next}})
	}
	return at
}

// digit returns the node of one to n digits.
func (b *builder) digit(n int, next int32) int32 {
	return b.on(edge{'0', '9', b.digits(n-1, next), none})
}

// integer returns the node of any integer.
func (b *builder) integer(next int32) int32 {
	rest := b.digits(maxDigits-1, next)
	minus := b.on(edge{'1', '9', rest, none})
	return b.on(edge{'-', '-', minus, none}, edge{'0', '0', next, none}, edge{'1', '9', rest, none})
}

// number returns the node of any number.
func (b *builder) number(next int32) int32 {
	exponent := b.digit(maxExponents, next)
	e := b.on(edge{'E', 'E', 0, none}, edge{'e', 'e', 0, none})
	sign := b.add(node{call: none, edges: []edge{{'+', '+', exponent, none}, {'-', '-', exponent, none}}, eps: []int32{exponent}})
	b.nodes[e].edges[0].to, b.nodes[e].edges[1].to = sign, sign
	decimals := b.byte('.', b.digit(maxDecimals, b.either(e, next)))
	behind := b.either(decimals, e, next)
	whole := b.on(edge{'0', '0', behind, none}, edge{'1', '9', b.digits(maxDigits-1, behind), none})
	return b.either(b.byte('-', whole), whole)
}
