package faiss

import (
	"fmt"
	"io"

	"imagebind-llm/internal/format"
	"imagebind-llm/internal/format/view"
)

// chunk is how many bytes of codes are read at once, at most, or one code.
const chunk = 1 << 20

// A codec turns codes of one size back into vectors.
type codec struct {
	kind   string // as index_factory spells it
	loss   []string
	size   int64 // bytes of a code
	decode func(dst []float32, code []byte)
	// Of a product quantizer.
	pieces, bits int64
}

// codes are the rows of an index.
type codes struct {
	codec
	in  io.ReaderAt
	dim int
	// at says where the code of a row lies, and in which list.
	at func(row int) (offset int64, list int)
	// centroid adds a list's to dst; nil: codes are of vectors, not of residuals.
	centroid func(dst []float32, list int) error
}

// read fills dst with whole rows.
func (c codes) read(dst []float32, row int) error {
	most := max(1, chunk/int(c.size))
	var code []byte
	for len(dst) > 0 {
		// Rows whose codes lie one behind another are read together.
		start, _ := c.at(row)
		n := 1
		for ; n < min(most, len(dst)/c.dim); n++ {
			if at, _ := c.at(row + n); at != start+int64(n)*c.size {
				break
			}
		}
		if size := n * int(c.size); cap(code) < size {
			code = make([]byte, size)
		}
		code = code[:n*int(c.size)]
		if _, err := c.in.ReadAt(code, start); err != nil && err != io.EOF {
			return err
		}
		for i := range n {
			x := dst[i*c.dim : (i+1)*c.dim]
			c.decode(x, code[i*int(c.size):(i+1)*int(c.size)])
			if c.centroid == nil {
				continue
			}
			_, list := c.at(row + i)
			if err := c.centroid(x, list); err != nil {
				return err
			}
		}
		dst, row = dst[n*c.dim:], row+n
	}
	return nil
}

// whole is the codec of vectors that are there as they are.
func whole(dim int64) codec {
	return codec{kind: "Flat", size: 4 * dim, decode: func(dst []float32, code []byte) { view.Decode(dst, code, format.F32) }}
}

// flat reads a flat index behind its type.
func (r *reader) flat(kind string) (index, error) {
	h := r.header()
	start, words := r.vector(4)
	if r.err != nil {
		return index{}, r.err
	}
	if words != h.total*h.dim {
		return index{}, fmt.Errorf("it says %d vectors of %d values and holds %d values", h.total, h.dim, words)
	}
	switch kind {
	case "IxFI":
		h.metric = 0
	case "IxF2":
		h.metric = 1
	}
	x, dim := matrix(r.r, start, h.total, h.dim), int(h.dim)
	return index{header: h, kind: "Flat", read: func(dst []float32, row int) error { return x.Read(dst, row*dim) }}, nil
}

// packed reads the codes of an index, a vector of bytes.
func (r *reader) packed(h header, c codec) (index, error) {
	start, bytes := r.vector(1)
	if r.err != nil {
		return index{}, r.err
	}
	if bytes/c.size != h.total || bytes%c.size != 0 {
		return index{}, fmt.Errorf("it says %d vectors of %d bytes and holds %d bytes", h.total, c.size, bytes)
	}
	rows := codes{codec: c, in: r.r, dim: int(h.dim), at: func(row int) (int64, int) { return start + int64(row)*c.size, 0 }}
	return index{header: h, kind: c.kind, loss: c.loss, read: rows.read}, nil
}

// scalars reads an IndexScalarQuantizer.
func (r *reader) scalars() (index, error) {
	h := r.header()
	c := r.scalar(h.dim)
	if r.err != nil {
		return index{}, r.err
	}
	return r.packed(h, c)
}

// products reads an IndexPQ.
func (r *reader) products() (index, error) {
	h := r.header()
	c := r.product(h.dim)
	if r.err != nil {
		return index{}, r.err
	}
	x, err := r.packed(h, c)
	r.bytes(4 + 1 + 4) // how it is searched
	if err == nil {
		err = r.err
	}
	return x, err
}

// scalarKinds are faiss' QuantizerType, by number.
var scalarKinds = []struct {
	kind    string
	bits    int64
	uniform bool         // one range for all values, not one each
	plain   format.DType // of codes that are the values themselves
}{
	{"SQ8", 8, false, format.Unknown},
	{"SQ4", 4, false, format.Unknown},
	{"SQ8_uniform", 8, true, format.Unknown},
	{"SQ4_uniform", 4, true, format.Unknown},
	{"SQfp16", 16, false, format.F16},
	{"SQ8_direct", 8, false, format.U8},
	{"SQ6", 6, false, format.Unknown},
	{"SQbf16", 16, false, format.BF16},
	{"SQ8_direct_signed", 8, false, format.U8}, // 128 more than the value
}

// scalar reads a ScalarQuantizer: each value is a number of some bits. It stands
// for a part of the range that the value was in, from vmin on, and is rebuilt as
// the middle of that part: vmin + (code + ½)/(2^bits - 1)·vdiff.
func (r *reader) scalar(dim int64) codec {
	kind := r.i32()
	r.bytes(4 + 4) // how the ranges were found
	d, size := r.i64(), r.i64()
	if r.err != nil {
		return codec{}
	}
	if kind < 0 || int(kind) >= len(scalarKinds) {
		r.err = fmt.Errorf("its scalar quantizer is of type number %d; 0 to %d are read", kind, len(scalarKinds)-1)
		return codec{}
	}
	k := scalarKinds[kind]
	if d != dim || size != (k.bits*dim+7)/8 {
		r.err = fmt.Errorf("its scalar quantizer makes codes of %d bytes from %d values, not of the index's %d", size, d, dim)
		return codec{}
	}
	c := codec{kind: k.kind, size: size, loss: []string{fmt.Sprintf("%d-bit codes", k.bits)}}
	if k.plain != format.Unknown {
		r.vector(4)
		shift := float32(0)
		if k.kind == "SQ8_direct_signed" {
			shift = -128
		}
		c.decode = func(dst []float32, code []byte) {
			view.Decode(dst, code, k.plain)
			for i := range dst {
				dst[i] += shift
			}
		}
		return c
	}
	want := 2 * dim
	if k.uniform {
		want = 2
	}
	ranges := r.floats(want, "ranges")
	if r.err != nil {
		return codec{}
	}
	vmin, vdiff, step := ranges[:want/2], ranges[want/2:], 1
	if k.uniform {
		step = 0
	}
	middles := make([]float32, 1<<k.bits)
	for i := range middles {
		middles[i] = (float32(i) + 0.5) / float32(len(middles)-1)
	}
	c.decode = func(dst []float32, code []byte) {
		for i := range dst {
			dst[i] = vmin[i*step] + middles[bits(code, i, int(k.bits))]*vdiff[i*step]
		}
	}
	return c
}

// maxBits is of a product quantizer's codes; faiss takes 24, at 64 MiB a value.
const maxBits = 16

// product reads a ProductQuantizer: a vector is cut into M pieces, and each is
// one of the 2^bits in its codebook [M, 2^bits, dim/M].
func (r *reader) product(dim int64) codec {
	d, m, nbits := r.i64(), r.i64(), r.i64()
	if r.err != nil {
		return codec{}
	}
	if d != dim || m < 1 || m > d || d%m != 0 || nbits < 1 || nbits > maxBits {
		r.err = fmt.Errorf("its product quantizer cuts %d values in %d pieces of %d bits; the index has %d values, and 1 to %d bits are read", d, m, nbits, dim, maxBits)
		return codec{}
	}
	book := r.floats(d<<nbits, "the codebook")
	piece, all := int(d/m), 1<<nbits
	return codec{
		kind: fmt.Sprintf("PQ%dx%d", m, nbits),
		loss: []string{fmt.Sprintf("%d-byte product codes", (m*nbits+7)/8)},
		size: (m*nbits + 7) / 8, pieces: m, bits: nbits,
		decode: func(dst []float32, code []byte) {
			for i := range int(m) {
				at := (i*all + bits(code, i, int(nbits))) * piece
				copy(dst[i*piece:], book[at:at+piece])
			}
		},
	}
}

// bits is number i of the n-bit numbers that code packs, the lowest bits first;
// n is at most 16.
func bits(code []byte, i, n int) int {
	if n == 8 {
		return int(code[i])
	}
	first := i * n
	v, at := 0, first/8
	for shift := 0; shift < first%8+n; shift += 8 {
		v |= int(code[at]) << shift
		at++
	}
	return v >> (first % 8) & (1<<n - 1)
}
