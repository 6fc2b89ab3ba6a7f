// Package depth turns depth maps into the input of ImageBind's depth encoder.
// The reference has no loader for them (issues 14, 69, 122 and 134 of
// facebookresearch/ImageBind ask for one); the rules here are put together from
// what its authors published and what others measured:
//
//   - Depth becomes disparity, baseline · focal / depth, in pixels, as in
//     Omnivore (arXiv 2201.08377), by the same company: issue 12 of
//     facebookresearch/omnivore has its authors' code, the sensors' baselines
//     and the bounds of 0.01 and 50 m.
//   - Disparity above 75 is 75, and 75 becomes 1; then short side 224, bilinear,
//     without antialiasing as torchvision was then; centre 224; (x - 0.0418) /
//     0.0295: Omnivore's predict.py, DepthNorm and the fourth channel.
//   - That ImageBind does the same is inferred: its issues 69, 107 and 134 build
//     on Omnivore's code and constants.
//   - A metre counts as eight. SUN RGB-D, of which the constants are, stores
//     millimetres rotated left by three bits, and the code of issue 12 reads
//     them as they are: all its depths are eight times too large. The mean,
//     0.0418 · 75 px, is 12 m with a Kinect; an eighth of that is a room. Who
//     opened ImageBind's issue 134 decodes the files, reaches the paper's accuracy
//     and has a mean of 24.82 px (OlafBraakman/robust-retrieval-augmentation,
//     depth_mean), 7.9 times this one. So this too is inferred, from numbers
//     that agree; issue 12 of TencentARC/ViT-Lens has the rotation.
//
// Files are read by package raster.
package depth

import (
	"context"
	"math"

	imagebind "imagebind-llm"
	"imagebind-llm/runner/modality"
	"imagebind-llm/runner/modality/internal/raster"
	"imagebind-llm/runner/modality/vision"
)

const (
	asTrained = 8           // metres in the authors' numbers, of one
	nearest   = 0.01        // metres, in the authors' numbers
	farthest  = 50          // likewise
	most      = 75          // disparity that becomes 1, in pixels
	mean      = 0.0418      // of disparity / 75
	std       = 0.0295      // likewise
	millis    = 0.001       // metres of 1 in a file of whole numbers
	kinect    = 518.857901  // focal length in pixels of NYU Depth V2's camera, in pictures 640 wide
	side      = vision.Side // of the input
	unlikely  = 100         // metres: a map without a nearer depth is in another unit
)

// What senders may say of a depth map. The defaults are the Kinect's, of which
// most of the training pictures are. As the focal length does not follow the
// file's width, a depth map means the same at any resolution.
var (
	baseline = modality.Param{Name: "baseline", Default: 0.075, Min: 0.001, Max: 10,
		Doc: "metres between the sensor's two eyes: 0.075 for a Kinect, 0.095 for RealSense and Xtion as the authors have them"}
	focal = modality.Param{Name: "focal", Default: kinect, Min: 1, Max: 100000,
		Doc: "the sensor's focal length in pixels"}
	scale = modality.Param{Name: "scale", Max: 1000,
		Doc: "metres of 1 in the file; 0 means 0.001 in files of 16-bit and wider whole numbers and 1 in those of floats"}
)

// Spec is depth maps: one clip, [S=1, C=1, H=224, W=224].
var Spec = modality.Spec{
	Name:   "depth",
	Part:   "depth_url",
	Media:  raster.Media,
	Params: []modality.Param{baseline, focal, scale},
	Encoder: modality.Encoder{
		Name:  "depth",
		Heads: 8,
		Input: []int{1, side, side},
		Stem:  modality.Patches{Weight: "depth_stem.proj.weight", Stride: []int{16, 16}},
		Preprocessing: map[string]any{
			"value": "baseline * focal / (8 * metres), of metres", "baseline_metres": baseline.Default, "focal_pixels": focal.Default,
			"clip_8_metres": []float64{nearest, farthest}, "clip": most, "divide_by": most, "mean": mean, "std": std, "missing": "the mean",
			"resize": "short side, bilinear without antialiasing", "crop": "centre", "side": side,
		},
	},
	Read: Read,
}

// Read turns a depth map into [S=1, C=1, H=224, W=224]. Where nothing was
// measured (0, less, NaN) stands the mean, which becomes 0, or with o.Reference
// the nearest depth, as in the authors' code; infinity is the farthest.
func Read(ctx context.Context, data []byte, o modality.Options) (imagebind.Tensor, error) {
	p, err := raster.Decode(ctx, data, o, "a depth map")
	if err != nil {
		return imagebind.Tensor{}, err
	}
	metres, err := unit(p, o)
	if err != nil {
		return imagebind.Tensor{}, err
	}
	if err := disparities(p.Pix, metres, o); err != nil {
		return imagebind.Tensor{}, err
	}
	t := imagebind.NewFloats(1, 1, side, side)
	vision.FitPlane(t.Floats, p.Pix, p.W, p.H)
	for i, v := range t.Floats {
		t.Floats[i] = (v - mean) / std
	}
	return t, nil
}

// unit returns the metres of 1 in p.
func unit(p raster.Plane, o modality.Options) (float64, error) {
	switch said := o.Value(scale); {
	case said != 0:
		return said, nil
	case p.Bits == 0:
		return 1, nil
	case p.Bits < 16:
		return 0, imagebind.Errorf(imagebind.Invalid, "the depth map has %d bits a pixel, and no unit is usual for those; set scale, the metres of 1, or send 16-bit millimetres", p.Bits)
	}
	return millis, nil
}

// disparities turns depths into disparities, 0 to 1, in place.
func disparities(pix []float32, metres float64, o modality.Options) error {
	missing := float32(mean)
	if o.Reference {
		missing = 1
	}
	pixels := o.Value(baseline) * o.Value(focal) // times metres
	closest := math.Inf(1)                       // in the file's unit
	measured := false
	for i, v := range pix {
		if !(v > 0) {
			pix[i] = missing
			continue
		}
		measured, closest = true, min(closest, float64(v))
		d := min(max(float64(v)*metres*asTrained, nearest), farthest)
		pix[i] = float32(math.Min(pixels/d, most) / most)
	}
	if !measured {
		return imagebind.Errorf(imagebind.Invalid, "no pixel of the depth map has a depth: all are 0, negative or not a number")
	}
	if m := closest * metres; m > unlikely && !math.IsInf(m, 1) { // all would be the farthest, and alike
		return imagebind.Errorf(imagebind.Invalid, "the nearest depth of the depth map is %.4g m; set scale, the metres of 1: 0.001 for millimetres", m)
	}
	return nil
}
