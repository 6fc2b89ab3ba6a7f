package constrain

import (
	"fmt"
	"slices"
	"strings"
)

// annotations say nothing of which values are valid, or are looked up where a
// $ref leads. Beside them, names that begin with x- are ignored.
var annotations = []string{"$schema", "$id", "$comment", "$defs", "definitions", "title", "description", "default", "examples", "example",
	"format", "deprecated", "readOnly", "writeOnly", "contentMediaType", "contentEncoding", "discriminator", "externalDocs", "xml"}

// keywords by the type that they constrain; those of no type stand under "".
var keywords = map[string][]string{
	"":       {"type", "enum", "const", "anyOf", "oneOf", "allOf", "$ref", "nullable"},
	"object": {"properties", "required", "additionalProperties"},
	"array":  {"items", "prefixItems", "minItems", "maxItems"},
	"string": {"minLength", "maxLength", "pattern"},
	"number": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"},
}

// types are JSON Schema's, in the order in which they are tried.
var types = []string{"object", "array", "string", "integer", "number", "boolean", "null"}

// A compiler makes a graph of a schema.
type compiler struct {
	*builder
	root    *value
	at      string           // the path of root, for errors
	rules   map[*value]int32 // of what a $ref leads to
	pending []pending        // rules that are yet to be filled
	depth   int              // of schema's calls
}

// maxInline bounds schemas within schemas, those that allOf brings from
// elsewhere included.
const maxInline = 4 * maxDepth

type pending struct {
	schema *value
	path   string
	rule   int32
}

func (c *compiler) compile() int32 {
	start := c.schema(c.root, c.at, c.stop)
	for len(c.pending) > 0 {
		p := c.pending[0]
		c.pending = c.pending[1:]
		c.nodes[p.rule].eps = []int32{c.schema(p.schema, p.path, c.stop)}
	}
	return start
}

// rule returns the rule of a schema, which is compiled once.
func (c *compiler) rule(v *value, path string) int32 {
	r, ok := c.rules[v]
	if !ok {
		r = c.add(node{call: none})
		c.rules[v] = r
		c.pending = append(c.pending, pending{v, path, r})
	}
	return r
}

// schema returns the node of a value that v describes, and then next.
func (c *compiler) schema(v *value, path string, next int32) int32 {
	switch v.kind {
	case 't':
		return c.any(next)
	case 'f':
		return c.on() // nothing
	case '{':
	default:
		fail(path, "a schema is an object, true or false")
	}
	c.check(v, path)
	if c.depth++; c.depth > maxInline {
		fail(path, "a $ref within allOf, or beside other keywords, leads back to itself; let it stand alone")
	}
	defer func() { c.depth-- }()
	if ref := v.get("$ref"); ref != nil {
		target, at := c.resolve(ref, path)
		rest := only(v, func(k string) bool { return k != "$ref" && !isAnnotation(k) })
		if len(rest.keys) == 0 {
			return c.after(c.rule(target, at), next)
		}
		return c.schema(c.merge(rest, c.follow(target, at, 0), path), path, next)
	}
	if all := v.get("allOf"); all != nil {
		list := c.list(all, path, "allOf")
		merged := only(v, func(k string) bool { return k != "allOf" && !isAnnotation(k) })
		if len(list) == 1 && len(merged.keys) == 0 {
			return c.schema(list[0], path+".allOf[0]", next)
		}
		for i, s := range list {
			merged = c.merge(merged, c.follow(s, fmt.Sprintf("%s.allOf[%d]", path, i), 0), path)
		}
		return c.schema(merged, path, next)
	}
	for _, k := range []string{"anyOf", "oneOf"} {
		if alternatives := v.get(k); alternatives != nil {
			return c.union(v, k, alternatives, path, next)
		}
	}
	if n := v.get("nullable"); n != nil && n.kind == 't' { // OpenAPI 3.0's
		rest := only(v, func(k string) bool { return k != "nullable" })
		return c.either(c.schema(rest, path, next), c.literal("null", next))
	}
	if v.get("enum") != nil || v.get("const") != nil {
		return c.fixed(v, path, next)
	}
	var nodes []int32
	for _, t := range c.typesOf(v, path) {
		nodes = append(nodes, c.typed(v, t, path, next))
	}
	return c.either(nodes...)
}

// check refuses keywords that are not known.
func (c *compiler) check(v *value, path string) {
	for _, k := range v.keys {
		if isAnnotation(k) {
			continue
		}
		known := false
		for _, list := range keywords {
			known = known || slices.Contains(list, k)
		}
		if !known {
			fail(path+"."+k, "the schema's keyword %s is not supported", k)
		}
	}
}

func isAnnotation(k string) bool {
	return slices.Contains(annotations, k) || strings.HasPrefix(k, "x-")
}

// only returns v with some of its members.
func only(v *value, ok func(string) bool) *value {
	out := &value{kind: '{'}
	for i, k := range v.keys {
		if ok(k) {
			out.keys, out.items = append(out.keys, k), append(out.items, v.items[i])
		}
	}
	return out
}

// list returns the schemas of anyOf and the like.
func (c *compiler) list(v *value, path, key string) []*value {
	if v.kind != '[' || len(v.items) == 0 {
		fail(path+"."+key, "%s is an array of at least one schema", key)
	}
	return v.items
}

// union is anyOf, and oneOf for the same: a value that two alternatives of oneOf
// describe is not told from others.
func (c *compiler) union(v *value, key string, alternatives *value, path string, next int32) int32 {
	base := only(v, func(k string) bool { return k != key && !isAnnotation(k) })
	var nodes []int32
	for i, s := range c.list(alternatives, path, key) {
		at := fmt.Sprintf("%s.%s[%d]", path, key, i)
		if len(base.keys) > 0 && s.kind == '{' {
			s = c.merge(base, c.follow(s, at, 0), at)
		}
		nodes = append(nodes, c.schema(s, at, next))
	}
	return c.either(nodes...)
}

// fixed is enum and const.
func (c *compiler) fixed(v *value, path string, next int32) int32 {
	for _, k := range v.keys {
		if !isAnnotation(k) && !slices.Contains([]string{"enum", "const", "type"}, k) {
			fail(path+"."+k, "%s beside enum or const is not supported: leave out what it forbids", k)
		}
	}
	var allowed []*value
	if e := v.get("enum"); e != nil {
		if e.kind != '[' || len(e.items) == 0 {
			fail(path+".enum", "enum is an array of at least one value")
		}
		allowed = e.items
	}
	if k := v.get("const"); k != nil {
		if allowed != nil {
			fail(path+".const", "const beside enum is not supported")
		}
		allowed = []*value{k}
	}
	if v.get("type") != nil {
		types := c.typesOf(v, path)
		var typed []*value
		for _, a := range allowed {
			if slices.ContainsFunc(types, a.is) {
				typed = append(typed, a)
			}
		}
		allowed = typed
	}
	var texts []string
	for _, a := range allowed {
		texts = append(texts, a.compact())
	}
	if len(texts) == 0 {
		return c.on() // nothing
	}
	return c.literals(texts, next)
}

// is reports whether v has a type of JSON Schema.
func (v *value) is(t string) bool {
	switch v.kind {
	case '{':
		return t == "object"
	case '[':
		return t == "array"
	case '"':
		return t == "string"
	case 't', 'f':
		return t == "boolean"
	case 'n':
		return t == "null"
	}
	if t == "integer" {
		x, ok := rational(v.text)
		return ok && x.IsInt()
	}
	return t == "number"
}

// typesOf returns the types that a schema names. One that names none gets those
// that its keywords are of, or all.
func (c *compiler) typesOf(v *value, path string) []string {
	t := v.get("type")
	var named []string
	switch {
	case t == nil:
		for _, t := range types {
			if slices.ContainsFunc(keywords[t], func(k string) bool { return v.get(k) != nil }) {
				named = append(named, t)
			}
		}
		if named == nil {
			return types
		}
		return named
	case t.kind == '"':
		named = []string{t.text}
	case t.kind == '[':
		for _, one := range t.items {
			named = append(named, one.text)
		}
	}
	if len(named) == 0 {
		fail(path+".type", "type is a name or an array of names")
	}
	for _, n := range named {
		if !slices.Contains(types, n) {
			fail(path+".type", "type %q is none of %s", short(n), strings.Join(types, ", "))
		}
	}
	return named
}

// typed returns the node of a value of one type.
func (c *compiler) typed(v *value, t, path string, next int32) int32 {
	switch t {
	case "object":
		return c.members(v, path, next)
	case "array":
		return c.elements(v, path, next)
	case "string":
		return c.quoted(v, path, next)
	case "integer", "number":
		return c.numbers(v, t == "integer", path, next)
	case "boolean":
		return c.literals([]string{"true", "false"}, next)
	}
	return c.literal("null", next)
}

// count reads a keyword that is a number of things.
func (c *compiler) count(v *value, key string, absent int, path string) int {
	n := v.get(key)
	if n == nil {
		return absent
	}
	x, ok := rational(n.text)
	if n.kind != '0' || !ok || !x.IsInt() || x.Sign() < 0 || !x.Num().IsInt64() {
		fail(path+"."+key, "%s is an integer of at least 0", key)
	}
	return int(min(x.Num().Int64(), 1<<30))
}

// quoted returns the node of a string.
func (c *compiler) quoted(v *value, path string, next int32) int32 {
	lowest, most := c.count(v, "minLength", 0, path), c.count(v, "maxLength", -1, path)
	p := v.get("pattern")
	switch {
	case p == nil:
		return c.string(lowest, most, next)
	case p.kind != '"':
		fail(path+".pattern", "pattern is a string")
	case lowest > 0 || most >= 0:
		fail(path+".pattern", "pattern beside minLength or maxLength is not supported: write the length into the pattern, as in ^[a-z]{2,8}$")
	}
	return c.pattern(p.text, path+".pattern", next)
}

func short(s string) string {
	if len(s) > 100 {
		return s[:100] + "…"
	}
	return s
}
