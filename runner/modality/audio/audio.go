// Package audio turns sound files into the input of ImageBind's audio encoder,
// with the numbers of the reference's loader (imagebind/data.py,
// load_and_transform_audio_data): decode, resample to 16 kHz, take three clips
// of two seconds, a log-mel filter bank of each.
//
// decode.go, wav.go, vorbis.go and mp3.go know the file formats, resample.go is
// torchaudio's resampler, fbank.go Kaldi's filter bank.
package audio

import (
	"context"
	"math"
	"math/big"

	imagebind "imagebind-llm"
	"imagebind-llm/runner/modality"
)

const (
	rate    = 16000 // samples a second, of the encoder's sound
	clips   = 3     // S
	bins    = 128   // M, mel bins
	frames  = 204   // F, frames of 10 ms; 198 of them hold sound
	seconds = 2     // of a clip
)

// Spec is sound: three clips of two seconds, [S=3, 1, M=128, F=204]. What is
// behind the fourth media type is read by ffmpeg, where there is one.
var Spec = modality.Spec{
	Name: "audio",
	Part: "audio_url",
	Media: []string{"audio/wav", "audio/mpeg", "audio/flac", "audio/ogg",
		"audio/mp4", "audio/aac", "audio/aiff", "audio/amr", "audio/basic", "audio/x-caf"},
	Encoder: modality.Encoder{
		Name:  "audio",
		Heads: 12,
		Input: []int{1, bins, frames},
		Stem:  modality.Patches{Weight: "rgbt_stem.proj.weight", Stride: []int{10, 10}},
		Preprocessing: map[string]any{
			"sample_rate": rate, "clips": clips, "clip_seconds": seconds, "mel_bins": bins, "frames": frames,
			"features": "log mel filter bank as Kaldi", "mean": mean, "std": std,
		},
	},
	Read: Read,
}

// ImageBind's statistics of the filter bank (data.py, waveform2melspec).
const mean, std float32 = -4.268, 9.138

// Read turns a sound file into [S=3, 1, M=128, F=204]. The reference's clips
// are followed to their quirk: a clip's mean over all channels is subtracted
// in place, so that where clips overlap it has been subtracted before. Only
// the first channel is heard.
func Read(ctx context.Context, data []byte, o modality.Options) (imagebind.Tensor, error) {
	s, err := decode(ctx, data, o)
	if err != nil {
		return imagebind.Tensor{}, err
	}
	r := newResampler(s.rate)
	total := r.outLen(s.len())
	if total < frameLen {
		return imagebind.Tensor{}, imagebind.Errorf(imagebind.Invalid, "the sound is %.1f ms long; at least 25 ms are needed", 1000*float64(s.len())/float64(s.rate))
	}
	t := imagebind.NewFloats(clips, 1, bins, frames)
	bank := newFilterBank()
	wave := make([]float32, s.channels*min(total, seconds*rate)) // [C, N], the clip at hand
	n := len(wave) / s.channels
	done := 0 // the samples before it are in wave already, of the clip before
	prev := 0
	for i := range clips {
		if err := ctx.Err(); err != nil {
			return imagebind.Tensor{}, err
		}
		from := clipStart(total, i)
		kept := max(done-from, 0)
		sum := 0.0
		for c := range s.channels {
			clip := wave[c*n : (c+1)*n]
			if kept > 0 {
				copy(clip, clip[from-prev:])
			}
			r.resampleTo(clip[kept:], s, c, from+kept)
			for _, v := range clip {
				sum += float64(v)
			}
		}
		average := float32(sum / float64(len(wave)))
		for j := range wave {
			wave[j] -= average
		}
		prev, done = from, from+n

		out := t.Floats[i*bins*frames : (i+1)*bins*frames]
		bank.featuresTo(out, wave[:n])
		for j, v := range out {
			out[j] = (v - mean) / std
			if math.IsNaN(float64(v)) || math.IsInf(float64(v), 0) {
				return imagebind.Tensor{}, imagebind.Errorf(imagebind.Invalid, "the sound holds samples that are not finite, or too loud to measure")
			}
		}
	}
	return t, nil
}

// clipStart returns the first sample of clip i of total samples: i·max(d-2, 0)/3
// seconds of the duration d, a double, in exact fractions (pytorchvideo,
// ConstantClipsPerVideoSampler). The last clip does not reach the end.
func clipStart(total, i int) int {
	d := new(big.Rat).SetFloat64(max(float64(total)/rate-seconds, 0))
	d.Mul(d, big.NewRat(int64(i)*rate, clips))
	return int(new(big.Int).Quo(d.Num(), d.Denom()).Int64())
}
