package constrain

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// A value is JSON whose objects keep their order.
type value struct {
	kind  byte // { [ " 0 t f n
	text  string
	items []*value
	keys  []string // of an object's items
}

// get returns a member, or nil.
func (v *value) get(key string) *value {
	if v.kind != '{' {
		return nil
	}
	for i, k := range v.keys {
		if k == key {
			return v.items[i]
		}
	}
	return nil
}

// parse reads one JSON value of at most maxDepth levels.
func parse(data []byte) (*value, error) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	v, err := read(d, 0)
	if err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows it")
	}
	return v, nil
}

func read(d *json.Decoder, depth int) (*value, error) {
	t, err := d.Token()
	if err != nil {
		return nil, err
	}
	if depth > maxDepth {
		return nil, fmt.Errorf("it is nested more than %d deep", maxDepth)
	}
	switch t := t.(type) {
	case string:
		return &value{kind: '"', text: t}, nil
	case json.Number:
		return &value{kind: '0', text: t.String()}, nil
	case bool:
		if t {
			return &value{kind: 't', text: "true"}, nil
		}
		return &value{kind: 'f', text: "false"}, nil
	case json.Delim:
		v := &value{kind: byte(t)}
		seen := map[string]bool{}
		for d.More() {
			if v.kind == '{' {
				k, err := d.Token()
				if err != nil {
					return nil, err
				}
				key, _ := k.(string)
				if seen[key] {
					return nil, fmt.Errorf("an object has %q twice", key)
				}
				seen[key] = true
				v.keys = append(v.keys, key)
			}
			item, err := read(d, depth+1)
			if err != nil {
				return nil, err
			}
			v.items = append(v.items, item)
		}
		_, err := d.Token()
		return v, err
	}
	return &value{kind: 'n', text: "null"}, nil
}

// compact returns v as JSON without spaces.
func (v *value) compact() string {
	var b strings.Builder
	v.write(&b)
	return b.String()
}

func (v *value) write(b *strings.Builder) {
	switch v.kind {
	case '"':
		b.WriteString(quote(v.text))
	case '[', '{':
		b.WriteByte(v.kind)
		for i, item := range v.items {
			if i > 0 {
				b.WriteByte(',')
			}
			if v.kind == '{' {
				b.WriteString(quote(v.keys[i]))
				b.WriteByte(':')
			}
			item.write(b)
		}
		b.WriteByte(v.kind + 2) // ] is [+2, and } is {+2
	default:
		b.WriteString(v.text)
	}
}

// quote returns s as a JSON string that escapes no more than it must.
func quote(s string) string {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	_ = e.Encode(s) // a string always can be
	return strings.TrimSuffix(b.String(), "\n")
}
