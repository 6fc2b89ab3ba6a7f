// Package ffmpeg reads containers that no decoder here reads, by the ffmpeg
// program where the user has one. The format is the one that the content was
// found to be, never guessed by ffmpeg, and only the file itself may be
// opened: a playlist cannot make it read other files or addresses.
package ffmpeg

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	imagebind "imagebind-llm"
)

// demuxers are ffmpeg's names of the media types that it may read.
var demuxers = map[string]string{
	"audio/wav": "wav", "audio/flac": "flac", "audio/mpeg": "mp3", "audio/ogg": "ogg", "audio/aac": "aac",
	"audio/aiff": "aiff", "audio/amr": "amr", "audio/basic": "au", "audio/x-caf": "caf", "audio/mp4": "mov",
	"video/mp4": "mov", "video/quicktime": "mov", "video/webm": "matroska", "video/x-matroska": "matroska",
	"video/x-msvideo": "avi", "video/x-ms-asf": "asf", "video/mpeg": "mpeg", "video/mp2t": "mpegts", "video/ogg": "ogg",
}

// Reads says whether ffmpeg may read files of a media type.
func Reads(media string) bool { return demuxers[media] != "" }

// timeout bounds a run.
const timeout = 2 * time.Minute

// Run decodes data, whose content is of the given media type, and returns what
// program writes to its standard output with the output options args. More
// than limit bytes of it are TooLarge.
func Run(ctx context.Context, program, media string, data []byte, limit int64, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	f, err := os.CreateTemp("", "imagebind-media-*") // not a pipe: MP4 needs seeking
	if err != nil {
		return nil, err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	args = append([]string{"-nostdin", "-v", "error", "-protocol_whitelist", "file", "-f", demuxers[media], "-i", "file:" + f.Name()}, append(args, "pipe:1")...)
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.WaitDelay = time.Second
	var said bytes.Buffer
	cmd.Stderr = &limited{&said, 4096}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, imagebind.Errorf(imagebind.Unsupported, "the file is %s, which needs ffmpeg, and %s does not start: %w", media, program, err)
	}
	b, readErr := io.ReadAll(io.LimitReader(out, limit+1))
	if int64(len(b)) > limit {
		cancel()
	}
	err = cmd.Wait()
	switch {
	case int64(len(b)) > limit:
		return nil, imagebind.Errorf(imagebind.TooLarge, "the file decodes to more than is allowed")
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case err != nil:
		line, _, _ := strings.Cut(strings.TrimSpace(said.String()), "\n")
		line = strings.ReplaceAll(line, f.Name(), "it")
		return nil, &imagebind.Error{Kind: imagebind.Invalid, Message: fmt.Sprintf("ffmpeg cannot decode the file (%s): %s", media, line), Err: err}
	case readErr != nil:
		return nil, readErr
	}
	return b, nil
}

// limited keeps the first n bytes written to it.
type limited struct {
	w io.Writer
	n int
}

func (l *limited) Write(p []byte) (int, error) {
	keep := p[:min(len(p), l.n)]
	l.n -= len(keep)
	if _, err := l.w.Write(keep); err != nil {
		return 0, err
	}
	return len(p), nil
}
