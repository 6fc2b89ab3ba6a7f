package text

import (
	"bytes"
	"regexp"
	"strings"
	"sync"
	"unicode/utf8"

	"golang.org/x/text/encoding/charmap"
)

// bad finds what looks like mojibake.
var bad = sync.OnceValue(func() *regexp.Regexp {
	var named []string
	for name, chars := range categories {
		named = append(named, "{"+name+"}", chars)
	}
	return regexp.MustCompile(strings.NewReplacer(named...).Replace(strings.Join(badness, "|")))
})

// An encoding is a one-byte character set, by rune. Bytes that it leaves open
// stand for the control character of their number.
type encoding struct {
	bytes map[rune]byte
	mac   bool // of Apple: an en dash and a space would look like A0
}

// encodings are those that ftfy tries, in its order.
var encodings = sync.OnceValue(func() []encoding {
	var es []encoding
	for _, set := range []*charmap.Charmap{
		charmap.ISO8859_1, charmap.Windows1252, charmap.Windows1251, charmap.Windows1250, charmap.Windows1253,
		charmap.Windows1254, charmap.Windows1257, charmap.ISO8859_2, charmap.Macintosh, charmap.CodePage437,
	} {
		e := encoding{map[rune]byte{}, set == charmap.Macintosh}
		for b := 255; b >= 0; b-- {
			r := set.DecodeByte(byte(b))
			if r == utf8.RuneError {
				r = rune(b)
			}
			e.bytes[r] = byte(b)
		}
		es = append(es, e)
	}
	return es
})

// encode returns the bytes of s, or false where it has other characters.
func (e encoding) encode(s string) ([]byte, bool) {
	out := make([]byte, 0, len(s))
	for _, r := range s {
		b, ok := e.bytes[r]
		if !ok {
			return nil, false
		}
		out = append(out, b)
	}
	return out, true
}

// fixEncoding repairs UTF-8 that was once read as a one-byte encoding, as
// ftfy.fix_encoding: layer by layer, while the text looks bad.
func fixEncoding(s string) string {
	for range maxRounds {
		fixed := fixLayer(s)
		if fixed == s {
			break
		}
		s = fixed
	}
	return s
}

func fixLayer(s string) string {
	if isASCII(s) || !bad().MatchString(s) {
		return s
	}
	for _, e := range encodings() {
		b, ok := e.encode(s)
		if !ok {
			continue
		}
		if !e.mac {
			b = restoreA0(b)
		}
		if utf8.Valid(b) {
			return string(b)
		}
	}
	if fixed := fixParts(s); fixed != s {
		return fixed
	}
	return strings.Map(fromC1, s)
}

// sequences finds what may be UTF-8 read as another encoding, at the start of a text.
var sequences = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile("^(?:[" + clues.two + "][" + clues.more + "]|[" + clues.three + "][" + clues.more + "]{2}|[" + clues.four + "][" + clues.more + "]{3})+")
})

// inside finds characters that stand for bytes inside a sequence.
var inside = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile("^[" + clues.strict + "]") })

// fixParts repairs sequences inside text of which the rest is sound (ftfy's
// decode_inconsistent_utf8): not behind a character that could belong to them.
func fixParts(s string) string {
	var b strings.Builder
	open := false // the character before could belong to a sequence
	for i := 0; i < len(s); {
		if s[i] < utf8.RuneSelf {
			b.WriteByte(s[i])
			open = false
			i++
			continue
		}
		n := 0
		if !open {
			n = len(sequences().FindString(s[i:]))
		}
		part := s[i : i+n]
		if n == 0 {
			_, size := utf8.DecodeRuneInString(s[i:])
			part, n = s[i:i+size], size
			b.WriteString(part)
		} else if n < len(s) && bad().MatchString(part) {
			b.WriteString(fixEncoding(part))
		} else {
			b.WriteString(part)
		}
		_, size := utf8.DecodeLastRuneInString(part)
		open = inside().MatchString(part[len(part)-size:])
		i += n
	}
	return b.String()
}

// restoreA0 puts back bytes A0 that became spaces inside UTF-8 sequences, where
// a sequence is likely (ftfy.fixes.restore_byte_a0). The word "à", whose second
// byte that was, keeps a space behind it.
func restoreA0(b []byte) []byte {
	if bytes.IndexByte(b, ' ') < 0 {
		return b
	}
	word := make([]byte, 0, len(b))
	for i, c := range b {
		word = append(word, c)
		if c == 0xc3 && i+1 < len(b) && b[i+1] == ' ' && !continues(b[i+2:]) {
			word = append(word, 0xa0)
		}
	}
	for i := 0; i < len(word); {
		n := altered(word[i:])
		for j := range n {
			if word[i+j] == ' ' {
				word[i+j] = 0xa0
			}
		}
		i += max(n, 1)
	}
	return word
}

// continues says whether "à" and rest are one word: rest begins with a space,
// or with the end of a Portuguese contraction.
func continues(rest []byte) bool {
	for _, p := range []string{" ", "quele", "quela", "quilo", "s "} {
		if bytes.HasPrefix(rest, []byte(p)) {
			return true
		}
	}
	return false
}

// altered returns the length of the UTF-8 sequence that b begins with when a
// space of it stands for A0, or 0.
func altered(b []byte) int {
	at := func(i int) byte {
		if i < len(b) {
			return b[i]
		}
		return 0
	}
	tail := func(i int) bool { return at(i) >= 0x80 && at(i) <= 0xbf }
	rare := func(i int) bool { return tail(i) && at(i) != 0x85 && at(i) != 0xa0 }
	switch c := b[0]; {
	case bytes.IndexByte([]byte("\xc2\xc3\xc5\xce\xd0\xd9"), c) >= 0 && at(1) == ' ':
		return 2
	case (c == 0xe2 || c == 0xe3) && at(1) == ' ' && rare(2), c >= 0xe0 && c <= 0xe3 && rare(1) && at(2) == ' ':
		return 3
	case c == 0xf0 && (at(1) == ' ' && tail(2) && tail(3) || tail(1) && at(2) == ' ' && tail(3) || tail(1) && tail(2) && at(3) == ' '):
		return 4
	}
	return 0
}

// fromC1 maps C1 control characters to what Windows-1252 has there.
func fromC1(r rune) rune {
	if r < 0x80 || r > 0x9f {
		return r
	}
	if w := charmap.Windows1252.DecodeByte(byte(r)); w != utf8.RuneError {
		return w
	}
	return r
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}
