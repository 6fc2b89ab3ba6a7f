package verify

import (
	"compress/gzip"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"imagebind-llm/runner/modality/text"
	"imagebind-llm/runner/tokenizer"
)

// clip holds the text encoder's vocabulary against CLIP's ids.
func (v *verifier) clip(dir string) error {
	const name = "bpe.txt.gz"
	if _, ok := v.b.Files[name]; !ok {
		return nil
	}
	var golden struct {
		Cases []struct {
			Text   string
			Padded []int64 `json:"padded_fb"`
		}
	}
	if err := readJSON(filepath.Join(dir, "clip_bpe.json"), &golden); err != nil {
		return err
	}
	f, err := os.Open(v.b.Path(name))
	if err != nil {
		return err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return err
	}
	t, err := text.NewTokenizer(z)
	if err != nil {
		return err
	}
	wrong := ""
	for _, c := range golden.Cases {
		ids := make([]int64, text.Context)
		if t.EncodeTo(ids, c.Text); !slices.Equal(ids, c.Padded) && wrong == "" {
			wrong = fmt.Sprintf("%q has ids %v, want %v", c.Text, ids, c.Padded)
		}
	}
	v.same("text encoder's vocabulary", fmt.Sprintf("ids of %d texts", len(golden.Cases)), wrong)
	return nil
}

// tokenizer holds the decoder's tokenizer against SentencePiece's ids, where it
// is the goldens' own.
func (v *verifier) tokenizer(dir string) error {
	var golden struct {
		Size   int `json:"vocab_size"`
		Encode []struct {
			Text string
			IDs  []int `json:"ids_bos"`
		}
	}
	if err := readJSON(filepath.Join(dir, "tokenizer_goldens.json"), &golden); err != nil {
		return err
	}
	t, err := tokenizer.Open(v.b.Path(v.b.Decoder.Tokenizer))
	if err != nil {
		return err
	}
	if t.VocabSize() != golden.Size {
		v.skip("tokenizer: the goldens' has %d tokens, the bundle's %d", golden.Size, t.VocabSize())
		return nil
	}
	wrong := ""
	for _, c := range golden.Encode {
		if ids := t.Encode(c.Text, true); !slices.Equal(ids, c.IDs) && wrong == "" {
			wrong = fmt.Sprintf("%q has ids %v, want %v", c.Text, ids, c.IDs)
		}
	}
	v.same("tokenizer", fmt.Sprintf("ids of %d texts", len(golden.Encode)), wrong)
	return nil
}

func readJSON(path string, v any) error {
	raw, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}
