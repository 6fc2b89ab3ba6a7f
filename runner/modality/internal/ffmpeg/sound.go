package ffmpeg

import (
	"context"
	"errors"
	"fmt"
	"io"

	imagebind "imagebind-llm"
	"imagebind-llm/runner/modality"
)

// Sound returns the first sound of a file, of the given media type, as a WAV
// file of float32 samples, at most so many seconds of it. More than limit bytes
// are TooLarge.
func Sound(ctx context.Context, o modality.Options, media string, data []byte, seconds float64, limit int64) (wav []byte, err error) {
	f, err := Open(o, media, data)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	out := []string{"-map", "0:a:0", "-t", fmt.Sprint(seconds), "-c:a", "pcm_f32le", "-f", "wav"}
	_, err = f.run(ctx, "error", nil, out, func(r io.Reader) (err error) {
		wav, err = io.ReadAll(io.LimitReader(r, limit+1))
		if int64(len(wav)) > limit {
			return imagebind.Errorf(imagebind.TooLarge, "the file decodes to more than is allowed")
		}
		return err
	})
	if errors.Is(err, errNoStream) {
		return nil, imagebind.Errorf(imagebind.Invalid, "the file (%s) has no sound", media)
	}
	return wav, err
}
