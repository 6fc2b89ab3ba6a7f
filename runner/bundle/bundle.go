// Package bundle is the folder that exporter writes and runner reads: a
// manifest (bundle.json), ONNX graphs with their weights beside them, and the
// tokenizers' files. It is self-contained and may be moved. docs/formats.md
// draws it.
package bundle

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	imagebind "imagebind-llm"
)

// Version is the format that this code writes, and the newest it reads.
//
//	1  the first
const Version = 1

// ManifestName is the manifest's file name.
const ManifestName = "bundle.json"

// A Manifest is bundle.json.
type Manifest struct {
	Version  int    `json:"format_version"`
	Name     string `json:"name"`
	Exporter string `json:"exporter"` // the version of the program that wrote it

	Encoders []Encoder `json:"encoders,omitempty"`
	Bridge   *Bridge   `json:"bridge,omitempty"`
	Decoder  *Decoder  `json:"decoder,omitempty"`

	Sampling Sampling `json:"sampling"`
	Cache    Cache    `json:"cache"`
	// Licences name what each part's weights may be used for.
	Licences []Licence `json:"licences,omitempty"`
	// Files are all others of the folder, by name.
	Files map[string]File `json:"files"`
}

// An Encoder is one ImageBind trunk as a graph.
//
// Graph inputs and outputs, N clips at a time:
//
//	input      [N, …Input]  float32, or int64 where Ints
//	embedding  [N, E]       unit length times the logit scale
//	prenorm    [N, E]       before normalisation
type Encoder struct {
	Name       string   `json:"name"`       // vision, text, audio, …
	Modalities []string `json:"modalities"` // the inputs it serves: image, video
	Graph      string   `json:"graph"`
	Input      []int    `json:"input_shape"` // one clip, without the batch
	Ints       bool     `json:"input_is_ids,omitempty"`
	Embed      int      `json:"embedding_dim"` // E
	Width      int      `json:"width"`
	Layers     int      `json:"layers"`
	Heads      int      `json:"heads"`
	Precision  string   `json:"precision"`
	// Preprocessing holds the constants that made the input, for readers of the
	// manifest; the code in runner/modality is what applies them.
	Preprocessing map[string]any `json:"preprocessing,omitempty"`
}

// A Bridge is the paper's bind network with the adapter folded to vectors.
//
//	embedding     [B, E]      float32, an enhanced or plain mix
//	visual_query  [B, D]      the bind network's output
//	injection     [B, La, D]  what each adapted layer's attention adds, after wo
type Bridge struct {
	Graph   string `json:"graph"`
	Embed   int    `json:"embedding_dim"`
	Width   int    `json:"width"`
	Layers  int    `json:"adapted_layers"` // La: the last La layers of the decoder
	Variant string `json:"variant"`        // rmsnorm, legacy
	// Precision of the large matrices; where empty, float32 and, of the base
	// model's, what they were stored in.
	Precision string `json:"precision,omitempty"`
}

// A Decoder is LLaMA with LoRA, biases and norms merged.
//
//	input_ids              int64 [B, S]
//	seqlens_k              int32 [B]     tokens in the cache after the run, less 1
//	total_sequence_length  int32 []      the largest of those, plus 1
//	logit_index            int64 [B]     the position in S whose logits come out
//	injection              float32 [B, La, D], only where AdaptedLayers > 0; zeros are plain chat
//	past_key_values.N.key, .value  KVType [B, KH, P, Dh]
//	logits                 float32 [B, V]
//	present.N.key, .value  KVType [B, KH, max(P, total), Dh]: past's own memory when bound so
type Decoder struct {
	Graph         string  `json:"graph"`
	Width         int     `json:"width"` // D
	Layers        int     `json:"layers"`
	Heads         int     `json:"heads"`
	KVHeads       int     `json:"kv_heads"` // KH
	HeadDim       int     `json:"head_dim"` // Dh
	Hidden        int     `json:"hidden"`
	Vocab         int     `json:"vocab"` // V
	NormEps       float64 `json:"norm_eps"`
	RopeTheta     float64 `json:"rope_theta"`
	Context       int     `json:"context"`        // tokens, prompt and answer together; rows of the rotary tables
	AdaptedLayers int     `json:"adapted_layers"` // La
	Precision     string  `json:"precision"`
	// HeadPrecision and TablePrecision are those of the output head and of the
	// embedding table, where the bundle says so.
	HeadPrecision  string `json:"head_precision,omitempty"`
	TablePrecision string `json:"embedding_precision,omitempty"`
	KVType         string `json:"kv_type"`   // float32, float16
	Tokenizer      string `json:"tokenizer"` // tokenizer.model or tokenizer.json
	// BOS and Stop are token ids: what a prompt begins with (-1 for none), and
	// what ends an answer.
	BOS  int   `json:"bos"`
	Stop []int `json:"stop"`
	// Template is the name of a built-in prompt template (runner/prompt), or the
	// text of one.
	Template string `json:"prompt_template"`
}

// Sampling holds the defaults of a request that names none (reference:
// llama_adapter.py, generate; the demo's length).
type Sampling struct {
	Temperature float64 `json:"temperature"`
	TopP        float64 `json:"top_p"`
	MaxTokens   int     `json:"max_tokens"`
}

// Cache holds the defaults of the feature cache.
type Cache struct {
	Enabled     bool    `json:"enabled"`
	Collection  string  `json:"collection"`
	K           int     `json:"k"`
	Temperature float32 `json:"temperature"`
	Weight      float32 `json:"weight"`
}

// A Licence says under what terms a part's weights came.
type Licence struct {
	Part   string `json:"part"`
	Name   string `json:"licence"`
	Notice string `json:"notice,omitempty"`
}

// A File is one file's size and hash.
type File struct {
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"`
}

// Fingerprint is a hash of the encoders' graphs and weights: two bundles of the
// same one embed alike. It is "" without encoders.
func (m *Manifest) Fingerprint() string {
	if len(m.Encoders) == 0 {
		return ""
	}
	h := sha256.New()
	for _, e := range m.Encoders {
		stem := strings.TrimSuffix(e.Graph, ".onnx")
		for _, name := range slices.Sorted(maps.Keys(m.Files)) {
			if strings.HasPrefix(name, stem+".") { // the graph, and its weights beside it
				fmt.Fprintf(h, "%s %s\n", name, m.Files[name].SHA256)
			}
		}
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// DefaultSampling is the reference's generate, with the demo's length.
func DefaultSampling() Sampling { return Sampling{Temperature: 0.1, TopP: 0.75, MaxTokens: 128} }

// DefaultCache is what the reference's demos use.
func DefaultCache() Cache {
	p := imagebind.DefaultEnhance()
	return Cache{Enabled: true, Collection: "default", K: p.K, Temperature: p.Temperature, Weight: p.Weight}
}

// A Bundle is an open folder.
type Bundle struct {
	Dir string
	Manifest
}

// Open reads the manifest in dir and checks that every file is there in its
// size and that the parts fit each other. It reads no weights: see Verify.
func Open(dir string) (*Bundle, error) {
	raw, err := os.ReadFile(filepath.Join(dir, ManifestName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s is no bundle: it has no %s; make one with: exporter model --out %s", dir, ManifestName, dir)
	}
	if err != nil {
		return nil, err
	}
	b := &Bundle{Dir: dir}
	if err := json.Unmarshal(raw, &b.Manifest); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, ManifestName), err)
	}
	if b.Version < 1 || b.Version > Version {
		return nil, fmt.Errorf("%s has format version %d; this program reads 1 to %d: use a newer one, or export again", dir, b.Version, Version)
	}
	for name, f := range b.Files {
		if !filepath.IsLocal(name) {
			return nil, fmt.Errorf("%s: file name %q leaves the folder", dir, name)
		}
		info, err := os.Stat(b.Path(name))
		if err != nil {
			return nil, fmt.Errorf("bundle: %w", err)
		}
		if info.Size() != f.Bytes {
			return nil, fmt.Errorf("%s has %d bytes, the manifest says %d: copy or export the bundle again", b.Path(name), info.Size(), f.Bytes)
		}
	}
	if err := b.check(); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, ManifestName), err)
	}
	return b, nil
}

// check holds the parts against each other.
func (m *Manifest) check() error {
	need := func(part, name string) error {
		if _, ok := m.Files[name]; !ok {
			return fmt.Errorf("%s wants the file %q, which is not listed", part, name)
		}
		return nil
	}
	var errs []error
	for _, e := range m.Encoders {
		errs = append(errs, need("encoder "+e.Name, e.Graph))
		if e.Embed != m.Encoders[0].Embed {
			errs = append(errs, fmt.Errorf("encoder %s gives %d values, encoder %s %d", e.Name, e.Embed, m.Encoders[0].Name, m.Encoders[0].Embed))
		}
	}
	if d := m.Decoder; d != nil {
		errs = append(errs, need("the decoder", d.Graph), need("the decoder", d.Tokenizer))
		if d.KVHeads < 1 || d.Heads%d.KVHeads != 0 || d.AdaptedLayers > d.Layers || d.Context < 1 || d.Vocab < 1 {
			errs = append(errs, fmt.Errorf("the decoder's dims do not fit: %+v", *d))
		}
	}
	if br := m.Bridge; br != nil {
		errs = append(errs, need("the bridge", br.Graph))
		if len(m.Encoders) > 0 && br.Embed != m.Encoders[0].Embed {
			errs = append(errs, fmt.Errorf("the bridge takes %d values, the encoders give %d", br.Embed, m.Encoders[0].Embed))
		}
		if d := m.Decoder; d == nil || br.Width != d.Width || br.Layers != d.AdaptedLayers {
			errs = append(errs, fmt.Errorf("the bridge (%d wide, %d layers) does not fit the decoder", br.Width, br.Layers))
		}
	}
	return errors.Join(errs...)
}

// Path returns the path of a file of the bundle.
func (b *Bundle) Path(name string) string { return filepath.Join(b.Dir, filepath.FromSlash(name)) }

// Embed returns E, or 0 for a bundle without encoders.
func (m *Manifest) Embed() int {
	if len(m.Encoders) == 0 {
		return 0
	}
	return m.Encoders[0].Embed
}

// Modalities returns the names of the inputs that the bundle's encoders serve.
func (m *Manifest) Modalities() []string {
	var names []string
	for _, e := range m.Encoders {
		names = append(names, e.Modalities...)
	}
	return names
}

// EncoderOf returns the encoder that serves a modality.
func (m *Manifest) EncoderOf(modality string) (Encoder, bool) {
	for _, e := range m.Encoders {
		if slices.Contains(e.Modalities, modality) {
			return e, true
		}
	}
	return Encoder{}, false
}

// Verify reads every file and holds it against its hash. progress, which may be
// nil, hears of the bytes read.
func (b *Bundle) Verify(progress func(name string, bytes int64)) error {
	var errs []error
	for name, f := range b.Files {
		sum, err := hashFile(b.Path(name), func(n int64) {
			if progress != nil {
				progress(name, n)
			}
		})
		if err == nil && sum != f.SHA256 {
			err = fmt.Errorf("%s has sha256 %s, the manifest says %s: copy or export the bundle again", b.Path(name), sum, f.SHA256)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func hashFile(path string, progress func(int64)) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(io.MultiWriter(h, counter(progress)), f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

type counter func(int64)

func (c counter) Write(b []byte) (int, error) { c(int64(len(b))); return len(b), nil }
