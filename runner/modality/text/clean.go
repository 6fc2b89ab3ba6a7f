package text

import (
	"html"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// clean normalizes a text as CLIP does before splitting it: ftfy.fix_text, HTML
// entities twice, spaces collapsed, lower case.
//
// Of ftfy 6.3.1 all default steps are done but two rare ones of its repair of
// mojibake: sequences that lost bytes (replace_lossy_sequences), and CESU-8.
func clean(s string) string {
	s = fix(s)
	s = strings.TrimFunc(html.UnescapeString(html.UnescapeString(s)), isSpace)
	return lower(strings.Join(strings.FieldsFunc(s, isSpace), " "))
}

// isSpace is Python's str.isspace.
func isSpace(r rune) bool { return unicode.IsSpace(r) || r >= 0x1c && r <= 0x1f }

// fix is ftfy.fix_text: each line by itself; entities are unescaped up to the
// first line that has a "<".
func fix(s string) string {
	entities := true
	var b strings.Builder
	for line := range strings.Lines(s) {
		entities = entities && !strings.Contains(line, "<")
		b.WriteString(fixLine(line, entities))
	}
	return b.String()
}

// maxRounds bounds fixLine, whose every round undoes one layer of damage.
const maxRounds = 32

// fixLine repeats the steps of ftfy.fix_and_explain until nothing changes.
func fixLine(s string, entities bool) string {
	for range maxRounds {
		before := s
		if entities {
			s = entity.ReplaceAllStringFunc(s, unescape)
		}
		s = fixEncoding(s)
		s = strings.Map(fromC1, s)
		s = replacer.Replace(s)
		s = strings.Map(narrow, s)
		s = escapes.ReplaceAllString(s, "")
		s = strings.Map(dropControl, s)
		s = norm.NFC.String(s)
		if s == before {
			break
		}
	}
	return s
}

var (
	entity  = regexp.MustCompile(`&#?[0-9A-Za-z]{1,24};`)
	escapes = regexp.MustCompile("\x1b\\[([\\pNd;]*)([a-zA-Z])") // of terminals
)

// unescape is ftfy's unescape_html for one entity: those that end in a
// semicolon, and all-caps variants as in P&EACUTE;REZ.
func unescape(s string) string {
	if u := html.UnescapeString(s); u != s && !strings.Contains(u, ";") {
		return u
	}
	if l := strings.ToLower(s); s == strings.ToUpper(s) && s[1] != '#' {
		if u := html.UnescapeString(l); u != l && !strings.Contains(u, ";") {
			return strings.ToUpper(u)
		}
	}
	return s
}

// replacer takes Latin ligatures apart, straightens quotes and makes every line
// break "\n" (fix_latin_ligatures, uncurl_quotes, fix_line_breaks).
var replacer = strings.NewReplacer(
	"Ĳ", "IJ", "ĳ", "ij", "ŉ", "ʼn", "Ǳ", "DZ", "ǲ", "Dz", "ǳ", "dz", "Ǆ", "DŽ", "ǅ", "Dž", "ǆ", "dž",
	"Ǉ", "LJ", "ǈ", "Lj", "ǉ", "lj", "Ǌ", "NJ", "ǋ", "Nj", "ǌ", "nj",
	"ﬀ", "ff", "ﬁ", "fi", "ﬂ", "fl", "ﬃ", "ffi", "ﬄ", "ffl", "ﬅ", "ſt", "ﬆ", "st",
	"\u02bc", "'", "\u2018", "'", "\u2019", "'", "\u201a", "'", "\u201b", "'",
	"\u201c", `"`, "\u201d", `"`, "\u201e", `"`, "\u201f", `"`,
	"\r\n", "\n", "\r", "\n", "\u2028", "\n", "\u2029", "\n", "\u0085", "\n",
)

// narrow maps full-width and half-width forms to the usual ones (fix_character_width).
func narrow(r rune) rune {
	if r == 0x3000 {
		return ' '
	}
	if r > 0xff00 && r < 0xfff0 {
		usual, _ := utf8.DecodeRuneInString(norm.NFKC.String(string(r)))
		return usual
	}
	return r
}

// dropControl drops what remove_control_chars does.
func dropControl(r rune) rune {
	switch {
	case r < 0x20 && r != '\t' && r != '\n' && r != '\f' && r != '\r', r == 0x7f,
		r >= 0x206a && r <= 0x206f, r == 0xfeff, r >= 0xfff9 && r <= 0xfffc:
		return -1
	}
	return r
}

// lower is Python's str.lower: full case mapping, a final sigma included.
func lower(s string) string {
	var b strings.Builder
	b.Grow(len(s))
	for i, r := range s {
		switch r {
		case 'İ':
			b.WriteString("i\u0307")
		case 'Σ':
			if finalSigma(s[:i], s[i+len("Σ"):]) {
				r = 'ς'
			} else {
				r = 'σ'
			}
			b.WriteRune(r)
		default:
			b.WriteRune(unicode.ToLower(r))
		}
	}
	return b.String()
}

// finalSigma says whether a sigma between two texts ends a word: a cased letter
// is before it and none behind, ignorable characters skipped (Unicode, 3.13).
func finalSigma(before, behind string) bool {
	last := strings.LastIndexFunc(before, func(r rune) bool { return !caseIgnorable(r) })
	if last < 0 {
		return false
	}
	if r, _ := utf8.DecodeRuneInString(before[last:]); !cased(r) {
		return false
	}
	first := strings.IndexFunc(behind, func(r rune) bool { return !caseIgnorable(r) })
	if first < 0 {
		return true
	}
	r, _ := utf8.DecodeRuneInString(behind[first:])
	return !cased(r)
}

func cased(r rune) bool {
	return unicode.In(r, unicode.Lu, unicode.Ll, unicode.Lt, unicode.Other_Lowercase, unicode.Other_Uppercase)
}

func caseIgnorable(r rune) bool {
	return unicode.In(r, unicode.Mn, unicode.Me, unicode.Cf, unicode.Lm, unicode.Sk) || strings.ContainsRune("'.:^`\u00b7\u0387\u055f\u05f4\u2018\u2019\u2024\u2027\ufe13\ufe52\ufe55\uff07\uff0e\uff1a", r)
}

// A class is what CLIP's expression tells apart.
type class int

const (
	other class = iota
	letter
	numeral
	space
)

// classOf returns the class of the first character of s.
func classOf(s string) class {
	r, _ := utf8.DecodeRuneInString(s)
	switch {
	case unicode.IsLetter(r):
		return letter
	case unicode.IsNumber(r):
		return numeral
	case isSpace(r):
		return space
	}
	return other
}
