package audio

import (
	"bytes"
	"encoding/binary"

	imagebind "imagebind-llm"
)

// What the headers of a Vorbis stream may ask for. The decoder allocates what
// they say: real encoders stay far below.
const (
	maxPage     = 256      // pages without the end of a packet, one behind the other
	maxEntries  = 1 << 16  // of a codebook
	maxValues   = 1 << 20  // of a codebook
	maxCodebook = 16 << 20 // values of all
)

// checkVorbis refuses Ogg files that hold no Vorbis, and those whose headers
// would make the decoder take memory out of proportion (Vorbis I, 3.2.1 and
// 4.2): it does not check them itself.
func checkVorbis(data []byte) error {
	packets, err := oggPackets(data)
	if err != nil {
		return err
	}
	if len(packets) == 0 || len(packets[0]) < 7 || string(packets[0][:7]) != "\x01vorbis" {
		kind := "no Vorbis"
		if len(packets) > 0 && bytes.HasPrefix(packets[0], []byte("OpusHead")) {
			kind = "Opus"
		}
		return imagebind.Errorf(imagebind.Unsupported, "the Ogg file holds %s; only Vorbis is read without ffmpeg", kind)
	}
	broken := imagebind.Errorf(imagebind.Invalid, "the Ogg Vorbis file has broken headers")
	if len(packets) < 3 || len(packets[0]) < 30 || len(packets[2]) < 8 {
		return broken
	}
	// The comments: a vendor's name, then a count of strings.
	c := packets[1]
	if len(c) < 15 {
		return broken
	}
	vendor := uint64(binary.LittleEndian.Uint32(c[7:]))
	if 11+vendor+4 > uint64(len(c)) {
		return broken
	}
	if n := uint64(binary.LittleEndian.Uint32(c[11+vendor:])); n > uint64(len(c))/4 {
		return broken
	}
	// The setup: codebooks first.
	b := bitReader{data: packets[2][7:]}
	total := uint64(0)
	for range b.read(8) + 1 {
		n, ok := codebook(&b)
		total += n
		if !ok || total > maxCodebook {
			return broken
		}
	}
	return nil
}

// codebook skips a codebook and returns how many values it holds; false where
// it is broken or too large.
func codebook(b *bitReader) (values uint64, ok bool) {
	if b.read(24) != 0x564342 {
		return 0, false
	}
	dims, entries := uint64(b.read(16)), uint64(b.read(24))
	if dims == 0 || entries == 0 || entries > maxEntries || dims*entries > maxValues {
		return 0, false
	}
	if ordered := b.read(1) == 1; !ordered {
		sparse := b.read(1) == 1
		for range entries {
			if !sparse || b.read(1) == 1 {
				b.read(5)
			}
			if b.over() {
				return 0, false
			}
		}
	} else {
		b.read(5)
		for at := uint64(0); at < entries; {
			n := uint64(b.read(width(entries - at)))
			if b.over() || at+n > entries {
				return 0, false
			}
			at += n
		}
	}
	switch lookup := b.read(4); lookup {
	case 0:
	case 1, 2:
		b.read(32)
		b.read(32)
		bits := b.read(4) + 1
		b.read(1)
		n := dims * entries
		if lookup == 1 {
			n = lattice(entries, dims)
		}
		b.skip(n * uint64(bits))
	default:
		return 0, false
	}
	return dims * entries, !b.over()
}

// lattice returns the largest n with n^dims <= entries (lookup1_values).
func lattice(entries, dims uint64) uint64 {
	for n := uint64(1); ; n++ {
		p := uint64(1)
		for range dims {
			if p *= n + 1; p > entries {
				return n
			}
		}
	}
}

// width returns the number of bits of n (ilog).
func width(n uint64) (w uint) {
	for ; n > 0; n >>= 1 {
		w++
	}
	return w
}

// oggPackets returns the first three packets of an Ogg file, and walks all of
// its pages: a page that ends no packet is a step of recursion for the decoder.
func oggPackets(data []byte) (packets [][]byte, err error) {
	var open []byte
	idle := 0
	for len(data) >= 27 && string(data[:4]) == "OggS" {
		n := int(data[26])
		if len(data) < 27+n {
			break
		}
		sizes, body := data[27:27+n], data[27+n:]
		idle++
		for _, size := range sizes {
			if int(size) > len(body) {
				return packets, nil
			}
			if len(packets) < 3 {
				open = append(open, body[:size]...)
			}
			body = body[size:]
			if size < 255 {
				idle = 0
				if len(packets) < 3 {
					packets = append(packets, open)
					open = nil
				}
			}
		}
		if idle > maxPage {
			return nil, imagebind.Errorf(imagebind.Invalid, "the Ogg file is broken: %d pages without a packet", idle)
		}
		data = body
	}
	return packets, nil
}

// A bitReader reads Vorbis's bits: lowest first, zeros behind the end.
type bitReader struct {
	data []byte
	at   uint64 // in bits
}

func (b *bitReader) read(n uint) (v uint32) {
	for i := range n {
		if byteAt := b.at >> 3; byteAt < uint64(len(b.data)) {
			v |= uint32(b.data[byteAt]>>(b.at&7)&1) << i
		}
		b.at++
	}
	return v
}

func (b *bitReader) skip(n uint64) { b.at += n }

// over says whether more was read than there is.
func (b *bitReader) over() bool { return b.at > 8*uint64(len(b.data)) }
