// Package faiss reads the vectors out of faiss index files: flat indexes, scalar
// (SQ) and product (PQ, fast-scan too) quantizers, behind inverted lists (IVF),
// HNSW, maps of ids, rotations (OPQ) and refinement too. The search structure
// itself is skipped. Codes are turned into vectors when they are read, to the values that
// faiss' reconstruct gives; [File.Lossy] says what they lost. The released
// ImageBind-LLM's knn.index is a flat one.
//
// An index nests others: [reader.index] reads one and gives a function that
// reads its rows, and what is around it wraps that function. Codes, lists and
// ids stay in the file; in memory are codebooks, rotations and, for lists, where
// each row lies.
// https://github.com/facebookresearch/faiss, impl/index_write.cpp
package faiss

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"sync"

	imagebind "imagebind-llm"
	"imagebind-llm/internal/format"
)

// MaxDim bounds a vector.
const MaxDim = 1 << 20

// A File is an open index.
type File struct {
	Kind   string // as faiss' index_factory spells it: Flat, HNSW,Flat, IVF64,PQ16x8
	Metric string // ip or l2
	// Mapped says that the vectors have ids of their own (IndexIDMap, or lists to
	// which they were added under ids): ReadIDs gives them. The rows here keep the
	// order of the vectors in the file then; else they are in the order of their
	// numbers.
	Mapped bool
	// Lossy says, in a sentence, how the rows differ from the vectors that were
	// added; empty where they do not.
	Lossy string

	f      *os.File
	x      index
	tensor format.Tensor
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

// parse reads an index of size bytes.
func (f *File) parse(in io.ReaderAt, size int64) error {
	r := &reader{r: in, size: size, memory: maxMemory}
	kind := r.four()
	if r.err != nil {
		return errors.New("it is no faiss index")
	}
	x, err := r.index(kind, 0)
	if err != nil {
		return err
	}
	if x.metric != 0 && x.metric != 1 {
		return fmt.Errorf("its metric is number %d; inner product and L2 are read", x.metric)
	}
	f.x, f.Kind, f.Metric, f.Mapped = x, x.kind, [...]string{"ip", "l2"}[x.metric], x.ids != nil
	if len(x.loss) > 0 {
		f.Lossy = fmt.Sprintf("%s: values are rebuilt from %s; the neighbours found may differ from the originals'", x.kind, strings.Join(x.loss, " and "))
	}
	f.tensor = format.Tensor{Name: "vectors", DType: format.F32, Shape: []int{int(x.total), int(x.dim)}, Read: x.elements}
	return nil
}

// ReadIDs fills dst with the ids of the rows from, from+1, …: their numbers,
// where the index has no ids of its own.
func (f *File) ReadIDs(dst []int64, from int) error {
	if n := f.tensor.Shape[0]; from < 0 || from > n || len(dst) > n-from {
		return fmt.Errorf("ids %d to %d of %d", from, from+len(dst), n)
	}
	if f.Mapped {
		return f.x.ids(dst, from)
	}
	for i := range dst {
		dst[i] = int64(from + i)
	}
	return nil
}

// Tensors returns the one tensor, "vectors" [N, E].
func (f *File) Tensors() []format.Tensor { return []format.Tensor{f.tensor} }

// Tensor returns "vectors".
func (f *File) Tensor(name string) (format.Tensor, bool) { return f.tensor, name == f.tensor.Name }

// Close closes the file.
func (f *File) Close() error { return f.f.Close() }

// An index is one level of the file.
type index struct {
	header
	kind string
	loss []string // what its rows are rebuilt from, where that is less than the vectors
	// read fills dst with whole rows, from the one numbered row on. Both are
	// within the index; concurrent calls are allowed.
	read func(dst []float32, row int) error
	ids  func(dst []int64, row int) error // likewise; nil: a row's id is its number
}

// elements reads values from the one numbered from on, which need not begin or
// end with a row.
func (x index) elements(dst []float32, from int) error {
	dim, n := int(x.dim), int(x.dim*x.total)
	if from < 0 || from > n || len(dst) > n-from {
		return fmt.Errorf("elements %d to %d of %d", from, from+len(dst), n)
	}
	for len(dst) > 0 {
		var part []float32
		if skip := from % dim; skip != 0 || len(dst) < dim {
			row := make([]float32, dim)
			if err := x.read(row, from/dim); err != nil {
				return err
			}
			part = dst[:copy(dst, row[skip:])]
		} else {
			part = dst[:len(dst)/dim*dim]
			if err := x.rows(part, from/dim); err != nil {
				return err
			}
		}
		dst, from = dst[len(part):], from+len(part)
	}
	return nil
}

// rows reads whole rows, by as many goroutines as there are processors: to turn
// a rotated vector back takes a million multiplications, and rows of lists lie
// all over the file.
func (x index) rows(dst []float32, row int) error {
	dim := int(x.dim)
	workers := runtime.GOMAXPROCS(0)
	each := (len(dst)/dim + workers - 1) / workers
	if each < 16 {
		return x.read(dst, row)
	}
	errs := make([]error, workers)
	var wg sync.WaitGroup
	for w := range workers {
		part := dst[min(w*each*dim, len(dst)):min((w+1)*each*dim, len(dst))]
		if len(part) > 0 {
			wg.Go(func() { errs[w] = x.read(part, row+w*each) })
		}
	}
	wg.Wait()
	return errors.Join(errs...)
}

// maxDepth is how many indexes may lie in each other: a map of ids over a
// refinement of a rotation of lists, whose centroids an HNSW has, are five.
const maxDepth = 8

// index reads the index behind its type.
func (r *reader) index(kind string, depth int) (index, error) {
	if r.err != nil {
		return index{}, r.err
	}
	if depth > maxDepth {
		return index{}, fmt.Errorf("over %d indexes in each other", maxDepth)
	}
	switch kind {
	case "IxFI", "IxF2", "IxFl":
		return r.flat(kind)
	case "IxSQ":
		return r.scalars()
	case "IxPq":
		return r.products()
	case "IPfs":
		return r.fastScan()
	case "IwFl", "IwSq", "IwSQ", "IwPQ", "IwPf":
		return r.lists(kind, depth)
	case "IHNf", "IHNs", "IHNp", "IH00":
		return r.hnsw(depth)
	case "IxMp", "IxM2":
		return r.mapped(depth)
	case "IxPT":
		return r.transformed(depth)
	case "IxRF":
		return r.refined(depth)
	}
	return index{}, fmt.Errorf("an index of type %q is not read, or it is none: flat, SQ and PQ ones are, also in IVF and HNSW, with OPQ, Refine or ids; write the vectors out with reconstruct_n as .npy", kind)
}

// within returns an error unless x holds what the index around it says.
func (x index) within(outer header, of string) error {
	if x.dim != outer.dim || x.total != outer.total {
		return fmt.Errorf("the %s is over %d vectors of %d values, and %d of %d are there", of, outer.total, outer.dim, x.total, x.dim)
	}
	return nil
}

// hnsw skips the graph (write_HNSW).
func (r *reader) hnsw(depth int) (index, error) {
	outer := r.header()
	r.vector(8)                // assign_probas
	r.vector(4)                // cum_nneighbor_per_level
	r.vector(4)                // levels
	r.vector(8)                // offsets
	r.vector(4)                // neighbors
	r.bytes(4 + 4 + 4 + 4 + 4) // entry_point, max_level, efConstruction, efSearch, and one unused
	x, err := r.index(r.four(), depth+1)
	if err != nil {
		return x, err
	}
	x.kind, x.metric = "HNSW,"+x.kind, outer.metric
	return x, x.within(outer, "HNSW")
}

// mapped reads a map of ids.
func (r *reader) mapped(depth int) (index, error) {
	outer := r.header()
	x, err := r.index(r.four(), depth+1)
	if err != nil {
		return x, err
	}
	start, n := r.vector(8)
	switch {
	case r.err != nil:
		return x, r.err
	case x.ids != nil:
		return x, errors.New("a map of ids over an index with ids of its own")
	case n != outer.total:
		return x, fmt.Errorf("the map of ids has %d of them for %d vectors", n, outer.total)
	}
	in := r.r
	x.ids = func(dst []int64, row int) error { return readIDs(in, dst, start+8*int64(row)) }
	return x, x.within(outer, "map of ids")
}

func readIDs(in io.ReaderAt, dst []int64, at int64) error {
	return binary.Read(io.NewSectionReader(in, at, 8*int64(len(dst))), binary.LittleEndian, dst)
}

// refined reads an index that finds with one index, which is skipped, and ranks
// by the vectors of another.
func (r *reader) refined(depth int) (index, error) {
	outer := r.header()
	base, err := r.index(r.four(), depth+1)
	if err != nil {
		return base, err
	}
	x, err := r.index(r.four(), depth+1)
	if err != nil {
		return x, err
	}
	r.bytes(4) // k_factor
	if r.err != nil {
		return x, r.err
	}
	if base.ids != nil || x.ids != nil {
		return x, errors.New("a refinement of an index with ids of its own")
	}
	x.kind, x.metric = base.kind+",Refine("+x.kind+")", outer.metric
	return x, errors.Join(x.within(outer, "refinement"), base.within(outer, "refinement"))
}
