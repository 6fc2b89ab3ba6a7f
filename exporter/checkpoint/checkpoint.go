// Package checkpoint opens published weights and gives them one set of names:
// Meta's, for LLaMA; those of the reference code, for all else. What a layout
// does differently (shards, another order of rows, other names, a delta, LoRA)
// is undone while the values are read, so that an open model costs no memory
// but its names.
//
//	[Open]         any file of tensors, or a sharded model, as it is
//	[OpenLLaMA]    a base model in Meta's, Hugging Face's or GGUF's layout
//	[ReadAdapter]  an ImageBind-LLM checkpoint on such a base
//
// Tables of names are in names.go, and nowhere else.
package checkpoint

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	imagebind "imagebind-llm"
	"imagebind-llm/internal/format"
	"imagebind-llm/internal/format/gguf"
	"imagebind-llm/internal/format/safetensors"
	"imagebind-llm/internal/format/torch"
)

// A Source is a set of tensors by name. A [Checkpoint] is one.
type Source interface {
	// Tensor returns the tensor of that name; the error says that there is none.
	Tensor(name string) (format.Tensor, error)
	// Names returns the names of all tensors.
	Names() []string
}

// A Checkpoint is an open set of tensors.
type Checkpoint struct {
	tensors []format.Tensor
	byName  map[string]int
	files   []io.Closer
}

// New returns a checkpoint of tensors that are at hand. Of several of one name
// the last counts.
func New(tensors ...format.Tensor) *Checkpoint {
	c := &Checkpoint{byName: map[string]int{}}
	for _, t := range tensors {
		c.put(t)
	}
	return c
}

func (c *Checkpoint) put(t format.Tensor) {
	i, ok := c.byName[t.Name]
	if !ok {
		i = len(c.tensors)
		c.byName[t.Name] = i
		c.tensors = append(c.tensors, format.Tensor{})
	}
	c.tensors[i] = t
}

// Open opens the weights at path: a .pth, .safetensors or .gguf file, told
// apart by their content, the index of a sharded model (*.index.json), or a
// folder that holds such a model. Names are as the file has them, but for the
// "model." of a {"model": …} that torch.save wrote.
func Open(path string) (*Checkpoint, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		return openFolder(path)
	}
	if strings.HasSuffix(path, indexSuffix) {
		return openIndex(path)
	}
	f, err := openFile(path)
	if err != nil {
		return nil, err
	}
	c := New(unwrapped(f)...)
	c.files = append(c.files, f)
	return c, nil
}

// openFile opens a file of tensors by its first bytes.
func openFile(path string) (format.File, error) {
	head, err := readHead(path, 4)
	if err != nil {
		return nil, err
	}
	switch {
	case string(head) == "GGUF":
		f, err := gguf.Open(path)
		if err != nil {
			return nil, err
		}
		return f, nil
	case strings.HasPrefix(string(head), "PK"), strings.HasPrefix(string(head), "\x80"): // torch.Open explains the second
		f, err := torch.Open(path)
		if err != nil {
			return nil, err
		}
		return f, nil
	}
	f, err := safetensors.Open(path)
	if err != nil {
		return nil, imagebind.Errorf(imagebind.Invalid, "%s is read here as .pth (a zip), .safetensors or .gguf: %w", path, err)
	}
	return f, nil
}

func readHead(path string, n int) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b := make([]byte, n)
	k, err := io.ReadFull(f, b)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = nil
	}
	return b[:k], err
}

// unwrapped returns f's tensors, without the "model." that all of a torch
// file's have where it was saved as {"model": state_dict, …}.
func unwrapped(f format.File) []format.Tensor {
	const wrapper = "model."
	tensors := f.Tensors()
	if _, ok := f.(*torch.File); !ok {
		return tensors
	}
	for _, t := range tensors {
		if !strings.HasPrefix(t.Name, wrapper) {
			return tensors
		}
	}
	tensors = slices.Clone(tensors)
	for i := range tensors {
		tensors[i].Name = strings.TrimPrefix(tensors[i].Name, wrapper)
	}
	return tensors
}

const (
	indexSuffix = ".index.json"
	maxJSON     = 64 << 20 // bytes of an index or a config; a large index has 0.2 MB
)

// openFolder opens the sharded or single model in dir.
func openFolder(dir string) (*Checkpoint, error) {
	for _, index := range []string{"model.safetensors" + indexSuffix, "pytorch_model.bin" + indexSuffix} {
		path := filepath.Join(dir, index)
		if _, err := os.Stat(path); err == nil {
			return openIndex(path)
		}
	}
	for _, pattern := range []string{"*.safetensors", "pytorch_model*.bin"} {
		files, err := filepath.Glob(filepath.Join(escape(dir), pattern))
		if err != nil {
			return nil, err
		}
		if len(files) > 0 {
			return openShards(files, nil)
		}
	}
	return nil, imagebind.Errorf(imagebind.NotFound, "%s holds no *.safetensors and no index of shards", dir)
}

// escape returns dir as a pattern that matches itself.
func escape(dir string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(dir)
}

// openIndex opens the shards that an index names.
func openIndex(path string) (*Checkpoint, error) {
	var index struct {
		WeightMap map[string]string `json:"weight_map"`
	}
	if err := readJSON(path, &index); err != nil {
		return nil, err
	}
	if len(index.WeightMap) == 0 {
		return nil, imagebind.Errorf(imagebind.Invalid, "%s has no weight_map", path)
	}
	var files []string
	for _, name := range index.WeightMap {
		if name != filepath.Base(name) || !filepath.IsLocal(name) {
			return nil, imagebind.Errorf(imagebind.Invalid, "%s names the file %q, which is not beside it", path, name)
		}
		file := filepath.Join(filepath.Dir(path), name)
		if _, err := os.Stat(file); err != nil {
			return nil, imagebind.Errorf(imagebind.NotFound, "%s names a file that is not there: %w", path, err)
		}
		files = append(files, file)
	}
	slices.Sort(files)
	return openShards(slices.Compact(files), index.WeightMap)
}

// openShards opens files as one. where, which may be nil, says in which file
// each tensor is.
func openShards(files []string, where map[string]string) (*Checkpoint, error) {
	c := New()
	for _, path := range files {
		f, err := openFile(path)
		if err != nil {
			return nil, errors.Join(err, c.Close())
		}
		c.files = append(c.files, f)
		for _, t := range f.Tensors() {
			if where != nil && where[t.Name] != filepath.Base(path) {
				continue // the index does not want it
			}
			if _, ok := c.byName[t.Name]; ok {
				return nil, errors.Join(imagebind.Errorf(imagebind.Invalid, "%s: tensor %s is in an earlier shard too", path, t.Name), c.Close())
			}
			c.put(t)
		}
	}
	var missing []error
	for name, file := range where {
		if _, ok := c.byName[name]; !ok {
			missing = append(missing, fmt.Errorf("tensor %s is not in %s, where the index has it", name, file))
		}
	}
	if len(missing) > 0 {
		slices.SortFunc(missing, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
		return nil, errors.Join(imagebind.Errorf(imagebind.Invalid, "%w", errors.Join(missing...)), c.Close())
	}
	return c, nil
}

func readJSON(path string, v any) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxJSON+1))
	if err != nil {
		return err
	}
	if len(raw) > maxJSON {
		return imagebind.Errorf(imagebind.TooLarge, "%s has more than %d MiB", path, maxJSON>>20)
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return imagebind.Errorf(imagebind.Invalid, "%s: %w", path, err)
	}
	return nil
}

// Tensor returns the tensor of that name.
func (c *Checkpoint) Tensor(name string) (format.Tensor, error) {
	i, ok := c.byName[name]
	if !ok {
		return format.Tensor{}, imagebind.Errorf(imagebind.NotFound, "tensor %s is missing", name)
	}
	return c.tensors[i], nil
}

// Names returns all names in the order of the files.
func (c *Checkpoint) Names() []string {
	names := make([]string, len(c.tensors))
	for i, t := range c.tensors {
		names[i] = t.Name
	}
	return names
}

// Close closes the files; no tensor may be read afterwards.
func (c *Checkpoint) Close() error {
	var errs []error
	for _, f := range c.files {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}
