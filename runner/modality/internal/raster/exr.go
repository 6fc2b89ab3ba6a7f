package raster

import (
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"io"
	"slices"
	"strings"

	imagebind "imagebind-llm"
	"imagebind-llm/internal/format"
	"imagebind-llm/internal/format/view"
)

// Compressions of OpenEXR that are read, in the file's numbering.
const (
	exrNone = iota
	exrRLE
	exrZIPS // deflate, a row
	exrZIP  // deflate, 16 rows
)

// exrNames are all compressions, for errors.
var exrNames = []string{"none", "RLE", "ZIPS", "ZIP", "PIZ", "PXR24", "B44", "B44A", "DWAA", "DWAB", "HTJ2K256", "HTJ2K32"}

// An exrChannel is a channel of the file; its rows lie one behind the other.
type exrChannel struct {
	name  string
	kind  int // of a number: 0 uint32, 1 half, 2 float
	bytes int // of a number
}

// An exrHeader is what a file of one part, in rows, says before its pixels.
type exrHeader struct {
	channels    []exrChannel
	compression int
	w, h, top   int // of the data window
	table       int // where the offsets of the chunks begin
}

func exrBroken(what string) error {
	return imagebind.Errorf(imagebind.Invalid, "the OpenEXR file is broken: %s", what)
}

// readEXR reads one channel of an OpenEXR file: Z, else the only one, else Y, else R.
// https://openexr.com/en/latest/OpenEXRFileLayout.html
func readEXR(s source) (Plane, error) {
	h, err := parseEXR(s.data)
	if err != nil {
		return Plane{}, err
	}
	pick, err := pickChannel(h.channels, s.what)
	if err != nil {
		return Plane{}, err
	}
	before, pixel := 0, 0 // bytes of the channels before it, and of all
	for i, c := range h.channels {
		if i < pick {
			before += c.bytes
		}
		pixel += c.bytes
	}
	if err := s.check(h.w, h.h, pixel); err != nil {
		return Plane{}, err
	}
	of, row := before*h.w, pixel*h.w // of a row in the file: where the channel begins, and its size
	rows := 1                        // of a chunk
	if h.compression == exrZIP {
		rows = 16
	}
	c := h.channels[pick]
	p := Plane{W: h.w, H: h.h, Pix: make([]float32, h.w*h.h)}
	if c.kind == 0 {
		p.Bits = 32
	}
	z := unzipper{}
	for i := range (h.h + rows - 1) / rows {
		if h.table+8*i+8 > len(s.data) {
			return Plane{}, cut("OpenEXR")
		}
		at := binary.LittleEndian.Uint64(s.data[h.table+8*i:])
		if at > uint64(len(s.data)) || len(s.data)-int(at) < 8 {
			return Plane{}, cut("OpenEXR")
		}
		chunk := s.data[at:]
		y := int(int32(binary.LittleEndian.Uint32(chunk))) - h.top
		size := int(binary.LittleEndian.Uint32(chunk[4:]))
		if size > len(chunk)-8 {
			return Plane{}, cut("OpenEXR")
		}
		if y < 0 || y >= h.h || y%rows != 0 {
			return Plane{}, exrBroken("a chunk lies outside of the picture")
		}
		n := min(rows, h.h-y)
		raw, err := z.chunk(h.compression, chunk[8:8+size], n*row)
		if err != nil {
			return Plane{}, err
		}
		for j := range n {
			exrDecode(p.Pix[(y+j)*h.w:][:h.w], raw[j*row+of:], c.kind)
		}
	}
	return p, nil
}

// exrDecode reads len(dst) numbers of a kind.
func exrDecode(dst []float32, src []byte, kind int) {
	switch kind {
	case 0:
		for i := range dst {
			dst[i] = float32(binary.LittleEndian.Uint32(src[4*i:]))
		}
	case 1:
		view.Decode(dst, src, format.F16)
	default:
		view.Decode(dst, src, format.F32)
	}
}

// pickChannel returns the index of the channel that is read.
func pickChannel(cs []exrChannel, what string) (int, error) {
	last := func(name string) func(exrChannel) bool { // of a layer or of none
		return func(c exrChannel) bool { return c.name == name || strings.HasSuffix(c.name, "."+name) }
	}
	if i := slices.IndexFunc(cs, last("Z")); i >= 0 {
		return i, nil
	}
	if len(cs) == 1 {
		return 0, nil
	}
	for _, name := range []string{"Y", "R"} {
		if i := slices.IndexFunc(cs, last(name)); i >= 0 {
			return i, nil
		}
	}
	var names []string
	for _, c := range cs[:min(len(cs), 20)] {
		names = append(names, c.name)
	}
	return 0, imagebind.Errorf(imagebind.Invalid, "the OpenEXR file has the channels %.200q; %s is read from Z, Y or R, or from the only one", names, what)
}

func parseEXR(data []byte) (h exrHeader, err error) {
	if len(data) < 8 {
		return h, cut("OpenEXR")
	}
	const version, tiled, deep, parts = 0xff, 0x200, 0x800, 0x1000
	switch v := binary.LittleEndian.Uint32(data[4:]); {
	case v&version != 2:
		return h, imagebind.Errorf(imagebind.Unsupported, "the OpenEXR file has version %d; 2 is read", v&version)
	case v&(tiled|deep|parts) != 0:
		return h, imagebind.Errorf(imagebind.Unsupported, "the OpenEXR file has tiles, deep pixels or several parts; save it as one part in rows (scan lines)")
	}
	h.compression = -1
	rest := data[8:]
	for {
		name, kind, value := "", "", []byte(nil)
		if name, rest, err = exrString(rest); err != nil {
			return h, err
		}
		if name == "" {
			break
		}
		if kind, rest, err = exrString(rest); err != nil {
			return h, err
		}
		if len(rest) < 4 || int64(binary.LittleEndian.Uint32(rest)) > int64(len(rest)-4) {
			return h, cut("OpenEXR")
		}
		n := int(binary.LittleEndian.Uint32(rest))
		value, rest = rest[4:4+n], rest[4+n:]
		switch {
		case name == "channels" && kind == "chlist":
			if h.channels, err = exrChannels(value); err != nil {
				return h, err
			}
		case name == "compression" && n == 1:
			h.compression = int(value[0])
		case name == "dataWindow" && n == 16: // left, top, right, bottom, all included
			var box [4]int
			for i := range box {
				box[i] = int(int32(binary.LittleEndian.Uint32(value[4*i:])))
			}
			h.w, h.h, h.top = box[2]-box[0]+1, box[3]-box[1]+1, box[1]
		}
	}
	h.table = len(data) - len(rest)
	switch c := h.compression; {
	case len(h.channels) == 0 || c < 0:
		return h, exrBroken("its header names no channels or no compression")
	case c > exrZIP:
		name := "of a new kind"
		if c < len(exrNames) {
			name = exrNames[c]
		}
		return h, imagebind.Errorf(imagebind.Unsupported, "OpenEXR with compression %s is not read; save it with ZIP, ZIPS, RLE or none", name)
	}
	return h, nil
}

// exrString cuts a string that ends in a zero off b.
func exrString(b []byte) (string, []byte, error) {
	const longest = 255
	end := bytes.IndexByte(b[:min(len(b), longest+1)], 0)
	if end < 0 {
		return "", nil, exrBroken("its header ends early")
	}
	return string(b[:end]), b[end+1:], nil
}

func exrChannels(b []byte) (cs []exrChannel, err error) {
	for {
		var c exrChannel
		if c.name, b, err = exrString(b); err != nil || c.name == "" {
			return cs, err
		}
		if len(b) < 16 {
			return nil, exrBroken("its list of channels ends early")
		}
		c.kind = int(binary.LittleEndian.Uint32(b))
		if c.kind > 2 {
			return nil, exrBroken("a channel has an unknown type")
		}
		if binary.LittleEndian.Uint32(b[8:]) != 1 || binary.LittleEndian.Uint32(b[12:]) != 1 {
			return nil, imagebind.Errorf(imagebind.Unsupported, "channel %q of the OpenEXR file is subsampled; save it at full size", c.name)
		}
		if c.bytes = 4; c.kind == 1 {
			c.bytes = 2
		}
		cs, b = append(cs, c), b[16:]
	}
}

// An unzipper undoes the compression of chunks, in buffers that it keeps.
type unzipper struct{ packed, raw []byte }

// chunk returns the n bytes of a chunk. One that would not shrink is stored as it is.
func (z *unzipper) chunk(compression int, b []byte, n int) ([]byte, error) {
	if len(b) == n {
		return b, nil
	}
	if compression == exrNone || len(b) > n {
		return nil, exrBroken("a chunk has the wrong size")
	}
	if cap(z.raw) < n {
		z.packed, z.raw = make([]byte, n), make([]byte, n)
	}
	t, out := z.packed[:n], z.raw[:n]
	unpack := inflate
	if compression == exrRLE {
		unpack = unRLE
	}
	if !unpack(t, b) {
		return nil, exrBroken("a chunk cannot be unpacked")
	}
	for i := 1; i < n; i++ { // each byte is stored as its difference to the one before
		t[i] += t[i-1] - 128
	}
	half := (n + 1) / 2 // of the bytes at even places, then those at odd
	for i := range n {
		out[i] = t[i/2+i%2*half]
	}
	return out, nil
}

// inflate fills dst.
func inflate(dst, src []byte) bool {
	r, err := zlib.NewReader(bytes.NewReader(src))
	if err != nil {
		return false
	}
	_, err = io.ReadFull(r, dst)
	return err == nil
}

// unRLE fills dst; a length below 0 is one of bytes as they are, another of repeats.
func unRLE(dst, src []byte) bool {
	for len(src) > 1 && len(dst) > 0 {
		n := int(int8(src[0]))
		src = src[1:]
		if n < 0 {
			if n = -n; n > len(src) || n > len(dst) {
				return false
			}
			copy(dst, src[:n])
			dst, src = dst[n:], src[n:]
			continue
		}
		if n++; n > len(dst) {
			return false
		}
		for i := range n {
			dst[i] = src[0]
		}
		dst, src = dst[n:], src[1:]
	}
	return len(dst) == 0 && len(src) == 0
}
