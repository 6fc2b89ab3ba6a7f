// Package vision turns pictures into the input of ImageBind's vision encoder,
// with the numbers of the reference's loader (imagebind/data.py,
// load_and_transform_vision_data): decode to 8-bit RGB, resize the short side
// to 224 as Pillow's bicubic filter does, crop the centre, normalize.
//
// decode.go knows the file formats, upsample.go how libjpeg and libwebp turn
// Y'CbCr planes into RGB, exif.go the orientation, resize.go the filter. Videos
// share the encoder and go another way: video.go chooses frames, which ffmpeg
// decodes, and bilinear.go resizes them. The package runs no graph.
package vision

import (
	"context"
	"fmt"
	"math"

	imagebind "imagebind-llm"
	"imagebind-llm/runner/modality"
)

// Side is the height and width of the encoder's pictures.
const Side = 224

// Encoder is ImageBind's vision trunk. One clip is [C=3, T=2, H=224, W=224]; a
// still picture is repeated, so that one graph serves image and video.
var Encoder = modality.Encoder{
	Name:  "vision",
	Heads: 16,
	Input: []int{3, 2, Side, Side},
	Stem:  modality.Patches{Weight: "rgbt_stem.proj.1.weight", Stride: []int{2, 14, 14}},
	Preprocessing: map[string]any{
		"colour": "RGB", "resize": "short side, bicubic as Pillow", "crop": "centre", "side": Side,
		"divide_by": 255, "mean": mean, "std": std, "still_picture": "repeated in time",
		"video_clips": clips.Default, "video_clip_seconds": clipSeconds, "video_frames": "first and last of a clip",
		"video_resize": "short side, bilinear without antialiasing", "video_crops": crops.Default,
	},
}

// Image is the Spec of still pictures: one clip, [S=1, C=3, T=2, H=224, W=224].
var Image = modality.Spec{
	Name:    "image",
	Part:    "image_url",
	Media:   []string{"image/png", "image/jpeg", "image/webp", "image/gif", "image/bmp", "image/tiff"},
	Encoder: Encoder,
	Read:    ReadImage,
}

// CLIP's statistics, which ImageBind keeps.
var (
	mean = [3]float32{0.48145466, 0.4578275, 0.40821073}
	std  = [3]float32{0.26862954, 0.26130258, 0.27577711}
)

// normalized holds (x/255 - mean)/std for each channel and byte.
var normalized = func() (t [3][256]float32) {
	for c := range t {
		for x := range t[c] {
			v := float32(x) / 255
			t[c][x] = (v - mean[c]) / std[c]
		}
	}
	return t
}()

// A Picture is 8-bit RGB, row by row: len(Pix) = 3·W·H.
type Picture struct {
	W, H int
	Pix  []byte
}

func (p Picture) size() (w, h int) { return p.W, p.H }

func (p Picture) row(y, first, last int) []byte { return p.Pix[3*(p.W*y+first) : 3*(p.W*y+last)] }

// rows is a picture whose rows are made as they are asked for.
type rows interface {
	size() (w, h int)
	// row returns the columns first..last of row y: [last-first, 3], until the next call.
	row(y, first, last int) []byte
}

// whole returns the picture of all rows.
func whole(r rows) Picture {
	if p, ok := r.(Picture); ok {
		return p
	}
	w, h := r.size()
	p := Picture{w, h, make([]byte, 0, 3*w*h)}
	for y := range h {
		p.Pix = append(p.Pix, r.row(y, 0, w)...)
	}
	return p
}

// ReadImage turns a picture file into [S=1, C=3, T=2, H=224, W=224]. The
// limits hold for the file's header, before anything is decoded, and for the
// resized picture before its centre is cropped.
func ReadImage(ctx context.Context, data []byte, o modality.Options) (imagebind.Tensor, error) {
	r, err := decode(ctx, data, o)
	if err != nil {
		return imagebind.Tensor{}, err
	}
	if err := ctx.Err(); err != nil {
		return imagebind.Tensor{}, err
	}
	t := imagebind.NewFloats(1, 3, 2, Side, Side)
	const plane = Side * Side
	NormalizeTo(t.Floats[:3*plane], fit(r))
	for c := 2; c >= 0; c-- { // the last first: it moves the farthest
		for f := range 2 {
			copy(t.Floats[(2*c+1-f)*plane:], t.Floats[c*plane:(c+1)*plane])
		}
	}
	return t, nil
}

// NormalizeTo writes p to dst [C=3, H, W] as (x/255 - mean)/std for each
// channel: about -1.8 to 2.2. It panics if len(dst) != 3·H·W.
func NormalizeTo(dst []float32, p Picture) {
	n := p.W * p.H
	if len(dst) != 3*n {
		panic(fmt.Sprintf("vision: dst holds %d values, want 3·%d·%d", len(dst), p.H, p.W))
	}
	for c := range 3 {
		plane, table := dst[c*n:(c+1)*n], &normalized[c]
		for i := range plane {
			plane[i] = table[p.Pix[3*i+c]]
		}
	}
}

// resized returns the size of a picture w × h once its short side is 224
// (torchvision, _compute_resized_image_output_size).
func resized(w, h int) (int, int) {
	short, long := min(w, h), max(w, h)
	long = int(Side * float64(long) / float64(short))
	if w <= h {
		return Side, long
	}
	return long, Side
}

// centre is the window [224, 224] that torchvision's CenterCrop takes of w × h.
func centre(w, h int) window {
	left := int(math.RoundToEven(float64(w-Side) / 2))
	top := int(math.RoundToEven(float64(h-Side) / 2))
	return window{left, top, Side, Side}
}

// Fit resizes p to a short side of 224 and crops the centre: [224, 224]. Only
// the cropped columns and rows are computed.
func Fit(p Picture) Picture { return fit(p) }

func fit(r rows) Picture {
	w, h := resized(r.size())
	return resize(r, w, h, centre(w, h))
}

// Check holds the size of a picture's header against the limits.
func Check(w, h int, o modality.Options) error {
	l := o.Limits.OrDefault()
	if o.Reference {
		l.Smallest = 1
	}
	if w <= 0 || h <= 0 || max(w, h) < l.Smallest {
		return imagebind.Errorf(imagebind.Invalid, "the picture is %d × %d pixels; a side of at least %d is needed to show anything", w, h, l.Smallest)
	}
	if max(w, h) > l.Side || w > l.Pixels/h {
		return imagebind.Errorf(imagebind.TooLarge, "the picture is %d × %d pixels; at most %d in all and %d a side are allowed", w, h, l.Pixels, l.Side)
	}
	if rw, rh := resized(w, h); max(rw, rh) > l.Side {
		return imagebind.Errorf(imagebind.TooLarge, "the picture of %d × %d pixels is too elongated: with a short side of %d its long side would be %d, more than %d", w, h, Side, max(rw, rh), l.Side)
	}
	return nil
}
