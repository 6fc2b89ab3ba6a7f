package constrain

import (
	"slices"
	"strconv"
	"strings"
)

// resolve finds what a $ref leads to: a place in this schema.
func (c *compiler) resolve(ref *value, path string) (*value, string) {
	pointer, ok := strings.CutPrefix(ref.text, "#")
	if ref.kind != '"' || !ok {
		fail(path+".$ref", "a $ref leads to a place in this schema, as in #/$defs/Item")
	}
	v, at := c.root, c.at
	if pointer == "" {
		return v, at
	}
	unescape := strings.NewReplacer("~1", "/", "~0", "~")
	for _, step := range strings.Split(strings.TrimPrefix(pointer, "/"), "/") {
		step = unescape.Replace(step)
		next := v.get(step)
		if i, err := strconv.Atoi(step); err == nil && v.kind == '[' && i >= 0 && i < len(v.items) {
			next = v.items[i]
		}
		if next == nil {
			fail(path+".$ref", "there is no %q in this schema", short(ref.text))
		}
		v, at = next, at+"."+step
	}
	return v, at
}

// follow resolves a schema that is nothing but a $ref.
func (c *compiler) follow(v *value, path string, depth int) *value {
	if v.kind != '{' {
		fail(path, "here a schema is an object")
	}
	ref := v.get("$ref")
	rest := only(v, func(k string) bool { return k != "$ref" && !isAnnotation(k) })
	switch {
	case ref == nil:
		return v
	case len(rest.keys) > 0:
		fail(path, "a $ref within allOf, anyOf or another $ref has no keywords beside it here")
	case depth == maxDepth:
		fail(path, "a $ref leads back to itself")
	}
	target, at := c.resolve(ref, path)
	return c.follow(target, at, depth+1)
}

// merge returns a schema that says what a and b say together. What would need
// more than putting their keywords beside each other is refused.
func (c *compiler) merge(a, b *value, path string) *value {
	relevant := func(k string) bool { return !isAnnotation(k) }
	out, b := only(a, relevant), only(b, relevant)
	for i, k := range b.keys {
		mine, other := out.get(k), b.items[i]
		switch {
		case mine == nil:
			out.keys, out.items = append(out.keys, k), append(out.items, other)
			continue
		case mine.compact() == other.compact():
			continue
		case k == "required" && mine.kind == '[' && other.kind == '[',
			k == "properties" && mine.kind == '{' && other.kind == '{' && !slices.ContainsFunc(mine.keys, func(k string) bool { return other.get(k) != nil }):
			both := &value{kind: mine.kind, keys: append(slices.Clone(mine.keys), other.keys...), items: append(slices.Clone(mine.items), other.items...)}
			out.items[slices.Index(out.keys, k)] = both
			continue
		}
		fail(path, "%s is said twice, by schemas that hold together; say it once", k)
	}
	for _, pair := range [][2]string{{"properties", "additionalProperties"}, {"prefixItems", "items"}} {
		for _, s := range [][2]*value{{a, b}, {b, a}} {
			// Of a schema with both, the second is about what the first leaves.
			if s[0].get(pair[1]) != nil && s[1].get(pair[0]) != nil && s[0].get(pair[0]) != s[1].get(pair[0]) {
				fail(path, "%s of one schema beside %s of another that holds with it is not supported", pair[1], pair[0])
			}
		}
	}
	return out
}
