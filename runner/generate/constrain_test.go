package generate

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"imagebind-llm/runner/constrain"
	"imagebind-llm/runner/sample"
	"imagebind-llm/runner/tokenizer"
)

// noise is a decoder whose logits are random: the worst of models.
type noise struct {
	r      *rand.Rand
	logits []float32
	likes  []int // ids that are likelier
	ran    int
}

func (n *noise) Capacity() int { return 400 }

func (n *noise) Prefill(ctx context.Context, _ []int, _ []float32) ([]float32, error) {
	n.ran = 0
	return n.End(ctx)
}

func (n *noise) Begin(int) error { n.ran++; return nil }

func (n *noise) End(context.Context) ([]float32, error) {
	for i := range n.logits {
		n.logits[i] = float32(n.r.NormFloat64())
	}
	for _, id := range n.likes {
		n.logits[id] += 5
	}
	return n.logits, nil
}

// kept returns what makes a constraint of a grammar.
func kept(tok *tokenizer.Tokenizer, g *constrain.Grammar, err error, lead bool) func() Constraint {
	if err != nil {
		panic(err)
	}
	v := constrain.NewVocabulary(tok, []int{tok.EOS()})
	return func() Constraint { return v.Begin(g, lead) }
}

// ask runs req, and holds what is streamed against the result.
func ask(t *testing.T, dec Decoder, tok *tokenizer.Tokenizer, req Request) Result {
	t.Helper()
	var b strings.Builder
	n := 0
	req.PromptIDs = []int{1, 300}
	req.Logprobs, req.TopLogprobs = true, 2
	res, err := Generate(t.Context(), dec, tok, req, func(e Event) error {
		b.WriteString(e.Text)
		n += len(e.Tokens)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if b.String() != res.Text || n != len(res.Tokens) {
		t.Errorf("events say %q in %d tokens, the result %q in %d", b.String(), n, res.Text, len(res.Tokens))
	}
	return res
}

// A choice comes out as it is listed, whatever the model says, trimmed or not,
// and ends without a step more where nothing can follow.
func TestChoices(t *testing.T) {
	tok := open(t)
	dec := &noise{r: rand.New(rand.NewPCG(1, 2)), logits: make([]float32, tok.VocabSize())}
	list := []string{"yes", "no", "a dog", "a dog and a cat", "图片"}
	g, err := constrain.Choices(list)
	for _, trim := range []bool{false, true} {
		req := Request{Trim: trim, Constrain: kept(tok, g, err, trim), Sample: sample.Params{Temperature: 1, TopP: 1}}
		seen := map[string]bool{}
		for range 300 {
			res := ask(t, dec, tok, req)
			if !slices.Contains(list, res.Text) || res.FinishReason != FinishStop {
				t.Fatalf("trim %v: %q, %s", trim, res.Text, res.FinishReason)
			}
			if ended := res.IDs[len(res.IDs)-1] == tok.EOS(); ended != (res.Text == "a dog") {
				t.Errorf("%q ends with the end token: %v", res.Text, ended)
			}
			if dec.ran != len(res.IDs)-1 {
				t.Errorf("%q: %d steps for %d tokens", res.Text, dec.ran, len(res.IDs))
			}
			seen[res.Text] = true
		}
		if len(seen) != len(list) {
			t.Errorf("trim %v: only %v were drawn", trim, seen)
		}
	}
}

// The first of two choices that the model prefers is taken at temperature 0.
func TestChoiceIsTheModels(t *testing.T) {
	tok := open(t)
	g, err := constrain.Choices([]string{"yes", "no"})
	for _, want := range []string{"yes", "no"} {
		res := ask(t, say(t, tok, want), tok, Request{Trim: true, Constrain: kept(tok, g, err, true)})
		if res.Text != want {
			t.Errorf("%q, want %q", res.Text, want)
		}
	}
	// One that says neither is brought to one of them.
	if res := ask(t, say(t, tok, "perhaps"), tok, Request{Trim: true, Constrain: kept(tok, g, err, true)}); res.Text != "yes" && res.Text != "no" {
		t.Errorf("%q", res.Text)
	}
}

func TestJSON(t *testing.T) {
	tok := open(t)
	dec := &noise{r: rand.New(rand.NewPCG(3, 4)), logits: make([]float32, tok.VocabSize()), likes: append(tok.Encode(`"}],`, false), tok.EOS())}
	g, err := constrain.Schema([]byte(`{"type":"object","properties":{"what":{"type":"string","maxLength":20},"sure":{"type":"boolean"},"n":{"type":"array","items":{"type":"integer"},"maxItems":3}},"required":["what","sure","n"]}`), "")
	req := Request{Trim: true, Constrain: kept(tok, g, err, true), Sample: sample.Params{Temperature: 1, TopP: 1}}
	ends := 0
	for range 100 {
		res := ask(t, dec, tok, req)
		if res.FinishReason != FinishStop {
			continue
		}
		ends++
		var v struct {
			What *string `json:"what"`
			Sure *bool   `json:"sure"`
			N    []int64 `json:"n"`
		}
		d := json.NewDecoder(strings.NewReader(res.Text))
		d.DisallowUnknownFields()
		if err := d.Decode(&v); err != nil || v.What == nil || v.Sure == nil || v.N == nil || len(v.N) > 3 || len([]rune(*v.What)) > 20 {
			t.Fatalf("%q: %v", res.Text, err)
		}
	}
	if ends < 50 {
		t.Errorf("only %d answers ended", ends)
	}
	// A short one ends by its length, in whole runes.
	req.MaxTokens = 4
	if res := ask(t, dec, tok, req); res.FinishReason != FinishLength || len(res.IDs) != 4 {
		t.Errorf("%+v", res)
	}
	// Stop strings count within JSON too, over the borders of tokens.
	req.MaxTokens, req.Stop = 0, []string{`t":`}
	if res := ask(t, dec, tok, req); res.FinishReason != FinishStop || res.Text != `{"wha` {
		t.Errorf("%q, %s", res.Text, res.FinishReason)
	}
}

// The same seed gives the same constrained answer, and another's draws do not matter.
func TestConstrainedSeed(t *testing.T) {
	tok := open(t)
	g, err := constrain.Object()
	constrain := kept(tok, g, err, false)
	draw := func(seed uint64) string {
		dec := &noise{r: rand.New(rand.NewPCG(5, 6)), logits: make([]float32, tok.VocabSize()), likes: tok.Encode(`"}`, false)}
		return fmt.Sprint(ask(t, dec, tok, Request{Constrain: constrain, MaxTokens: 60, Sample: sample.Params{Temperature: 1, TopP: 0.9, Seed: &seed}}).IDs)
	}
	a := draw(1)
	if b := draw(2); a == b {
		t.Errorf("two seeds gave %s", a)
	}
	if b := draw(1); a != b {
		t.Errorf("%s, then %s", a, b)
	}
}

// A token adds no garbage but its text's.
func TestTokenAllocates(t *testing.T) {
	tok := open(t)
	g, err := constrain.Object()
	constraint := kept(tok, g, err, false)
	per := func(req Request) float64 {
		dec := &noise{r: rand.New(rand.NewPCG(7, 8)), logits: make([]float32, tok.VocabSize())}
		seed := uint64(1)
		req.PromptIDs, req.Sample.Temperature, req.Sample.TopP, req.Sample.Seed = []int{1}, 1, 0.9, &seed
		count := func(tokens int) float64 {
			req.MaxTokens = tokens
			return testing.AllocsPerRun(3, func() {
				dec.r = rand.New(rand.NewPCG(7, 8))
				if res, err := Generate(t.Context(), dec, tok, req, nil); err != nil || len(res.IDs) < tokens {
					t.Fatal(len(res.IDs), err)
				}
			})
		}
		return (count(130) - count(30)) / 100
	}
	for name, req := range map[string]Request{
		"plain":       {},
		"penalties":   {Sample: sample.Params{RepetitionPenalty: 1.1, PresencePenalty: 0.1}},
		"constrained": {Constrain: constraint},
	} {
		n := per(req)
		t.Logf("%s: %.2f allocations a token", name, n)
		if n > 1.2 {
			t.Errorf("%s: %.2f allocations a token", name, n)
		}
	}
}
