// Package safetensors reads .safetensors files: an 8-byte little-endian header
// length, a JSON header of names, types, shapes and offsets, then the data.
// https://github.com/huggingface/safetensors
package safetensors

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"sort"

	imagebind "imagebind-llm"
	"imagebind-llm/internal/format"
	"imagebind-llm/internal/format/view"
)

const maxHeader = 100 << 20 // as the reference implementation

// A File is an open .safetensors file.
type File struct {
	Metadata map[string]string
	f        *os.File
	tensors  []format.Tensor
	byName   map[string]format.Tensor
}

type entry struct {
	DType   string   `json:"dtype"`
	Shape   []int    `json:"shape"`
	Offsets [2]int64 `json:"data_offsets"`
}

// Open reads the header of the file at path and checks every tensor against
// the file's size. Values are read on demand.
func Open(path string) (*File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	file, err := read(f)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return file, nil
}

func read(f *os.File) (*File, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	var head [8]byte
	if _, err := f.ReadAt(head[:], 0); err != nil {
		return nil, fmt.Errorf("not a safetensors file: %w", err)
	}
	n := binary.LittleEndian.Uint64(head[:])
	if n > maxHeader || int64(n) > info.Size()-8 {
		return nil, fmt.Errorf("not a safetensors file: header of %d bytes", n)
	}
	raw := make([]byte, n)
	if _, err := f.ReadAt(raw, 8); err != nil {
		return nil, err
	}
	var header map[string]json.RawMessage
	if err := json.Unmarshal(raw, &header); err != nil {
		return nil, fmt.Errorf("safetensors header: %w", err)
	}
	file := &File{f: f, byName: map[string]format.Tensor{}}
	offsets := map[string]int64{}
	base, size := int64(8+n), info.Size()-int64(8+n)
	for name, v := range header {
		if name == "__metadata__" {
			if err := json.Unmarshal(v, &file.Metadata); err != nil {
				return nil, fmt.Errorf("safetensors metadata: %w", err)
			}
			continue
		}
		var e entry
		if err := json.Unmarshal(v, &e); err != nil {
			return nil, fmt.Errorf("tensor %s: %w", name, err)
		}
		d := format.Parse(e.DType)
		if err := check(e, d, size); err != nil {
			return nil, fmt.Errorf("tensor %s: %w", name, err)
		}
		v := view.View{File: f, Start: base + e.Offsets[0], DType: d, Shape: e.Shape, Stride: view.Contiguous(e.Shape)}
		if err := v.Check(imagebind.Size(e.Shape)); err != nil {
			return nil, fmt.Errorf("tensor %s: %w", name, err)
		}
		offsets[name], file.byName[name] = v.Start, v.Tensor(name)
		file.tensors = append(file.tensors, file.byName[name])
	}
	sort.Slice(file.tensors, func(i, j int) bool {
		a, b := file.tensors[i], file.tensors[j]
		if oa, ob := offsets[a.Name], offsets[b.Name]; oa != ob {
			return oa < ob
		}
		return a.Name < b.Name
	})
	return file, nil
}

func check(e entry, d format.DType, size int64) error {
	if d == format.Unknown || d.Block() != 1 {
		return fmt.Errorf("dtype %q is not read here", e.DType)
	}
	n := int64(d.BlockBytes())
	for _, s := range e.Shape {
		if s < 0 || (s > 0 && n > math.MaxInt64/int64(s)) {
			return fmt.Errorf("shape %v", e.Shape)
		}
		n *= int64(s)
	}
	if e.Offsets[0] < 0 || e.Offsets[1] > size || e.Offsets[1]-e.Offsets[0] != n {
		return fmt.Errorf("%d bytes at %v of %d for shape %v", n, e.Offsets, size, e.Shape)
	}
	return nil
}

// Tensors returns the file's tensors by their place in it.
func (f *File) Tensors() []format.Tensor { return f.tensors }

// Tensor returns the tensor of that name.
func (f *File) Tensor(name string) (format.Tensor, bool) {
	t, ok := f.byName[name]
	return t, ok
}

// Close closes the file.
func (f *File) Close() error { return f.f.Close() }
