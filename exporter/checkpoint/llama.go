package checkpoint

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	imagebind "imagebind-llm"
	"imagebind-llm/internal/format"
)

// A LLaMAConfig is the dims of a base model.
type LLaMAConfig struct {
	Width   int // D
	Layers  int // L
	Heads   int // N
	KVHeads int // of keys and values; fewer than Heads where they are shared
	HeadDim int // Dh
	Hidden  int // of the feed-forward network
	Vocab   int // V

	NormEps   float64
	RopeTheta float64
	RopeScale float64 // positions are divided by it; 1 where the model was not stretched
	Context   int     // tokens that the model was made for
	TiedHead  bool    // the output head is the embedding table
}

// A LLaMA is an open base model. Whatever the layout, its tensors have Meta's
// names, and the rows of wq and wk Meta's order: rotary pairs are neighbours.
// With a tied head, output.weight is the embedding table.
type LLaMA struct {
	*Checkpoint
	Config   LLaMAConfig
	Metadata map[string]any // GGUF's; nil for other layouts
	Layout   string         // Meta, HuggingFace or GGUF
}

const (
	maxLayers  = 1000
	maxDim     = 1 << 24 // of any axis
	maxContext = 1 << 24
)

// defaultContext is for Meta's params.json, which does not say; LLaMA was
// trained on 2048 tokens.
const defaultContext = 2048

// OpenLLaMA opens the base model at path: a folder in Meta's layout (params.json
// and consolidated.NN.pth, all model-parallel shards) or Hugging Face's
// (config.json and *.safetensors), a .gguf, or one of these files. delta, which
// may be "", is a file of differences in Meta's names, as the Chinese LLaMA is
// published: it is added, and the sum rounded to half precision.
//
// Tensors that are missing, of another shape or not LLaMA's are all named in the
// one error.
func OpenLLaMA(path, delta string) (*LLaMA, error) {
	layout, err := layoutOf(path)
	if err != nil {
		return nil, err
	}
	var m *LLaMA
	switch layout {
	case Meta:
		m, err = openMeta(path)
	case HuggingFace:
		m, err = openHuggingFace(path)
	case GGUF:
		m, err = openGGUF(path)
	}
	if err != nil {
		return nil, err
	}
	if delta != "" {
		if err := m.merge(delta); err != nil {
			return nil, errors.Join(fmt.Errorf("delta: %w", err), m.Close())
		}
	}
	if m.Config.TiedHead {
		head, err := m.Tensor("tok_embeddings.weight")
		if err != nil {
			return nil, errors.Join(err, m.Close())
		}
		head.Name = "output.weight"
		m.put(head)
	}
	return m, nil
}

// layoutOf tells the layout of a file or folder.
func layoutOf(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	if !info.IsDir() {
		head, err := readHead(path, 4)
		switch {
		case err != nil:
			return "", err
		case string(head) == "GGUF":
			return GGUF, nil
		case strings.HasPrefix(filepath.Base(path), "consolidated."):
			return Meta, nil
		}
		return HuggingFace, nil
	}
	has := func(name string) bool {
		_, err := os.Stat(filepath.Join(path, name))
		return err == nil
	}
	shards, err := metaShards(path)
	switch {
	case err != nil:
		return "", err
	case len(shards) > 0:
		return Meta, nil
	case has("config.json"):
		return HuggingFace, nil
	case has("params.json"):
		return "", imagebind.Errorf(imagebind.NotFound, "%s has params.json but no consolidated.00.pth", path)
	}
	return "", imagebind.Errorf(imagebind.NotFound, "%s is no base model: it has neither consolidated.00.pth and params.json (Meta) nor config.json and *.safetensors (Hugging Face); of GGUF name the file", path)
}

// check returns an error for dims that cannot be, before anything is made of
// their size.
func (c LLaMAConfig) check() error {
	dim := func(name string, n int) error {
		if n < 1 || n > maxDim {
			return fmt.Errorf("%s is %d", name, n)
		}
		return nil
	}
	err := errors.Join(
		dim("the width", c.Width), dim("the number of layers", c.Layers), dim("the number of heads", c.Heads),
		dim("the number of key heads", c.KVHeads), dim("the width of a head", c.HeadDim),
		dim("the hidden width", c.Hidden), dim("the vocabulary", c.Vocab),
	)
	switch {
	case err != nil:
	case c.Layers > maxLayers:
		err = fmt.Errorf("%d layers", c.Layers)
	case c.Heads%c.KVHeads != 0:
		err = fmt.Errorf("%d heads share %d of keys", c.Heads, c.KVHeads)
	case c.HeadDim%2 != 0:
		err = fmt.Errorf("heads %d wide: rotary pairs need an even number", c.HeadDim)
	case c.HeadDim > maxDim/c.Heads:
		err = fmt.Errorf("%d heads of %d", c.Heads, c.HeadDim)
	case !(c.NormEps > 0 && c.NormEps < 1):
		err = fmt.Errorf("the norms' epsilon is %v", c.NormEps)
	case !(c.RopeTheta >= 1 && c.RopeTheta < 1e12):
		err = fmt.Errorf("the rotary base is %v", c.RopeTheta)
	case !(c.RopeScale > 0 && c.RopeScale < 1e6):
		err = fmt.Errorf("the rotary scale is %v", c.RopeScale)
	case c.Context < 1 || c.Context > maxContext:
		err = fmt.Errorf("the context is %d tokens", c.Context)
	}
	if err != nil {
		return imagebind.Errorf(imagebind.Invalid, "the config cannot be: %w", err)
	}
	return nil
}

// rename makes the model of a layout's tensors by their names there: checks
// them against the config and gives them Meta's names. order, which may be nil,
// puts a tensor's rows in Meta's order.
func (c LLaMAConfig) rename(layout string, src *Checkpoint, order func(meta string, t format.Tensor) format.Tensor) (*Checkpoint, error) {
	out := New()
	left := map[string]bool{}
	for _, n := range src.Names() {
		left[n] = !unused(layout, n)
	}
	var faults faults
	renames(layout, c.Layers, func(meta, theirs string) {
		t, err := src.Tensor(theirs)
		if err != nil {
			if c.TiedHead && meta == "output.weight" {
				return
			}
			faults.add("tensor %s is missing", theirs)
			return
		}
		left[theirs] = false
		if c.TiedHead && meta == "output.weight" {
			return // a copy of the embedding table
		}
		if want := c.shape(meta); !slices.Equal(t.Shape, want) {
			faults.add("tensor %s has shape %v, want %v", theirs, t.Shape, want)
			return
		}
		if order != nil {
			t = order(meta, t)
		}
		t.Name = meta
		out.put(t)
	})
	faults.extra(left, "LLaMA with %d layers", c.Layers)
	return out, faults.err()
}

// merge adds a delta to every tensor.
func (m *LLaMA) merge(path string) error {
	d, err := Open(path)
	if err != nil {
		return err
	}
	m.files = append(m.files, d.files...)
	left := map[string]bool{}
	for _, n := range d.Names() {
		left[n] = !strings.Contains(n, "rope")
	}
	var faults faults
	for i, t := range m.tensors {
		more, err := d.Tensor(t.Name)
		if err != nil {
			faults.add("tensor %s is missing", t.Name)
			continue
		}
		left[t.Name] = false
		if !slices.Equal(more.Shape, t.Shape) {
			faults.add("tensor %s has shape %v, the base model's %v", t.Name, more.Shape, t.Shape)
			continue
		}
		m.tensors[i] = sum(t, more)
	}
	faults.extra(left, "the base model")
	if err := faults.err(); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// faults collects what is wrong with a checkpoint.
type faults []error

func (f *faults) add(msg string, args ...any) { *f = append(*f, fmt.Errorf(msg, args...)) }

// extra adds the names that are left, sorted; of says what they are no part of.
func (f *faults) extra(left map[string]bool, of string, args ...any) {
	var names []string
	for n, is := range left {
		if is {
			names = append(names, n)
		}
	}
	slices.SortFunc(names, compareNames)
	for _, n := range names {
		f.add("tensor %s is no part of %s", n, fmt.Sprintf(of, args...))
	}
}

// compareNames sorts layers by number.
func compareNames(a, b string) int {
	as, bs := strings.Split(a, "."), strings.Split(b, ".")
	return slices.CompareFunc(as, bs, func(x, y string) int {
		if c := cmp.Compare(len(x), len(y)); c != 0 && isNumber(x) && isNumber(y) {
			return c
		}
		return strings.Compare(x, y)
	})
}

func isNumber(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }

// err returns all of them as one error of kind Invalid, a line each.
func (f faults) err() error {
	switch len(f) {
	case 0:
		return nil
	case 1:
		return imagebind.Errorf(imagebind.Invalid, "%w", f[0])
	}
	return imagebind.Errorf(imagebind.Invalid, "%d tensors do not fit:\n%w", len(f), errors.Join(f...))
}
