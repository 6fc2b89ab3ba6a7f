package vision

import (
	"encoding/binary"
	"iter"
)

// orientation returns the EXIF orientation of a picture file, 1..8; 1, which
// changes nothing, where there is none. It never fails: the rest of the file
// decides whether it is readable.
func orientation(media string, data []byte) int {
	switch media {
	case "image/jpeg":
		for marker, body := range jpegSegments(data) {
			if marker == 0xe1 && len(body) > 6 && string(body[:6]) == "Exif\x00\x00" {
				return tiffOrientation(body[6:])
			}
		}
	case "image/png":
		for name, body := range chunks(data, 8, binary.BigEndian) {
			if name == "eXIf" {
				return tiffOrientation(body)
			}
		}
	case "image/webp":
		for name, body := range chunks(data, 12, binary.LittleEndian) {
			if name == "EXIF" {
				if len(body) > 6 && string(body[:6]) == "Exif\x00\x00" {
					body = body[6:]
				}
				return tiffOrientation(body)
			}
		}
	case "image/tiff":
		return tiffOrientation(data)
	}
	return 1
}

// jpegSegments yields the marker and body of each segment before the first scan.
func jpegSegments(data []byte) iter.Seq2[byte, []byte] {
	return func(yield func(byte, []byte) bool) {
		for i := 2; i+4 <= len(data) && data[i] == 0xff; {
			marker := data[i+1]
			if marker == 0xff { // a fill byte
				i++
				continue
			}
			n := int(binary.BigEndian.Uint16(data[i+2:]))
			if marker == 0xda || n < 2 || i+2+n > len(data) || !yield(marker, data[i+4:i+2+n]) {
				return
			}
			i += 2 + n
		}
	}
}

// chunks yields the name and body of each chunk from the offset on: of PNG
// (big-endian, length before name, a checksum behind) or RIFF (little-endian,
// name before length, padded to even lengths).
func chunks(data []byte, from int, order binary.ByteOrder) iter.Seq2[string, []byte] {
	png := order == binary.BigEndian
	return func(yield func(string, []byte) bool) {
		for i := from; i+8 <= len(data); {
			name, length := data[i:i+4], data[i+4:i+8]
			if png {
				name, length = length, name
			}
			n := uint64(order.Uint32(length))
			if n > uint64(len(data)-i-8) || !yield(string(name), data[i+8:i+8+int(n)]) {
				return
			}
			if i += 8 + int(n); png {
				i += 4
			} else {
				i += int(n & 1)
			}
		}
	}
}

// tiffOrientation returns the orientation in the first directory of a TIFF stream.
func tiffOrientation(d []byte) int {
	if v := tiffTag(d, 274); v >= 1 && v <= 8 {
		return v
	}
	return 1
}

// tiffTag returns the value of a tag, a number below 2³¹, of the first directory
// of a TIFF stream; -1 where it is not there.
func tiffTag(d []byte, tag uint16) int {
	var order binary.ByteOrder
	switch {
	case len(d) < 8:
		return -1
	case d[0] == 'I' && d[1] == 'I':
		order = binary.LittleEndian
	case d[0] == 'M' && d[1] == 'M':
		order = binary.BigEndian
	default:
		return -1
	}
	at := uint64(order.Uint32(d[4:]))
	if at+2 > uint64(len(d)) {
		return -1
	}
	d = d[at:]
	for n, e := int(order.Uint16(d)), d[2:]; n > 0 && len(e) >= 12; n, e = n-1, e[12:] {
		if order.Uint16(e) != tag {
			continue
		}
		switch order.Uint16(e[2:]) { // the value's type
		case 3:
			return int(order.Uint16(e[8:]))
		case 4:
			return int(int32(order.Uint32(e[8:])))
		}
		return -1
	}
	return -1
}

// upright returns p turned and mirrored as its orientation (EXIF tag 274) asks.
func upright(p Picture, orientation int) Picture {
	if orientation <= 1 || orientation > 8 {
		return p
	}
	w, h := p.W, p.H
	if orientation >= 5 {
		w, h = h, w
	}
	row, end := 3*p.W, len(p.Pix)
	// Where the first pixel comes from, and how far on the next to the right and below.
	turn := [...]struct{ at, right, down int }{
		2: {row - 3, -3, row},
		3: {end - 3, -3, -row},
		4: {end - row, 3, -row},
		5: {0, row, 3},
		6: {end - row, -row, 3},
		7: {end - 3, -row, -3},
		8: {row - 3, row, -3},
	}[orientation]
	out := Picture{w, h, make([]byte, end)}
	dst := out.Pix
	for y := range h {
		at := turn.at + y*turn.down
		for range w {
			copy(dst[:3], p.Pix[at:][:3])
			dst, at = dst[3:], at+turn.right
		}
	}
	return out
}
