// Package modality says what the rest of the project knows of a kind of input:
// its name, the files it reads, the tensor they become and the encoder that
// takes it. Each encoder's inputs are a folder below; package all lists them.
// Nothing here runs a graph: see runner/embed.
package modality

import (
	"context"

	imagebind "imagebind-llm"
)

// A Spec is a kind of input. Image and video share an encoder, so they are two
// Specs with one Encoder.
type Spec struct {
	Name    string   // image, video, audio, text, depth, …: the word of the API
	Part    string   // the content part's type: image_url, audio_url, bind_text, …
	Media   []string // media types it reads, most common first
	Params  []Param  // what a sender may say about a file; usually none
	Encoder Encoder
	// Read turns the bytes of a file (or the UTF-8 of a text) into the encoder's
	// input [S, …Encoder.Input]: S clips, whose embeddings are averaged. Limits
	// hold before decoding. Errors are Invalid, TooLarge or Unsupported.
	Read func(ctx context.Context, data []byte, o Options) (imagebind.Tensor, error)
}

// An Encoder is what a checkpoint's tensor shapes cannot tell of an ImageBind
// trunk (imagebind/models/imagebind_model.py), and where its tensors are.
type Encoder struct {
	Name  string // the <m> of modality_trunks.<m>: vision, text, audio, depth, thermal, imu, point
	Heads int    // attention heads in the released model; --heads-config overrides it
	Input []int  // the shape of one clip, without the batch
	Ints  bool   // the input is token ids (int64)
	Stem  Stem
	// Preprocessing names the constants that make the input, for a bundle's
	// manifest: other programs that run its graphs want them. Read has its own.
	Preprocessing map[string]any
}

// A Stem is how an encoder's input becomes tokens. Package exporter/encoder
// builds each kind: see [Patches], [Tokens], [Groups].
type Stem interface{ stem() }

// Patches is a strided convolution over a picture-like input. The kernel is the
// weight's shape.
type Patches struct {
	Weight string // tensor name below modality_preprocessors.<m>.
	Stride []int  // one a spatial (or temporal) axis
}

// Tokens is a table of token embeddings with a causal mask, pooled at the
// largest id (CLIP's end token).
type Tokens struct{}

// Groups are neighbourhoods of a point cloud, each made a token by a small
// PointNet (Point-Bind). Input is then [G, K+1, 3]: of each group its centre,
// and K points less the centre.
type Groups struct{}

func (Patches) stem() {}
func (Tokens) stem()  {}
func (Groups) stem()  {}

// Limits bound what Read accepts, checked before anything is decoded. Zero
// means the default of DefaultLimits.
type Limits struct {
	Pixels   int     // of a picture or a video's frame, width × height
	Side     int     // of a picture, the longer side, after resizing too
	Smallest int     // of a picture, the longer side; 1 with Options.Reference
	Seconds  float64 // of a sound, video or motion trace
	Frames   int     // of a video that are decoded
	Points   int     // of a point cloud; faces too
	Ratio    int     // decoded bytes per byte, of formats that say both
	Decode   float64 // seconds that ffmpeg may take over a file
}

// DefaultLimits returns the limits of a server without configuration.
func DefaultLimits() Limits {
	return Limits{Pixels: 64 << 20, Side: 32768, Smallest: 2, Seconds: 600, Frames: 60000, Points: 4 << 20, Ratio: 200, Decode: 60}
}

// OrDefault returns l with the default for every limit that is not set.
func (l Limits) OrDefault() Limits {
	d := DefaultLimits()
	if !(l.Seconds > 0) {
		l.Seconds = d.Seconds
	}
	if !(l.Decode > 0) {
		l.Decode = d.Decode
	}
	for _, n := range []struct{ value, def *int }{
		{&l.Pixels, &d.Pixels}, {&l.Side, &d.Side}, {&l.Smallest, &d.Smallest}, {&l.Frames, &d.Frames}, {&l.Points, &d.Points}, {&l.Ratio, &d.Ratio},
	} {
		if *n.value <= 0 {
			*n.value = *n.def
		}
	}
	return l
}

// Options are the user's choices for reading. The zero value is the default.
type Options struct {
	Limits Limits
	// Reference follows the reference's loaders where the default does what
	// people expect: EXIF orientation ignored, alpha dropped, 16-bit grey saturated.
	Reference bool
	// FFmpeg is the program for containers that are not read natively; empty
	// means none is used.
	FFmpeg string
	// Input is one clip's shape where a model's differs from the Spec's, as that
	// of a point encoder with other groups may; nil is the Spec's.
	Input []int
	// Params are the sender's, by name. [Spec.Check] has passed them; what is
	// not there has its default: see [Options.Value].
	Params Params
}
