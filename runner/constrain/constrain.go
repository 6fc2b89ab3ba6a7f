// Package constrain keeps an answer inside a set of texts: one of several, any
// JSON object, or the JSON that a schema describes. For every token it says
// which of a vocabulary may come next, so that whatever is drawn, the text can
// still be completed, and says when it is complete.
//
// A [Grammar] is a graph over bytes with calls, as of a recursive-descent parser
// (graph.go): choices, JSON (json.go) and schemas (schema.go, number.go,
// pattern.go) are compiled to it. A machine (machine.go) runs it as an automaton
// whose states are sets of places in the graph with their call stacks, made as
// they are met and kept. A [Vocabulary] (vocabulary.go) walks its tokens through
// the machine and keeps, for each state, the set of those that survive. A
// [Match] is one answer's way through it.
//
// JSON is written compactly, with one space allowed after a comma and a colon,
// and none elsewhere, so that a model cannot go on with white space for ever.
package constrain

import (
	"crypto/sha256"
	"strings"
	"unicode/utf8"

	imagebind "imagebind-llm"
)

// Limits of what is compiled; more is an error of kind Invalid.
const (
	MaxChoices = 1024
	maxText    = 64 << 10 // bytes of all choices together, and of a schema
	maxDepth   = 64       // of a schema's nesting
	maxNodes   = 1 << 15  // of a graph: about what maxLength and maxItems unroll to
)

// A Grammar is a set of texts. It is immutable.
type Grammar struct {
	key   [sha256.Size]byte // of what it was made of
	nodes []node
	start int32
	lead  int32      // start, with one space allowed before it
	class [256]uint8 // bytes that no edge tells apart have the same
	count int        // classes
}

// Choices returns the grammar of exactly the texts given.
func Choices(texts []string) (*Grammar, error) {
	size := 0
	for i, s := range texts {
		size += len(s)
		switch {
		case s == "":
			return nil, imagebind.Errorf(imagebind.Invalid, "choice %d is empty", i)
		case !utf8.ValidString(s):
			return nil, imagebind.Errorf(imagebind.Invalid, "choice %d is no UTF-8", i)
		case strings.TrimSpace(s) != s:
			return nil, imagebind.Errorf(imagebind.Invalid, "choice %d begins or ends with white space, which answers do not", i)
		}
	}
	switch {
	case len(texts) == 0:
		return nil, imagebind.Errorf(imagebind.Invalid, "there are no choices")
	case len(texts) > MaxChoices, size > maxText:
		return nil, imagebind.Errorf(imagebind.Invalid, "%d choices of %d bytes together; at most %d of %d are taken", len(texts), size, MaxChoices, maxText)
	}
	return build("choices\x00"+strings.Join(texts, "\x00"), func(b *builder) int32 {
		return b.literals(texts, b.stop)
	})
}

// Object returns the grammar of every JSON object.
func Object() (*Grammar, error) {
	return build("object", func(b *builder) int32 { return b.object(b.stop) })
}

// Schema returns the grammar of the JSON that a JSON schema describes, or an
// error that names what is not supported, with its path below at as the
// parameter. Properties come in the schema's order; where additionalProperties
// is absent beside properties, there are no others.
func Schema(schema []byte, at string) (*Grammar, error) {
	if len(schema) > maxText {
		return nil, imagebind.WithParam(imagebind.Errorf(imagebind.Invalid, "the schema has %d bytes; at most %d are read", len(schema), maxText), at)
	}
	root, err := parse(schema)
	if err != nil {
		return nil, imagebind.WithParam(imagebind.Errorf(imagebind.Invalid, "the schema is no valid JSON: %w", err), at)
	}
	g, err := build("schema\x00"+string(schema), func(b *builder) int32 {
		c := compiler{builder: b, root: root, at: at, rules: map[*value]int32{}}
		return c.compile()
	})
	return g, imagebind.WithParam(err, at)
}
