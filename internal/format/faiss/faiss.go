// Package faiss reads the vectors out of faiss index files that hold them
// whole: flat indexes, HNSW over a flat one, and either under a map of ids. The
// search structure itself is skipped; compressed indexes are refused. The
// released ImageBind-LLM's knn.index is such a file.
// https://github.com/facebookresearch/faiss, impl/index_write.cpp
package faiss

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"

	imagebind "imagebind-llm"
	"imagebind-llm/internal/format"
	"imagebind-llm/internal/format/view"
)

// MaxDim bounds a vector.
const MaxDim = 1 << 20

// A File is an open index.
type File struct {
	Kind   string // IndexFlatIP, IndexFlatL2, IndexHNSWFlat; of what is under a map of ids
	Metric string // ip or l2
	// Mapped says that the index numbers its vectors by a map of ids (IndexIDMap);
	// the rows here keep the order of the vectors.
	// ReadIDs gives the map.
	Mapped bool

	f      *os.File
	tensor format.Tensor
	in     io.ReaderAt
	ids    int64 // where the map begins
}

// Open reads the structure of the index at path and checks it against the
// file's size. Vectors are read on demand, as the tensor "vectors" [N, E].
func Open(path string) (*File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil {
		file := &File{f: f}
		if err = file.parse(f, info.Size()); err == nil {
			return file, nil
		}
		err = imagebind.Errorf(imagebind.Invalid, "%s: %w", path, err)
	}
	return nil, errors.Join(err, f.Close())
}

// A reader walks through the file and remembers the first failure.
type reader struct {
	r    io.ReaderAt
	at   int64
	size int64
	err  error
}

func (r *reader) bytes(n int) []byte {
	b := make([]byte, n)
	if r.err == nil && int64(n) > r.size-r.at {
		r.err = errors.New("it is cut")
	}
	if r.err == nil {
		_, r.err = r.r.ReadAt(b, r.at)
	}
	if errors.Is(r.err, io.EOF) {
		r.err = nil // the last bytes of the file
	}
	r.at += int64(n)
	return b
}

func (r *reader) i32() int32   { return int32(binary.LittleEndian.Uint32(r.bytes(4))) }
func (r *reader) i64() int64   { return int64(binary.LittleEndian.Uint64(r.bytes(8))) }
func (r *reader) four() string { return string(r.bytes(4)) }

// vector skips a std::vector of elements of some size.
func (r *reader) vector(element int64) (start, count int64) {
	n := r.i64()
	if r.err == nil && (n < 0 || n > (r.size-r.at)/element) {
		r.err = fmt.Errorf("it is cut: a list of %d elements in the %d bytes that are left", n, r.size-r.at)
	}
	start = r.at
	if r.err == nil {
		r.at += n * element
	}
	return start, n
}

// A header begins every index (write_index_header).
type header struct {
	dim    int64
	total  int64
	metric int32
}

func (r *reader) header() header {
	h := header{dim: int64(r.i32()), total: r.i64()}
	r.bytes(8 + 8 + 1) // two unused numbers; whether it is trained
	h.metric = r.i32()
	if h.metric > 1 {
		r.bytes(4) // the metric's argument
	}
	if r.err == nil && (h.dim < 1 || h.dim > MaxDim || h.total < 0 || h.total > math.MaxInt64/(4*h.dim)) {
		r.err = fmt.Errorf("it claims %d vectors of %d values", h.total, h.dim)
	}
	return h
}

// within returns an error unless an index holds what the one around it says.
func (h header) within(outer header, of string) error {
	if h.dim != outer.dim || h.total != outer.total {
		return fmt.Errorf("the %s is over %d vectors of %d values, and %d of %d are there", of, outer.total, outer.dim, h.total, h.dim)
	}
	return nil
}

// parse reads an index of size bytes.
func (f *File) parse(in io.ReaderAt, size int64) error {
	r := &reader{r: in, size: size}
	f.in = in
	kind := r.four()
	if r.err != nil {
		return errors.New("it is no faiss index")
	}
	if kind != "IxMp" && kind != "IxM2" {
		_, err := f.index(r, kind)
		return err
	}
	f.Mapped = true
	outer := r.header()
	h, err := f.index(r, r.four())
	if err != nil {
		return err
	}
	var ids int64
	if f.ids, ids = r.vector(8); r.err == nil && ids != outer.total {
		return fmt.Errorf("the map of ids has %d of them for %d vectors", ids, outer.total)
	}
	return errors.Join(r.err, h.within(outer, "map of ids"))
}

// index reads a flat or HNSW index behind its type.
func (f *File) index(r *reader, kind string) (header, error) {
	if r.err != nil {
		return header{}, r.err
	}
	switch kind {
	case "IxFI", "IxF2", "IxFl":
		return f.flat(r, kind)
	case "IHNf":
	default:
		return header{}, fmt.Errorf("an index of type %q does not hold its vectors whole, or is none: flat ones (IndexFlatIP, IndexFlatL2) and IndexHNSWFlat are read; write the vectors out with reconstruct_n as .npy", kind)
	}
	outer := r.header()
	r.hnsw()
	if kind = r.four(); r.err == nil && kind != "IxFI" && kind != "IxF2" && kind != "IxFl" {
		return header{}, fmt.Errorf("the HNSW keeps its vectors in an index of type %q; only flat ones are read", kind)
	}
	f.Kind = "IndexHNSWFlat"
	h, err := f.flat(r, kind)
	if err == nil {
		err = h.within(outer, "HNSW")
	}
	return h, err
}

// hnsw skips the graph (write_HNSW).
func (r *reader) hnsw() {
	r.vector(8)                // assign_probas
	r.vector(4)                // cum_nneighbor_per_level
	r.vector(4)                // levels
	r.vector(8)                // offsets
	r.vector(4)                // neighbors
	r.bytes(4 + 4 + 4 + 4 + 4) // entry_point, max_level, efConstruction, efSearch, and one unused
}

// flat reads a flat index behind its type.
func (f *File) flat(r *reader, kind string) (header, error) {
	h := r.header()
	start, words := r.vector(4)
	if r.err != nil {
		return h, r.err
	}
	if words != h.total*h.dim {
		return h, fmt.Errorf("it says %d vectors of %d values and holds %d values", h.total, h.dim, words)
	}
	switch {
	case kind == "IxFI" || kind == "IxFl" && h.metric == 0:
		f.Metric = "ip"
	case kind == "IxF2" || h.metric == 1:
		f.Metric = "l2"
	default:
		return h, fmt.Errorf("its metric is number %d; inner product and L2 are read", h.metric)
	}
	if f.Kind == "" {
		f.Kind = map[string]string{"ip": "IndexFlatIP", "l2": "IndexFlatL2"}[f.Metric]
	}
	shape := []int{int(h.total), int(h.dim)}
	v := view.View{File: r.r, Start: start, DType: format.F32, Shape: shape, Stride: view.Contiguous(shape)}
	if err := v.Check(int(words)); err != nil {
		return h, err
	}
	f.tensor = v.Tensor("vectors")
	return h, nil
}

// ReadIDs fills dst with the ids of the vectors from, from+1, …: their numbers,
// where the index has no map of ids.
func (f *File) ReadIDs(dst []int64, from int) error {
	if n := f.tensor.Shape[0]; from < 0 || from > n || len(dst) > n-from {
		return fmt.Errorf("ids %d to %d of %d", from, from+len(dst), n)
	}
	if !f.Mapped {
		for i := range dst {
			dst[i] = int64(from + i)
		}
		return nil
	}
	return binary.Read(io.NewSectionReader(f.in, f.ids+8*int64(from), 8*int64(len(dst))), binary.LittleEndian, dst)
}

// Tensors returns the one tensor, "vectors" [N, E].
func (f *File) Tensors() []format.Tensor { return []format.Tensor{f.tensor} }

// Tensor returns "vectors".
func (f *File) Tensor(name string) (format.Tensor, bool) { return f.tensor, name == f.tensor.Name }

// Close closes the file.
func (f *File) Close() error { return f.f.Close() }
