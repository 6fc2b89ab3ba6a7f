package modality

import (
	"bytes"
	"encoding/binary"
	"regexp"
	"strings"
	"unicode/utf8"

	"imagebind-llm/runner/modality/internal/id3"
)

// A signature is what the files of a media type begin with.
type signature struct {
	media string
	at    int
	magic string
	and   func(data []byte) bool // a further check; may be nil
}

// signatures are tried in order.
var signatures = []signature{
	{media: "image/png", magic: "\x89PNG\r\n\x1a\n"},
	{media: "image/jpeg", magic: "\xff\xd8\xff"},
	{media: "image/gif", magic: "GIF87a"},
	{media: "image/gif", magic: "GIF89a"},
	{media: "image/webp", magic: "RIFF", and: form("WEBP")},
	{media: "audio/wav", magic: "RIFF", and: form("WAVE")},
	{media: "audio/wav", magic: "RF64", and: form("WAVE")},
	{media: "video/x-msvideo", magic: "RIFF", and: form("AVI ")},
	{media: "image/tiff", magic: "II*\x00"},
	{media: "image/tiff", magic: "MM\x00*"},
	{media: "image/bmp", magic: "BM", and: func(d []byte) bool { // the size of the second header is below 256
		return len(d) >= 18 && d[15] == 0 && d[16] == 0 && d[17] == 0
	}},
	{media: "image/x-exr", magic: "\x76\x2f\x31\x01"},
	{media: "image/x-portable-floatmap", magic: "Pf\n"},
	{media: "image/x-portable-floatmap", magic: "PF\n"},
	{media: "audio/flac", magic: "fLaC"},
	{media: "audio/ogg", magic: "OggS", and: func(d []byte) bool { return !bytes.Contains(d[:min(len(d), 256)], []byte("theora")) }},
	{media: "video/ogg", magic: "OggS"},
	{media: "audio/aiff", magic: "FORM", and: form("AIFF")},
	{media: "audio/aiff", magic: "FORM", and: form("AIFC")},
	{media: "audio/basic", magic: ".snd"},
	{media: "audio/amr", magic: "#!AMR"},
	{media: "audio/x-caf", magic: "caff"},
	{media: "image/avif", at: 4, magic: "ftypavi"},
	{media: "image/heic", at: 4, magic: "ftyphei"},
	{media: "image/heic", at: 4, magic: "ftypmif1"},
	{media: "audio/mp4", at: 4, magic: "ftypM4A"},
	{media: "audio/mp4", at: 4, magic: "ftypM4B"},
	{media: "video/quicktime", at: 4, magic: "ftypqt"},
	{media: "video/mp4", at: 4, magic: "ftyp"},
	{media: "video/webm", magic: "\x1a\x45\xdf\xa3", and: func(d []byte) bool { return bytes.Contains(d[:min(len(d), 64)], []byte("webm")) }},
	{media: "video/x-matroska", magic: "\x1a\x45\xdf\xa3"},
	{media: "video/x-ms-asf", magic: "\x30\x26\xb2\x75\x8e\x66\xcf\x11"},
	{media: "video/mpeg", magic: "\x00\x00\x01\xba"},
	{media: "video/mp2t", magic: "G", and: func(d []byte) bool { return len(d) > 188 && d[188] == 'G' }},
	{media: "application/pdf", magic: "%PDF-"},
	{media: "application/zip", magic: "PK\x03\x04"},
	{media: "application/gzip", magic: "\x1f\x8b"},
	{media: "application/x-npy", magic: "\x93NUMPY"},
	{media: "model/ply", magic: "ply\n"},
	{media: "model/ply", magic: "ply\r\n"},
	{media: "model/gltf-binary", magic: "glTF"},
	{media: "model/pcd", magic: "# .PCD"},
	{media: "model/stl", magic: "solid", and: func(d []byte) bool { return begins(d, stlHead) }},
	{media: "audio/aac", magic: "\xff", and: func(d []byte) bool { return len(d) > 6 && d[1]&0xf6 == 0xf0 }}, // ADTS: layer 0
	{media: "audio/mpeg", magic: "\xff", and: mpegFrame},
	{media: "model/pcd", and: func(d []byte) bool { return begins(d, pcdHead) }}, // without that comment
	{media: "model/stl", and: func(d []byte) bool { // binary has no magic: a title of 80 bytes, a count, 50 bytes each
		return len(d) > 84 && int64(len(d)-84) == 50*int64(binary.LittleEndian.Uint32(d[80:]))
	}},
	{media: "model/obj", and: func(d []byte) bool { return begins(d, objHead) }},
}

// What texts that describe points have near their beginning.
var (
	pcdHead = regexp.MustCompile(`(?m)^(#.*\n)*VERSION[ \t]+\.?[0-9.]+\s+FIELDS[ \t]`)
	stlHead = regexp.MustCompile(`(?m)^\s*facet[ \t]+normal[ \t]`)
	objHead = regexp.MustCompile(`(?m)^[ \t]*v([ \t]+[-+]?[0-9.]+([eE][-+]?[0-9]+)?){3}`)
)

// begins says whether the head of a text matches.
func begins(d []byte, head *regexp.Regexp) bool { return head.Match(d[:min(len(d), 4096)]) }

// form says that a RIFF (or IFF) file has the given form type.
func form(kind string) func([]byte) bool {
	return func(d []byte) bool { return len(d) >= 12 && string(d[8:12]) == kind }
}

// mpegFrame says whether data begins with the header of an MPEG audio frame,
// none of its fields reserved (ISO/IEC 11172-3, 2.4.1.3).
func mpegFrame(d []byte) bool {
	return len(d) >= 4 && d[1]&0xe0 == 0xe0 && d[1]&0x18 != 0x08 && d[1]&0x06 != 0 && d[2]&0xf0 != 0xf0 && d[2]&0x0c != 0x0c
}

// Sniff returns the media type of data by its content: of the formats that the
// modalities read and of those that people send by mistake, so that an error
// can name them. Text is text/plain, all else application/octet-stream. What a
// sender declares is never trusted over this.
func Sniff(data []byte) string {
	if tagged := id3.Skip(data); len(tagged) != len(data) {
		if media := Sniff(tagged); strings.HasPrefix(media, "audio/") {
			return media
		}
		return "audio/mpeg"
	}
	for _, s := range signatures {
		if len(data) >= s.at+len(s.magic) && string(data[s.at:s.at+len(s.magic)]) == s.magic && (s.and == nil || s.and(data)) {
			return s.media
		}
	}
	if head := data[:min(len(data), 4096)]; len(data) > 0 && bytes.IndexByte(head, 0) < 0 && validHead(head, len(data) > len(head)) {
		return "text/plain"
	}
	return "application/octet-stream"
}

// validHead reports whether head is UTF-8; where it is cut, its last rune may be too.
func validHead(head []byte, cut bool) bool {
	for i := 0; cut && i < utf8.UTFMax && len(head) > 0 && !utf8.Valid(head); i++ {
		head = head[:len(head)-1]
	}
	return utf8.Valid(head)
}
