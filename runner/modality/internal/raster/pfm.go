package raster

import (
	"bytes"
	"encoding/binary"
	"math"
	"strconv"

	imagebind "imagebind-llm"
)

// readPFM reads a portable float map: "Pf", width, height and a scale, whose
// sign alone says the byte order (negative is little-endian), each behind white
// space; one byte of white space; then float32, the bottom row first.
// https://www.pauldebevec.com/Research/HDR/PFM/
func readPFM(s source) (Plane, error) {
	if s.data[1] == 'F' {
		return Plane{}, s.colours("PFM")
	}
	body := s.data[2:]
	var words [3]string
	for i := range words {
		body = bytes.TrimLeft(body, " \t\r\n")
		end := bytes.IndexAny(body[:min(len(body), 64)], " \t\r\n")
		if end < 0 {
			return Plane{}, imagebind.Errorf(imagebind.Invalid, "the PFM file is broken: its header is width, height and scale")
		}
		words[i], body = string(body[:end]), body[end:]
	}
	body = body[1:]
	w, errW := strconv.ParseInt(words[0], 10, 32)
	h, errH := strconv.ParseInt(words[1], 10, 32)
	scale, errS := strconv.ParseFloat(words[2], 64)
	if errW != nil || errH != nil || errS != nil || scale == 0 || math.IsNaN(scale) {
		return Plane{}, imagebind.Errorf(imagebind.Invalid, "the PFM file is broken: its header says %q wide, %q high, scale %q", words[0], words[1], words[2])
	}
	p := Plane{W: int(w), H: int(h)}
	if err := s.check(p.W, p.H, 4); err != nil {
		return Plane{}, err
	}
	if len(body) < 4*p.W*p.H {
		return Plane{}, cut("PFM")
	}
	var order binary.ByteOrder = binary.BigEndian
	if scale < 0 {
		order = binary.LittleEndian
	}
	p.Pix = make([]float32, p.W*p.H)
	for y := range p.H {
		row := body[4*p.W*(p.H-1-y):]
		for x := range p.W {
			p.Pix[y*p.W+x] = math.Float32frombits(order.Uint32(row[4*x:]))
		}
	}
	return p, nil
}
