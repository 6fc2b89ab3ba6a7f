package raster

import (
	"bytes"
	"encoding/binary"
	"image"
	"image/png"
	"io"

	"golang.org/x/image/tiff"

	imagebind "imagebind-llm"
	"imagebind-llm/runner/modality/internal/foreign"
)

// A codec is the library of a format.
type codec struct {
	name   string
	config func(io.Reader) (image.Config, error)
	decode func(io.Reader) (image.Image, error)
}

func readPNG(s source) (Plane, error) {
	return s.picture(codec{"PNG", png.DecodeConfig, png.Decode})
}

// readTIFF leaves whole numbers of up to 16 bits to the library.
func readTIFF(s source) (Plane, error) {
	f, err := parseTIFF(s.data)
	if err != nil {
		return Plane{}, err
	}
	if f.native() {
		return f.read(s)
	}
	return s.picture(codec{"TIFF", tiff.DecodeConfig, tiff.Decode})
}

// picture reads grey of 1 to 16 bits. Alpha is not read.
func (s source) picture(c codec) (Plane, error) {
	cfg, err := c.config(bytes.NewReader(s.data))
	if err != nil {
		return Plane{}, foreign.Broken(c.name, err)
	}
	if err := s.check(cfg.Width, cfg.Height, 1); err != nil {
		return Plane{}, err
	}
	img, err := c.decode(bytes.NewReader(s.data))
	if err != nil {
		return Plane{}, foreign.Broken(c.name, err)
	}
	b := img.Bounds()
	p := Plane{W: b.Dx(), H: b.Dy()}
	if p.W != cfg.Width || p.H != cfg.Height {
		return Plane{}, imagebind.Errorf(imagebind.Invalid, "the %s file is broken: its header says %d × %d pixels, its data %d × %d", c.name, cfg.Width, cfg.Height, p.W, p.H)
	}
	p.Pix = make([]float32, p.W*p.H)
	switch img := img.(type) {
	case *image.Gray:
		p.Bits = 8
		for y := range p.H {
			for x, v := range img.Pix[y*img.Stride:][:p.W] {
				p.Pix[y*p.W+x] = float32(v)
			}
		}
	case *image.Gray16:
		p.Bits = 16
		for y := range p.H {
			row := img.Pix[y*img.Stride:]
			for x := range p.W {
				p.Pix[y*p.W+x] = float32(binary.BigEndian.Uint16(row[2*x:]))
			}
		}
	case *image.NRGBA64: // 16-bit grey with alpha, or colour
		p.Bits = 16
		for y := range p.H {
			for x := range p.W {
				v := img.NRGBA64At(x, y)
				if v.R != v.G || v.R != v.B {
					return Plane{}, s.colours(c.name)
				}
				p.Pix[y*p.W+x] = float32(v.R)
			}
		}
	default:
		return Plane{}, s.colours(c.name)
	}
	return p, nil
}
