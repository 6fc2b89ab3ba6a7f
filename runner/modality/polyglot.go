package modality

import (
	"bytes"
	"encoding/binary"
)

// AlsoIs returns a second format in which other programs would read data, or
// "": a picture or sound with an archive behind it, or with a PDF inside its
// first kilobyte. Such polyglots pass one program's checks to reach another.
// What phones append to a photo (a short video) is not among them.
func AlsoIs(data []byte) string {
	switch Sniff(data) {
	case "application/zip", "application/pdf", "application/octet-stream", "text/plain":
		return "" // it is what it is
	}
	const pdfHead = 1024 // how far from the start readers look for the header
	if bytes.Contains(data[:min(len(data), pdfHead)], []byte("%PDF-")) {
		return "application/pdf"
	}
	if endsAsZip(data) {
		return "application/zip"
	}
	return ""
}

// endsAsZip reports whether data ends with the end record of a ZIP archive
// (APPNOTE, 4.3.16) whose comment is as long as it says.
func endsAsZip(data []byte) bool {
	const record, comment = 22, 1<<16 - 1
	tail := data[max(0, len(data)-record-comment):]
	for {
		i := bytes.LastIndex(tail, []byte("PK\x05\x06"))
		if i < 0 {
			return false
		}
		if rest := tail[i:]; len(rest) >= record && record+int(binary.LittleEndian.Uint16(rest[20:])) == len(rest) {
			return true
		}
		tail = tail[:i]
	}
}
