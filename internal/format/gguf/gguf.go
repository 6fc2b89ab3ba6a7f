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
	maxTensors = 1 << 16
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
// listed with it, or with format.Unknown where its size is not known either;
// reading them is an Unsupported error that names the type.
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

// count takes n from the values that a file may still have, of which each has
// some bytes at least.
func (r *reader) count(n uint64, bytes int64) bool {
	switch {
	case r.err != nil:
	case n > uint64((r.size-r.at)/bytes):
		r.fail("an array of %d values in the %d bytes that are left", n, r.size-r.at)
	case n > uint64(r.values):
		r.fail("more than %d values of metadata", maxValues)
	default:
		r.values -= int(n)
	}
	return r.err == nil
}

// value reads a metadata value: a uint, an int, a float, a bool or a string of
// its own width, or an array.
func (r *reader) value(typ uint32, depth int) any {
	if !r.count(1, 1) {
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
		return r.array(depth)
	}
	r.fail("metadata of type %d is not known", typ)
	return nil
}

// array reads a slice of its elements' type; one of arrays is a []any.
func (r *reader) array(depth int) any {
	typ, n := r.u32(), r.u64()
	switch typ {
	case typeU8:
		return numbers[uint8](r, n)
	case typeI8:
		return numbers[int8](r, n)
	case typeU16:
		return numbers[uint16](r, n)
	case typeI16:
		return numbers[int16](r, n)
	case typeU32:
		return numbers[uint32](r, n)
	case typeI32:
		return numbers[int32](r, n)
	case typeF32:
		return numbers[float32](r, n)
	case typeBool:
		return numbers[bool](r, n)
	case typeU64:
		return numbers[uint64](r, n)
	case typeI64:
		return numbers[int64](r, n)
	case typeF64:
		return numbers[float64](r, n)
	case typeText:
		if !r.count(n, 8) {
			return nil
		}
		list := make([]string, n)
		for i := 0; i < len(list) && r.err == nil; i++ {
			list[i] = r.text()
		}
		return list
	case typeArray:
		if depth+1 >= maxDepth {
			r.fail("arrays in arrays, %d deep", depth+1)
		}
		if !r.count(n, 12) {
			return nil
		}
		list := make([]any, n)
		for i := 0; i < len(list) && r.err == nil; i++ {
			list[i] = r.array(depth + 1)
		}
		return list
	}
	r.fail("an array of type %d, which is not known", typ)
	return nil
}

// numbers reads an array of n values of fixed size.
func numbers[T any](r *reader, n uint64) any {
	var one T
	size := int64(binary.Size(one))
	if !r.count(n, size) {
		return nil
	}
	list := make([]T, n)
	if err := binary.Read(r.r, binary.LittleEndian, list); err != nil {
		r.fail("it ends within its header: %w", err)
	}
	r.at += int64(n) * size
	return list
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

// types are ggml's numbers of element and block types.
var types = map[uint32]format.DType{
	0: format.F32, 1: format.F16, 2: format.Q4_0, 3: format.Q4_1, 6: format.Q5_0, 7: format.Q5_1, 8: format.Q8_0,
	10: format.Q2_K, 11: format.Q3_K, 12: format.Q4_K, 13: format.Q5_K, 14: format.Q6_K, 15: format.Q8_K,
	16: format.IQ2_XXS, 17: format.IQ2_XS, 18: format.IQ3_XXS, 19: format.IQ1_S, 20: format.IQ4_NL, 21: format.IQ3_S, 22: format.IQ2_S, 23: format.IQ4_XS,
	24: format.I8, 25: format.I16, 26: format.I32, 27: format.I64, 28: format.F64, 29: format.IQ1_M, 30: format.BF16,
	34: format.TQ1_0, 35: format.TQ2_0, 39: format.MXFP4, 40: format.NVFP4,
}

// place checks where a tensor lies and makes it readable.
func place(t *format.Tensor, typ uint32, f io.ReaderAt, data, size int64, offset uint64, align int64) error {
	d, known := types[typ]
	decode := decoder(d)
	if decode == nil {
		tensor, name := t.Name, d.String()
		if !known {
			name = fmt.Sprintf("number %d", typ)
		}
		t.Read = func([]float32, int) error {
			return imagebind.Errorf(imagebind.Unsupported, "tensor %s is of ggml's type %s, which is not read here: take a file in F16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1 or Q2_K to Q6_K", tensor, name)
		}
	}
	if !known {
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
	if decode == nil {
		return nil
	}
	start := data + int64(offset)
	t.Read = func(dst []float32, from int) error {
		if from < 0 || from > n || len(dst) > n-from {
			return fmt.Errorf("elements %d to %d of %d", from, from+len(dst), n)
		}
		return read(f, start, d, decode, dst, from)
	}
	return nil
}

const chunk = 1 << 16 // elements at a time, a multiple of every block

// read fills dst with the elements from, from+1, … of the tensor at start.
func read(f io.ReaderAt, start int64, d format.DType, decode func([]float32, []byte), dst []float32, from int) error {
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
			decode(dst[:n], raw)
		} else {
			if edge == nil {
				edge = make([]float32, block)
			}
			decode(edge, raw)
			copy(dst[:n], edge[skip:])
		}
		dst, from = dst[n:], from+n
	}
	return nil
}

// Metadata returns the file's key-value pairs. Values are of the type that the
// file says (uint32, float32, string, …), arrays slices of it; arrays of arrays
// are []any.
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
