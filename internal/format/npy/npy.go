// Package npy reads numpy's .npy files: a magic string, a header that is a
// Python dict literal, and one array, row-major or column-major.
// https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
package npy

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	imagebind "imagebind-llm"
	"imagebind-llm/internal/format"
	"imagebind-llm/internal/format/view"
)

const maxHeader = 1 << 20 // bytes; numpy writes 118

// A File is an open .npy file.
type File struct {
	f      *os.File
	tensor format.Tensor
}

// Open reads the header of the file at path and checks it against the file's
// size. Values are read on demand.
func Open(path string) (*File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil {
		var t format.Tensor
		if t, err = parse(f, info.Size()); err == nil {
			return &File{f, t}, nil
		}
		err = imagebind.Errorf(imagebind.Invalid, "%s: %w", path, err)
	}
	return nil, errors.Join(err, f.Close())
}

// Parse returns the array of a file in memory, whose values are read from data
// on demand. Errors are Invalid.
func Parse(data []byte) (format.Tensor, error) {
	t, err := parse(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		return t, imagebind.Errorf(imagebind.Invalid, "the .npy file cannot be read: %w", err)
	}
	return t, nil
}

// dtypes are numpy's names, without the byte order.
var dtypes = map[string]format.DType{
	"f8": format.F64, "f4": format.F32, "f2": format.F16, "i8": format.I64, "i4": format.I32,
	"i2": format.I16, "i1": format.I8, "u2": format.U16, "u1": format.U8, "b1": format.Bool,
}

var (
	descr   = regexp.MustCompile(`['"]descr['"]\s*:\s*['"]([^'"]*)['"]`)
	fortran = regexp.MustCompile(`['"]fortran_order['"]\s*:\s*(True|False)`)
	shape   = regexp.MustCompile(`['"]shape['"]\s*:\s*\(([0-9,\sL]*)\)`)
)

// parse reads a file of size bytes.
func parse(r io.ReaderAt, size int64) (t format.Tensor, err error) {
	var head [12]byte
	if n, err := r.ReadAt(head[:], 0); n < 10 || string(head[:6]) != "\x93NUMPY" {
		return t, errors.Join(errors.New("it is no .npy file"), err)
	}
	start, length := int64(10), int64(binary.LittleEndian.Uint16(head[8:]))
	if major := head[6]; major >= 2 && major <= 3 {
		start, length = 12, int64(binary.LittleEndian.Uint32(head[8:]))
	} else if major != 1 {
		return t, fmt.Errorf("its format version %d.%d is not read; 1 to 3 are", major, head[7])
	}
	if length > maxHeader || start+length > size {
		return t, fmt.Errorf("its header of %d bytes does not fit the file of %d", length, size)
	}
	header := make([]byte, length)
	if _, err := r.ReadAt(header, start); err != nil {
		return t, err
	}
	d, order, dims := descr.FindSubmatch(header), fortran.FindSubmatch(header), shape.FindSubmatch(header)
	if d == nil || order == nil || dims == nil {
		return t, fmt.Errorf("its header is not understood: %.100q (structured arrays are not read)", header)
	}
	name := string(d[1])
	typ, known := dtypes[strings.TrimLeft(name, "<|=")]
	if !known || name[0] == '>' {
		return t, fmt.Errorf("its type %q is not read; little-endian f8, f4, f2, i8, i4, i2, i1, u2, u1 and bool are", name)
	}
	v := view.View{File: r, Start: start + length, DType: typ}
	n := int64(1)
	for _, s := range strings.FieldsFunc(string(dims[1]), func(c rune) bool { return c < '0' || c > '9' }) {
		x, err := strconv.ParseInt(s, 10, 64)
		if err != nil || x > 0 && n > math.MaxInt64/64/x {
			return t, fmt.Errorf("its shape (%s) is too large", dims[1])
		}
		n *= x
		v.Shape = append(v.Shape, int(x))
	}
	if len(v.Shape) > view.MaxAxes {
		return t, fmt.Errorf("it has %d axes", len(v.Shape))
	}
	if n > (size-v.Start)/int64(typ.BlockBytes()) {
		return t, fmt.Errorf("it has %d bytes of values, its shape (%s) of %s wants %d: the file is cut", size-v.Start, dims[1], typ, n*int64(typ.BlockBytes()))
	}
	v.Stride = view.Contiguous(v.Shape)
	if string(order[1]) == "True" {
		turned := slices.Clone(v.Shape)
		slices.Reverse(turned)
		v.Stride = view.Contiguous(turned)
		slices.Reverse(v.Stride)
	}
	if err := v.Check(int((size - v.Start) / int64(typ.BlockBytes()))); err != nil {
		return t, err
	}
	return v.Tensor(""), nil
}

// Tensors returns the one array, whose name is "".
func (f *File) Tensors() []format.Tensor { return []format.Tensor{f.tensor} }

// Tensor returns the array for the name "".
func (f *File) Tensor(name string) (format.Tensor, bool) { return f.tensor, name == "" }

// Close closes the file.
func (f *File) Close() error { return f.f.Close() }
