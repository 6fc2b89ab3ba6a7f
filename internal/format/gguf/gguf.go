// Package gguf reads GGUF files, the format of llama.cpp: metadata, tensor
// descriptions, then the tensors' data, quantised in blocks. Values are read on
// demand and dequantised as ggml does (quants.go).
// https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
package gguf

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"

	imagebind "imagebind-llm"
	"imagebind-llm/internal/format"
)

// Bounds of what a file may say of itself. A vocabulary of 256k tokens with
// merges takes 0.6M values.
const (
	maxValues  = 16 << 20 // of metadata, arrays' included
	maxString  = 16 << 20 // bytes
	maxDepth   = 4        // of arrays in arrays
	maxTensors = 1 << 20
	maxAxes    = 4
	maxAlign   = 1 << 20
)

// A File is an open .gguf.
type File struct {
	f       *os.File
	meta    map[string]any
	tensors []format.Tensor
	byName  map[string]int
}

// Open reads metadata and descriptions of the file at path and checks every
// tensor against the file's size. Tensors of a type that is not read here are
// listed, with format.Unknown; reading them is an error that names the type.
func Open(path string) (*File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil {
		var file *File
		if file, err = parse(f, info.Size()); err == nil {
			file.f = f
			return file, nil
		}
		err = imagebind.Errorf(imagebind.Invalid, "%s: %w", path, err)
	}
	return nil, errors.Join(err, f.Close())
}

// A reader reads numbers one after the other and remembers the first failure.
type reader struct {
	r      *bufio.Reader
	at     int64
	size   int64
	values int // left
	err    error
}

func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf(format, args...)
	}
}

func (r *reader) bytes(n int) []byte {
	if r.err != nil || int64(n) > r.size-r.at {
		r.fail("it ends within its header")
		return make([]byte, min(n, 8))
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r.r, b); err != nil {
		r.fail("it ends within its header: %w", err)
	}
	r.at += int64(n)
	return b
}

func (r *reader) u32() uint32 { return binary.LittleEndian.Uint32(r.bytes(4)) }
func (r *reader) u64() uint64 { return binary.LittleEndian.Uint64(r.bytes(8)) }

func (r *reader) text() string {
	n := r.u64()
	if n > maxString {
		r.fail("a text of %d bytes", n)
		return ""
	}
	return string(r.bytes(int(n)))
}

// Types of metadata.
const (
	typeU8 = iota
	typeI8
	typeU16
	typeI16
	typeU32
	typeI32
	typeF32
	typeBool
	typeText
	typeArray
	typeU64
	typeI64
	typeF64
)

// value reads a metadata value: a uint, an int, a float, a bool or a string of
// its own width, or a []any of them.
func (r *reader) value(typ uint32, depth int) any {
	if r.values--; r.values < 0 {
		r.fail("more than %d values of metadata", maxValues)
	}
	if r.err != nil {
		return nil
	}
	le := binary.LittleEndian
	switch typ {
	case typeU8:
		return r.bytes(1)[0]
	case typeI8:
		return int8(r.bytes(1)[0])
	case typeU16:
		return le.Uint16(r.bytes(2))
	case typeI16:
		return int16(le.Uint16(r.bytes(2)))
	case typeU32:
		return r.u32()
	case typeI32:
		return int32(r.u32())
	case typeF32:
		return math.Float32frombits(r.u32())
	case typeBool:
		return r.bytes(1)[0] != 0
	case typeText:
		return r.text()
	case typeU64:
		return r.u64()
	case typeI64:
		return int64(r.u64())
	case typeF64:
		return math.Float64frombits(r.u64())
	case typeArray:
		of, n := r.u32(), r.u64()
		if depth >= maxDepth || n > uint64(r.size-r.at) { // an element has a byte at least
			r.fail("an array of %d values", n)
			return nil
		}
		list := make([]any, 0, min(n, 1<<16))
		for i := uint64(0); i < n && r.err == nil; i++ {
			list = append(list, r.value(of, depth+1))
		}
		return list
	}
	r.fail("metadata of type %d is not known", typ)
	return nil
}

// parse reads a file of size bytes.
func parse(f io.ReaderAt, size int64) (*File, error) {
	r := &reader{r: bufio.NewReaderSize(io.NewSectionReader(f, 0, size), 1<<16), size: size, values: maxValues}
	if magic := r.bytes(4); r.err != nil || string(magic) != "GGUF" {
		return nil, errors.New("it is no GGUF file")
	}
	version := r.u32()
	if version&0xffff == 0 && version != 0 {
		return nil, errors.New("it is a big-endian GGUF; only little-endian ones are read")
	}
	if version < 2 || version > 3 {
		return nil, fmt.Errorf("its GGUF version is %d; 2 and 3 are read: convert it again with a newer llama.cpp", version)
	}
	tensors, pairs := r.u64(), r.u64()
	if tensors > maxTensors || pairs > maxValues {
		return nil, fmt.Errorf("it claims %d tensors and %d values of metadata", tensors, pairs)
	}
	file := &File{meta: map[string]any{}, byName: map[string]int{}}
	for i := uint64(0); i < pairs && r.err == nil; i++ {
		key := r.text()
		if _, twice := file.meta[key]; twice {
			r.fail("metadata %q comes twice", key)
		}
		v := r.value(r.u32(), 0)
		if r.err != nil {
			return nil, fmt.Errorf("metadata %q: %w", key, r.err)
		}
		file.meta[key] = v
	}
	align := int64(32)
	if a, ok := file.meta["general.alignment"].(uint32); ok {
		align = int64(a)
	}
	if align < 1 || align > maxAlign || align&(align-1) != 0 {
		return nil, fmt.Errorf("general.alignment is %d", align)
	}
	var offsets []uint64
	var types []uint32
	for i := uint64(0); i < tensors && r.err == nil; i++ {
		t, typ, offset := r.tensor()
		if _, twice := file.byName[t.Name]; twice {
			r.fail("two tensors are named %s", t.Name)
		}
		file.byName[t.Name] = len(file.tensors)
		file.tensors, types, offsets = append(file.tensors, t), append(types, typ), append(offsets, offset)
	}
	if r.err != nil {
		return nil, r.err
	}
	data := (r.at + align - 1) / align * align
	for i := range file.tensors {
		if err := place(&file.tensors[i], types[i], f, data, size, offsets[i], align); err != nil {
			return nil, fmt.Errorf("tensor %s: %w", file.tensors[i].Name, err)
		}
	}
	return file, nil
}

// tensor reads a description. Axes are stored innermost first.
func (r *reader) tensor() (t format.Tensor, typ uint32, offset uint64) {
	t.Name = r.text()
	n := r.u32()
	if n > maxAxes {
		r.fail("tensor %s has %d axes", t.Name, n)
		return t, 0, 0
	}
	t.Shape = make([]int, n)
	elements := int64(1)
	for i := range t.Shape {
		d := r.u64()
		if d > math.MaxInt32*16 || d > 0 && elements > math.MaxInt64/64/int64(d) {
			r.fail("tensor %s has an axis of %d", t.Name, d)
			return t, 0, 0
		}
		elements *= max(int64(d), 1)
		t.Shape[int(n)-1-i] = int(d)
	}
	return t, r.u32(), r.u64()
}

// types are ggml's numbers of those that are read here.
var types = map[uint32]format.DType{
	0: format.F32, 1: format.F16, 2: format.Q4_0, 3: format.Q4_1, 8: format.Q8_0, 12: format.Q4_K, 14: format.Q6_K,
	24: format.I8, 25: format.I16, 26: format.I32, 27: format.I64, 28: format.F64, 30: format.BF16,
}

// names are ggml's names of the others, for messages.
var names = map[uint32]string{
	6: "Q5_0", 7: "Q5_1", 9: "Q8_1", 10: "Q2_K", 11: "Q3_K", 13: "Q5_K", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS",
	19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 29: "IQ1_M", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4",
}

// place checks where a tensor lies and makes it readable.
func place(t *format.Tensor, typ uint32, f io.ReaderAt, data, size int64, offset uint64, align int64) error {
	d, known := types[typ]
	if !known {
		name := names[typ]
		if name == "" {
			name = fmt.Sprintf("number %d", typ)
		}
		tensor := t.Name
		t.Read = func([]float32, int) error {
			return imagebind.Errorf(imagebind.Unsupported, "tensor %s is of ggml's type %s, which is not read here: quantise the model to Q4_0, Q4_1, Q8_0, Q4_K, Q6_K, or take its F16", tensor, name)
		}
		return nil
	}
	t.DType = d
	n := t.Len()
	row := 1
	if len(t.Shape) > 0 {
		row = t.Shape[len(t.Shape)-1]
	}
	if row%d.Block() != 0 {
		return fmt.Errorf("rows of %d are no whole blocks of %s", row, d)
	}
	bytes := int64(n/d.Block()) * int64(d.BlockBytes())
	if offset%uint64(align) != 0 || offset > math.MaxInt64/2 || int64(offset) > size-data || bytes > size-data-int64(offset) {
		return fmt.Errorf("its %d bytes at %d are not within the file's %d: the file is cut", bytes, offset, max(0, size-data))
	}
	start := data + int64(offset)
	t.Read = func(dst []float32, from int) error {
		if from < 0 || from > n || len(dst) > n-from {
			return fmt.Errorf("elements %d to %d of %d", from, from+len(dst), n)
		}
		return read(f, start, d, dst, from)
	}
	return nil
}

const chunk = 1 << 16 // elements at a time, a multiple of every block

// read fills dst with the elements from, from+1, … of the tensor at start.
func read(f io.ReaderAt, start int64, d format.DType, dst []float32, from int) error {
	block, bytes := d.Block(), d.BlockBytes()
	var edge []float32 // a block of which only a part is wanted
	buf := make([]byte, (min(len(dst)/block+2, chunk/block))*bytes)
	for len(dst) > 0 {
		skip := from % block
		n := min(len(dst), chunk)
		if skip != 0 || n < block {
			n = min(len(dst), block-skip)
		} else {
			n -= n % block
		}
		blocks := (skip + n + block - 1) / block
		raw := buf[:blocks*bytes]
		if k, err := f.ReadAt(raw, start+int64(from/block)*int64(bytes)); k < len(raw) {
			return fmt.Errorf("%d bytes of %s: %w", len(raw), d, err)
		}
		if n == blocks*block {
			dequantise(dst[:n], raw, d)
		} else {
			if edge == nil {
				edge = make([]float32, block)
			}
			dequantise(edge, raw, d)
			copy(dst[:n], edge[skip:])
		}
		dst, from = dst[n:], from+n
	}
	return nil
}

// Metadata returns the file's key-value pairs. Values are of the type that the
// file says (uint32, float32, string, …), arrays are []any.
func (f *File) Metadata() map[string]any { return f.meta }

// Tensors returns the tensors in the order of the file, row-major: [out, in].
func (f *File) Tensors() []format.Tensor { return f.tensors }

// Tensor returns the tensor of that name.
func (f *File) Tensor(name string) (format.Tensor, bool) {
	i, ok := f.byName[name]
	if !ok {
		return format.Tensor{}, false
	}
	return f.tensors[i], true
}

// Close closes the file.
func (f *File) Close() error { return f.f.Close() }
