package pipeline

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"imagebind-llm/internal/golden"
	"imagebind-llm/runner/constrain"
	"imagebind-llm/runner/generate"
)

// A picture, and an answer that keeps to a form: of random weights, which would
// never find it by themselves.
func TestForms(t *testing.T) {
	p := open(t, tiny(t), Options{})
	part := Part{Data: golden.Bytes(t, picture)}
	list := []string{"yes", "no", "图片"}
	for _, trim := range []bool{false, true} {
		q := query(p, "Is this a dog?", part)
		q.Generate.Trim = trim
		q.N, q.Generate.Sample.Temperature, q.Generate.Sample.TopP = 6, 2, 1
		var err error
		if q.Grammar, err = constrain.Choices(list); err != nil {
			t.Fatal(err)
		}
		for _, c := range answer(t, p, q).Choices {
			if !slices.Contains(list, c.Text) || c.FinishReason != generate.FinishStop {
				t.Errorf("trim %v: %q, %s", trim, c.Text, c.FinishReason)
			}
		}
	}
	q := query(p, "What is this?", part)
	var err error
	if q.Grammar, err = constrain.Schema([]byte(`{"properties":{"dog":{"type":"boolean"},"what":{"type":"string","maxLength":4}},"required":["dog","what"]}`), ""); err != nil {
		t.Fatal(err)
	}
	q.Generate.MaxTokens = 60
	text := answer(t, p, q).Choices[0].Text
	var v struct {
		Dog  *bool
		What *string
	}
	if err := json.Unmarshal([]byte(text), &v); err != nil || v.Dog == nil || v.What == nil {
		t.Errorf("%q: %v", text, err)
	}
	// The same without a form is none.
	q.Grammar = nil
	if text := answer(t, p, q).Choices[0].Text; strings.HasPrefix(text, "{") {
		t.Errorf("without a form: %q", text)
	}
}
