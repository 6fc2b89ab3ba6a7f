package filter

import (
	"testing"

	imagebind "imagebind-llm"
)

func TestPass(t *testing.T) {
	row := map[string]any{"n": 3.0, "s": "m", "b": true, "null": nil, "list": []any{1.0}}
	for _, tt := range []struct {
		filter map[string]any
		want   bool
	}{
		{nil, true},
		{map[string]any{"n": 3}, true},
		{map[string]any{"n": "3"}, false},
		{map[string]any{"n": map[string]any{"eq": 3.0}}, true},
		{map[string]any{"n": map[string]any{"ne": 3.0}}, false},
		{map[string]any{"n": map[string]any{"ne": "3"}}, true},
		{map[string]any{"none": map[string]any{"ne": 3.0}}, true},
		{map[string]any{"none": map[string]any{"lt": 3.0}}, false},
		{map[string]any{"n": map[string]any{"gt": 2.0, "lte": 3.0}}, true},
		{map[string]any{"n": map[string]any{"gt": 3.0}}, false},
		{map[string]any{"n": map[string]any{"gte": 3.0, "lt": 3.0}}, false},
		{map[string]any{"n": map[string]any{"lt": "z"}}, false},
		{map[string]any{"s": map[string]any{"gt": "a", "lt": "z"}}, true},
		{map[string]any{"s": map[string]any{"gte": 1.0}}, false},
		{map[string]any{"s": map[string]any{"in": []any{1.0, "m"}}}, true},
		{map[string]any{"b": map[string]any{"in": []any{false, "true"}}}, false},
		{map[string]any{"list": map[string]any{"ne": 1.0}}, true},
		{map[string]any{"list": map[string]any{"in": []any{1.0}}}, false},
		{map[string]any{"null": map[string]any{"lte": 0.0}}, false},
		{map[string]any{"n": 3.0, "s": "x"}, false},
		{map[string]any{"n": map[string]any{"exists": true}, "none": map[string]any{"exists": false}}, true},
		{map[string]any{"list": map[string]any{"exists": true}}, true},
		{map[string]any{"null": map[string]any{"exists": true}}, true},
		{map[string]any{"none": map[string]any{"exists": true}}, false},
		{map[string]any{"b": map[string]any{"exists": false}}, false},
	} {
		terms, err := Parse(tt.filter)
		if err != nil {
			t.Fatal(tt.filter, err)
		}
		got := true
		for _, term := range terms {
			got = got && term.Pass(row)
		}
		if got != tt.want {
			t.Errorf("%v: %v", tt.filter, got)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	many := map[string]any{}
	for i := range MaxFields + 1 {
		many[string(rune('a'+i))] = true
	}
	for _, f := range []map[string]any{many, {"a": nil}, {"a": []any{1.0}}, {"a": map[string]any{}}, {"a": map[string]any{"like": "x"}},
		{"a": map[string]any{"in": 1.0}}, {"a": map[string]any{"in": []any{}}}, {"a": map[string]any{"in": make([]any, MaxIn+1)}},
		{"a": map[string]any{"gt": true}}, {"a": map[string]any{"exists": 1.0}}, {"a": map[string]any{"eq": map[string]any{}}}} {
		if _, err := Parse(f); imagebind.KindOf(err) != imagebind.Invalid {
			t.Errorf("%.80v: %v", f, err)
		}
	}
}
