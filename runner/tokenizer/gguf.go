package tokenizer

import (
	"encoding/json"
	"fmt"
	"math"
	"reflect"

	"google.golang.org/protobuf/encoding/protowire"

	imagebind "imagebind-llm"
)

// A Converted is a tokenizer as a bundle holds it.
type Converted struct {
	Name string // tokenizer.json or tokenizer.model
	Data []byte
	BOS  int   // -1 where the model wants none before a prompt
	Stop []int // ids that end an answer
	// Template is the file's chat template (Jinja), or "": see prompt.Recognise.
	Template string
}

// patterns are how llama.cpp cuts words before BPE, by tokenizer.ggml.pre
// (llama.cpp, src/llama-vocab.cpp); each cuts what the one before left.
var patterns = map[string][]string{
	"gpt-2":     {gpt2},
	"smollm":    {`\p{N}`, gpt2},
	"llama-bpe": {llama3},
	"llama3":    {llama3},
	"llama-v3":  {llama3},
	"qwen2":     {`(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`},
	"default":   {`[\p{P}\$\+<=>\^~\|]+`, `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)`, `\p{N}+`, `[0-9][0-9][0-9]`},
}

const llama3 = `(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`

// FromGGUF makes a tokenizer file from the metadata of a .gguf: tokenizer.json
// for tokenizer.ggml.model "gpt2", tokenizer.model for "llama". Values may be
// of any Go type that holds them ([]string or []any, any number type).
func FromGGUF(meta map[string]any) (Converted, error) {
	g := ggufMeta(meta)
	pieces, err := strs(g["tokenizer.ggml.tokens"])
	if err != nil || len(pieces) == 0 {
		return Converted{}, invalid("the .gguf has no list of tokens (tokenizer.ggml.tokens): give a tokenizer with --tokenizer")
	}
	if len(pieces) > maxTokens {
		return Converted{}, invalid("the .gguf has %d tokens, more than %d", len(pieces), maxTokens)
	}
	types, err := nums(g["tokenizer.ggml.token_type"])
	if err != nil || types != nil && len(types) != len(pieces) {
		return Converted{}, invalid("the .gguf has %d tokens and %d token types", len(pieces), len(types))
	}
	for id, t := range types {
		if !(t >= typeNormal && t <= typeByte) {
			return Converted{}, invalid("token %d (%q) of the .gguf has the unknown type %v", id, pieces[id], t)
		}
	}
	c := Converted{BOS: g.id("bos", len(pieces))}
	for _, key := range []string{"eos", "eot", "eom"} {
		if id := g.id(key, len(pieces)); id >= 0 {
			c.Stop = append(c.Stop, id)
		}
	}
	c.Template, _ = g["tokenizer.chat_template"].(string)
	switch model, _ := g["tokenizer.ggml.model"].(string); model {
	case "gpt2":
		// Llama 3's files say nothing of BOS, and llama.cpp puts it.
		pre, _ := g["tokenizer.ggml.pre"].(string)
		llama3 := pre == "llama-bpe" || pre == "llama3" || pre == "llama-v3"
		if !g.flag("tokenizer.ggml.add_bos_token", llama3) {
			c.BOS = -1
		}
		c.Name = "tokenizer.json"
		c.Data, err = g.byteLevel(pre, pieces, types, c.BOS)
	case "llama":
		if !g.flag("tokenizer.ggml.add_bos_token", true) {
			c.BOS = -1
		}
		c.Name = "tokenizer.model"
		c.Data, err = g.sentencePiece(pieces, types, c.BOS)
	default:
		return Converted{}, unsupported("the .gguf has a tokenizer of kind %q; gpt2 and llama are read", model)
	}
	return c, err
}

// byteLevel writes a tokenizer.json that Hugging Face's library reads too.
func (g ggufMeta) byteLevel(pre string, pieces []string, types []float64, bos int) ([]byte, error) {
	if pre == "" {
		pre = "default"
	}
	regexes, ok := patterns[pre]
	if !ok {
		return nil, unsupported("the .gguf cuts words in a way (tokenizer.ggml.pre %q) that is not known here: give its tokenizer.json with --tokenizer", pre)
	}
	merges, err := strs(g["tokenizer.ggml.merges"])
	if err != nil {
		return nil, invalid("tokenizer.ggml.merges: %w", err)
	}
	no, yes := new(bool), new(bool)
	*yes = true
	level := stepJSON{Type: "ByteLevel", AddPrefixSpace: no, TrimOffsets: yes, UseRegex: no}
	seq := stepJSON{Type: "Sequence"}
	for _, re := range regexes {
		seq.PreTokenizers = append(seq.PreTokenizers, stepJSON{Type: "Split", Pattern: &patternJSON{Regex: &re}, Behavior: "Isolated", Invert: no})
	}
	seq.PreTokenizers = append(seq.PreTokenizers, level)
	f := tokenizerJSON{Version: "1.0", AddedTokens: []addedToken{}, PreTok: &seq, Decoder: &level,
		Model: modelJSON{Type: "BPE", IgnoreMerges: pre == "llama-bpe" || pre == "llama3" || pre == "llama-v3"}}
	vocab := make(map[string]int, len(pieces))
	for id, p := range pieces {
		if types != nil && types[id] != typeNormal && types[id] != typeByte && types[id] != typeUnused {
			f.AddedTokens = append(f.AddedTokens, addedToken{ID: id, Content: p, Special: types[id] != typeUser})
		}
		if at, dup := vocab[p]; dup {
			return nil, invalid("tokens %d and %d of the .gguf are both %q", at, id, p)
		}
		vocab[p] = id
	}
	if bos >= 0 {
		name := pieces[bos]
		special, err := json.Marshal(map[string]any{name: map[string]any{"id": name, "ids": []int{bos}, "tokens": []string{name}}})
		if err != nil {
			return nil, err
		}
		f.Post = &stepJSON{Type: "TemplateProcessing", SpecialTokens: special,
			Single: []templateJSON{{SpecialToken: &idJSON{ID: name}}, {Sequence: &idJSON{ID: "A"}}},
			Pair:   []templateJSON{{SpecialToken: &idJSON{ID: name}}, {Sequence: &idJSON{ID: "A"}}, {Sequence: &idJSON{ID: "B", TypeID: 1}}}}
	}
	if f.Model.Vocab, err = json.Marshal(vocab); err != nil {
		return nil, err
	}
	if merges == nil {
		merges = []string{}
	}
	if f.Model.Merges, err = json.Marshal(merges); err != nil {
		return nil, err
	}
	return json.Marshal(f)
}

// sentencePiece writes a tokenizer.model.
func (g ggufMeta) sentencePiece(pieces []string, types []float64, bos int) ([]byte, error) {
	scores, err := nums(g["tokenizer.ggml.scores"])
	if err != nil || len(scores) != len(pieces) {
		return nil, invalid("the .gguf has %d tokens and %d scores", len(pieces), len(scores))
	}
	var out []byte
	for id, p := range pieces {
		typ := uint64(typeNormal)
		if types != nil {
			typ = uint64(types[id])
		}
		var m []byte
		m = protowire.AppendTag(m, 1, protowire.BytesType)
		m = protowire.AppendString(m, p)
		m = protowire.AppendTag(m, 2, protowire.Fixed32Type)
		m = protowire.AppendFixed32(m, math.Float32bits(float32(scores[id])))
		m = protowire.AppendTag(m, 3, protowire.VarintType)
		m = protowire.AppendVarint(m, typ)
		out = protowire.AppendTag(out, 1, protowire.BytesType)
		out = protowire.AppendBytes(out, m)
	}
	var trainer []byte
	trainer = protowire.AppendTag(trainer, 3, protowire.VarintType)
	trainer = protowire.AppendVarint(trainer, 2) // BPE
	trainer = protowire.AppendTag(trainer, 35, protowire.VarintType)
	trainer = protowire.AppendVarint(trainer, 1)              // byte_fallback
	for i, id := range []int{bos, g.id("eos", len(pieces))} { // bos_piece and eos_piece
		name := ""
		if id >= 0 {
			name = pieces[id]
		}
		trainer = protowire.AppendTag(trainer, protowire.Number(46+i), protowire.BytesType)
		trainer = protowire.AppendString(trainer, name)
	}
	var norm []byte
	norm = protowire.AppendTag(norm, 1, protowire.BytesType)
	norm = protowire.AppendString(norm, "identity")
	for field, on := range []bool{g.flag("tokenizer.ggml.add_space_prefix", true), g.flag("tokenizer.ggml.remove_extra_whitespaces", false), true} {
		norm = protowire.AppendTag(norm, protowire.Number(3+field), protowire.VarintType)
		norm = protowire.AppendVarint(norm, protowire.EncodeBool(on))
	}
	out = protowire.AppendTag(out, 2, protowire.BytesType)
	out = protowire.AppendBytes(out, trainer)
	out = protowire.AppendTag(out, 3, protowire.BytesType)
	out = protowire.AppendBytes(out, norm)
	return out, nil
}

// ggufMeta is a .gguf's metadata by key.
type ggufMeta map[string]any

// id returns tokenizer.ggml.<name>_token_id, or -1.
func (g ggufMeta) id(name string, vocab int) int {
	v, ok := g["tokenizer.ggml."+name+"_token_id"]
	if !ok {
		return -1
	}
	n, err := num(reflect.ValueOf(v))
	if err != nil || n < 0 || n >= float64(vocab) {
		return -1
	}
	return int(n)
}

func (g ggufMeta) flag(key string, otherwise bool) bool {
	if b, ok := g[key].(bool); ok {
		return b
	}
	return otherwise
}

// strs reads a list of strings; nil is none.
func strs(v any) ([]string, error) {
	if s, ok := v.([]string); ok || v == nil {
		return s, nil
	}
	r := reflect.ValueOf(v)
	if r.Kind() != reflect.Slice {
		return nil, fmt.Errorf("a %T is no list", v)
	}
	out := make([]string, r.Len())
	for i := range out {
		s, ok := r.Index(i).Interface().(string)
		if !ok {
			return nil, fmt.Errorf("item %d is a %T, not a string", i, r.Index(i).Interface())
		}
		out[i] = s
	}
	return out, nil
}

// nums reads a list of numbers of any type; nil is none.
func nums(v any) ([]float64, error) {
	if v == nil {
		return nil, nil
	}
	r := reflect.ValueOf(v)
	if r.Kind() != reflect.Slice {
		return nil, fmt.Errorf("a %T is no list", v)
	}
	out := make([]float64, r.Len())
	for i := range out {
		n, err := num(r.Index(i))
		if err != nil {
			return nil, fmt.Errorf("item %d: %w", i, err)
		}
		out[i] = n
	}
	return out, nil
}

func num(r reflect.Value) (float64, error) {
	if r.Kind() == reflect.Interface {
		r = r.Elem()
	}
	switch {
	case !r.IsValid():
	case r.CanInt():
		return float64(r.Int()), nil
	case r.CanUint():
		return float64(r.Uint()), nil
	case r.CanFloat():
		return r.Float(), nil
	}
	return 0, imagebind.Errorf(imagebind.Invalid, "not a number")
}
