package generate

import (
	"strings"
	"unicode"
)

// text holds back what may not be streamed yet: what could begin a stop string,
// and with trim the white space that could be the answer's end.
type text struct {
	stops    []string
	trim     bool
	held     string // may begin a stop string
	space    string // white space before what comes next
	begun    bool   // something other than white space is out
	released int    // bytes that have left held
}

// push adds s and returns what can go out. It reports whether a stop string is
// complete: the one that ends first, so that it does not matter how the text
// falls into tokens. The text before it is then out.
func (t *text) push(s string) (out string, stopped bool) {
	t.held += s
	keep := 0
	at, end := -1, len(t.held)+1
	for _, stop := range t.stops {
		if i := strings.Index(t.held, stop); i >= 0 && (i+len(stop) < end || i+len(stop) == end && i < at) {
			at, end = i, i+len(stop)
		}
		for n := min(len(stop)-1, len(t.held)); n > keep; n-- {
			if strings.HasSuffix(t.held, stop[:n]) {
				keep = n
			}
		}
	}
	if at >= 0 {
		t.released += at
		out, t.held = t.held[:at], ""
		return t.strip(out), true
	}
	n := len(t.held) - keep
	t.released += n
	out, t.held = t.held[:n], t.held[n:]
	return t.strip(out), false
}

// end returns the rest of a text that no stop string ended.
func (t *text) end() string {
	out := t.held
	t.held = ""
	return t.strip(out)
}

// strip drops white space before the first and holds it after the last letter.
func (t *text) strip(s string) string {
	if !t.trim {
		return s
	}
	if !t.begun {
		s = strings.TrimLeftFunc(s, isSpace)
	}
	body := strings.TrimRightFunc(s, isSpace)
	if body == "" {
		t.space += s
		return ""
	}
	out := t.space + body
	t.begun, t.space = true, s[len(body):]
	return out
}

// isSpace is Python's str.isspace, which str.strip goes by.
func isSpace(r rune) bool { return unicode.IsSpace(r) || r >= 0x1C && r <= 0x1F }
