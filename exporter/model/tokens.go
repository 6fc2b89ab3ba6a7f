package model

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	imagebind "imagebind-llm"
	"imagebind-llm/exporter/checkpoint"
	"imagebind-llm/internal/format/gguf"
	"imagebind-llm/runner/bundle"
	"imagebind-llm/runner/prompt"
	"imagebind-llm/runner/tokenizer"
)

// maxSmall bounds the tokenizer's and its neighbours' files; the largest
// published ones have 33 MB.
const maxSmall = 256 << 20

// padding is how many more rows than the tokenizer has ids a decoder may have:
// published models fill up to a multiple of 64 to 512.
const padding = 1024

// tokens finds the tokenizer, puts it in the bundle, and fills in d's Tokenizer,
// BOS, Stop and Template.
func (x *export) tokens(base *checkpoint.LLaMA, d *bundle.Decoder) error {
	c, err := x.findTokenizer(base)
	if err != nil {
		return err
	}
	t, err := tokenizer.Parse(c.Data)
	if err != nil {
		return fmt.Errorf("tokenizer: %w", err)
	}
	if n := t.VocabSize(); n > d.Vocab || n < d.Vocab-padding {
		return imagebind.Errorf(imagebind.Invalid, "the tokenizer has %d tokens, the decoder's vocabulary %d: they are of different models; give the right one with --tokenizer (or the --delta that the vocabulary came with)", n, d.Vocab)
	}
	for _, id := range append(slices.Clone(c.Stop), c.BOS) {
		if id >= d.Vocab {
			return imagebind.Errorf(imagebind.Invalid, "token %d begins or ends a text, and the decoder's vocabulary has %d", id, d.Vocab)
		}
	}
	if len(c.Stop) == 0 {
		x.notef("nothing says which token ends an answer: answers will run to their length limit")
	}
	x.files[c.Name] = c.Data
	d.Tokenizer, d.BOS, d.Stop = c.Name, c.BOS, c.Stop
	if d.Stop == nil {
		d.Stop = []int{}
	}
	d.Template, err = x.template(c.Template)
	return err
}

// findTokenizer returns the tokenizer that --tokenizer names, or the base model's own.
func (x *export) findTokenizer(base *checkpoint.LLaMA) (tokenizer.Converted, error) {
	path := x.Tokenizer
	if path == "" && base.Layout == checkpoint.GGUF {
		c, err := tokenizer.FromGGUF(base.Metadata)
		if err != nil {
			err = fmt.Errorf("--llama %s: %w", x.LLaMA, err)
		}
		return c, err
	}
	if path == "" {
		if path = beside(x.LLaMA, base.Layout); path == "" {
			return tokenizer.Converted{}, imagebind.Errorf(imagebind.Invalid, "no tokenizer is beside --llama %s: give its tokenizer.model or tokenizer.json with --tokenizer", x.LLaMA)
		}
		x.notef("tokenizer: %s", path)
	}
	if isGGUF(path) {
		f, err := gguf.Open(path)
		if err != nil {
			return tokenizer.Converted{}, fmt.Errorf("--tokenizer: %w", err)
		}
		defer f.Close()
		c, err := tokenizer.FromGGUF(f.Metadata())
		if err != nil {
			err = fmt.Errorf("--tokenizer %s: %w", path, err)
		}
		return c, err
	}
	data, err := readSmall(path)
	if err != nil {
		return tokenizer.Converted{}, fmt.Errorf("--tokenizer: %w", err)
	}
	t, err := tokenizer.Parse(data)
	if err != nil {
		return tokenizer.Converted{}, fmt.Errorf("--tokenizer %s: %w", path, err)
	}
	c := tokenizer.Converted{Name: "tokenizer.model", Data: data, BOS: t.BOS()}
	if s := strings.TrimSpace(string(data[:min(len(data), 64)])); strings.HasPrefix(s, "{") {
		c.Name = "tokenizer.json"
	}
	n, err := readNeighbours(filepath.Dir(path), t)
	if err != nil {
		return c, err
	}
	if base.Layout == checkpoint.GGUF {
		n.or(base.Metadata)
	}
	c.Template, c.Stop = n.template, n.stop
	if n.noBOS {
		c.BOS = -1
	}
	if eos := t.EOS(); len(c.Stop) == 0 && eos >= 0 {
		c.Stop = []int{eos}
	}
	return c, nil
}

// beside returns the tokenizer in or (Meta's layout: 7B/, tokenizer.model) next
// to the folder of a model, or "".
func beside(llama, layout string) string {
	names := []string{"tokenizer.model", "tokenizer.json"}
	if layout == checkpoint.HuggingFace { // there tokenizer.json is the one that is kept up
		slices.Reverse(names)
	}
	dir := llama
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		dir = filepath.Dir(dir)
	}
	for _, d := range []string{dir, filepath.Join(dir, "..")} {
		for _, n := range names {
			if info, err := os.Stat(filepath.Join(d, n)); err == nil && info.Mode().IsRegular() {
				return filepath.Join(d, n)
			}
		}
	}
	return ""
}

func isGGUF(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	var magic [4]byte
	_, err = io.ReadFull(f, magic[:])
	return err == nil && string(magic[:]) == "GGUF"
}

func readSmall(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxSmall+1))
	if err == nil && len(data) > maxSmall {
		err = imagebind.Errorf(imagebind.TooLarge, "%s has more than %d MiB", path, maxSmall>>20)
	}
	return data, err
}

// neighbours is what the files beside a Hugging Face tokenizer say.
type neighbours struct {
	stop     []int
	template string // Jinja
	noBOS    bool
}

// readNeighbours reads generation_config.json or config.json (eos_token_id),
// tokenizer_config.json (eos_token, add_bos_token, chat_template) and
// chat_template.jinja, as far as they are there.
func readNeighbours(dir string, t *tokenizer.Tokenizer) (n neighbours, err error) {
	for _, name := range []string{"generation_config.json", "config.json"} {
		var c struct {
			EOS oneOrMore[int] `json:"eos_token_id"`
		}
		if err := readOptional(filepath.Join(dir, name), &c); err != nil {
			return n, err
		}
		if n.stop = c.EOS; len(n.stop) > 0 {
			break
		}
	}
	var c struct {
		EOS      tokenName `json:"eos_token"`
		AddBOS   *bool     `json:"add_bos_token"`
		Template chatText  `json:"chat_template"`
	}
	if err := readOptional(filepath.Join(dir, "tokenizer_config.json"), &c); err != nil {
		return n, err
	}
	if id, ok := t.Special(string(c.EOS)); ok && !slices.Contains(n.stop, id) {
		n.stop = append(n.stop, id)
	}
	n.noBOS, n.template = c.AddBOS != nil && !*c.AddBOS, string(c.Template)
	jinja, err := readSmall(filepath.Join(dir, "chat_template.jinja"))
	if errors.Is(err, fs.ErrNotExist) {
		return n, nil
	}
	n.template = string(jinja)
	return n, err
}

// or takes what is not known from a .gguf's metadata: the tokenizer may be
// another file because the one in the .gguf is of a kind that is not read.
func (n *neighbours) or(gguf map[string]any) {
	if n.template == "" {
		n.template, _ = gguf["tokenizer.chat_template"].(string)
	}
	if len(n.stop) > 0 {
		return
	}
	for _, key := range []string{"eos", "eot", "eom"} {
		if v, ok := gguf["tokenizer.ggml."+key+"_token_id"]; ok {
			if id, err := strconv.Atoi(fmt.Sprint(v)); err == nil && id >= 0 {
				n.stop = append(n.stop, id)
			}
		}
	}
}

// readOptional decodes a JSON file that may be absent.
func readOptional(path string, v any) error {
	raw, err := readSmall(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return imagebind.Errorf(imagebind.Invalid, "%s: %w", path, err)
	}
	return nil
}

// oneOrMore is a T, a list of them, or null.
type oneOrMore[T any] []T

// UnmarshalJSON implements json.Unmarshaler.
func (l *oneOrMore[T]) UnmarshalJSON(b []byte) error {
	var list []T
	if json.Unmarshal(b, &list) == nil {
		*l = list
		return nil
	}
	var one T
	err := json.Unmarshal(b, &one)
	*l = []T{one}
	return err
}

// tokenName is a token as a string or as {"content": "…"}.
type tokenName string

// UnmarshalJSON implements json.Unmarshaler.
func (s *tokenName) UnmarshalJSON(b []byte) error {
	var o struct{ Content string }
	if json.Unmarshal(b, &o) == nil {
		*s = tokenName(o.Content)
		return nil
	}
	return json.Unmarshal(b, (*string)(s))
}

// chatText is a chat template: a string, or a list of named ones, of which the
// one named default counts.
type chatText string

// UnmarshalJSON implements json.Unmarshaler.
func (s *chatText) UnmarshalJSON(b []byte) error {
	var list []struct{ Name, Template string }
	if json.Unmarshal(b, &list) == nil {
		for _, t := range list {
			if t.Name == "default" || *s == "" {
				*s = chatText(t.Template)
			}
		}
		return nil
	}
	return json.Unmarshal(b, (*string)(s))
}

// template returns what the manifest's Template becomes: the user's choice, the
// one that ImageBind-LLM's adapters were trained with, or the built-in that the
// model's own template is known as.
func (x *export) template(jinja string) (string, error) {
	chosen := x.Template
	if chosen == "" && x.Adapter != "" {
		return "alpaca", nil
	}
	if chosen == "" {
		name, ok := prompt.Recognise(jinja)
		switch {
		case ok:
			return name, nil
		case jinja == "":
			x.notef("the model names no chat template: its texts are joined plainly; choose one with --template (%s)", strings.Join(prompt.Names(), ", "))
			return "plain", nil
		}
		return "", imagebind.Errorf(imagebind.Unsupported, "the model's chat template is not one that is known here; choose one with --template: %s, or a file with a Go text/template", strings.Join(prompt.Names(), ", "))
	}
	if !slices.Contains(prompt.Names(), chosen) {
		raw, err := readSmall(chosen)
		if errors.Is(err, fs.ErrNotExist) {
			return "", imagebind.Errorf(imagebind.Invalid, "--template %q is neither one of %s nor a file", chosen, strings.Join(prompt.Names(), ", "))
		}
		if err != nil {
			return "", fmt.Errorf("--template: %w", err)
		}
		chosen = string(raw)
	}
	if _, err := prompt.Parse(chosen); err != nil {
		return "", fmt.Errorf("--template: %w", err)
	}
	return chosen, nil
}
