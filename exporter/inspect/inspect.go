// Package inspect says what a weight file, a folder of them or a bundle holds:
// names, types, shapes, metadata, and hashes to compare by. It goes by content
// and not by name, reads any file that the exporter reads, and says of all
// others that they are foreign.
package inspect

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	imagebind "imagebind-llm"
	"imagebind-llm/exporter/onnx"
	"imagebind-llm/internal/format"
	"imagebind-llm/internal/format/faiss"
	"imagebind-llm/internal/format/gguf"
	"imagebind-llm/internal/format/npy"
	"imagebind-llm/internal/format/safetensors"
	"imagebind-llm/internal/format/torch"
	"imagebind-llm/runner/bundle"
	"imagebind-llm/runner/tokenizer"
)

// Options of Open.
type Options struct {
	// Hash computes a sha256 of each file and of each tensor: everything is read.
	Hash bool
}

// A Report is what a path holds.
type Report struct {
	Path   string           `json:"path"`
	Kind   string           `json:"kind"`
	Bundle *bundle.Manifest `json:"bundle,omitempty"`
	Files  []File           `json:"files"`
	Hashed bool             `json:"hashed"`
}

// A File is one file of it.
type File struct {
	Name     string         `json:"name"`
	Kind     string         `json:"kind"`
	Bytes    int64          `json:"bytes"`
	SHA256   string         `json:"sha256,omitempty"`
	Metadata map[string]any `json:"metadata,omitempty"`
	Tensors  []Tensor       `json:"tensors,omitempty"`
}

// A Tensor is one array of a file.
type Tensor struct {
	Name  string `json:"name"`
	DType string `json:"dtype"`
	Shape []int  `json:"shape"`
	// SHA256 is of the elements, little-endian and row-major, in the type of the
	// file; of ggml's blocks it is of the float32 values. The same tensor has the
	// same hash in a .pth and in a .safetensors file. It is empty for integers of
	// 32 bits and more that exceed 2^24, and for float64.
	SHA256 string `json:"sha256,omitempty"`
}

// Kinds of files.
const (
	kindTorch       = "PyTorch checkpoint"
	kindSafetensors = "safetensors"
	kindGGUF        = "GGUF"
	kindNPY         = "numpy array"
	kindFAISS       = "faiss index"
	kindONNX        = "ONNX graph"
	kindTokenizer   = "tokenizer"
	kindConfig      = "config"
	kindOther       = "other file"
)

const (
	maxGraph  = 2 << 30 // bytes of an .onnx file: protobuf's own limit
	maxConfig = 64 << 20
	maxFiles  = 10000 // of a folder
)

// Size returns the bytes that Open with Hash would read at path, roughly.
func Size(path string) (int64, error) {
	info, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	if !info.IsDir() {
		return info.Size(), nil
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return 0, err
	}
	var sum int64
	for _, e := range entries {
		if info, err := e.Info(); err == nil && info.Mode().IsRegular() {
			sum += info.Size()
		}
	}
	return sum, nil
}

// Open reads what is at path: a checkpoint (.pth, .pt, .bin), .safetensors, its
// .index.json, .gguf, .npy, a faiss .index, .onnx, a tokenizer, a bundle, or a
// folder of such files. A foreign file is an Unsupported error.
func Open(ctx context.Context, path string, o Options) (*Report, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	r := &reader{ctx: ctx, hash: o.Hash}
	rep := &Report{Path: path, Hashed: o.Hash}
	switch {
	case !info.IsDir() && strings.HasSuffix(path, ".safetensors.index.json"):
		err = r.sharded(rep)
	case !info.IsDir():
		var f File
		f, err = r.file(path, filepath.Base(path))
		rep.Kind = f.Kind
		rep.Files = []File{f}
		if err == nil && (f.Kind == kindOther || f.Kind == kindConfig) {
			err = foreign(path)
		}
	case exists(filepath.Join(path, bundle.ManifestName)):
		err = r.bundle(rep)
	default:
		err = r.folder(rep)
	}
	if err != nil {
		return nil, err
	}
	return rep, nil
}

func exists(path string) bool { _, err := os.Stat(path); return err == nil }

func foreign(path string) error {
	head, err := begin(path)
	if err != nil {
		return err
	}
	if len(head) == 0 {
		return imagebind.Errorf(imagebind.Unsupported, "%s is empty", path)
	}
	return imagebind.Errorf(imagebind.Unsupported, "%s is no PyTorch checkpoint, safetensors, GGUF, .npy, faiss index, ONNX graph or tokenizer: it begins with %q", path, head)
}

// begin returns the first bytes of a file.
func begin(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	head := make([]byte, 16)
	n, err := io.ReadFull(f, head)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = nil
	}
	return head[:n], err
}

// sniff returns the kind of a file by its first bytes, and where those say
// nothing (ONNX, tokenizers) by its name.
func sniff(name string, head []byte) string {
	has := func(magic string) bool { return bytes.HasPrefix(head, []byte(magic)) }
	switch base := filepath.Base(name); {
	case has("PK\x03\x04"):
		if filepath.Ext(base) == ".npz" {
			return kindOther
		}
		return kindTorch
	case has("GGUF"):
		return kindGGUF
	case has("\x93NUMPY"):
		return kindNPY
	case len(head) > 8 && head[8] == '{' && binary.LittleEndian.Uint64(head) <= 100<<20:
		return kindSafetensors
	case has("Ix"), has("IH"), has("Iw"):
		return kindFAISS
	case filepath.Ext(base) == ".onnx":
		return kindONNX
	case base == "tokenizer.json", base == "tokenizer.model":
		return kindTokenizer
	case base == "params.json", base == "config.json", base == "generation_config.json", base == "tokenizer_config.json":
		return kindConfig
	// What is named so and is not: the reader says what is wrong with it.
	case slices.Contains([]string{".pth", ".pt"}, filepath.Ext(base)):
		return kindTorch
	case filepath.Ext(base) == ".safetensors":
		return kindSafetensors
	case filepath.Ext(base) == ".gguf":
		return kindGGUF
	case filepath.Ext(base) == ".npy":
		return kindNPY
	}
	return kindOther
}

// A reader fills a report.
type reader struct {
	ctx  context.Context
	hash bool
}

// file reads one file, which is shown under a name.
func (r *reader) file(path, name string) (File, error) {
	info, err := os.Stat(path)
	if err != nil {
		return File{}, err
	}
	head, err := begin(path)
	if err != nil {
		return File{}, err
	}
	f := File{Name: name, Kind: sniff(path, head), Bytes: info.Size()}
	if len(head) == 0 {
		f.Kind = kindOther
	}
	if err := r.content(path, &f); err != nil {
		return f, err
	}
	if r.hash {
		f.SHA256, err = r.sum(path)
	}
	return f, err
}

// content reads what the kind of the file has.
func (r *reader) content(path string, f *File) error {
	switch f.Kind {
	case kindTorch:
		x, err := torch.Open(path)
		if err != nil {
			return err
		}
		defer x.Close()
		f.Metadata = short(x.Values())
		return r.tensors(f, x)
	case kindSafetensors:
		x, err := safetensors.Open(path)
		if err != nil {
			return err
		}
		defer x.Close()
		meta := map[string]any{}
		for k, v := range x.Metadata {
			meta[k] = v
		}
		f.Metadata = short(meta)
		return r.tensors(f, x)
	case kindGGUF:
		x, err := gguf.Open(path)
		if err != nil {
			return err
		}
		defer x.Close()
		f.Metadata = short(x.Metadata())
		return r.tensors(f, x)
	case kindNPY:
		x, err := npy.Open(path)
		if err != nil {
			return err
		}
		defer x.Close()
		return r.tensors(f, x)
	case kindFAISS:
		x, err := faiss.Open(path)
		if err != nil {
			return err
		}
		defer x.Close()
		f.Metadata = map[string]any{"index": x.Kind, "metric": x.Metric}
		if x.Lossy != "" {
			f.Metadata["lossy"] = x.Lossy
		}
		return r.tensors(f, x)
	case kindONNX:
		return r.graph(path, f)
	case kindTokenizer:
		t, err := tokenizer.Open(path)
		if err != nil {
			return err
		}
		f.Metadata = map[string]any{"vocabulary": t.VocabSize(), "bos": t.BOS(), "eos": t.EOS()}
	case kindConfig:
		return readJSON(path, &f.Metadata)
	}
	return nil
}

// readJSON decodes a small file.
func readJSON(path string, v any) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err != nil {
		return err
	}
	if len(raw) > maxConfig {
		return imagebind.Errorf(imagebind.TooLarge, "%s has more than %d MiB", path, maxConfig>>20)
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return imagebind.Errorf(imagebind.Invalid, "%s: %w", path, err)
	}
	return nil
}

func (r *reader) tensors(f *File, x format.File) error {
	for _, t := range x.Tensors() {
		out := Tensor{Name: t.Name, DType: t.DType.String(), Shape: t.Shape}
		if r.hash {
			var err error
			if out.SHA256, err = r.tensorSum(t); err != nil {
				return fmt.Errorf("%s: tensor %s: %w", f.Name, t.Name, err)
			}
		}
		f.Tensors = append(f.Tensors, out)
	}
	return nil
}

// graph reads an ONNX graph: its weights are tensors, its inputs, outputs and
// operators metadata.
func (r *reader) graph(path string, f *File) error {
	if f.Bytes > maxGraph {
		return imagebind.Errorf(imagebind.TooLarge, "%s has more than 2 GiB, which no ONNX graph can", path)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	m, err := onnx.Unmarshal(raw)
	if err != nil {
		return imagebind.Errorf(imagebind.Unsupported, "%s: %w", path, err)
	}
	ops := map[string]int{}
	for _, n := range m.Graph.Nodes {
		ops[strings.TrimPrefix(n.Domain+"."+n.Op, ".")]++
	}
	var opsets []string
	for _, o := range m.Opsets {
		opsets = append(opsets, strings.TrimSpace(fmt.Sprintf("%s %d", o.Domain, o.Version)))
	}
	f.Metadata = short(map[string]any{
		"graph": m.Graph.Name, "producer": strings.TrimSpace(m.Producer + " " + m.ProducerVersion), "ir_version": m.IRVersion,
		"opsets": opsets, "operators": ops, "inputs": values(m.Graph.Inputs), "outputs": values(m.Graph.Outputs),
	})
	for _, w := range m.Graph.Initialisers {
		t := Tensor{Name: w.Name, DType: w.DType.String()}
		for _, d := range w.Shape {
			t.Shape = append(t.Shape, int(d))
		}
		if r.hash {
			if t.SHA256, err = r.weightSum(filepath.Dir(path), w); err != nil {
				return fmt.Errorf("%s: weight %s: %w", f.Name, w.Name, err)
			}
		}
		f.Tensors = append(f.Tensors, t)
	}
	return nil
}

// values describes inputs or outputs in a line each.
func values(list []onnx.ValueInfo) []string {
	out := make([]string, len(list))
	for i, v := range list {
		dims := make([]string, len(v.Shape))
		for j, d := range v.Shape {
			dims[j] = d.Name
			if d.Name == "" {
				dims[j] = fmt.Sprint(d.Size)
			}
		}
		out[i] = fmt.Sprintf("%s %s [%s]", v.Name, v.DType, strings.Join(dims, ", "))
	}
	return out
}

// sharded reads the shards that a .safetensors.index.json names.
func (r *reader) sharded(rep *Report) error {
	var index struct {
		WeightMap map[string]string `json:"weight_map"`
	}
	if err := readJSON(rep.Path, &index); err != nil {
		return err
	}
	shards := slices.Compact(slices.Sorted(maps.Values(index.WeightMap)))
	if len(shards) == 0 {
		return imagebind.Errorf(imagebind.Invalid, "%s names no shards (weight_map)", rep.Path)
	}
	rep.Kind = "sharded safetensors"
	return r.list(rep, filepath.Dir(rep.Path), shards)
}

// list reads files of a folder.
func (r *reader) list(rep *Report, dir string, names []string) error {
	for _, n := range names {
		if !filepath.IsLocal(filepath.FromSlash(n)) {
			return imagebind.Errorf(imagebind.Invalid, "%s: file name %q leaves the folder", rep.Path, n)
		}
		f, err := r.file(filepath.Join(dir, filepath.FromSlash(n)), n)
		if err != nil {
			return err
		}
		rep.Files = append(rep.Files, f)
	}
	return nil
}

// folder reads a folder of weight files: Meta's or Hugging Face's layout, or any.
func (r *reader) folder(rep *Report) error {
	entries, err := os.ReadDir(rep.Path)
	if err != nil {
		return err
	}
	if len(entries) > maxFiles {
		return imagebind.Errorf(imagebind.TooLarge, "%s has %d files; a folder of weights has fewer", rep.Path, len(entries))
	}
	var names []string
	for _, e := range entries {
		if info, err := os.Stat(filepath.Join(rep.Path, e.Name())); err == nil && info.Mode().IsRegular() {
			names = append(names, e.Name())
		}
	}
	if err := r.list(rep, rep.Path, names); err != nil {
		return err
	}
	if !slices.ContainsFunc(rep.Files, func(f File) bool { return len(f.Tensors) > 0 || f.Kind == kindTokenizer }) {
		return imagebind.Errorf(imagebind.Unsupported, "%s holds no bundle and no file of weights", rep.Path)
	}
	switch {
	case exists(filepath.Join(rep.Path, "params.json")):
		rep.Kind = "LLaMA in Meta's layout"
	case exists(filepath.Join(rep.Path, "config.json")):
		rep.Kind = "model in Hugging Face's layout"
	default:
		rep.Kind = "folder of weights"
	}
	return nil
}

// bundle reads a bundle: its manifest, and the graphs' weights.
func (r *reader) bundle(rep *Report) error {
	b, err := bundle.Open(rep.Path)
	if err != nil {
		return err
	}
	rep.Kind, rep.Bundle = "bundle", &b.Manifest
	if err := r.list(rep, b.Dir, slices.Sorted(maps.Keys(b.Files))); err != nil {
		return err
	}
	for i := range rep.Files {
		f := &rep.Files[i]
		if f.SHA256 != "" && f.SHA256 != b.Files[f.Name].SHA256 {
			return imagebind.Errorf(imagebind.Invalid, "%s has sha256 %s, the manifest says %s: copy or export the bundle again", b.Path(f.Name), f.SHA256, b.Files[f.Name].SHA256)
		}
		f.SHA256 = b.Files[f.Name].SHA256
	}
	return nil
}
