// Package thermal turns pictures of a thermal camera into the input of
// ImageBind's thermal encoder. The reference has no loader for them (pull
// request 73 of facebookresearch/ImageBind proposes one); the rules here are
// put together from what is known:
//
//   - The encoder was trained on LLVIP's pictures, 8-bit grey, as one channel
//     (the ImageBind paper, arXiv 2305.05665).
//   - Values are grey / 255, 0 to 1, with no mean taken and no division by a
//     deviation. This is inferred: with them LLVIP's accuracy is 62.4 %, with a
//     normalisation 55.2 %, and 63.4 % in the paper (pull request 73, comments).
//   - Colours become grey as in Pillow's convert("L"); size and crop are those
//     of ImageBind's pictures. Inferred from the same proposal.
//
// A camera's raw counts or degrees, 16-bit or float, have no range that the
// encoder knows; see stretch.
package thermal

import (
	"context"
	"slices"

	imagebind "imagebind-llm"
	"imagebind-llm/runner/modality"
	"imagebind-llm/runner/modality/internal/raster"
	"imagebind-llm/runner/modality/vision"
)

const side = vision.Side // of the input

// What senders may say of a picture.
var (
	low = modality.Param{Name: "low", Min: -1e6, Max: 1e6,
		Doc: "the value of a 16-bit or float file that becomes black; low and high both 0 mean its 1st and 99th percentile"}
	high = modality.Param{Name: "high", Min: -1e6, Max: 1e6,
		Doc: "the value of a 16-bit or float file that becomes white"}
)

// Spec is thermal pictures: one clip, [S=1, C=1, H=224, W=224].
var Spec = modality.Spec{
	Name:   "thermal",
	Part:   "thermal_url",
	Media:  media(),
	Params: []modality.Param{low, high},
	Encoder: modality.Encoder{
		Name:  "thermal",
		Heads: 12,
		Input: []int{1, side, side},
		Stem:  modality.Patches{Weight: "rgbt_stem.proj.weight", Stride: []int{16, 16}},
		Preprocessing: map[string]any{
			"colour": "grey as Pillow's L", "resize": "short side, bicubic as Pillow", "crop": "centre", "side": side,
			"divide_by": 255, "mean": 0, "std": 1, "16_bit": "1st to 99th percentile of the picture",
		},
	},
	Read: Read,
}

// media are those of pictures and of planes, each once.
func media() []string {
	all := slices.Clone(vision.Image.Media)
	for _, m := range raster.Media {
		if !slices.Contains(all, m) {
			all = append(all, m)
		}
	}
	return all
}

// Read turns a picture into [S=1, C=1, H=224, W=224].
func Read(ctx context.Context, data []byte, o modality.Options) (imagebind.Tensor, error) {
	p, err := picture(ctx, data, o)
	if err != nil {
		return imagebind.Tensor{}, err
	}
	p = vision.Fit(p)
	t := imagebind.NewFloats(1, 1, side, side)
	for i := range t.Floats {
		t.Floats[i] = float32(p.Pix[3*i]) / 255
	}
	return t, nil
}
