package vision

import (
	"context"
	"errors"
	"math/big"
	"slices"
	"sort"

	imagebind "imagebind-llm"
	"imagebind-llm/runner/modality"
	"imagebind-llm/runner/modality/internal/ffmpeg"
)

// Video is the Spec of moving pictures: clips spread over the video, each
// cropped at several places, [S=clips·crops, C=3, T=2, H=224, W=224]. It needs
// ffmpeg.
var Video = modality.Spec{
	Name:    "video",
	Part:    "video_url",
	Media:   videoMedia,
	Params:  []modality.Param{clips, crops},
	Encoder: Encoder,
	Read:    ReadVideo,
}

var videoMedia = []string{"video/mp4", "video/quicktime", "video/webm", "video/x-matroska", "video/x-msvideo",
	"video/mpeg", "video/mp2t", "video/x-ms-asf", "video/ogg"}

// What a sender may say of a video.
var (
	clips = modality.Param{Name: "clips", Doc: "clips of two seconds, spread evenly over the video", Default: 5, Min: 1, Max: 20, Integer: true}
	crops = modality.Param{Name: "crops", Doc: "squares of each clip: 3 cover the long side, 1 is its centre", Default: 3, Min: 1, Max: 3, Integer: true}
)

const (
	clipSeconds = 2
	clipFrames  = 2 // T, the first and the last of a clip
)

// ReadVideo turns a video file into [S, C=3, T=2, H=224, W=224] as the
// reference does (ImageBind-LLM, data.py, load_and_transform_video_data with
// PyAV): S is clip·crops + crop. Limits hold for what the container says, before
// a frame is decoded. As in the reference, pixels are taken as square.
//
// By default the picture is turned as the file asks, and a clip in which no
// frame begins holds the frame that is still shown; with o.Reference the
// rotation is ignored and such a clip is an error.
func ReadVideo(ctx context.Context, data []byte, o modality.Options) (t imagebind.Tensor, err error) {
	if n := o.Value(crops); n == 2 {
		return t, imagebind.Errorf(imagebind.Invalid, "crops is 2; it is 1 (the centre) or 3")
	}
	media := modality.Sniff(data)
	switch {
	case len(data) == 0:
		return t, imagebind.Errorf(imagebind.Invalid, "the video is empty")
	case !slices.Contains(videoMedia, media):
		if media == "application/octet-stream" {
			media = "no known format"
		}
		return t, imagebind.Errorf(imagebind.Unsupported, "the file is not a video that can be read (its content is %s); send MP4, WebM, Matroska, QuickTime, AVI or MPEG", media)
	case o.FFmpeg == "":
		return t, imagebind.Errorf(imagebind.Unsupported, "the file is %s, and video is read with ffmpeg only, which this server does not have: install it, or set media.ffmpeg to the program", media)
	}
	f, err := ffmpeg.Open(o, media, data)
	if err != nil {
		return t, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	most := o.Limits.OrDefault().Frames
	v, missing := f.Survey(ctx, !o.Reference, most)
	if missing != nil && !errors.Is(missing, ffmpeg.ErrMissing) {
		return t, missing
	}
	if err := Check(v.W, v.H, o); err != nil {
		return t, err
	}
	if missing == nil {
		if t, missing = sample(ctx, f, v, o); !errors.Is(missing, ffmpeg.ErrMissing) {
			return t, missing
		}
	}
	if err := f.Decode(ctx, v, most); err != nil {
		return t, err
	}
	if t, err = sample(ctx, f, v, o); errors.Is(err, ffmpeg.ErrMissing) {
		err = imagebind.Errorf(imagebind.Invalid, "the video's frames (%s) cannot be decoded", media)
	}
	return t, err
}

// A place is where a frame goes: to clip i as its frame t.
type place struct{ clip, t int }

// sample decodes the frames of all clips and fills the encoder's input.
func sample(ctx context.Context, f *ffmpeg.File, v *ffmpeg.Video, o modality.Options) (imagebind.Tensor, error) {
	nClips, nCrops := int(o.Value(clips)), int(o.Value(crops))
	places, err := choose(v, nClips, o)
	if err != nil {
		return imagebind.Tensor{}, err
	}
	var pts []int64
	for p := range places {
		pts = append(pts, p)
	}
	slices.Sort(pts)
	cuts := newCuts(v.W, v.H, nCrops)
	out := imagebind.NewFloats(nClips*nCrops, 3, clipFrames, Side, Side)
	err = f.Frames(ctx, v, pts, func(i int, rgb []byte) error {
		const plane = Side * Side
		p := Picture{v.W, v.H, rgb}
		for crop, cut := range cuts {
			var first []float32 // of the place that is written first, [C, T, H, W] from its frame on
			for _, at := range places[pts[i]] {
				dst := out.Floats[((at.clip*nCrops+crop)*3*clipFrames+at.t)*plane:]
				if first == nil {
					first = dst
					cut.resizeTo(dst, clipFrames*plane, p)
					continue
				}
				for c := range 3 {
					copy(dst[c*clipFrames*plane:][:plane], first[c*clipFrames*plane:])
				}
			}
		}
		return ctx.Err()
	})
	return out, err
}

// choose returns which frames make the clips, by their times: of clip i those
// from i·max(d-2, 0)/n seconds on for two seconds, in exact fractions of the
// duration d (pytorchvideo, ConstantClipsPerVideoSampler and get_clip); of them
// the first and the last (UniformTemporalSubsample).
func choose(v *ffmpeg.Video, n int, o modality.Options) (map[int64][]place, error) {
	ticks := v.Duration
	if o.Reference {
		ticks -= v.PTS[0] // pts_to_secs takes the start from a duration too
	}
	d := new(big.Rat).Mul(v.Tick, new(big.Rat).SetInt64(ticks))
	if s, _ := d.Float64(); s > o.Limits.OrDefault().Seconds {
		return nil, imagebind.Errorf(imagebind.TooLarge, "the video is %.1f seconds long, more than the %g allowed; send a part of it", s, o.Limits.OrDefault().Seconds)
	}
	step := new(big.Rat).Sub(d, big.NewRat(clipSeconds, 1))
	step.Quo(step, big.NewRat(int64(n), 1))
	if step.Sign() < 0 {
		step = new(big.Rat)
	}
	index := func(seconds *big.Rat) int { // of the first frame that is not before
		t := v.PTS[0] + ceil(new(big.Rat).Quo(seconds, v.Tick))
		return sort.Search(len(v.PTS), func(i int) bool { return v.PTS[i] >= t })
	}
	places := map[int64][]place{}
	for i := range n {
		start := new(big.Rat).Mul(step, big.NewRat(int64(i), 1))
		end := new(big.Rat).Add(start, big.NewRat(clipSeconds, 1))
		from, to := index(start), index(end)
		if from == to {
			if o.Reference {
				s, _ := start.Float64()
				return nil, imagebind.Errorf(imagebind.Invalid, "the video has no frame in the two seconds from %.2f s on; send one with more frames, or ask for fewer clips", s)
			}
			from-- // a frame is at 0, so that there is one
		}
		first, last := v.PTS[from], v.PTS[max(to-1, from)]
		places[first] = append(places[first], place{i, 0})
		places[last] = append(places[last], place{i, 1})
	}
	return places, nil
}

func ceil(r *big.Rat) int64 {
	q, m := new(big.Int).DivMod(r.Num(), r.Denom(), new(big.Int))
	if m.Sign() > 0 {
		return q.Int64() + 1
	}
	return q.Int64()
}
