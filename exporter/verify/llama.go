package verify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	imagebind "imagebind-llm"
	"imagebind-llm/internal/format/safetensors"
	"imagebind-llm/internal/ort"
)

// A Case is one prompt of the llama-adapter-tiny goldens.
type Case struct {
	Name    string // image/short
	Variant string // finetune, legacy or pretrain; "" is the base model without an adapter
	Weights map[string]float32
	Cached  bool // the embedding was moved by the feature cache

	Prompt    []int
	Greedy    []int
	Prefill   []float32   // [V]
	Steps     [][]float32 // [len(Greedy)][V]: the logits that chose each id
	Injection []float32   // [La, D] after wo; nil without visual input
}

// Cases reads the cases of the folder dir.
func Cases(dir string) ([]Case, error) {
	var list struct {
		Cases map[string]struct {
			Variant string
			Weights map[string]float32
			Cache   json.RawMessage
		}
	}
	raw, err := os.ReadFile(filepath.Join(dir, "goldens.json"))
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, "goldens.json"), err)
	}
	f, err := safetensors.Open(filepath.Join(dir, "goldens.safetensors"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var cases []Case
	for _, t := range f.Tensors() {
		name, ok := strings.CutSuffix(t.Name, "/prompt_ids")
		if !ok {
			continue
		}
		info := list.Cases[name]
		c := Case{Name: name, Variant: info.Variant, Weights: info.Weights, Cached: len(info.Cache) > 0 && string(info.Cache) != "null"}
		var errs []error
		c.Prompt, err = ids(f, t.Name)
		errs = append(errs, err)
		c.Prefill, err = floats(f, name+"/prefill_logits")
		errs = append(errs, err)
		if _, ok := f.Tensor(name + "/greedy_ids"); ok {
			c.Greedy, err = ids(f, name+"/greedy_ids")
			errs = append(errs, err)
			steps, err := floats(f, name+"/step_logits")
			errs = append(errs, err)
			for vocab := len(c.Prefill); len(steps) >= vocab && vocab > 0; steps = steps[vocab:] {
				c.Steps = append(c.Steps, steps[:vocab])
			}
		}
		if mix, _, _ := strings.Cut(name, "/"); len(c.Weights) > 0 {
			c.Injection, err = floats(f, mix+"/injection_after_wo")
			errs = append(errs, err)
		}
		if err := errors.Join(errs...); err != nil {
			return nil, err
		}
		cases = append(cases, c)
	}
	slices.SortFunc(cases, func(a, b Case) int { return strings.Compare(a.Name, b.Name) })
	return cases, nil
}

// Argmax returns the index of the first largest value.
func Argmax(x []float32) int {
	at := 0
	for i, v := range x {
		if v > x[at] {
			at = i
		}
	}
	return at
}

// llama checks bridge and decoder against the cases of the adapter that the
// bundle was made from: the one whose bind network comes nearest.
func (v *verifier) llama(ctx context.Context, dir, tiny string) error {
	if v.b.Decoder == nil {
		return nil
	}
	cases, err := Cases(dir)
	if err != nil {
		return err
	}
	if err := v.tokenizer(dir); err != nil {
		return fmt.Errorf("tokenizer: %w", err)
	}
	variant := ""
	if v.b.Bridge != nil {
		if variant, err = v.bridge(ctx, dir, tiny, cases); err != nil {
			return fmt.Errorf("bridge: %w", err)
		}
		if variant == "" {
			return nil
		}
	}
	return v.decoder(ctx, cases, variant)
}

// unknown is the variant of a bundle whose bridge is none of the goldens'.
const unknown = "?"

// bridge returns the variant, or "" where the goldens are of other dims.
func (v *verifier) bridge(ctx context.Context, dir, tiny string, cases []Case) (variant string, err error) {
	f, err := safetensors.Open(filepath.Join(dir, "bind_network.safetensors"))
	if err != nil {
		return "", err
	}
	defer f.Close()
	g, err := safetensors.Open(filepath.Join(dir, "goldens.safetensors"))
	if err != nil {
		return "", err
	}
	defer g.Close()
	br := v.b.Bridge
	part := strings.TrimSpace("bridge " + br.Variant + " " + br.Precision)
	tol, known := bridgeTolerance[br.Precision]
	if !known {
		return "", fmt.Errorf("no tolerance is known for precision %q", br.Precision)
	}
	in, ok := f.Tensor("input")
	if !ok || len(in.Shape) != 2 || in.Shape[1] != br.Embed {
		v.skip("bridge and decoder: the goldens' embeddings are %v, the bundle's %d wide", in.Shape, br.Embed)
		return "", nil
	}
	s, err := ort.Open(v.b.Path(br.Graph), v.o)
	if err != nil {
		return "", err
	}
	defer s.Close()
	units, err := in.Floats()
	if err != nil {
		return "", err
	}
	query, err := v.compute(ctx, s, scaled(units), in.Shape[0])
	if err != nil {
		return "", err
	}
	best := math.Inf(1)
	for _, t := range f.Tensors() {
		name, ok := strings.CutSuffix(t.Name, "/output")
		if !ok || len(t.Shape) != 2 || t.Shape[1] != br.Width {
			continue
		}
		want, err := t.Floats()
		if err != nil {
			return "", err
		}
		if d := diff(query["visual_query"].Floats, want); variant == "" || d < best {
			variant, best = name, d
		}
	}
	if variant == "" {
		v.skip("bridge and decoder: no bind network of the goldens is %d wide", br.Width)
		return "", nil
	}
	v.add(part, "bind_network/"+variant, best, tol, "")
	if best > tol {
		return unknown, nil
	}

	if tiny == "" {
		v.skip("injections: they want the embeddings of imagebind-tiny/from_files.safetensors")
		return variant, nil
	}
	emb, err := safetensors.Open(filepath.Join(tiny, "from_files.safetensors"))
	if err != nil {
		return "", err
	}
	defer emb.Close()
	done := map[string]bool{}
	for _, c := range cases {
		mix, _, _ := strings.Cut(c.Name, "/")
		if c.Variant != variant || c.Injection == nil || c.Cached || done[mix] {
			continue
		}
		done[mix] = true
		e, err := caseEmbedding(emb, c.Weights)
		if err != nil {
			v.skip("injection of %s: %v", mix, err)
			continue
		}
		got, err := v.compute(ctx, s, e, 1)
		if err != nil {
			return "", err
		}
		want, err := floats(g, mix+"/visual_query")
		if err != nil {
			return "", err
		}
		v.add(part, mix+"/visual_query", diff(got["visual_query"].Floats, want), tol, "")
		v.add(part, mix+"/injection_after_wo", diff(got["injection"].Floats, c.Injection), tol, "")
	}
	return variant, nil
}

func (v *verifier) compute(ctx context.Context, s *ort.Session, embedding []float32, rows int) (map[string]imagebind.Tensor, error) {
	return s.Compute(ctx, map[string]imagebind.Tensor{"embedding": {Shape: []int{rows, v.b.Bridge.Embed}, Floats: embedding}})
}

// scaled is what imagebind.Mix makes of one unit vector of weight 1.
func scaled(units []float32) []float32 {
	out := slices.Clone(units)
	w := float32(1 / (1 + 1e-6))
	for i := range out {
		out[i] *= w
	}
	return out
}

// sources are the files whose embeddings the cases mix (goldens.json).
var sources = map[string]string{
	"Image": "image/landscape_401x300_q92_444.jpg",
	"Audio": "audio/speech_16k_mono.wav",
	"Video": "video/portrait_90x160_30fps_3s.mp4",
	"Text":  "text_llm",
}

const textRow = 8 // of text_llm

func caseEmbedding(f *safetensors.File, weights map[string]float32) ([]float32, error) {
	var parts []imagebind.Weighted
	for _, name := range []string{"Image", "Text", "Video", "Audio", "Point"} {
		w, ok := weights[name]
		if !ok {
			continue
		}
		t, ok := f.Tensor(sources[name])
		if !ok {
			return nil, fmt.Errorf("no embedding of %s is stored", name)
		}
		x, err := t.Floats()
		if err != nil {
			return nil, err
		}
		width := t.Shape[len(t.Shape)-1]
		if name == "Text" {
			x = x[textRow*width:]
		}
		e := imagebind.Embedding(slices.Clone(x[:width]))
		e.Normalize()
		parts = append(parts, imagebind.Weighted{Embedding: e, Weight: w})
	}
	return imagebind.Mix(parts)
}

// decoder teacher-forces each case: logits after the prompt and after every
// greedy id, under the reference's own injection.
func (v *verifier) decoder(ctx context.Context, cases []Case, variant string) error {
	c := v.b.Decoder
	tol, least := decoderTolerance[c.Precision], decoderCorrelation[c.Precision]
	for _, p := range []string{c.HeadPrecision, c.TablePrecision} { // the coarsest counts
		if l := decoderCorrelation[p]; l != 0 && (least == 0 || l < least) {
			tol, least = 0, l
		}
	}
	if tol == 0 && least == 0 {
		return fmt.Errorf("decoder: no tolerance is known for precision %q", c.Precision)
	}
	if len(cases) == 0 || len(cases[0].Prefill) != c.Vocab {
		v.skip("decoder: the goldens are of a vocabulary of another size than %d", c.Vocab)
		return nil
	}
	longest := 0
	for _, x := range cases {
		longest = max(longest, len(x.Prompt)+len(x.Greedy))
	}
	d, err := OpenDecoder(v.b.Path(c.Graph), *c, 1, min(longest, c.Context), v.o)
	if err != nil {
		return fmt.Errorf("decoder: %w", err)
	}
	defer d.Close()
	if variant == unknown {
		if variant, err = d.nearest(ctx, cases); err != nil {
			return fmt.Errorf("decoder: %w", err)
		}
	}
	for _, x := range cases {
		if x.Variant != variant {
			continue
		}
		f, err := d.Force(ctx, x)
		if err != nil {
			return fmt.Errorf("decoder: %s: %w", x.Name, err)
		}
		r := row{part: "decoder " + c.Precision, name: x.Name, diff: f.Diff, tol: tol, least: least,
			note: fmt.Sprintf("argmax %d/%d, correlation %.4f", f.Agree, f.Total, f.Correlation)}
		r.ok = least == 0 && f.Diff <= tol || least > 0 && f.Correlation >= least
		if c.Precision == "fp32" && tol > 0 && f.Agree < f.Total {
			r.ok = false
		}
		v.rows = append(v.rows, r)
	}
	return nil
}

// nearest returns the variant whose first case this decoder comes nearest to.
func (d *Decoder) nearest(ctx context.Context, cases []Case) (variant string, err error) {
	best, seen := math.Inf(1), map[string]bool{}
	for _, c := range cases {
		if seen[c.Variant] {
			continue
		}
		seen[c.Variant] = true
		c.Steps = nil // the prompt alone
		f, err := d.Force(ctx, c)
		if err != nil {
			return "", err
		}
		if len(seen) == 1 || f.Diff < best {
			variant, best = c.Variant, f.Diff
		}
	}
	return variant, nil
}

// Forced says how a decoder's logits compare with the reference's over a case.
type Forced struct {
	Diff         float64 // largest of a logit
	Agree, Total int     // at how many positions the largest logit is the same
	Correlation  float64 // of the logits at a position, the least of all
}

// Force runs a case with the reference's ids.
func (d *Decoder) Force(ctx context.Context, c Case) (Forced, error) {
	d.Reset()
	f := Forced{Correlation: 1}
	compare := func(got, want []float32) {
		f.Diff = max(f.Diff, diff(got, want))
		f.Correlation = min(f.Correlation, correlation(got, want))
		if f.Total++; Argmax(got) == Argmax(want) {
			f.Agree++
		}
	}
	logits, err := d.Run(ctx, [][]int{c.Prompt}, c.Injection)
	if err != nil {
		return f, err
	}
	compare(logits[0], c.Prefill)
	for i := 1; i < min(len(c.Steps), len(c.Greedy)+1); i++ { // Steps[0] is Prefill
		if logits, err = d.Run(ctx, [][]int{{c.Greedy[i-1]}}, c.Injection); err != nil {
			return f, err
		}
		compare(logits[0], c.Steps[i])
	}
	return f, nil
}

// correlation is Pearson's; -1 where a value is not a number.
func correlation(a, b []float32) float64 {
	if len(a) != len(b) || len(a) == 0 {
		return -1
	}
	var ma, mb float64
	for i := range a {
		ma, mb = ma+float64(a[i]), mb+float64(b[i])
	}
	ma, mb = ma/float64(len(a)), mb/float64(len(a))
	var ab, aa, bb float64
	for i := range a {
		x, y := float64(a[i])-ma, float64(b[i])-mb
		ab, aa, bb = ab+x*y, aa+x*x, bb+y*y
	}
	if r := ab / math.Sqrt(aa*bb); !math.IsNaN(r) {
		return r
	}
	return -1
}
