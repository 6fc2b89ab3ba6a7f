package vision

import (
	"bytes"
	"context"
	"encoding/binary"
	"image"
	"image/color"
	"image/gif"
	"image/jpeg"
	"image/png"
	"io"
	"slices"
	"strings"

	"golang.org/x/image/bmp"
	"golang.org/x/image/tiff"
	"golang.org/x/image/webp"

	imagebind "imagebind-llm"
	"imagebind-llm/runner/modality"
	"imagebind-llm/runner/modality/internal/foreign"
)

// A codec reads one picture format.
type codec struct {
	name   string
	config func(io.Reader) (image.Config, error)
	decode func(io.Reader) (image.Image, error)
}

var codecs = map[string]codec{
	"image/png":  {"PNG", png.DecodeConfig, png.Decode},
	"image/jpeg": {"JPEG", jpeg.DecodeConfig, jpeg.Decode},
	"image/gif":  {"GIF", gif.DecodeConfig, gif.Decode}, // the first frame
	"image/webp": {"WebP", webp.DecodeConfig, webp.Decode},
	"image/bmp":  {"BMP", bmp.DecodeConfig, bmp.Decode},
	"image/tiff": {"TIFF", tiff.DecodeConfig, tiff.Decode},
}

// Decode returns the picture in a file of any format that Image.Media lists,
// as 8-bit RGB. The content decides the format.
//
// As in Pillow's convert("RGB"), palettes are expanded, CMYK is converted and
// 16-bit colour keeps its high bytes. By default transparency shows a white
// ground, 16-bit grey keeps its high byte and the picture is turned upright;
// with o.Reference alpha is dropped, grey above 255 becomes 255 and EXIF
// orientation is ignored (but for TIFF, where Pillow applies it too).
func Decode(ctx context.Context, data []byte, o modality.Options) (Picture, error) {
	r, err := decode(ctx, data, o)
	if err != nil {
		return Picture{}, err
	}
	return whole(r), nil
}

// decode is Decode, but that the rows of a JPEG may still be planes.
func decode(ctx context.Context, data []byte, o modality.Options) (_ rows, err error) {
	media := modality.Sniff(data)
	c, ok := codecs[media]
	if !ok {
		return nil, unsupported(data, media)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	defer foreign.Recover(&err, c.name)
	file := data // with the chunks around an animation
	if media == "image/webp" {
		data = firstFrame(data)
	}
	cfg, err := c.config(bytes.NewReader(data))
	if err != nil {
		return nil, foreign.Broken(c.name, err)
	}
	if err := Check(cfg.Width, cfg.Height, o); err != nil {
		return nil, err
	}
	if media == "image/jpeg" && cfg.ColorModel == color.CMYKModel && !hasAdobe(data) {
		data = withAdobe(data)
	}
	img, err := c.decode(bytes.NewReader(data))
	if err != nil {
		return nil, foreign.Broken(c.name, err)
	}
	if b := img.Bounds(); b.Dx() > cfg.Width || b.Dy() > cfg.Height {
		return nil, imagebind.Errorf(imagebind.Invalid, "the %s file is broken: its header says %d × %d pixels, its data %d × %d", c.name, cfg.Width, cfg.Height, b.Dx(), b.Dy())
	}
	turn := 1
	if !o.Reference || media == "image/tiff" {
		turn = orientation(media, file)
	}
	var p Picture
	var alpha []byte // [H, W], nil where opaque
	switch img := img.(type) {
	case *image.YCbCr:
		if media == "image/jpeg" {
			r := &jpegRows{YCbCr: img}
			if turn == 1 {
				return r, nil
			}
			p = whole(r)
		} else {
			p = webpRGB(img)
		}
	case *image.NYCbCrA:
		p = webpRGB(&img.YCbCr)
		alpha = make([]byte, 0, p.W*p.H)
		for y := range p.H {
			alpha = append(alpha, img.A[y*img.AStride:][:p.W]...)
		}
	case *image.Paletted:
		global, _ := cfg.ColorModel.(color.Palette)
		p, alpha = paletted(img, global, cfg.Width, cfg.Height)
	default:
		p, alpha = plain(img, o.Reference && grey16(media, data, img))
	}
	if media == "image/tiff" && invertedFax(data) {
		for i := range p.Pix {
			p.Pix[i] = ^p.Pix[i]
		}
	}
	if !o.Reference && alpha != nil {
		onWhite(p, alpha)
	}
	return upright(p, turn), nil
}

// firstFrame returns the first frame of an animated WebP as a file of its own;
// other files come back as they are. A frame smaller than the animation's
// canvas is taken without the ground around it.
func firstFrame(data []byte) []byte {
	const animated = 0x02 // a flag of VP8X; 0x10 says alpha
	for name, body := range chunks(data, 12, binary.LittleEndian) {
		switch {
		case name == "VP8X" && (len(body) < 10 || body[0]&animated == 0):
			return data
		case name == "ANMF" && len(body) > 16:
			out := []byte("RIFF\x00\x00\x00\x00WEBP")
			if string(body[16:min(20, len(body))]) == "ALPH" {
				out = append(out, "VP8X\x0a\x00\x00\x00\x10\x00\x00\x00"...)
				out = append(out, body[6:12]...) // width and height, less one
			}
			out = append(out, body[16:]...)
			binary.LittleEndian.PutUint32(out[4:], uint32(len(out)-8))
			return out
		}
	}
	return data
}

// invertedFax says whether a TIFF is compressed as fax (groups 3 and 4) with
// black as 0, which Go's decoder turns into its negative.
func invertedFax(data []byte) bool {
	const compression, photometric, blackIsZero = 259, 262, 1
	c := tiffTag(data, compression)
	return (c == 3 || c == 4) && tiffTag(data, photometric) == blackIsZero
}

// unsupported says what data is instead of a picture.
func unsupported(data []byte, media string) error {
	if len(data) == 0 {
		return imagebind.Errorf(imagebind.Invalid, "the picture is empty")
	}
	if media == "application/octet-stream" {
		media = "no known format"
	}
	return imagebind.Errorf(imagebind.Unsupported, "the file is not a picture that can be read (its content is %s); send PNG, JPEG, WebP, GIF, BMP or TIFF", media)
}

// hasAdobe says whether a JPEG has the segment that explains four components.
func hasAdobe(data []byte) bool {
	for marker, body := range jpegSegments(data) {
		if marker == 0xee && strings.HasPrefix(string(body), "Adobe") {
			return true
		}
	}
	return false
}

// withAdobe returns a JPEG with a segment that says CMYK, inverted as Adobe
// has it: so Pillow takes four components without one, and Go's decoder
// refuses them.
func withAdobe(data []byte) []byte {
	return slices.Insert(slices.Clone(data), 2, []byte("\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00")...)
}

// grey16 says whether Pillow would read the picture as 16-bit grey.
func grey16(media string, data []byte, img image.Image) bool {
	if media == "image/png" {
		return len(data) > 25 && data[24] == 16 && data[25] == 0 // IHDR: depth, colour type
	}
	_, ok := img.(*image.Gray16)
	return ok
}

// paletted expands the frame of a GIF, or any picture with a palette, on a
// canvas of w × h. Outside the frame nothing is drawn: transparent, with the
// colour that the reference would show there. global is the palette of the
// file's header.
func paletted(img *image.Paletted, global color.Palette, w, h int) (Picture, []byte) {
	var rgb [256][3]byte
	var a [256]byte
	opaque, ground := true, 0
	for i, c := range img.Palette[:min(len(img.Palette), 256)] {
		n := color.NRGBAModel.Convert(c).(color.NRGBA)
		if i < len(global) && n == (color.NRGBA{}) { // Go's decoder blanks the transparent colour
			g := color.NRGBAModel.Convert(global[i]).(color.NRGBA)
			n = color.NRGBA{R: g.R, G: g.G, B: g.B}
		}
		rgb[i], a[i] = [3]byte{n.R, n.G, n.B}, n.A
		if n.A != 255 {
			opaque = false
			if n.A == 0 {
				ground = i
			}
		}
	}
	p := Picture{w, h, make([]byte, 3*w*h)}
	b := img.Bounds().Intersect(image.Rect(0, 0, w, h))
	whole := b == image.Rect(0, 0, w, h)
	var alpha []byte
	if !opaque || !whole {
		alpha = make([]byte, w*h)
	}
	if !whole {
		for i := range w * h {
			copy(p.Pix[3*i:], rgb[ground][:])
		}
	}
	for y := b.Min.Y; y < b.Max.Y; y++ {
		for x := b.Min.X; x < b.Max.X; x++ {
			v := img.ColorIndexAt(x, y)
			copy(p.Pix[3*(y*w+x):], rgb[v][:])
			if alpha != nil {
				alpha[y*w+x] = a[v]
			}
		}
	}
	return p, alpha
}

// plain converts the other kinds of picture. The alpha plane is nil where the
// kind has none. With saturate, 16-bit values above 255 become 255.
func plain(img image.Image, saturate bool) (Picture, []byte) {
	b := img.Bounds()
	p := Picture{b.Dx(), b.Dy(), make([]byte, 3*b.Dx()*b.Dy())}
	pix := p.Pix
	high := func(v uint16) byte { // 16 bits to 8
		if saturate {
			return byte(min(v, 255))
		}
		return byte(v >> 8)
	}
	var alpha []byte
	switch img := img.(type) {
	case *image.Gray:
		for y := range p.H {
			for x, v := range img.Pix[y*img.Stride:][:p.W] {
				pix[3*x], pix[3*x+1], pix[3*x+2] = v, v, v
			}
			pix = pix[3*p.W:]
		}
	case *image.Gray16:
		for y := range p.H {
			row := img.Pix[y*img.Stride:]
			for x := range p.W {
				v := high(binary.BigEndian.Uint16(row[2*x:]))
				pix[3*x], pix[3*x+1], pix[3*x+2] = v, v, v
			}
			pix = pix[3*p.W:]
		}
	case *image.CMYK: // Pillow, libImaging/Convert.c, cmyk2rgb
		for y := range p.H {
			row := img.Pix[y*img.Stride:]
			for x := range p.W {
				k := int32(255 - row[4*x+3])
				for c := range 3 {
					t := int32(row[4*x+c])*k + 128
					pix[3*x+c] = clamp(k - (t>>8+t)>>8)
				}
			}
			pix = pix[3*p.W:]
		}
	case *image.NRGBA:
		alpha = make([]byte, p.W*p.H)
		for y := range p.H {
			row := img.Pix[y*img.Stride:]
			for x := range p.W {
				copy(pix[3*x:], row[4*x:4*x+3])
				alpha[y*p.W+x] = row[4*x+3]
			}
			pix = pix[3*p.W:]
		}
	case *image.NRGBA64:
		alpha = make([]byte, p.W*p.H)
		for y := range p.H {
			row := img.Pix[y*img.Stride:]
			for x := range p.W {
				for c := range 3 {
					pix[3*x+c] = high(binary.BigEndian.Uint16(row[8*x+2*c:]))
				}
				alpha[y*p.W+x] = row[8*x+6]
			}
			pix = pix[3*p.W:]
		}
	case *image.RGBA:
		if !img.Opaque() {
			return plain(unmultiplied(img), saturate)
		}
		for y := range p.H {
			row := img.Pix[y*img.Stride:]
			for x := range p.W {
				copy(pix[3*x:], row[4*x:4*x+3])
			}
			pix = pix[3*p.W:]
		}
	case *image.RGBA64:
		if !img.Opaque() {
			return plain(unmultiplied(img), saturate)
		}
		for y := range p.H {
			row := img.Pix[y*img.Stride:]
			for x := range p.W {
				pix[3*x], pix[3*x+1], pix[3*x+2] = row[8*x], row[8*x+2], row[8*x+4]
			}
			pix = pix[3*p.W:]
		}
	default:
		return plain(unmultiplied(img), saturate)
	}
	return p, alpha
}

// unmultiplied returns any picture with 8-bit colours that are not multiplied by alpha.
func unmultiplied(img image.Image) *image.NRGBA {
	b := img.Bounds()
	out := image.NewNRGBA(image.Rect(0, 0, b.Dx(), b.Dy()))
	for y := range b.Dy() {
		for x := range b.Dx() {
			out.SetNRGBA(x, y, color.NRGBAModel.Convert(img.At(b.Min.X+x, b.Min.Y+y)).(color.NRGBA))
		}
	}
	return out
}

// onWhite composes p with its alpha plane [H, W] over white.
func onWhite(p Picture, alpha []byte) {
	for i, a := range alpha {
		if a == 255 {
			continue
		}
		for c := range 3 {
			v := &p.Pix[3*i+c]
			*v = byte((int(*v)*int(a) + 255*(255-int(a)) + 127) / 255)
		}
	}
}
