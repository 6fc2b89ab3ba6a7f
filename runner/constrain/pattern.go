package constrain

import (
	"fmt"
	"regexp/syntax"
	"slices"
	"unicode"
	"unicode/utf8"
)

// pattern returns the node of a JSON string that a regular expression is found
// in. The expression is read as Go's, which is ECMA's without look-around and
// references back.
func (b *builder) pattern(expr, path string, next int32) int32 {
	re, err := syntax.Parse(expr, syntax.Perl)
	if err != nil {
		fail(path, "the pattern cannot be read: %v", err)
	}
	re = re.Simplify()
	alternatives := []*syntax.Regexp{re}
	for alternatives[0].Op == syntax.OpCapture {
		alternatives[0] = alternatives[0].Sub[0]
	}
	if re := alternatives[0]; re.Op == syntax.OpAlternate {
		alternatives = re.Sub
	}
	var nodes []int32
	for _, re := range alternatives {
		parts := []*syntax.Regexp{re}
		for len(parts) == 1 && (parts[0].Op == syntax.OpCapture || parts[0].Op == syntax.OpConcat) {
			parts = parts[0].Sub
		}
		at := b.byte('"', next)
		if n := len(parts); n > 0 && parts[n-1].Op == syntax.OpEndText {
			parts = parts[:n-1]
		} else { // anything may follow
			at = b.add(node{call: none, run: endless, edges: []edge{{'"', '"', next, none}}})
			b.nodes[at].edges = append(b.nodes[at].edges, b.character(at, true)...)
		}
		begins := len(parts) > 0 && parts[0].Op == syntax.OpBeginText
		if begins {
			parts = parts[1:]
		}
		for _, re := range slices.Backward(parts) {
			at = b.expression(re, path, at)
		}
		if !begins { // anything may stand before it
			loop := b.add(node{call: none, run: endless, eps: []int32{at}})
			b.nodes[loop].edges = b.character(loop, true)
			at = loop
		}
		nodes = append(nodes, b.byte('"', at))
	}
	return b.either(nodes...)
}

// expression returns the node of what re matches.
func (b *builder) expression(re *syntax.Regexp, path string, next int32) int32 {
	switch re.Op {
	case syntax.OpNoMatch:
		return b.on()
	case syntax.OpEmptyMatch:
		return next
	case syntax.OpLiteral:
		for _, r := range slices.Backward(re.Rune) {
			class := []rune{r, r}
			if re.Flags&syntax.FoldCase != 0 {
				for f := unicode.SimpleFold(r); f != r; f = unicode.SimpleFold(f) {
					class = append(class, f, f)
				}
			}
			next = b.class(class, next)
		}
		return next
	case syntax.OpCharClass:
		return b.class(re.Rune, next)
	case syntax.OpAnyChar:
		return b.class([]rune{0, unicode.MaxRune}, next)
	case syntax.OpAnyCharNotNL:
		return b.class([]rune{0, '\n' - 1, '\n' + 1, unicode.MaxRune}, next)
	case syntax.OpCapture:
		return b.expression(re.Sub[0], path, next)
	case syntax.OpConcat:
		for _, sub := range slices.Backward(re.Sub) {
			next = b.expression(sub, path, next)
		}
		return next
	case syntax.OpAlternate:
		var nodes []int32
		for _, sub := range re.Sub {
			nodes = append(nodes, b.expression(sub, path, next))
		}
		return b.either(nodes...)
	case syntax.OpQuest:
		return b.either(b.expression(re.Sub[0], path, next), next)
	case syntax.OpStar, syntax.OpPlus:
		loop := b.add(node{call: none})
		once := b.expression(re.Sub[0], path, loop)
		b.nodes[loop].eps = []int32{once, next}
		if re.Op == syntax.OpPlus {
			return once
		}
		return loop
	}
	fail(path, "%s within a pattern is not supported; ^ and $ stand at its ends only", re)
	return none
}

// class returns the node of one character of ranges, lo and hi in turn, as a
// JSON string writes it.
func (b *builder) class(ranges []rune, next int32) int32 {
	if len(ranges) == 2 && ranges[0] == ranges[1] {
		return b.rune(ranges[0], next)
	}
	key := fmt.Sprint(ranges)
	rule, ok := b.classes[key]
	if !ok {
		var nodes []int32
		for i := 0; i < len(ranges); i += 2 {
			nodes = append(nodes, b.runes(ranges[i], ranges[i+1], b.stop)...)
		}
		rule = b.on()
		if len(nodes) > 0 {
			rule = b.either(nodes...)
		}
		b.classes[key] = rule
	}
	return b.after(rule, next)
}

// rune returns the node of one character.
func (b *builder) rune(r rune, next int32) int32 {
	nodes := b.runes(r, r, next)
	if len(nodes) == 0 {
		return b.on()
	}
	return b.either(nodes...)
}

// runes returns the nodes of the characters from lo to hi.
func (b *builder) runes(lo, hi rune, next int32) []int32 {
	var nodes []int32
	for r := lo; r <= hi && r <= '\\'; r++ { // what is written with a backslash
		if r < ' ' || r == '"' || r == '\\' {
			s := quote(string(r))
			nodes = append(nodes, b.literal(s[1:len(s)-1], next))
		}
	}
	for _, piece := range [][2]rune{{' ', '!'}, {'#', '['}, {']', 0x7f}, {0x80, 0x7ff}, {0x800, 0xd7ff}, {0xe000, 0xffff}, {0x10000, unicode.MaxRune}} {
		if from, to := max(lo, piece[0]), min(hi, piece[1]); from <= to {
			nodes = append(nodes, b.utf8(from, to, next)...)
		}
	}
	return nodes
}

// utf8 returns the nodes of the characters from lo to hi, which have as many
// bytes: it splits them so that within each piece the bytes behind the first
// that differs are all there are.
func (b *builder) utf8(lo, hi rune, next int32) []int32 {
	n := utf8.RuneLen(lo)
	for i := 1; i < n; i++ {
		low := rune(1)<<(6*i) - 1 // the bits of the last i bytes
		if lo&^low == hi&^low {
			continue
		}
		if lo&low != 0 {
			return append(b.utf8(lo, lo|low, next), b.utf8(lo|low+1, hi, next)...)
		}
		if hi&low != low {
			return append(b.utf8(lo, hi&^low-1, next), b.utf8(hi&^low, hi, next)...)
		}
	}
	first, last := string(lo), string(hi)
	for i := n - 1; i >= 0; i-- {
		next = b.on(edge{first[i], last[i], next, none})
	}
	return []int32{next}
}
