// Package raster reads files of one number a pixel: depth in metres or
// millimetres, heat in counts or degrees. Of colours it makes nothing. PNG and
// TIFF of whole numbers are decoded by libraries; .npy, TIFF of floats, OpenEXR
// and PFM here.
package raster

import (
	"context"

	imagebind "imagebind-llm"
	"imagebind-llm/runner/modality"
	"imagebind-llm/runner/modality/internal/foreign"
	"imagebind-llm/runner/modality/vision"
)

// Media are the types that Decode reads.
var Media = []string{"image/png", "image/tiff", "application/x-npy", "image/x-exr", "image/x-portable-floatmap"}

// A Plane is one number a pixel, row by row: len(Pix) = W·H.
type Plane struct {
	W, H int
	Pix  []float32
	Bits int // of the file's whole numbers; 0 where it has floats
}

// Deep says whether a file has one channel of more than 8 bits a pixel, or is
// of a format that pictures for the eye are not kept in.
func Deep(data []byte) bool {
	switch media := modality.Sniff(data); media {
	case "image/png":
		const grey, greyAlpha = 0, 4
		return len(data) > 25 && data[24] == 16 && (data[25] == grey || data[25] == greyAlpha)
	case "image/tiff":
		d, err := parseTIFF(data)
		return err == nil && d.value(tagBits, 1) > 8 && d.value(tagSamples, 1) == 1
	default:
		_, ok := readers[media]
		return ok
	}
}

// room is what a picture may take in memory, however few bytes its file has.
const room = 16 << 20

// A source is a file and what it may become.
type source struct {
	data []byte
	what string // as in "a depth map"
	o    modality.Options
}

// check holds the size in a header against the limits, for a file whose pixels
// have so many bytes before compression.
func (s source) check(w, h, pixel int) error {
	if err := vision.Check(w, h, s.o); err != nil {
		return err
	}
	if n, ratio := w*h*pixel, s.o.Limits.OrDefault().Ratio; n > room && n/ratio > len(s.data) {
		return imagebind.Errorf(imagebind.TooLarge, "the file of %d bytes would become %d × %d pixels, %d bytes: more than %d times its size", len(s.data), w, h, n, ratio)
	}
	return nil
}

// readers are those of each type; name is for errors.
var readers = map[string]struct {
	name string
	read func(s source) (Plane, error)
}{
	"image/png":                 {"PNG", readPNG},
	"image/tiff":                {"TIFF", readTIFF},
	"application/x-npy":         {".npy", readNPY},
	"image/x-exr":               {"OpenEXR", readEXR},
	"image/x-portable-floatmap": {"PFM", readPFM},
}

// Decode returns the numbers in a file, whose content decides the format; what
// says what they are, for errors, as in "a depth map". The limits hold before
// anything is decoded. Errors are Invalid, TooLarge or Unsupported.
func Decode(ctx context.Context, data []byte, o modality.Options, what string) (p Plane, err error) {
	if len(data) == 0 {
		return Plane{}, imagebind.Errorf(imagebind.Invalid, "the file is empty; %s is needed", what)
	}
	media := modality.Sniff(data)
	r, ok := readers[media]
	if !ok {
		if media == "application/octet-stream" {
			media = "no known format"
		}
		return Plane{}, imagebind.Errorf(imagebind.Unsupported, "the file is not %s that can be read (its content is %s); send PNG, TIFF, .npy, OpenEXR or PFM of one channel", what, media)
	}
	if err := ctx.Err(); err != nil {
		return Plane{}, err
	}
	defer foreign.Recover(&err, r.name)
	if p, err = r.read(source{data, what, o}); err != nil {
		return Plane{}, err
	}
	return p, ctx.Err()
}

// colours is the error of a picture that has them.
func (s source) colours(name string) error {
	return imagebind.Errorf(imagebind.Invalid, "the %s file is a picture in colour; %s has one channel, with a number a pixel", name, s.what)
}

// cut is the error of a file that ends early.
func cut(name string) error {
	return imagebind.Errorf(imagebind.Invalid, "the %s file is cut: its pixels end early", name)
}
