package constrain

import (
	"compress/gzip"
	"encoding/json"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	imagebind "imagebind-llm"
	"imagebind-llm/runner/tokenizer"
)

// smol returns SmolLM2's tokens, 49152 byte-level ones.
func smol(t testing.TB) (*tokenizer.Tokenizer, *Vocabulary) {
	t.Helper()
	f, err := os.Open("../tokenizer/testdata/smollm2_meta.json.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	var meta map[string]any
	if err := json.NewDecoder(z).Decode(&meta); err != nil {
		t.Fatal(err)
	}
	c, err := tokenizer.FromGGUF(meta)
	if err != nil {
		t.Fatal(err)
	}
	tok, err := tokenizer.Parse(c.Data)
	if err != nil {
		t.Fatal(err)
	}
	return tok, NewVocabulary(tok, []int{tok.EOS()})
}

// tiny returns SentencePiece tokens with byte fallback, which begin an answer
// without their leading space.
func tiny(t testing.TB) (*tokenizer.Tokenizer, *Vocabulary) {
	t.Helper()
	tok, err := tokenizer.Open("../tokenizer/testdata/tiny.model")
	if err != nil {
		t.Fatal(err)
	}
	return tok, NewVocabulary(tok, []int{tok.EOS()})
}

func schema(t testing.TB, s string) *Grammar {
	t.Helper()
	g, err := Schema([]byte(s), "schema")
	if err != nil {
		t.Fatalf("%s: %v (%s)", s, err, imagebind.ParamOf(err))
	}
	return g
}

// takes reports whether a text is one of the grammar's, byte by byte.
func takes(g *Grammar, s string) bool {
	v := &Vocabulary{texts: make([]string, 256), leads: make([]bool, 256)}
	for i := range 256 {
		v.texts[i] = string([]byte{byte(i)})
	}
	v.index()
	x := v.Begin(g, false)
	for _, c := range []byte(s) {
		mask := x.Allowed()
		ok := mask[c/64]>>(c%64)&1 == 1
		if x.Accept(int(c)) != ok {
			panic("Allowed and Accept differ")
		}
		if !ok {
			return false
		}
	}
	return x.Complete()
}

// draw follows masks at random to the end, and returns the text. ended is
// whether it got there in the tokens given.
func draw(t testing.TB, r *rand.Rand, tok *tokenizer.Tokenizer, v *Vocabulary, x *Match, tokens int) (text string, ended bool) {
	t.Helper()
	d := tok.NewDecoder()
	var b, raw strings.Builder
	defer func() {
		// Only whole characters: the decoder has put no U+FFFD in the place of bytes.
		if ended && raw.String() != text {
			t.Fatalf("%q is decoded as %q", raw.String(), text)
		}
	}()
	for i := range tokens {
		if x.Done() {
			b.WriteString(d.Flush())
			return b.String(), true
		}
		mask := x.Allowed()
		n := Count(mask)
		if n == 0 {
			t.Fatalf("nothing may follow %q", b.String())
		}
		// Mostly an end where there is one, or a token out of a few that close things,
		// so that walks end; otherwise any.
		id := -1
		if set := mask[tok.EOS()/64]>>(tok.EOS()%64)&1 == 1; set != x.Complete() {
			t.Fatalf("%q is complete: %v, the end token is allowed: %v", b.String(), x.Complete(), set)
		} else if set && r.IntN(2) == 0 {
			b.WriteString(d.Flush())
			return b.String(), true
		}
		for tries := 0; id < 0; tries++ {
			c := r.IntN(v.VocabSize())
			if tries < 20 && r.IntN(2) == 0 {
				c = closers(tok)[r.IntN(len(closers(tok)))]
			}
			if tries > 200 { // few are allowed
				k := r.IntN(n)
				for c = range v.VocabSize() {
					if mask[c/64]>>(c%64)&1 == 1 {
						if k--; k < 0 {
							break
						}
					}
				}
			}
			if mask[c/64]>>(c%64)&1 == 1 && c != tok.EOS() {
				id = c
			} else if tries > 200 && n == 1 {
				return b.String() + d.Flush(), true
			}
		}
		if !x.Accept(id) {
			t.Fatalf("%q after %q was allowed and is not taken", tok.Bytes(id), b.String())
		}
		raw.WriteString(v.text(id, i == 0))
		b.WriteString(d.Next(id))
	}
	return b.String() + d.Flush(), false
}

var closing = map[*tokenizer.Tokenizer][]int{}

// closers are tokens that bring a text nearer to its end.
func closers(tok *tokenizer.Tokenizer) []int {
	if closing[tok] == nil {
		for id := range tok.VocabSize() {
			if s := string(tok.Bytes(id)); s != "" && len(s) < 3 && strings.Trim(s, `"}],`) == "" {
				closing[tok] = append(closing[tok], id)
			}
		}
	}
	return closing[tok]
}

func TestChoices(t *testing.T) {
	for _, list := range [][]string{{"yes", "no"}, {"a"}, {"yes", "yes please", "no", "yes"}, {"图片", "图"}, {"{\"a\": 1}", "x y\nz"}} {
		g, err := Choices(list)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range list {
			if !takes(g, c) {
				t.Errorf("%q of %q is not taken", c, list)
			}
			for n := range len(c) {
				if takes(g, c[:n]) != slices.Contains(list, c[:n]) {
					t.Errorf("%q of %q is taken", c[:n], list)
				}
			}
			if takes(g, c+"!") || takes(g, " "+c) {
				t.Errorf("more than %q is taken", c)
			}
		}
	}
	for _, list := range [][]string{nil, {""}, {"a", " b"}, {"a "}, {"\xff"}, make([]string, MaxChoices+1), {strings.Repeat("a", maxText+1)}} {
		if _, err := Choices(list); imagebind.KindOf(err) != imagebind.Invalid {
			t.Errorf("%.20q: %v", list, err)
		}
	}
}

// Whatever way the tokens fall, the text is exactly one of the list, and every
// one of the list comes about, with and without the space that models begin with.
func TestChoicesByTokens(t *testing.T) {
	list := []string{"yes", "no", "a dog", "a dog and a cat", "图片"}
	g, err := Choices(list)
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(1, 2))
	for name, open := range map[string]func(testing.TB) (*tokenizer.Tokenizer, *Vocabulary){"smollm2": smol, "tiny": tiny} {
		tok, v := open(t)
		seen, spaced := map[string]bool{}, false
		for i := range 600 {
			lead := i%2 == 0
			text, ended := draw(t, r, tok, v, v.Begin(g, lead), 40)
			if lead {
				spaced = spaced || strings.HasPrefix(text, " ")
				text = strings.TrimPrefix(text, " ")
			}
			if !ended || !slices.Contains(list, text) {
				t.Fatalf("%s, lead %v: %q", name, lead, text)
			}
			seen[text] = true
		}
		if len(seen) != len(list) || !spaced {
			t.Errorf("%s: only %v were drawn; with a space: %v", name, seen, spaced)
		}
		// The tokenizer's own way is among them.
		for _, c := range list {
			x := v.Begin(g, false)
			for _, id := range tok.Encode(c, false) {
				if mask := x.Allowed(); mask[id/64]>>(id%64)&1 == 0 || !x.Accept(id) {
					t.Errorf("%s: %q is not spelt as the tokenizer spells it", name, c)
					break
				}
			}
			if !x.Complete() {
				t.Errorf("%s: %q is not complete", name, c)
			}
		}
	}
}

// A mask is exactly the tokens whose text the machine takes, whatever way it is made.
func TestMaskIsWalk(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	for name, open := range map[string]func(testing.TB) (*tokenizer.Tokenizer, *Vocabulary){"smollm2": smol, "tiny": tiny} {
		tok, v := open(t)
		for _, s := range []string{schemas[2], schemas[4], schemas[11], schemas[25]} {
			x := v.Begin(schema(t, s), true)
			for range 30 {
				mask := x.Allowed()
				var allowed []int
				for id := range v.VocabSize() {
					y := *x
					taken := v.texts[id] != "" && y.Accept(id) || id == tok.EOS() && x.Complete()
					if taken != (mask[id/64]>>(id%64)&1 == 1) {
						t.Fatalf("%s, %s: token %q is taken: %v", name, s, v.texts[id], taken)
					}
					if taken && id != tok.EOS() {
						allowed = append(allowed, id)
					}
				}
				if len(allowed) == 0 {
					break
				}
				x.Accept(allowed[r.IntN(len(allowed))])
			}
		}
	}
}

// A machine that forgets its states goes on as before.
func TestReset(t *testing.T) {
	tok, v := tiny(t)
	g := schema(t, schemas[25])
	a, b := v.Begin(g, false), v.Begin(g, false)
	r := rand.New(rand.NewPCG(9, 9))
	for range 200 {
		mask := slices.Clone(a.Allowed())
		a.m.mu.Lock()
		a.m.reset()
		a.m.mu.Unlock()
		if !slices.Equal(mask, b.Allowed()) {
			t.Fatal("masks differ")
		}
		id := r.IntN(v.VocabSize())
		for mask[id/64]>>(id%64)&1 == 0 || id == tok.EOS() {
			if id = r.IntN(v.VocabSize()); Count(mask) == 1 && a.Complete() {
				return
			}
		}
		if !a.Accept(id) || !b.Accept(id) {
			t.Fatal("not taken")
		}
	}
}

func TestAllocates(t *testing.T) {
	tok, v := smol(t)
	g := schema(t, schemas[0])
	ids := tok.Encode(`{"name": "A dog and a cat", "age": 12}`, false)
	run := func() {
		x := v.Begin(g, false)
		for _, id := range ids {
			x.Allowed()
			if !x.Accept(id) {
				t.Fatal("not taken")
			}
		}
	}
	run()
	if n := testing.AllocsPerRun(10, run); n > 1 { // the match
		t.Errorf("%v allocations an answer", n)
	}
}

// Answers side by side share what is known of their form.
func TestSideBySide(t *testing.T) {
	tok, v := tiny(t)
	g := schema(t, schemas[0])
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			r := rand.New(rand.NewPCG(uint64(i), 1))
			for range 20 {
				x := v.Begin(g, i%2 == 0)
				for range 40 {
					mask := x.Allowed()
					id := r.IntN(v.VocabSize())
					for range v.VocabSize() {
						if mask[id/64]>>(id%64)&1 == 1 && id != tok.EOS() {
							break
						}
						id = (id + 1) % v.VocabSize()
					}
					if x.Done() {
						break
					}
					if !x.Accept(id) {
						t.Errorf("%d was allowed and is not taken", id)
						return
					}
				}
			}
		})
	}
	all.Wait()
}
