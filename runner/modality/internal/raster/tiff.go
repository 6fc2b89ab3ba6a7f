package raster

import (
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"io"
	"slices"

	"golang.org/x/image/tiff/lzw"

	imagebind "imagebind-llm"
	"imagebind-llm/internal/format"
	"imagebind-llm/internal/format/view"
)

// Tags of a TIFF directory (TIFF 6.0, part 1 and section 19).
const (
	tagWidth       = 256
	tagHeight      = 257
	tagBits        = 258
	tagCompression = 259
	tagStrips      = 273 // offsets
	tagSamples     = 277 // a pixel
	tagRows        = 278 // a strip
	tagSizes       = 279 // of the strips, in bytes
	tagPredictor   = 317
	tagTiles       = 322
	tagFormat      = 339 // 1 whole, 2 signed, 3 floats
)

var known = []uint16{
	tagWidth, tagHeight, tagBits, tagCompression, tagStrips, tagSamples, tagRows, tagSizes, tagPredictor, tagTiles, tagFormat,
}

// A directory is the first of a TIFF file: the numbers of each known tag. The
// others are left alone, as thousands of them may share a list of megabytes.
type directory struct {
	order binary.ByteOrder
	tags  map[uint16][]int
}

func parseTIFF(data []byte) (directory, error) {
	d := directory{binary.LittleEndian, map[uint16][]int{}}
	if data[0] == 'M' {
		d.order = binary.BigEndian
	}
	bad := imagebind.Errorf(imagebind.Invalid, "the TIFF file is broken: its directory lies outside of it")
	if len(data) < 8 {
		return d, bad
	}
	at := int64(d.order.Uint32(data[4:]))
	if at+2 > int64(len(data)) {
		return d, bad
	}
	entries := data[at+2:]
	n := int(d.order.Uint16(data[at:]))
	if len(entries) < 12*n {
		return d, bad
	}
	for ; n > 0; n, entries = n-1, entries[12:] {
		width := map[uint16]int64{3: 2, 4: 4}[d.order.Uint16(entries[2:])] // bytes of a short or long
		count := int64(d.order.Uint32(entries[4:]))
		tag := d.order.Uint16(entries)
		if _, twice := d.tags[tag]; twice || width == 0 || !slices.Contains(known, tag) {
			continue
		}
		values := entries[8:12]
		if width*count > 4 {
			from := int64(d.order.Uint32(values))
			if from+width*count > int64(len(data)) {
				return d, bad
			}
			values = data[from:]
		}
		list := make([]int, count)
		for i := range list {
			if width == 2 {
				list[i] = int(d.order.Uint16(values[2*i:]))
			} else {
				list[i] = int(d.order.Uint32(values[4*i:]))
			}
		}
		d.tags[tag] = list
	}
	return d, nil
}

// value returns the first number of a tag, or def where there is none.
func (d directory) value(tag uint16, def int) int {
	if list := d.tags[tag]; len(list) > 0 {
		return list[0]
	}
	return def
}

// dtype is how numbers are stored that the library doesn't read; Unknown for others.
func (d directory) dtype() format.DType {
	return map[[2]int]format.DType{
		{3, 16}: format.F16, {3, 32}: format.F32, {3, 64}: format.F64, {2, 16}: format.I16, {2, 32}: format.I32,
	}[[2]int{d.value(tagFormat, 1), d.value(tagBits, 1)}]
}

// native says that read is to be used.
func (d directory) native() bool { return d.dtype() != format.Unknown }

// read reads strips of floats or of signed numbers, plain or compressed by
// deflate or LZW.
func (d directory) read(s source) (Plane, error) {
	if d.value(tagSamples, 1) != 1 {
		return Plane{}, s.colours("TIFF")
	}
	t, p := d.dtype(), Plane{W: d.value(tagWidth, 0), H: d.value(tagHeight, 0)}
	size := t.BlockBytes()
	if t == format.I16 || t == format.I32 {
		p.Bits = 8 * size
	}
	if err := s.check(p.W, p.H, size); err != nil {
		return Plane{}, err
	}
	if _, tiled := d.tags[tagTiles]; tiled || d.value(tagPredictor, 1) != 1 {
		return Plane{}, imagebind.Errorf(imagebind.Unsupported, "TIFF files of %s with tiles or a predictor are not read; save it in strips without one, or as .npy", t)
	}
	strips, sizes := d.tags[tagStrips], d.tags[tagSizes]
	rows := min(d.value(tagRows, p.H), p.H)
	if rows <= 0 || len(sizes) != len(strips) || len(strips) < (p.H+rows-1)/rows {
		return Plane{}, imagebind.Errorf(imagebind.Invalid, "the TIFF file is broken: %d strips of %d rows do not make %d rows", len(strips), rows, p.H)
	}
	p.Pix = make([]float32, p.W*p.H)
	buf := make([]byte, rows*p.W*size)
	for i, rest := 0, p.Pix; len(rest) > 0; i++ {
		part := rest[:min(len(rest), rows*p.W)]
		rest = rest[len(part):]
		if strips[i]+sizes[i] > len(s.data) {
			return Plane{}, cut("TIFF")
		}
		raw := buf[:len(part)*size]
		if err := d.inflate(raw, s.data[strips[i]:][:sizes[i]]); err != nil {
			return Plane{}, err
		}
		if d.order == binary.BigEndian {
			for b := raw; len(b) > 0; b = b[size:] {
				slices.Reverse(b[:size])
			}
		}
		view.Decode(part, raw, t)
	}
	return p, nil
}

// inflate fills dst from a strip.
func (d directory) inflate(dst, strip []byte) (err error) {
	var r io.Reader = bytes.NewReader(strip)
	switch c := d.value(tagCompression, 1); c {
	case 1:
	case 5:
		l := lzw.NewReader(r, lzw.MSB, 8)
		defer l.Close()
		r = l
	case 8, 32946:
		if r, err = zlib.NewReader(r); err != nil {
			return imagebind.Errorf(imagebind.Invalid, "the TIFF file is broken: %w", err)
		}
	default:
		return imagebind.Errorf(imagebind.Unsupported, "TIFF files of floats with compression %d are not read; save it without, or with deflate or LZW", c)
	}
	if _, err := io.ReadFull(r, dst); err != nil {
		return imagebind.Errorf(imagebind.Invalid, "the TIFF file is cut or broken: %w", err)
	}
	return nil
}
