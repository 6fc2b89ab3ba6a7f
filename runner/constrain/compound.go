package constrain

import "fmt"

// A member is a property of an object.
type member struct {
	name     string
	schema   *value // nil: any value
	path     string
	required bool
}

// members returns the node of an object: its properties in the schema's order,
// the optional ones or not, then others where they are allowed.
func (c *compiler) members(v *value, path string, next int32) int32 {
	list, names := c.properties(v, path)
	// others is the schema of further properties; nil with free is any value.
	others, free := v.get("additionalProperties"), v.get("properties") == nil
	if others != nil {
		free = others.kind != 'f'
		if others.kind == 't' {
			others = nil
		} else if others.kind != '{' && others.kind != 'f' {
			fail(path+".additionalProperties", "additionalProperties is a schema, true or false")
		}
	}
	at := path + ".additionalProperties"
	for i := range list {
		if list[i].path == "" { // required, and no property
			if !free {
				fail(path+".required", "required names %q, which is no property, and others are not allowed", short(list[i].name))
			}
			list[i].schema, list[i].path = others, at
		}
	}
	value := func(s *value, path string, next int32) int32 {
		if s == nil {
			return c.any(next)
		}
		return c.schema(s, path, next)
	}
	// Of each place between properties there are two: begun, where one stands
	// before it, and fresh, where none does.
	end := c.byte('}', next)
	begun, fresh := end, end
	if free {
		begun = c.add(node{call: none})
		other := c.otherKey(names, c.colon(value(others, at, begun)))
		c.nodes[begun].eps = []int32{end, c.comma(other)}
		fresh = c.either(end, other)
	}
	for i := len(list) - 1; i >= 0; i-- {
		m := list[i]
		one := c.literal(quote(m.name), c.colon(value(m.schema, m.path, begun)))
		b, f := []int32{c.comma(one)}, []int32{one}
		if !m.required {
			b, f = append(b, begun), append(f, fresh)
		}
		begun, fresh = c.either(b...), c.either(f...)
	}
	return c.byte('{', fresh)
}

// properties returns those that a schema names, required ones that it does not
// describe at the end and without a path.
func (c *compiler) properties(v *value, path string) (list []member, names []string) {
	at := map[string]int{}
	if p := v.get("properties"); p != nil {
		if p.kind != '{' {
			fail(path+".properties", "properties is an object of schemas")
		}
		for i, name := range p.keys {
			at[name] = len(list)
			list = append(list, member{name: name, schema: p.items[i], path: path + ".properties." + name})
		}
	}
	if r := v.get("required"); r != nil {
		if r.kind != '[' {
			fail(path+".required", "required is an array of names")
		}
		for _, name := range r.items {
			if name.kind != '"' {
				fail(path+".required", "required is an array of names")
			}
			i, ok := at[name.text]
			if !ok {
				i = len(list)
				at[name.text] = i
				list = append(list, member{name: name.text})
			}
			list[i].required = true
		}
	}
	for _, m := range list {
		names = append(names, m.name)
	}
	return list, names
}

// elements returns the node of an array: prefixItems, all of them, then items.
func (c *compiler) elements(v *value, path string, next int32) int32 {
	lowest, most := c.count(v, "minItems", 0, path), c.count(v, "maxItems", -1, path)
	var prefix []*value
	if p := v.get("prefixItems"); p != nil {
		prefix = c.list(p, path, "prefixItems")
		lowest = max(lowest, len(prefix))
		if most >= 0 && most < len(prefix) {
			lowest = max(c.count(v, "minItems", 0, path), most)
		}
	}
	items := v.get("items")
	switch {
	case items != nil && items.kind == '[':
		fail(path+".items", "items is a schema; a list of them is prefixItems")
	case items == nil && prefix != nil && lowest <= len(prefix), items != nil && items.kind == 'f':
		if most < 0 || most > len(prefix) {
			most = len(prefix) // a tuple
		}
	}
	length := most // of what is unrolled
	if most < 0 {
		length = max(lowest, len(prefix), 1)
	}
	if length >= maxNodes {
		fail(path, "arrays of %d items are too long to be counted", length)
	}
	// The rule of items is shared where more than one place needs it.
	uses, rule := length-len(prefix), none
	item := func(i int, next int32) int32 {
		switch {
		case i < len(prefix):
			return c.schema(prefix[i], fmt.Sprintf("%s.prefixItems[%d]", path, i), next)
		case items == nil || items.kind == 't':
			return c.any(next)
		case uses <= 1:
			return c.schema(items, path+".items", next)
		}
		if rule == none {
			rule = c.rule(items, path+".items")
		}
		return c.after(rule, next)
	}
	end := c.byte(']', next)
	place, again := end, none // behind all that is unrolled; the item that goes round to it
	switch {
	case most < 0:
		place = c.add(node{call: none})
		again = item(max(length-1, len(prefix)), place)
		c.nodes[place].eps = []int32{end, c.comma(again)}
	case length < lowest:
		place = c.on() // nothing: fewer are allowed than are wanted
	}
	for i := length - 1; i >= 0; i-- {
		one := again
		if most >= 0 || i < length-1 || i < len(prefix) {
			one = item(i, place)
		}
		if i > 0 {
			one = c.comma(one)
		}
		place = one
		if i >= lowest {
			place = c.either(one, end)
		}
	}
	return c.byte('[', place)
}
