package generate

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	imagebind "imagebind-llm"
	"imagebind-llm/internal/golden"
	"imagebind-llm/runner/sample"
	"imagebind-llm/runner/tokenizer"
)

// A script is a decoder that says given ids and notes what it was asked.
type script struct {
	t        testing.TB
	ids      []int // then EOS for ever
	capacity int
	vocab    int
	prompt   []int
	steps    []int
	begun    bool
	logits   []float32
	fail     error // of the step after the ids
}

func (s *script) Capacity() int { return s.capacity }

func (s *script) next() []float32 {
	if s.logits == nil {
		s.logits = make([]float32, s.vocab)
	}
	clear(s.logits)
	id := 2
	if n := len(s.steps); n < len(s.ids) {
		id = s.ids[n]
	}
	s.logits[id] = 100
	return s.logits
}

func (s *script) Prefill(_ context.Context, ids []int, _ []float32) ([]float32, error) {
	s.prompt, s.steps, s.begun = ids, nil, false
	return s.next(), nil
}

func (s *script) Begin(id int) error {
	if s.begun {
		s.t.Fatal("a step was begun before the last was ended")
	}
	s.begun = true
	s.steps = append(s.steps, id)
	if len(s.prompt)+len(s.steps) > s.capacity {
		s.t.Fatalf("%d tokens in %d places", len(s.prompt)+len(s.steps), s.capacity)
	}
	return nil
}

func (s *script) End(context.Context) ([]float32, error) {
	if !s.begun {
		s.t.Fatal("a step was ended that was not begun")
	}
	s.begun = false
	if s.fail != nil && len(s.steps) == len(s.ids) {
		return nil, s.fail
	}
	return s.next(), nil
}

func open(t testing.TB) *tokenizer.Tokenizer {
	t.Helper()
	tok, err := tokenizer.Open("../tokenizer/testdata/tiny.model")
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

func say(t testing.TB, tok *tokenizer.Tokenizer, text string) *script {
	return &script{t: t, ids: tok.Encode(text, false), capacity: 4096, vocab: tok.VocabSize()}
}

// collect runs req and holds the events against the result.
func collect(t *testing.T, dec *script, tok *tokenizer.Tokenizer, req Request) Result {
	t.Helper()
	if req.PromptIDs == nil {
		req.PromptIDs = []int{1, 300}
	}
	var b strings.Builder
	var tokens []Token
	res, err := Generate(t.Context(), dec, tok, req, func(e Event) error {
		if !utf8.ValidString(e.Text) {
			t.Errorf("event %q splits a rune", e.Text)
		}
		for _, stop := range req.Stop {
			if strings.Contains(b.String()+e.Text, stop) {
				t.Errorf("stop string %q went out in %q", stop, b.String()+e.Text)
			}
		}
		b.WriteString(e.Text)
		tokens = append(tokens, e.Tokens...)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if b.String() != res.Text || len(tokens) != len(res.Tokens) {
		t.Errorf("events say %q in %d tokens, the result %q in %d", b.String(), len(tokens), res.Text, len(res.Tokens))
	}
	if res.CompletionTokens != len(res.IDs) || res.PromptTokens != len(req.PromptIDs) {
		t.Errorf("%d prompt and %d completion tokens for %d and %d ids", res.PromptTokens, res.CompletionTokens, len(req.PromptIDs), len(res.IDs))
	}
	return res
}

func TestGenerate(t *testing.T) {
	tok := open(t)
	for _, tt := range []struct {
		name, says string
		req        Request
		text, why  string
	}{
		{"to the end token", "a dog and 图片", Request{}, "a dog and 图片", FinishStop},
		{"nothing", "", Request{}, "", FinishStop},
		{"length", "a dog and a cat", Request{MaxTokens: 3}, tok.Decode(tok.Encode("a dog and a cat", false)[:3]), FinishLength},
		{"length inside a rune", "图图", Request{MaxTokens: 1 + 1}, tok.Decode(tok.Encode("图图", false)[:2]), FinishLength},
		{"stop string over tokens", "one two three", Request{Stop: []string{"wo th"}}, "one t", FinishStop},
		{"stop string first", "one two", Request{Stop: []string{"one"}}, "", FinishStop},
		{"stop string last", "one two", Request{Stop: []string{"two"}}, "one ", FinishStop},
		{"begun, not ended", "one two", Request{Stop: []string{"two!"}}, "one two", FinishStop},
		{"begun twice", "aab aaab", Request{Stop: []string{"aaab"}}, "aab ", FinishStop},
		{"the one that ends first", "xabcd", Request{Stop: []string{"abcd", "bc"}}, "xa", FinishStop},
		{"in Chinese", "你好。再见", Request{Stop: []string{"。"}}, "你好", FinishStop},
		{"trimmed", "\n  a  b \n ", Request{Trim: true}, "a  b", FinishStop},
		{"trimmed to nothing", " \n ", Request{Trim: true}, "", FinishStop},
		{"trimmed before a stop string", " a  b  ###", Request{Trim: true, Stop: []string{"###"}}, "a  b", FinishStop},
		{"held white space comes back", "a\n\nb", Request{Trim: true, Stop: []string{"\n\nc"}}, "a\n\nb", FinishStop},
		{"Python's white space", "\x1ca\x1f\u00a0\u3000", Request{Trim: true}, "a", FinishStop},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.req.Logprobs = true
			res := collect(t, say(t, tok, tt.says), tok, tt.req)
			if res.Text != tt.text || res.FinishReason != tt.why {
				t.Errorf("%q, %s; want %q, %s", res.Text, res.FinishReason, tt.text, tt.why)
			}
		})
	}
}

// The reference's answers: its ids give its text, end token and broken UTF-8 included.
func TestAnswersGolden(t *testing.T) {
	var cases []struct {
		Case, Text string
		IDs        []int
	}
	golden.JSON(t, "testdata/answers.json", &cases)
	if len(cases) < 20 {
		t.Fatalf("%d cases", len(cases))
	}
	tok := open(t)
	for _, c := range cases {
		dec := &script{t: t, ids: c.IDs, capacity: 256, vocab: tok.VocabSize()}
		res := collect(t, dec, tok, Request{MaxTokens: 20})
		if res.Text != c.Text || !slices.Equal(res.IDs, c.IDs) {
			t.Errorf("%s: %q, want %q", c.Case, res.Text, c.Text)
		}
	}
}

func TestStopIDs(t *testing.T) {
	tok := open(t)
	dec := say(t, tok, "one two")
	id := dec.ids[len(dec.ids)-1]
	res := collect(t, dec, tok, Request{StopIDs: []int{id}})
	if res.FinishReason != FinishStop || res.Text != tok.Decode(dec.ids[:len(dec.ids)-1]) || res.IDs[len(res.IDs)-1] != id {
		t.Errorf("%+v", res)
	}
}

func TestLogprobs(t *testing.T) {
	tok := open(t)
	dec := say(t, tok, "one two three")
	res := collect(t, dec, tok, Request{Logprobs: true, TopLogprobs: 2})
	if len(res.Tokens) != len(dec.ids) {
		t.Fatalf("%d tokens with probabilities, want %d", len(res.Tokens), len(dec.ids))
	}
	for i, x := range res.Tokens {
		if x.ID != dec.ids[i] || math.Abs(x.Value) > 1e-9 || len(x.Top) != 2 || x.Top[0].ID != x.ID {
			t.Errorf("token %d: %+v", i, x)
		}
	}
	// The tokens of a stop string, and behind it, are not the answer's.
	res = collect(t, say(t, tok, "one two three"), tok, Request{Logprobs: true, Stop: []string{" two"}})
	var ids []int
	for _, x := range res.Tokens {
		ids = append(ids, x.ID)
	}
	if got := tok.Decode(ids); got != "one" {
		t.Errorf("tokens say %q, want %q", got, "one")
	}
}

func TestCapacity(t *testing.T) {
	tok := open(t)
	dec := say(t, tok, strings.Repeat("a b ", 50))
	dec.capacity = 10
	prompt := make([]int, 11)
	_, err := Generate(t.Context(), dec, tok, Request{PromptIDs: prompt}, nil)
	if imagebind.KindOf(err) != imagebind.Invalid || !strings.Contains(err.Error(), "11") || !strings.Contains(err.Error(), "10") {
		t.Errorf("11 tokens in 10 places: %v", err)
	}
	for n, want := range map[int]int{10: 0, 9: 1, 4: 6} {
		res := collect(t, dec, tok, Request{PromptIDs: prompt[:n], MaxTokens: 100})
		if res.CompletionTokens != want || res.FinishReason != FinishLength {
			t.Errorf("prompt of %d: %d tokens, %s; want %d", n, res.CompletionTokens, res.FinishReason, want)
		}
	}
}

func TestRefuses(t *testing.T) {
	tok := open(t)
	for _, req := range []Request{{}, {PromptIDs: []int{1}, MaxTokens: -1}, {PromptIDs: []int{1}, Stop: []string{""}},
		{PromptIDs: []int{1}, Sample: sample.Params{TopP: 2}}, {PromptIDs: []int{1}, TopLogprobs: -1}} {
		if _, err := Generate(t.Context(), say(t, tok, "a"), tok, req, nil); imagebind.KindOf(err) != imagebind.Invalid {
			t.Errorf("%+v: %v", req, err)
		}
	}
}

// Text goes out while the next step runs, and no step is begun whose logits
// nobody needs.
func TestStepsAreBegunBeforeText(t *testing.T) {
	tok := open(t)
	for _, tt := range []struct {
		req   Request
		steps int // of "a b c d", which is 4 tokens and the end
	}{{Request{}, 4}, {Request{MaxTokens: 3}, 2}, {Request{Stop: []string{"c"}}, 2}} {
		dec := say(t, tok, "a b c d")
		tt.req.PromptIDs = []int{1}
		events := 0
		if _, err := Generate(t.Context(), dec, tok, tt.req, func(e Event) error {
			if events++; !dec.begun && len(dec.steps) < tt.steps {
				t.Errorf("%q goes out before its step is begun", e.Text)
			}
			return nil
		}); err != nil || events == 0 || len(dec.steps) != tt.steps {
			t.Errorf("%+v: %v, %d steps in %d events, want %d", tt.req, err, len(dec.steps), events, tt.steps)
		}
	}
}

// A cachedScript knew some of the prompt.
type cachedScript struct{ *script }

func (cachedScript) Cached() int { return 1 }

func TestCachedTokens(t *testing.T) {
	tok := open(t)
	res, err := Generate(t.Context(), cachedScript{say(t, tok, "a")}, tok, Request{PromptIDs: []int{1, 300}}, nil)
	if err != nil || res.CachedTokens != 1 || res.PromptTokens != 2 {
		t.Errorf("%+v, %v", res, err)
	}
}

func TestEndsEarly(t *testing.T) {
	tok := open(t)
	dec := say(t, tok, strings.Repeat("a b ", 50))
	ctx, cancel := context.WithCancel(t.Context())
	n := 0
	res, err := Generate(ctx, dec, tok, Request{PromptIDs: []int{1}}, func(Event) error {
		if n++; n == 3 {
			cancel()
		}
		return nil
	})
	if !errors.Is(err, context.Canceled) || n != 3 || res.Text == "" || res.FinishReason != "" {
		t.Errorf("canceled: %v after %d events, %q, %q", err, n, res.Text, res.FinishReason)
	}
	gone := errors.New("the client left")
	if _, err = Generate(t.Context(), dec, tok, Request{PromptIDs: []int{1}}, func(Event) error { return gone }); !errors.Is(err, gone) {
		t.Errorf("emit's error is %v", err)
	}
	dec.fail = gone
	if res, err = Generate(t.Context(), dec, tok, Request{PromptIDs: []int{1}}, nil); !errors.Is(err, gone) || res.CompletionTokens != len(dec.ids) {
		t.Errorf("the decoder's error is %v after %d tokens", err, res.CompletionTokens)
	}
}

// However a text falls into parts, what goes out is the same, holds no stop
// string and, where trimmed, is what strings.TrimFunc makes of it.
func TestTextProperty(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	random := func(n int) string {
		b := make([]rune, r.IntN(n+1))
		for i := range b {
			b[i] = []rune("ab \n图")[r.IntN(5)]
		}
		return string(b)
	}
	feed := func(x text, parts []string) (string, bool) {
		var b strings.Builder
		for _, p := range parts {
			out, stopped := x.push(p)
			b.WriteString(out)
			if stopped {
				return b.String(), true
			}
		}
		b.WriteString(x.end())
		return b.String(), false
	}
	for range 20000 {
		s := random(30)
		x := text{trim: r.IntN(2) == 0}
		for range r.IntN(4) {
			if stop := random(4); stop != "" {
				x.stops = append(x.stops, stop)
			}
		}
		whole, stopped := feed(x, []string{s})
		runes, stoppedRunes := feed(x, strings.Split(s, ""))
		what := fmt.Sprintf("%q with %q, trim %v", s, x.stops, x.trim)
		if whole != runes || stopped != stoppedRunes {
			t.Fatalf("%s: %q in one, %q in runes", what, whole, runes)
		}
		want := s
		if stopped {
			for n := range len(s) + 1 { // the shortest text that ends with a stop string
				if i := slices.IndexFunc(x.stops, func(p string) bool { return strings.HasSuffix(s[:n], p) }); i >= 0 {
					cut := n
					for _, p := range x.stops {
						if strings.HasSuffix(s[:n], p) {
							cut = min(cut, n-len(p))
						}
					}
					want = s[:cut]
					break
				}
			}
		}
		if x.trim {
			want = strings.TrimFunc(want, isSpace)
		}
		if whole != want {
			t.Fatalf("%s: %q, want %q", what, whole, want)
		}
	}
}
