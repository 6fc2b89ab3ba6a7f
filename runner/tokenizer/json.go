package tokenizer

import (
	"encoding/json"
	"strings"

	"github.com/dlclark/regexp2"
)

// tokenizerJSON is the part of tokenizer.json that encoding needs. Truncation
// and padding are not: callers see whole texts.
type tokenizerJSON struct {
	Version     string       `json:"version,omitempty"`
	AddedTokens []addedToken `json:"added_tokens"`
	Normalizer  *stepJSON    `json:"normalizer"`
	PreTok      *stepJSON    `json:"pre_tokenizer"`
	Post        *stepJSON    `json:"post_processor"`
	Decoder     *stepJSON    `json:"decoder"`
	Model       modelJSON    `json:"model"`
}

type addedToken struct {
	ID         int    `json:"id"`
	Content    string `json:"content"`
	SingleWord bool   `json:"single_word"`
	LStrip     bool   `json:"lstrip"`
	RStrip     bool   `json:"rstrip"`
	Normalized bool   `json:"normalized"`
	Special    bool   `json:"special"`
}

type modelJSON struct {
	Type          string          `json:"type"`
	Dropout       *float64        `json:"dropout"`
	UnkToken      *string         `json:"unk_token"`
	SubwordPrefix *string         `json:"continuing_subword_prefix"`
	WordSuffix    *string         `json:"end_of_word_suffix"`
	FuseUnk       bool            `json:"fuse_unk"`
	ByteFallback  bool            `json:"byte_fallback"`
	IgnoreMerges  bool            `json:"ignore_merges"`
	Vocab         json.RawMessage `json:"vocab"` // by piece
	Merges        json.RawMessage `json:"merges"`
}

// stepJSON is any normalizer, pre-tokenizer, post-processor or decoder.
type stepJSON struct {
	Type             string          `json:"type"`
	Normalizers      []stepJSON      `json:"normalizers,omitempty"`
	PreTokenizers    []stepJSON      `json:"pretokenizers,omitempty"`
	Processors       []stepJSON      `json:"processors,omitempty"`
	Decoders         []stepJSON      `json:"decoders,omitempty"`
	Prepend          string          `json:"prepend,omitempty"`
	Pattern          *patternJSON    `json:"pattern,omitempty"`
	Content          *string         `json:"content,omitempty"`
	Behavior         string          `json:"behavior,omitempty"`
	Invert           *bool           `json:"invert,omitempty"`
	IndividualDigits *bool           `json:"individual_digits,omitempty"`
	AddPrefixSpace   *bool           `json:"add_prefix_space,omitempty"`
	TrimOffsets      *bool           `json:"trim_offsets,omitempty"`
	UseRegex         *bool           `json:"use_regex,omitempty"`
	Replacement      string          `json:"replacement,omitempty"`
	PrependScheme    string          `json:"prepend_scheme,omitempty"`
	Split            *bool           `json:"split,omitempty"`
	Single           []templateJSON  `json:"single,omitempty"`
	Pair             []templateJSON  `json:"pair,omitempty"`
	SpecialTokens    json.RawMessage `json:"special_tokens,omitempty"`
	Start            *int            `json:"start,omitempty"`
	Stop             *int            `json:"stop,omitempty"`
}

type patternJSON struct {
	String *string `json:"String,omitempty"`
	Regex  *string `json:"Regex,omitempty"`
}

// templateJSON is a piece of TemplateProcessing: a special token or a text.
type templateJSON struct {
	SpecialToken *idJSON `json:"SpecialToken,omitempty"`
	Sequence     *idJSON `json:"Sequence,omitempty"`
}

type idJSON struct {
	ID     string `json:"id"`
	TypeID int    `json:"type_id"`
}

func is(p *bool) bool { return p != nil && *p }

// parseJSON reads a tokenizer.json.
func parseJSON(data []byte) (*Tokenizer, error) {
	var f tokenizerJSON
	if err := json.Unmarshal(data, &f); err != nil {
		return nil, invalid("tokenizer.json: %w", err)
	}
	if f.Model.Type != "" && f.Model.Type != "BPE" {
		return nil, unsupported("tokenizer.json has a %s model; only BPE is read", f.Model.Type)
	}
	for _, p := range []*string{f.Model.SubwordPrefix, f.Model.WordSuffix} {
		if p != nil && *p != "" {
			return nil, unsupported("tokenizer.json marks parts of words with %q", *p)
		}
	}
	var vocab map[string]int
	if err := json.Unmarshal(f.Model.Vocab, &vocab); err != nil {
		return nil, invalid("tokenizer.json, model.vocab: %w", err)
	}
	t := &Tokenizer{bos: -1, eos: -1}
	m := &bpe{t: t, unk: -1, fuseUnk: f.Model.FuseUnk, byteFallback: f.Model.ByteFallback, ignoreMerges: f.Model.IgnoreMerges}
	t.model = m
	if err := m.steps(&f); err != nil {
		return nil, err
	}

	size := 0
	for _, id := range vocab {
		size = max(size, id+1)
	}
	for _, a := range f.AddedTokens {
		size = max(size, a.ID+1)
	}
	if size == 0 || size > maxTokens || size > 4*(len(vocab)+len(f.AddedTokens))+65536 {
		return nil, invalid("tokenizer.json has %d tokens with ids up to %d", len(vocab), size-1)
	}
	t.tokens = make([]token, size)
	for i := range t.tokens {
		t.tokens[i].kind = control // a hole: decodes to nothing, and no text makes it
	}
	for piece, id := range vocab {
		if id < 0 {
			return nil, invalid("token %q has the id %d", piece, id)
		}
		if t.tokens[id].piece != "" {
			return nil, invalid("tokens %q and %q share the id %d", t.tokens[id].piece, piece, id)
		}
		t.tokens[id] = m.token(piece)
	}
	for _, a := range f.AddedTokens {
		if a.ID < 0 {
			return nil, invalid("added token %q has the id %d", a.Content, a.ID)
		}
		tok := token{piece: a.Content, text: a.Content, kind: user}
		if a.Special {
			tok = token{piece: a.Content, kind: control}
		}
		t.tokens[a.ID] = tok
	}
	if err := t.finish(); err != nil {
		return nil, err
	}
	if err := m.tables(vocab, f.Model); err != nil {
		return nil, err
	}

	t.bos = bosOf(t, f.Post)
	for _, name := range []string{"</s>", "<|eot_id|>", "<|im_end|>", "<|end_of_text|>", "<|endoftext|>"} {
		if id, ok := t.special.ids[name]; ok {
			t.eos = id
			break
		}
	}
	return t, nil
}

// token says what a vocabulary entry decodes to.
func (m *bpe) token(piece string) token {
	if m.byteLevel {
		return token{piece: piece, text: fromChars(piece)}
	}
	if b, ok := parseByte(piece); ok && m.byteFallback {
		return token{piece: piece, text: string([]byte{b}), kind: rawByte}
	}
	return token{piece: piece, text: strings.ReplaceAll(piece, space, " "), lead: strings.HasPrefix(piece, space)}
}

// tables fills the look-ups of merging.
func (m *bpe) tables(vocab map[string]int, f modelJSON) error {
	if f.UnkToken != nil {
		id, ok := m.t.ids[*f.UnkToken]
		if !ok {
			return invalid("tokenizer.json: the vocabulary lacks unk_token %q", *f.UnkToken)
		}
		m.unk = id
	}
	for b := range m.bytes {
		piece := bytePiece(byte(b))
		if m.byteLevel {
			piece = string(byteChars[b])
		}
		m.bytes[b] = -1
		if id, ok := vocab[piece]; ok {
			m.bytes[b] = id
		}
	}
	merges, err := parseMerges(f.Merges)
	if err != nil {
		return err
	}
	m.merges = make(map[[2]int32]merge, len(merges))
	for rank, p := range merges {
		l, lok := vocab[p[0]]
		r, rok := vocab[p[1]]
		id, ok := vocab[p[0]+p[1]]
		if !lok || !rok || !ok {
			return invalid("tokenizer.json: merge %d (%q with %q) needs a token that the vocabulary lacks", rank, p[0], p[1])
		}
		m.merges[[2]int32{int32(l), int32(r)}] = merge{int32(rank), int32(id)}
	}
	if m.ignoreMerges {
		m.words = make(map[string]int, len(vocab))
		for piece, id := range vocab {
			w := piece
			if m.byteLevel {
				w = fromChars(piece)
			}
			m.words[w] = id
		}
	}
	return nil
}

// parseMerges reads both spellings: "a b" and ["a", "b"].
func parseMerges(raw json.RawMessage) ([][2]string, error) {
	if len(raw) == 0 {
		return nil, nil
	}
	var pairs [][2]string
	if err := json.Unmarshal(raw, &pairs); err == nil {
		return pairs, nil
	}
	var lines []string
	if err := json.Unmarshal(raw, &lines); err != nil {
		return nil, invalid("tokenizer.json, model.merges: %w", err)
	}
	pairs = make([][2]string, len(lines))
	for i, line := range lines {
		l, r, ok := strings.Cut(line, " ")
		if !ok {
			return nil, invalid("tokenizer.json: merge %d (%q) is not two tokens with a space between", i, line)
		}
		pairs[i] = [2]string{l, r}
	}
	return pairs, nil
}

// steps reads the normalizer, the pre-tokenizer and the decoder.
func (m *bpe) steps(f *tokenizerJSON) error {
	if f.Normalizer != nil {
		if err := m.normalizer(*f.Normalizer); err != nil {
			return err
		}
	}
	if f.PreTok != nil {
		if err := m.preTokenizer(*f.PreTok); err != nil {
			return err
		}
	}
	if f.Decoder != nil {
		if err := m.decoder(*f.Decoder); err != nil {
			return err
		}
	}
	m.t.subpart = m.byteLevel
	return nil
}

func (m *bpe) normalizer(s stepJSON) error {
	switch s.Type {
	case "Sequence":
		for _, s := range s.Normalizers {
			if err := m.normalizer(s); err != nil {
				return err
			}
		}
		return nil
	case "Prepend":
		m.normalizers = append(m.normalizers, func(text string, _ bool) string {
			if text == "" {
				return ""
			}
			return s.Prepend + text
		})
		return nil
	case "Replace":
		if s.Pattern != nil && s.Pattern.String != nil && *s.Pattern.String != "" && s.Content != nil {
			from, to := *s.Pattern.String, *s.Content
			m.normalizers = append(m.normalizers, func(text string, _ bool) string {
				return strings.ReplaceAll(text, from, to)
			})
			return nil
		}
	}
	return unsupported("tokenizer.json has a normalizer %s of a kind that is not read (known: Sequence, Prepend, Replace of a string)", s.Type)
}

func (m *bpe) preTokenizer(s stepJSON) error {
	switch s.Type {
	case "Sequence":
		for _, s := range s.PreTokenizers {
			if err := m.preTokenizer(s); err != nil {
				return err
			}
		}
		return nil
	case "ByteLevel":
		m.byteLevel = true
		if s.AddPrefixSpace == nil || *s.AddPrefixSpace {
			m.cutters = append(m.cutters, each(func(out []string, w string) []string {
				if !strings.HasPrefix(w, " ") {
					w = " " + w
				}
				return append(out, w)
			}))
		}
		if s.UseRegex == nil || *s.UseRegex {
			m.cutters = append(m.cutters, isolate(regexp2.MustCompile(gpt2, regexp2.None)))
		}
		return nil
	case "Digits":
		m.cutters = append(m.cutters, digits(is(s.IndividualDigits)))
		return nil
	case "Split":
		if s.Pattern == nil || s.Behavior != "Isolated" || is(s.Invert) {
			break
		}
		pattern := ""
		switch {
		case s.Pattern.Regex != nil:
			pattern = *s.Pattern.Regex
		case s.Pattern.String != nil:
			pattern = regexp2.Escape(*s.Pattern.String)
		}
		re, err := regexp2.Compile(pattern, regexp2.None)
		if err != nil {
			return invalid("tokenizer.json: pattern %q: %w", pattern, err)
		}
		m.cutters = append(m.cutters, isolate(re))
		return nil
	case "Metaspace":
		replacement, scheme := s.Replacement, s.PrependScheme
		if replacement == "" {
			replacement = space
		}
		if scheme == "" { // older files say add_prefix_space
			scheme = "always"
			if s.AddPrefixSpace != nil && !*s.AddPrefixSpace {
				scheme = "never"
			}
		}
		m.cutters = append(m.cutters, metaspace(replacement, scheme, s.Split == nil || *s.Split))
		return nil
	}
	return unsupported("tokenizer.json has a pre-tokenizer %s of a kind that is not read (known: Sequence, ByteLevel, Digits, Split isolated, Metaspace)", s.Type)
}

// decoder reads no more of decoders than whether they are the inverse of what
// encoding does, and whether a leading space goes.
func (m *bpe) decoder(s stepJSON) error {
	switch s.Type {
	case "Sequence":
		for _, s := range s.Decoders {
			if err := m.decoder(s); err != nil {
				return err
			}
		}
	case "ByteLevel":
		m.byteLevel = true
	case "ByteFallback", "Fuse":
	case "Replace":
		if s.Pattern == nil || s.Pattern.String == nil || *s.Pattern.String != space || s.Content == nil || *s.Content != " " {
			return unsupported("tokenizer.json has a decoder that replaces something other than %s", space)
		}
	case "Strip":
		m.t.dropLead = s.Start != nil && *s.Start > 0
	case "Metaspace":
		m.t.dropLead = s.PrependScheme != "never" && (s.AddPrefixSpace == nil || *s.AddPrefixSpace)
	default:
		return unsupported("tokenizer.json has a decoder %s of a kind that is not read", s.Type)
	}
	return nil
}

// bosOf returns the special token that a post-processor puts before a text, or -1.
func bosOf(t *Tokenizer, post *stepJSON) int {
	if post == nil {
		return -1
	}
	for _, p := range post.Processors {
		if id := bosOf(t, &p); id >= 0 {
			return id
		}
	}
	if len(post.Single) > 0 && post.Single[0].SpecialToken != nil {
		if id, ok := t.special.ids[post.Single[0].SpecialToken.ID]; ok {
			return id
		}
	}
	return -1
}
