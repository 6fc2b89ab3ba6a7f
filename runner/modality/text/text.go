// Package text turns a text into the input of ImageBind's text encoder: CLIP's
// token ids. clean.go normalizes the text as the reference does with ftfy,
// mojibake.go repairs encodings, bpe.go holds the tokenizer. The vocabulary is
// part of the program (OpenAI CLIP, MIT licence).
package text

import (
	"bytes"
	"compress/gzip"
	"context"
	_ "embed" // the vocabulary
	"fmt"
	"sync"
	"unicode/utf8"

	imagebind "imagebind-llm"
	"imagebind-llm/runner/modality"
)

// Context is the number of ids that the encoder reads.
const Context = 77

// maxText bounds a text, in bytes: far more than 77 tokens hold.
const maxText = 64 << 10

// Spec is text as a condition: one clip of ids, [S=1, T=77].
var Spec = modality.Spec{
	Name:  "text",
	Part:  "bind_text",
	Media: []string{"text/plain"},
	Encoder: modality.Encoder{Name: "text", Heads: 16, Input: []int{Context}, Ints: true, Stem: modality.Tokens{},
		Preprocessing: map[string]any{
			"tokenizer": "CLIP byte-pair encoding, bpe.txt.gz", "cleaning": "ftfy, HTML entities, white space, lower case",
			"start": start, "end": end, "context": Context,
		}},
	Read: Read,
}

// Vocabulary is bpe_simple_vocab_16e6.txt.gz as CLIP ships it.
//
//go:embed bpe_simple_vocab_16e6.txt.gz
var Vocabulary []byte

// tokenizer is built at the first text.
var tokenizer = sync.OnceValue(func() *Tokenizer {
	z, err := gzip.NewReader(bytes.NewReader(Vocabulary))
	if err == nil {
		var t *Tokenizer
		if t, err = NewTokenizer(z); err == nil {
			return t
		}
	}
	panic(fmt.Sprintf("text: the built-in vocabulary: %v", err))
})

// Read turns UTF-8 into ids [S=1, T=77]: the start token, at most 75 of the
// text, the end token, zeros. A longer text keeps its first 75 (the released
// LLM code drops the end token of a long text, which maps all such texts to one
// embedding; the original ImageBind, followed here, does not).
func Read(ctx context.Context, data []byte, _ modality.Options) (imagebind.Tensor, error) {
	if err := ctx.Err(); err != nil {
		return imagebind.Tensor{}, err
	}
	if len(data) > maxText {
		return imagebind.Tensor{}, imagebind.Errorf(imagebind.TooLarge, "the text has %d bytes; at most %d are read, and only its first 75 tokens count", len(data), maxText)
	}
	if !utf8.Valid(data) {
		return imagebind.Tensor{}, imagebind.Errorf(imagebind.Invalid, "the text is not UTF-8")
	}
	t := imagebind.NewInts(1, Context)
	tokenizer().EncodeTo(t.Ints, string(data))
	return t, nil
}
