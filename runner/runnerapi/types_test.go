package runnerapi

import (
	"bytes"
	"encoding/json"
	"math"
	"reflect"
	"strings"
	"testing"

	imagebind "imagebind-llm"
)

func TestDecodeChat(t *testing.T) {
	half := 0.5
	var r ChatRequest
	err := Decode([]byte(`{"model":"m","unknown":{"a":[1,2]},"messages":[
		{"role":"system","content":"Be brief."},
		{"role":"assistant","content":null},
		{"role":"user","name":"x","content":[
			{"type":"text","text":"What, \"is\" [this]?"},
			{"type":"image_url","image_url":{"url":"data:,a","detail":"low"},"weight":0.5},
			{"type":"image_url","image_url":"data:,b"},
			{"type":"input_audio","input_audio":{"data":"aGk=","format":"wav"}},
			{"type":"bind_text","bind_text":{"text":"rain"}},
			{"type":"embedding","embedding":{"data":[1,0],"modality":"image"}},
			{"type":"embedding","embedding":{"data":"AACAPwAAAAA="}},
			{"type":"smell_url","smell_url":{"url":"data:,c"},"weight":null}
		]}],"stop":"a","stream":true,"stream_options":{"include_usage":true},"cache":{"enabled":false,"k":3},"seed":-1}`), &r)
	if err != nil {
		t.Fatal(err)
	}
	want := []Part{
		Text(`What, "is" [this]?`), {Type: "image_url", URL: "data:,a", Weight: &half, Params: Params{"detail": "low"}}, Media("image_url", "data:,b"),
		{Type: PartInputAudio, Audio: &InputAudio{Data: "aGk=", Format: "wav"}}, BindText("rain"),
		{Type: PartEmbedding, Embedding: &Embedding{Data: Vector{1, 0}, Modality: "image"}},
		{Type: PartEmbedding, Embedding: &Embedding{Data: Vector{1, 0}}}, Media("smell_url", "data:,c"),
	}
	if got := r.Messages[2].Content.Parts; !reflect.DeepEqual(got, want) {
		t.Errorf("parts %+v", got)
	}
	if r.Messages[0].Content.Text != "Be brief." || r.Messages[1].Content.Parts != nil || len(r.Stop) != 1 || r.Stop[0] != "a" ||
		!r.Stream || !r.StreamOptions.IncludeUsage || *r.Cache.Enabled || *r.Cache.K != 3 || *r.Seed != -1 {
		t.Errorf("%+v", r)
	}
	// What the client writes is what the server reads.
	b, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var again ChatRequest
	if err := Decode(b, &again); err != nil || !reflect.DeepEqual(again, r) {
		t.Errorf("%v: %s", err, b)
	}
}

func TestDecodeErrors(t *testing.T) {
	for _, tt := range []struct{ name, body, param, words string }{
		{"empty", ``, "", "empty"},
		{"white space", " \n", "", "empty"},
		{"an array", `[]`, "", "object"},
		{"cut off", `{"messages":[{"role":"user"`, "", "too early"},
		{"more behind", `{"messages":[]} x`, "", "JSON"},
		{"NaN", `{"temperature":NaN}`, "", "JSON"},
		{"a text as a number", `{"temperature":"hot"}`, "temperature", "number"},
		{"a fraction", `{"max_tokens":1.5}`, "max_tokens", "number 1.5"},
		{"a huge number", `{"seed":99999999999999999999}`, "seed", "integer"},
		{"below", `{"cache":{"k":"ten"}}`, "cache.k", "integer"},
		{"infinite", `{"cache":{"weight":1e60}}`, "cache.weight", "number"},
		{"messages no array", `{"messages":"hi"}`, "messages", "array"},
		{"a message no object", `{"messages":["hi"]}`, "messages[0]", "object"},
		{"role", `{"messages":[{},{"role":1}]}`, "messages[1].role", "string"},
		{"content", `{"messages":[{"content":7}]}`, "messages[0].content", "array of parts"},
		{"part", `{"messages":[{"content":["hi"]}]}`, "messages[0].content[0]", "object"},
		{"no type", `{"messages":[{"content":[{"text":"hi"}]}]}`, "messages[0].content[0].type", "type"},
		{"type", `{"messages":[{"content":[{"type":[]}]}]}`, "messages[0].content[0].type", "string"},
		{"no payload", `{"messages":[{"content":[{"type":"text","text":"a"},{"type":"image_url","url":"x"}]}]}`, "messages[0].content[1].image_url", "image_url"},
		{"no url", `{"messages":[{"content":[{"type":"image_url","image_url":{}}]}]}`, "messages[0].content[0].image_url", "url"},
		{"url", `{"messages":[{"content":[{"type":"image_url","image_url":{"url":7}}]}]}`, "messages[0].content[0].image_url.url", "string"},
		{"payload null", `{"messages":[{"content":[{"type":"image_url","image_url":null}]}]}`, "messages[0].content[0].image_url", "object"},
		{"text", `{"messages":[{"content":[{"type":"text","text":{}}]}]}`, "messages[0].content[0].text", "string"},
		{"weight", `{"messages":[{"content":[{"type":"bind_text","bind_text":{"text":"a"},"weight":"2"}]}]}`, "messages[0].content[0].weight", "number"},
		{"weight too large", `{"messages":[{"content":[{"type":"bind_text","bind_text":{"text":"a"},"weight":1e999}]}]}`, "messages[0].content[0].weight", "number"},
		{"embedding", `{"messages":[{"content":[{"type":"embedding","embedding":{"data":[1,"a"]}}]}]}`, "messages[0].content[0].embedding", "number"},
		{"embedding base64", `{"messages":[{"content":[{"type":"embedding","embedding":{"data":"!"}}]}]}`, "messages[0].content[0].embedding", "base64"},
		{"embedding bytes", `{"messages":[{"content":[{"type":"embedding","embedding":{"data":"AAA="}}]}]}`, "messages[0].content[0].embedding", "4 bytes"},
		{"embedding NaN", `{"messages":[{"content":[{"type":"embedding","embedding":{"data":"AADAfw=="}}]}]}`, "messages[0].content[0].embedding", "NaN"},
		{"embedding empty", `{"messages":[{"content":[{"type":"embedding","embedding":{"data":[]}}]}]}`, "messages[0].content[0].embedding", "no values"},
		{"embedding long", `{"messages":[{"content":[{"type":"embedding","embedding":{"data":[0` + strings.Repeat(",0", MaxDim) + `]}}]}]}`, "messages[0].content[0].embedding", "at most"},
		{"stop", `{"stop":[1]}`, "stop", "string"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var r ChatRequest
			err := Decode([]byte(tt.body), &r)
			if err == nil || imagebind.KindOf(err) != imagebind.Invalid || imagebind.ParamOf(err) != tt.param || !strings.Contains(imagebind.MessageOf(err), tt.words) {
				t.Errorf("param %q, want %q; %v, want %q in it", imagebind.ParamOf(err), tt.param, err, tt.words)
			}
		})
	}
}

func TestDecodeInputs(t *testing.T) {
	for body, want := range map[string]Inputs{
		`"a dog"`:      {{Content{Text: "a dog"}}},
		`["a", "b,c"]`: {{Content{Text: "a"}}, {Content{Text: "b,c"}}},
		`[{"content":[{"type":"text","text":"x"}]},{"content":"y"}]`: {{Content{Parts: []Part{Text("x")}}}, {Content{Text: "y"}}},
		`[]`: {},
	} {
		var r EmbeddingRequest
		if err := Decode([]byte(`{"input":`+body+`}`), &r); err != nil || !reflect.DeepEqual(r.Input, want) {
			t.Errorf("%s: %+v, %v", body, r.Input, err)
		}
	}
	for body, param := range map[string]string{
		`7`: "input", `[[1,2]]`: "input[0]", `["a",7]`: "input[1]",
		`[{"content":[{"type":"image_url"}]}]`:           "input[0].content[0].image_url",
		`["a"` + strings.Repeat(`,"a"`, MaxInputs) + `]`: "input",
	} {
		var r EmbeddingRequest
		if err := Decode([]byte(`{"input":`+body+`}`), &r); err == nil || imagebind.ParamOf(err) != param {
			t.Errorf("%.40s: %v, param %q", body, err, imagebind.ParamOf(err))
		}
	}
}

func TestEmbeddingData(t *testing.T) {
	d := EmbeddingData{Object: "embedding", Index: 3, Embedding: Vector{1, -0.5}, Bind: &Bind{}}
	for _, d.Base64 = range []bool{false, true} {
		b, err := json.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		if d.Base64 != bytes.Contains(b, []byte(`"AACAPwAAAL8="`)) {
			t.Errorf("%s", b)
		}
		var got EmbeddingData
		if err := json.Unmarshal(b, &got); err != nil || !reflect.DeepEqual(got.Embedding, d.Embedding) || got.Index != 3 || got.Bind == nil {
			t.Errorf("%+v, %v", got, err)
		}
	}
	nan := Vector{float32(math.NaN())}
	if _, err := json.Marshal(nan); err == nil {
		t.Error("NaN is no JSON")
	}
}

// FuzzDecodeChat holds that whatever is accepted is written and read back the
// same, and that errors are the caller's.
func FuzzDecodeChat(f *testing.F) {
	for _, s := range []string{
		`{"messages":[{"role":"user","content":"hi"}]}`,
		`{"messages":[{"role":"user","content":[{"type":"text","text":"a\"],{"},{"type":"image_url","image_url":{"url":"data:,x"},"weight":2}]}],"stop":["a","b"],"n":2}`,
		`{"messages":[{"content":[{"type":"embedding","embedding":{"data":[1e3,-2]}},{"type":"bind_text","bind_text":"x"},{"type":"input_audio","input_audio":{"data":"YQ=="}}]}]}`,
		` { "messages" : [ ] , "messages" : [ { } ] , "cache" : { } } `, `{"messages":[{"content":[{"type":"","":1}]}]}`, `{"messages":[{"content":[{"type":"é\\","é\\":1}]}]}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var r ChatRequest
		if err := Decode(b, &r); err != nil {
			if imagebind.KindOf(err) != imagebind.Invalid {
				t.Error(err)
			}
			return
		}
		for _, m := range r.Messages {
			for _, p := range m.Content.Parts {
				if p.Type == PartEmbedding && !imagebind.Embedding(p.Embedding.Data).Finite() {
					t.Error("an embedding that is not finite")
				}
				if p.Type == "weight" || p.Type == "type" || !strings.HasSuffix(p.Type, "_url") && p.Type != PartText && p.Type != PartBindText && p.Type != PartEmbedding && p.Type != PartInputAudio {
					return // not a part that a server takes
				}
				if p.Type == PartEmbedding && len(p.Embedding.Data) == 0 {
					return
				}
			}
		}
		out, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		var again ChatRequest
		if err := Decode(out, &again); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if second, err := json.Marshal(again); err != nil || !bytes.Equal(second, out) {
			t.Errorf("%v:\n%s\n%s", err, out, second)
		}
	})
}

// TestSplit walks values that quotes, brackets and escapes might confuse.
func TestSplit(t *testing.T) {
	for in, want := range map[string][]string{
		`[]`: nil, `[ ]`: nil, `[1]`: {"1"}, ` [ 1 , "a,]" , [2,[3]] , {"b":",","c":[4,5]} , true ] `: {"1", `"a,]"`, "[2,[3]]", `{"b":",","c":[4,5]}`, "true"},
		`["\"", "\\", "\\\",", -1.5e-3]`: {`"\""`, `"\\"`, `"\\\","`, "-1.5e-3"}, `{"a" : 1, "b":{"c":2}}`: {`"a" : 1`, `"b":{"c":2}`},
	} {
		var got []string
		for _, b := range split([]byte(in)) {
			got = append(got, string(b))
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %q", in, got)
		}
	}
}
