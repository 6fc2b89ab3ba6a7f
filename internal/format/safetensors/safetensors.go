// Package safetensors reads .safetensors files: an 8-byte little-endian header
// length, a JSON header of names, types, shapes and offsets, then the data.
// https://github.com/huggingface/safetensors
package safetensors

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"sort"

	"github.com/x448/float16"

	"imagebind-llm/internal/format"
)

const maxHeader = 100 << 20 // as the reference implementation

// A File is an open .safetensors file.
type File struct {
	Metadata map[string]string
	f        *os.File
	tensors  []format.Tensor
	offsets  map[string]int64
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
	file := &File{f: f, offsets: map[string]int64{}}
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
		t := format.Tensor{Name: name, DType: format.Parse(e.DType), Shape: e.Shape}
		if err := check(e, t.DType, size); err != nil {
			return nil, fmt.Errorf("tensor %s: %w", name, err)
		}
		off := base + e.Offsets[0]
		file.offsets[name] = off
		t.Read = func(dst []float32, from int) error {
			if from < 0 || from > t.Len() || len(dst) > t.Len()-from {
				return fmt.Errorf("elements %d to %d of %d", from, from+len(dst), t.Len())
			}
			return readFloats(f, off, t.DType, dst, from)
		}
		file.tensors = append(file.tensors, t)
	}
	sort.Slice(file.tensors, func(i, j int) bool {
		a, b := file.tensors[i], file.tensors[j]
		if oa, ob := file.offsets[a.Name], file.offsets[b.Name]; oa != ob {
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

func readFloats(r io.ReaderAt, off int64, d format.DType, dst []float32, from int) error {
	size := d.BlockBytes()
	buf := make([]byte, min(len(dst), 1<<16)*size)
	for len(dst) > 0 {
		n := min(len(dst), 1<<16)
		b := buf[:n*size]
		if _, err := r.ReadAt(b, off+int64(from)*int64(size)); err != nil {
			return err
		}
		for i := range n {
			dst[i] = element(b[i*size:], d)
		}
		dst, from = dst[n:], from+n
	}
	return nil
}

func element(b []byte, d format.DType) float32 {
	switch d {
	case format.F64:
		return float32(math.Float64frombits(binary.LittleEndian.Uint64(b)))
	case format.F32:
		return math.Float32frombits(binary.LittleEndian.Uint32(b))
	case format.F16:
		return float16.Frombits(binary.LittleEndian.Uint16(b)).Float32()
	case format.BF16:
		return math.Float32frombits(uint32(binary.LittleEndian.Uint16(b)) << 16)
	case format.I64:
		return float32(int64(binary.LittleEndian.Uint64(b)))
	case format.I32:
		return float32(int32(binary.LittleEndian.Uint32(b)))
	case format.I16:
		return float32(int16(binary.LittleEndian.Uint16(b)))
	case format.I8:
		return float32(int8(b[0]))
	}
	return float32(b[0])
}

// Tensors returns the file's tensors by their place in it.
func (f *File) Tensors() []format.Tensor { return f.tensors }

// Tensor returns the tensor of that name.
func (f *File) Tensor(name string) (format.Tensor, bool) {
	for _, t := range f.tensors {
		if t.Name == name {
			return t, true
		}
	}
	return format.Tensor{}, false
}

// Close closes the file.
func (f *File) Close() error { return f.f.Close() }
