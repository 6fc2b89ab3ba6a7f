// Package torch reads the checkpoints that torch.save writes since PyTorch 1.6:
// a zip whose data.pkl describes the objects and whose data/N hold the storages
// of tensors, uncompressed.
//
// The pickle is run by a machine of our own (pickle.go) that knows a list of
// harmless constructors and refuses every other global by its name: opening a
// checkpoint executes nothing. Tensors are views of storages: with an offset,
// any strides, and shared. Values are read on demand.
package torch

import (
	"archive/zip"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strings"

	imagebind "imagebind-llm"
	"imagebind-llm/internal/format"
)

const (
	maxPickle    = 64 << 20 // bytes of data.pkl; the largest seen has 2 MB
	maxDirectory = 64 << 20 // bytes of the zip's directory: half a million storages
	maxPath      = 4096     // bytes of a tensor's name
	maxNames     = 64 << 20 // bytes of all names
)

// A File is an open checkpoint.
type File struct {
	f       *os.File
	tensors []format.Tensor
	byName  map[string]int
	values  map[string]any
	seen    int // objects that collect has met: a list may hold itself, or one list many times
	named   int // bytes of their names
}

// Open reads the objects of the checkpoint at path and checks every tensor
// against its storage and every storage against the file.
func Open(path string) (*File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	file, err := read(f)
	if err != nil {
		f.Close()
		return nil, imagebind.Errorf(imagebind.Invalid, "%s: %w", path, err)
	}
	file.f = f
	return file, nil
}

// Parse reads a checkpoint in memory, whose tensors are read from data on
// demand. There is nothing to close. Errors are Invalid.
func Parse(data []byte) (*File, error) {
	f, err := parse(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		return nil, imagebind.Errorf(imagebind.Invalid, "the PyTorch file cannot be read: %w", err)
	}
	return f, nil
}

func read(f *os.File) (*File, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	return parse(f, info.Size())
}

// parse reads a checkpoint of size bytes.
func parse(r io.ReaderAt, size int64) (*File, error) {
	limited := &limitedReader{r, maxDirectory, false}
	z, err := zip.NewReader(limited, size)
	limited.off = true
	if err != nil {
		var magic [2]byte
		if _, e := r.ReadAt(magic[:], 0); e == nil && magic[0] == 0x80 {
			return nil, errors.New("it is in the format of PyTorch before 1.6, which is not read here: load it in PyTorch and torch.save it again")
		}
		return nil, fmt.Errorf("it is no PyTorch checkpoint (%w)", err)
	}
	a := archive{r: r, entries: map[string]*zip.File{}}
	var pickled *zip.File
	for _, e := range z.File {
		dir, name, ok := strings.Cut(e.Name, "/")
		if !ok {
			continue
		}
		if name == "data.pkl" {
			if pickled != nil {
				return nil, errors.New("it has two data.pkl")
			}
			pickled, a.root = e, dir+"/"
		}
		if a.entries[e.Name] != nil {
			return nil, fmt.Errorf("it has two %q", e.Name)
		}
		a.entries[e.Name] = e
	}
	if pickled == nil {
		return nil, errors.New("it is a zip without a data.pkl, so no PyTorch checkpoint (TorchScript and archives of other programs are not read)")
	}
	if e := a.entries[a.root+"byteorder"]; e != nil {
		b, err := a.bytes(e, 16)
		if err != nil {
			return nil, err
		}
		if order := strings.TrimSpace(string(b)); order != "little" {
			return nil, fmt.Errorf("its byte order is %q; only little is read", order)
		}
	}
	// torch.save compresses nothing: a pickle larger than its file is a bomb.
	raw, err := a.bytes(pickled, uint64(min(maxPickle, size)))
	if err != nil {
		return nil, err
	}
	root, err := unpickle(raw)
	if err != nil {
		return nil, fmt.Errorf("data.pkl: %w", err)
	}
	file := &File{byName: map[string]int{}, values: map[string]any{}}
	if err := file.collect("", root, &a, 0); err != nil {
		return nil, err
	}
	return file, nil
}

// A limitedReader fails after some bytes, until it is off: a directory takes
// memory in proportion.
type limitedReader struct {
	io.ReaderAt
	left int
	off  bool
}

func (l *limitedReader) ReadAt(b []byte, at int64) (int, error) {
	if l.off {
		return l.ReaderAt.ReadAt(b, at)
	}
	if l.left -= len(b); l.left < 0 {
		return 0, errors.New("its directory is too large")
	}
	return l.ReaderAt.ReadAt(b, at)
}

// An archive is the zip.
type archive struct {
	r       io.ReaderAt
	root    string // "archive/", say
	entries map[string]*zip.File
}

// bytes reads a small entry whole.
func (a *archive) bytes(e *zip.File, limit uint64) ([]byte, error) {
	if e.UncompressedSize64 > limit {
		return nil, fmt.Errorf("%s has %d bytes, more than the %d that are read", e.Name, e.UncompressedSize64, limit)
	}
	r, err := e.Open()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", e.Name, err)
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, int64(limit)))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", e.Name, err)
	}
	return b, nil
}

// storage returns where a storage's bytes are in the file.
func (a *archive) storage(key string) (offset, size int64, err error) {
	e := a.entries[a.root+"data/"+key]
	switch {
	case e == nil:
		return 0, 0, fmt.Errorf("the storage data/%s is missing", key)
	case e.Method != zip.Store || e.Flags&1 != 0:
		return 0, 0, fmt.Errorf("the storage data/%s is compressed or encrypted; torch.save does not do so: save it again", key)
	case e.UncompressedSize64 != e.CompressedSize64 || e.UncompressedSize64 > math.MaxInt64/2:
		return 0, 0, fmt.Errorf("the storage data/%s has two sizes", key)
	}
	offset, err = e.DataOffset()
	if err != nil {
		return 0, 0, fmt.Errorf("the storage data/%s: %w", key, err)
	}
	size = int64(e.UncompressedSize64)
	// The directory may lie of a file's end.
	if size > 0 {
		var b [1]byte
		if _, err := a.r.ReadAt(b[:], offset+size-1); err != nil {
			return 0, 0, fmt.Errorf("the storage data/%s is cut: %w", key, err)
		}
	}
	return offset, size, nil
}

// collect names the leaves below v by their path.
func (f *File) collect(path string, v any, a *archive, depth int) error {
	f.seen++
	f.named += len(path)
	if depth > maxDepth || f.seen > maxObjects || len(path) > maxPath || f.named > maxNames {
		return errors.New("its objects are nested too deep, or too many")
	}
	join := func(key string) string {
		if path == "" {
			return key
		}
		return path + "." + key
	}
	switch v := v.(type) {
	case *dict:
		for i, k := range v.keys {
			var key string
			switch k := k.(type) {
			case string:
				key = k
			case int64:
				key = fmt.Sprint(k)
			default:
				continue // optimiser states and the like; no tensor is looked up there
			}
			if err := f.collect(join(key), v.values[i], a, depth+1); err != nil {
				return err
			}
		}
	case *list:
		for i, x := range v.items {
			if err := f.collect(join(fmt.Sprint(i)), x, a, depth+1); err != nil {
				return err
			}
		}
	case tuple:
		for i, x := range v {
			if err := f.collect(join(fmt.Sprint(i)), x, a, depth+1); err != nil {
				return err
			}
		}
	case *tensor:
		t, err := v.open(path, a)
		if err != nil {
			return fmt.Errorf("tensor %s: %w", path, err)
		}
		if _, twice := f.byName[path]; twice {
			return fmt.Errorf("two tensors are named %s", path)
		}
		f.byName[path] = len(f.tensors)
		f.tensors = append(f.tensors, t)
	case nil, bool, int64, float64, string:
		f.values[path] = v
	}
	return nil
}

// Tensors returns the tensors in the order of the file.
func (f *File) Tensors() []format.Tensor { return f.tensors }

// Tensor returns the tensor of that name: its keys, joined by dots.
func (f *File) Tensor(name string) (format.Tensor, bool) {
	i, ok := f.byName[name]
	if !ok {
		return format.Tensor{}, false
	}
	return f.tensors[i], true
}

// Values returns what is no tensor: numbers, strings, bools and nils by their
// keys, joined by dots.
func (f *File) Values() map[string]any { return f.values }

// Close closes the file.
func (f *File) Close() error { return f.f.Close() }
