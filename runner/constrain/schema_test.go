package constrain

import (
	"encoding/json"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	imagebind "imagebind-llm"
	"imagebind-llm/runner/tokenizer"
)

// schemas are valid and everywhere else in these tests.
var schemas = []string{
	`{"type":"object","properties":{"name":{"type":"string"},"age":{"type":"integer","minimum":0,"maximum":150}},"required":["name","age"],"additionalProperties":false}`,
	`{"type":"object","properties":{"a":{"type":"boolean"},"b":{"type":"null"},"c":{"type":"number"}},"required":["b"]}`,
	`{"type":"object","properties":{"a":{"type":"boolean"}},"additionalProperties":{"type":"integer"}}`,
	`{"type":"object","properties":{"ab":{"const":1},"图":{"const":2},"a\"b":{"const":3}},"additionalProperties":true,"required":["z"]}`,
	`{"type":"array","items":{"type":"string","maxLength":3},"minItems":1,"maxItems":4}`,
	`{"type":"array","items":{"enum":["red","green",1,null,{"a":[1]}]},"minItems":2}`,
	`{"type":"array","prefixItems":[{"type":"integer"},{"type":"string"}],"items":{"type":"boolean"},"maxItems":4}`,
	`{"type":"array","prefixItems":[{"type":"integer"},{"type":"string"}],"items":false}`,
	`{"type":"array","prefixItems":[{"type":"integer"}]}`,
	`{"type":"array","maxItems":0}`,
	`{"type":["string","null"],"minLength":2}`,
	`{"type":"string","minLength":2,"maxLength":5}`,
	`{"anyOf":[{"type":"string","enum":["a","b"]},{"type":"object","properties":{"kind":{"const":"x"}},"required":["kind"]},{"type":"object","properties":{"kind":{"const":"xy"},"n":{"type":"integer"}},"required":["kind","n"]}]}`,
	`{"$defs":{"node":{"type":"object","properties":{"value":{"type":"integer"},"next":{"anyOf":[{"$ref":"#/$defs/node"},{"type":"null"}]}},"required":["value","next"]}},"$ref":"#/$defs/node"}`,
	`{"definitions":{"t":{"type":"array","items":{"$ref":"#/definitions/t"},"maxItems":2}},"$ref":"#/definitions/t"}`,
	`{"type":"object","properties":{"x":{"$ref":"#"},"y":{"type":"string"}},"required":["y"]}`,
	`{"type":"number","minimum":-1.5,"exclusiveMaximum":2.25}`,
	`{"type":"integer","exclusiveMinimum":-13,"maximum":107}`,
	`{"type":"integer","minimum":99.5}`,
	`{"type":"number","maximum":-0.125}`,
	`{"type":"object","properties":{"x":{"description":"a","allOf":[{"$ref":"#/$defs/n"}]}},"required":["x"],"$defs":{"n":{"type":"integer","maximum":9,"minimum":1}}}`,
	`{"type":"object","properties":{"a":{"type":"string"},"b":{"type":"string"}},"anyOf":[{"required":["a"]},{"required":["b"]}]}`,
	`{"type":"string","pattern":"^[A-Z]{2}-\\d{3}(\\.[a-f]+)?$"}`,
	`{"type":"string","pattern":"ab|c$"}`,
	`{"type":"string","pattern":"^(é|\\n|\"|[^a-z\\\\])*$"}`,
	`{}`,
	`{"type":"object"}`,
	`{"type":"object","properties":{"x":{"allOf":[{"$ref":"#"}],"description":"the same again"}}}`,
	`{"title":"T","type":"object","properties":{"d":{"type":"string","format":"date","description":"day","default":"x"},"t":{"type":"array","items":{"type":"object","properties":{"q":{"type":"number"}},"required":["q"]}}},"required":["d","t"]}`,
}

// However tokens are drawn, the text is JSON that the schema describes, of
// characters that are whole.
func TestSchemasProperty(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for name, open := range map[string]func(testing.TB) (*tokenizer.Tokenizer, *Vocabulary){"smollm2": smol, "tiny": tiny} {
		tok, v := open(t)
		for _, s := range schemas {
			g, judge := schema(t, s), validator(t, s)
			ends := 0
			for i := range 60 {
				text, ended := draw(t, r, tok, v, v.Begin(g, i%2 == 0), 300)
				if !ended {
					continue
				}
				ends++
				if err := judge(text); err != nil {
					t.Errorf("%s, %s: %q: %v", name, s, text, err)
				}
			}
			if ends < 20 {
				t.Errorf("%s, %s: only %d of 60 answers ended", name, s, ends)
			}
		}
	}
}

// validator returns another implementation's judgement.
func validator(t testing.TB, s string) func(text string) error {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(strings.NewReader(s))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("schema.json", doc); err != nil {
		t.Fatal(err)
	}
	compiled, err := c.Compile("schema.json")
	if err != nil {
		t.Fatalf("%s: %v", s, err)
	}
	return func(text string) error {
		text = strings.TrimPrefix(text, " ")
		var any any
		if err := json.Unmarshal([]byte(text), &any); err != nil {
			return err
		}
		v, err := jsonschema.UnmarshalJSON(strings.NewReader(text))
		if err != nil {
			return err
		}
		return compiled.Validate(v)
	}
}

func TestObjectProperty(t *testing.T) {
	tok, v := smol(t)
	r := rand.New(rand.NewPCG(5, 6))
	g, err := Object()
	if err != nil {
		t.Fatal(err)
	}
	ends := 0
	for range 200 {
		text, ended := draw(t, r, tok, v, v.Begin(g, false), 300)
		if !ended {
			continue
		}
		ends++
		var m map[string]any
		if err := json.Unmarshal([]byte(text), &m); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	}
	if ends < 100 {
		t.Errorf("only %d answers ended", ends)
	}
}

// What people write is taken, what the schema forbids is not.
func TestTakes(t *testing.T) {
	for _, tt := range []struct {
		schema  string
		yes, no []string
	}{
		{schemas[0], []string{`{"name":"Bo","age":7}`, `{"name": "", "age": 150}`}, []string{`{"age":7,"name":"Bo"}`, `{"name":"Bo","age":151}`, `{"name":"Bo"}`, `{"name":"Bo","age":-1}`, `{"name":"Bo","age":07}`, `{ "name":"Bo","age":7}`, `{"name":"Bo","age":7,"x":1}`}},
		{schemas[1], []string{`{"b":null}`, `{"a":true,"b":null}`, `{"a":false,"b":null,"c":-1.5e-3}`, `{"b":null, "c":0}`}, []string{`{}`, `{"a":true}`, `{,"b":null}`, `{"b":null,}`, `{"b":null,"c":01}`, `{"b":null,"c":1.}`, `{"b":null,"d":1}`}},
		{schemas[2], []string{`{}`, `{"a":true}`, `{"x":1}`, `{"a":true,"aa":1,"":2}`}, []string{`{"a":1}`, `{"x":true}`, `{"x":1,"a":true}`, `{"\u0061":1}`}},
		{schemas[3], []string{`{"z":0}`, `{"ab":1,"图":2,"a\"b":3,"z":null,"abc":[],"图图":0}`}, []string{`{"ab":2,"z":0}`, `{"z":0,"ab":1}`, `{"z":0,"图":1}`, `{}`}},
		{schemas[4], []string{`["a"]`, `["图片x", "", "\u00e9\ud83d\ude00a"]`}, []string{`[]`, `["abcd"]`, `["a","b","c","d","e"]`, `["\ud83d"]`, `["\ude00"]`}},
		{schemas[5], []string{`["red",null]`, `["green", 1,{"a":[1]}]`}, []string{`["red"]`, `["re",1]`, `[1,2]`}},
		{schemas[6], []string{`[1,"a"]`, `[1,"a",true,false]`}, []string{`[]`, `["a",1]`, `[1,"a",true,false,true]`, `[1,"a",1]`}},
		{schemas[8], []string{`[1]`}, []string{`[1,2]`, `["a"]`}},
		{schemas[9], []string{`[]`}, []string{`[1]`}},
		{schemas[10], []string{`null`, `"ab"`}, []string{`"a"`, `1`}},
		{schemas[12], []string{`"a"`, `{"kind":"x"}`, `{"kind":"xy","n":3}`}, []string{`{"kind":"x","n":3}`, `{"kind":"xy"}`, `"c"`}},
		{schemas[13], []string{`{"value":1,"next":null}`, `{"value":1,"next":{"value":2,"next":{"value":3,"next":null}}}`}, []string{`{"value":1}`, `{"value":1,"next":{"value":2}}`}},
		{schemas[14], []string{`[]`, `[[],[[]]]`}, []string{`[[],[],[]]`, `[1]`}},
		{schemas[16], []string{`-1.5`, `-1`, `0`, `-0.5`, `2.2`, `2.2499`, `1.99`, `2`, `-1.4999`}, []string{`2.25`, `-1.51`, `3`, `-2`, `2.3`, `00`, `1e0`, `-0`, `2.`, `12`}},
		{schemas[17], []string{`-12`, `-9`, `0`, `9`, `107`, `100`, `99`}, []string{`-13`, `108`, `-0`, `1.5`, `-20`, `1000`}},
		{schemas[18], []string{`100`, `999999`}, []string{`99`, `9`}},
		{schemas[19], []string{`-0.125`, `-0.13`, `-3`, `-12.5`, `-0.2`}, []string{`0`, `-0.12`, `-0.1249`, `1`, `-0`}},
		{schemas[20], []string{`{"x":1}`, `{"x":9}`}, []string{`{"x":0}`, `{"x":10}`}},
		{schemas[21], []string{`{"a":""}`, `{"b":""}`, `{"a":"","b":""}`}, []string{`{}`}},
		{schemas[22], []string{`"AB-123"`, `"AB-123.abf"`}, []string{`"AB-12"`, `"xAB-123"`, `"AB-123."`}},
		{schemas[23], []string{`"ab"`, `"xaby"`, `"c"`, `"xc"`}, []string{`"a"`, `"cx"`}},
		{schemas[24], []string{`""`, `"é\n\"é0图😀\t"`, `"\u0001"`}, []string{`"a"`, `"é\\"`}},
		{schemas[25], []string{`1`, `"a"`, `[{"a":[1,2,{}]},null]`, `-0.5E+10`, `{"a": 1, "b": [1, 2]}`}, []string{``, `01`, `{"a" :1}`, `[1,]`, `tru`, `"` + "\n" + `"`, `"\x"`, `+1`, `.5`, `1e`, "\"\xff\"", "\"\xc0\x80\"", "\"\xed\xa0\x80\"", "\"\xf4\x90\x80\x80\""}},
	} {
		g := schema(t, tt.schema)
		for _, s := range tt.yes {
			if !takes(g, s) {
				t.Errorf("%s does not take %s", tt.schema, s)
			}
			if err := validator(t, tt.schema)(s); err != nil {
				t.Errorf("%s: the test is wrong about %s: %v", tt.schema, s, err)
			}
		}
		for _, s := range tt.no {
			if takes(g, s) {
				t.Errorf("%s takes %s", tt.schema, s)
			}
		}
	}
}

// What is refused is named, with its path.
func TestRefuses(t *testing.T) {
	for _, tt := range []struct{ schema, param, says string }{
		{`{"type":"object","properties":{"a":{"type":"integer","multipleOf":2}}}`, "schema.properties.a.multipleOf", "multipleOf"},
		{`{"type":"array","items":{"anyOf":[{"not":{}}]}}`, "schema.items.anyOf[0].not", "not"},
		{`{"type":"array","uniqueItems":true}`, "schema.uniqueItems", "uniqueItems"},
		{`{"type":"object","patternProperties":{}}`, "schema.patternProperties", "patternProperties"},
		{`{"type":"strin"}`, "schema.type", "strin"},
		{`{"type":3}`, "schema.type", "type"},
		{`[]`, "schema", "object"},
		{`{`, "schema", "JSON"},
		{`{"type":"object"} x`, "schema", "JSON"},
		{`{"type":"object","type":"array"}`, "schema", "twice"},
		{`{"$ref":"#/$defs/none"}`, "schema.$ref", "none"},
		{`{"$ref":"http://example.com/a"}`, "schema.$ref", "this schema"},
		{`{"$ref":"#"}`, "schema", "leads back"},
		{`{"$defs":{"a":{"anyOf":[{"$ref":"#/$defs/b"},{"type":"null"}]},"b":{"$ref":"#/$defs/a"}},"$ref":"#/$defs/a"}`, "schema", "leads back"},
		{`{"type":"object","properties":{"a":{"$ref":"#"}},"required":["a"]}`, "schema", "no text"},
		{`false`, "schema", "no text"},
		{`{"type":"string","minLength":3,"maxLength":2}`, "schema", "no text"},
		{`{"type":"integer","minimum":3,"maximum":2}`, "schema", "no text"},
		{`{"type":"integer","minimum":"3"}`, "schema.minimum", "number"},
		{`{"type":"integer","minimum":1e999999999}`, "schema.minimum", "number"},
		{`{"type":"string","maxLength":-1}`, "schema.maxLength", "at least 0"},
		{`{"type":"string","maxLength":1000000}`, "schema", "too long"},
		{`{"type":"array","items":{"type":"array","items":{"type":"string","maxLength":9999},"maxItems":9000},"maxItems":30000}`, "schema", "too large"},
		{`{"type":"object","required":["a"],"additionalProperties":false}`, "schema.required", "not allowed"},
		{`{"type":"string","pattern":"(?=a)"}`, "schema.pattern", "cannot be read"},
		{`{"type":"string","pattern":"a^b"}`, "schema.pattern", "ends"},
		{`{"type":"string","pattern":"a","minLength":1}`, "schema.pattern", "beside"},
		{`{"type":"object","properties":{"x":{"allOf":[{"$ref":"#"},{"required":["y"]}]},"y":{}}}`, "", "stand alone"},
		{`{"enum":[]}`, "schema.enum", "at least one"},
		{`{"enum":["a"],"minLength":1}`, "schema.minLength", "beside"},
		{`{"type":"array","items":[{}]}`, "schema.items", "prefixItems"},
		{`{"allOf":[{"minimum":1},{"minimum":2}]}`, "schema", "twice"},
		{`{"properties":{"a":{}},"allOf":[{"additionalProperties":false}]}`, "schema", "additionalProperties"},
		{strings.Repeat(`{"items":`, maxDepth+1) + `{}` + strings.Repeat(`}`, maxDepth+1), "schema", "deep"},
		{`{"const":"` + strings.Repeat("a", maxText) + `"}`, "schema", "bytes"},
	} {
		_, err := Schema([]byte(tt.schema), "schema")
		if imagebind.KindOf(err) != imagebind.Invalid || tt.param != "" && imagebind.ParamOf(err) != tt.param || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%.100s: %v, at %q; want %q at %q", tt.schema, err, imagebind.ParamOf(err), tt.says, tt.param)
		}
	}
}

func FuzzSchema(f *testing.F) {
	for _, s := range schemas {
		f.Add([]byte(s))
	}
	tok, v := tiny(f)
	f.Fuzz(func(t *testing.T, s []byte) {
		g, err := Schema(s, "")
		if err != nil {
			if k := imagebind.KindOf(err); k != imagebind.Invalid {
				t.Fatal(k, err)
			}
			return
		}
		text, ended := draw(t, rand.New(rand.NewPCG(1, 1)), tok, v, v.Begin(g, false), 50)
		if ended && !json.Valid([]byte(text)) {
			t.Fatalf("%s gave %q", s, text)
		}
	})
}

// randomSchema returns a schema of supported keywords, most of which have values.
func randomSchema(r *rand.Rand, depth int) map[string]any {
	pick := r.IntN(10)
	if depth == 0 {
		pick = r.IntN(6)
	}
	s := map[string]any{}
	maybe := func(key string, v any) {
		if r.IntN(2) == 0 {
			s[key] = v
		}
	}
	switch pick {
	case 0:
		s["type"] = "string"
		lowest := r.IntN(4)
		maybe("minLength", lowest)
		maybe("maxLength", lowest+r.IntN(5))
	case 1:
		s["type"] = "integer"
		lowest := r.IntN(3000) - 1500
		maybe("minimum", lowest)
		maybe("maximum", lowest+r.IntN(1000))
	case 2:
		s["type"] = "number"
		lowest := float64(r.IntN(30000)-15000) / float64(1+r.IntN(400))
		maybe([]string{"minimum", "exclusiveMinimum"}[r.IntN(2)], lowest)
		maybe([]string{"maximum", "exclusiveMaximum"}[r.IntN(2)], lowest+0.001+r.Float64()*100)
	case 3:
		s["enum"] = []any{"a", "ab", "b\"\\\n图", 1, -2.5, nil, true, []any{1, "x"}, map[string]any{"k": "v"}}[:1+r.IntN(9)]
	case 4:
		s["type"] = []any{"boolean", "null", "string", "integer"}[r.IntN(3):]
	case 5:
		s["type"] = "string"
		s["pattern"] = []string{`^[a-f]{1,4}$`, `x`, `^(ab|cd)+`, `[^a-z]$`, `^\d{4}-\d\d$`, `^\w*@\w+\.(com|org)$`, `^$`, `é|"`}[r.IntN(8)]
	case 6:
		s["type"] = "array"
		lowest := r.IntN(3)
		maybe("items", randomSchema(r, depth-1))
		maybe("minItems", lowest)
		maybe("maxItems", lowest+r.IntN(3))
		if r.IntN(3) == 0 {
			s["prefixItems"] = []any{randomSchema(r, depth-1), randomSchema(r, depth-1)}[:1+r.IntN(2)]
		}
	case 7:
		s[[]string{"anyOf", "anyOf", "allOf"}[r.IntN(3)]] = []any{randomSchema(r, depth-1)}
		if a, ok := s["anyOf"].([]any); ok {
			s["anyOf"] = append(a, randomSchema(r, depth-1))
		}
	default:
		s["type"] = "object"
		names := []string{"a", "ab", "b", "图", "x y", `q"`}
		properties, required := map[string]any{}, []any{}
		for _, n := range names[:r.IntN(5)] {
			properties[n] = randomSchema(r, depth-1)
			if r.IntN(2) == 0 {
				required = append(required, n)
			}
		}
		maybe("properties", properties)
		maybe("required", required)
		maybe("additionalProperties", []any{true, false, randomSchema(r, depth-1)}[r.IntN(3)])
	}
	return s
}

// What fixed schemas are held to, random ones are too.
func TestRandomSchemas(t *testing.T) {
	tok, v := tiny(t)
	r := rand.New(rand.NewPCG(11, 12))
	good, ends, refused := 0, 0, map[string]int{}
	for range 1500 {
		raw, err := json.Marshal(randomSchema(r, 3))
		if err != nil {
			t.Fatal(err)
		}
		g, err := Schema(raw, "")
		if err != nil {
			refused[err.Error()]++
			continue
		}
		good++
		judge := validator(t, string(raw))
		for range 4 {
			text, ended := draw(t, r, tok, v, v.Begin(g, false), 120)
			if !ended {
				continue
			}
			ends++
			if err := judge(text); err != nil {
				t.Fatalf("%s: %q: %v", raw, text, err)
			}
		}
	}
	if good < 1000 || ends < 3000 {
		t.Errorf("%d were read, %d answers ended; refused: %v", good, ends, refused)
	}
}
