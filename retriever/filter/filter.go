// Package filter reads the conditions on metadata that a search may have. A
// field is compared to a value, {"legs": 4}, or by operators, all of which must
// hold: {"legs": {"gte": 2, "lt": 6}, "kind": {"in": ["cat", "dog"]}}.
package filter

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"

	imagebind "imagebind-llm"
)

// Limits of a filter.
const (
	MaxFields = 32
	MaxIn     = 1000 // values of an "in"
)

// An Op compares a row's field to a value.
type Op string

// The operators. Eq is that of a bare value. Values of two kinds are never equal
// and in no order; strings are in the order of their bytes. A field that is not
// there passes Ne, and Exists of false.
const (
	Eq  Op = "eq"
	Ne  Op = "ne"
	In  Op = "in" // equal to one of several
	Gt  Op = "gt"
	Gte Op = "gte"
	Lt  Op = "lt"
	Lte Op = "lte"
	// Exists takes a boolean: whether the field is there, be it null.
	Exists Op = "exists"
)

const operators = "eq, ne, in, gt, gte, lt, lte and exists"

// A Term is one condition on one field.
type Term struct {
	Field  string
	Op     Op
	Values []any // strings, float64s and bools: several of In, one of the others
}

// Parse returns the terms of a filter, in the order of their fields; what is no
// filter is an Invalid error.
func Parse(fields map[string]any) ([]Term, error) {
	if len(fields) > MaxFields {
		return nil, imagebind.Errorf(imagebind.Invalid, "filter: %d fields; at most %d are compared", len(fields), MaxFields)
	}
	var terms []Term
	for _, field := range slices.Sorted(maps.Keys(fields)) {
		ops, several := fields[field].(map[string]any)
		if !several {
			ops = map[string]any{string(Eq): fields[field]}
		} else if len(ops) == 0 {
			return nil, imagebind.Errorf(imagebind.Invalid, "filter: %q has no operator; they are %s", field, operators)
		}
		for _, op := range slices.Sorted(maps.Keys(ops)) {
			t, err := parse(field, Op(op), ops[op])
			if err != nil {
				return nil, err
			}
			terms = append(terms, t)
		}
	}
	return terms, nil
}

func parse(field string, op Op, v any) (Term, error) {
	t := Term{Field: field, Op: op}
	list := []any{v}
	switch op {
	case Eq, Ne, Gt, Gte, Lt, Lte:
	case Exists:
		if _, ok := v.(bool); !ok {
			return t, imagebind.Errorf(imagebind.Invalid, "filter: %q: exists is true or false", field)
		}
	case In:
		var ok bool
		if list, ok = v.([]any); !ok || len(list) == 0 || len(list) > MaxIn {
			return t, imagebind.Errorf(imagebind.Invalid, "filter: %q: in has a list of 1 to %d values", field, MaxIn)
		}
	default:
		return t, imagebind.Errorf(imagebind.Invalid, "filter: %q has the operator %q; they are %s", field, op, operators)
	}
	for _, v := range list {
		b, err := json.Marshal(v) // to what a row's value is read as
		if err == nil {
			err = json.Unmarshal(b, &v)
		}
		if err != nil {
			return t, imagebind.Errorf(imagebind.Invalid, "filter: %q: %w", field, err)
		}
		switch v.(type) {
		case string, float64:
		case bool:
			if slices.Contains([]Op{Gt, Gte, Lt, Lte}, op) {
				return t, imagebind.Errorf(imagebind.Invalid, "filter: %q: booleans have no order, which %s asks for", field, op)
			}
		default:
			return t, imagebind.Errorf(imagebind.Invalid, "filter: %q is compared to a %T; values are strings, numbers and booleans", field, v)
		}
		t.Values = append(t.Values, v)
	}
	return t, nil
}

// Pass reports whether a row of that metadata, as encoding/json reads it, meets
// the term.
func (t Term) Pass(metadata map[string]any) bool {
	got, there := metadata[t.Field]
	switch t.Op {
	case Eq, In:
		return there && slices.ContainsFunc(t.Values, func(v any) bool { return same(got, v) })
	case Exists:
		return there == t.Values[0]
	case Ne:
		return !there || !same(got, t.Values[0])
	}
	order, ok := compare(got, t.Values[0])
	switch t.Op {
	case Gt:
		return ok && order > 0
	case Gte:
		return ok && order >= 0
	case Lt:
		return ok && order < 0
	}
	return ok && order <= 0
}

// same is equality with a string, number or boolean; lists and objects are equal to none.
func same(got, want any) bool {
	switch got.(type) {
	case string, float64, bool:
		return got == want
	}
	return false
}

// compare returns the order of two numbers or two strings; ok is false for others.
func compare(got, want any) (order int, ok bool) {
	switch w := want.(type) {
	case float64:
		g, ok := got.(float64)
		switch {
		case g < w:
			return -1, ok
		case g > w:
			return 1, ok
		}
		return 0, ok
	case string:
		g, ok := got.(string)
		return strings.Compare(g, w), ok
	}
	return 0, false
}
