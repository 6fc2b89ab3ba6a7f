// Package ffmpeg reads containers that no decoder here reads, by the ffmpeg
// program where the user has one: sound.go the sound of a file, video.go which
// frames it has and their pixels. It chooses no clips and resizes nothing.
//
// A file comes from strangers. Its format is the one that the content was
// found to be, never guessed by ffmpeg, and only the file itself may be opened:
// a playlist cannot make it read other files or addresses. What the program may
// take is bounded: time, memory, threads, and how much it says.
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
	"imagebind-llm/runner/modality"
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

// The program's bounds.
const (
	threads  = "2"
	oneBlock = 512 << 20 // bytes of one allocation; a frame of 64 M pixels, 16 bits, is 384 MB
	memory   = 4 << 30   // bytes of address space, where the system can limit it
	logSize  = 64 << 10  // bytes that are kept of what it says
)

// A File is a media file on disk, for ffmpeg to read more than once.
type File struct {
	program, media, path string
	timeout              time.Duration // of all runs over the file
	deadline             time.Time
}

// Open writes data, whose content is of the given media type, to a temporary
// file: not a pipe, since MP4 needs seeking. Close removes it. o names the
// program, and the time that it may take from now on (Limits.Decode).
func Open(o modality.Options, media string, data []byte) (*File, error) {
	t, err := os.CreateTemp("", "imagebind-media-*")
	if err != nil {
		return nil, err
	}
	f := &File{program: o.FFmpeg, media: media, path: t.Name(), timeout: time.Duration(o.Limits.OrDefault().Decode * float64(time.Second))}
	f.deadline = time.Now().Add(f.timeout)
	_, err = t.Write(data)
	if err := errors.Join(err, t.Close()); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// Close removes the file.
func (f *File) Close() error { return os.Remove(f.path) }

// errNoStream is a file without the kind of stream that was asked for.
var errNoStream = errors.New("ffmpeg: no such stream")

// run starts the program with options of the log's level, of input and of
// output, and gives its standard output to read. It returns the log. An error
// of read ends the program and is the result.
func (f *File) run(ctx context.Context, level string, in, out []string, read func(io.Reader) error) (string, error) {
	limited, cancel := context.WithDeadline(ctx, f.deadline)
	defer cancel()
	args := []string{"-hide_banner", "-nostdin", "-nostats", "-v", "level+" + level, "-max_alloc", fmt.Sprint(oneBlock)}
	args = append(args, in...)
	args = append(args, "-threads", threads, "-protocol_whitelist", "file", "-f", demuxers[f.media], "-i", "file:"+f.path)
	args = append(append(args, out...), "pipe:1")
	cmd := exec.CommandContext(limited, f.program, args...)
	cmd.WaitDelay = time.Second
	log := head{left: logSize}
	cmd.Stderr = &log
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		return "", err
	}
	if err := cmd.Start(); err != nil && limited.Err() != nil {
		return "", f.late(ctx)
	} else if err != nil {
		return "", imagebind.Errorf(imagebind.Unsupported, "the file is %s, which needs ffmpeg, and %s does not start: %w", f.media, f.program, err)
	}
	limitMemory(cmd.Process.Pid)
	readErr := read(pipe)
	if readErr != nil {
		cancel()
	}
	_, copyErr := io.Copy(io.Discard, pipe) // else it would wait for a reader
	err = errors.Join(cmd.Wait(), copyErr)
	switch {
	case ctx.Err() == nil && readErr != nil:
		return "", readErr
	case limited.Err() != nil:
		return "", f.late(ctx)
	case err != nil && strings.Contains(log.kept.String(), "matches no streams"):
		return "", errNoStream
	case err != nil:
		return "", &imagebind.Error{Kind: imagebind.Invalid, Message: fmt.Sprintf("ffmpeg cannot decode the file (%s): %s", f.media, f.complaint(log.kept.String())), Err: err}
	}
	return log.kept.String(), nil
}

// late is the error of a run that its context or the deadline ended.
func (f *File) late(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return imagebind.Errorf(imagebind.TooLarge, "the file takes longer than %v to decode; send a shorter or smaller one", f.timeout)
}

// complaint is the first error of a log, without names of this machine.
func (f *File) complaint(log string) string {
	for line := range strings.Lines(log) {
		for _, level := range []string{"[error] ", "[fatal] "} {
			if _, says, ok := strings.Cut(line, level); ok {
				says = strings.ReplaceAll(strings.TrimSpace(says), "file:"+f.path, "it")
				return strings.ToValidUTF8(says[:min(len(says), 200)], "")
			}
		}
	}
	return "it is broken"
}

// A head keeps the first bytes written to it.
type head struct {
	kept bytes.Buffer // not embedded: its ReadFrom would keep all
	left int
}

func (h *head) Write(p []byte) (int, error) {
	keep := p[:min(len(p), h.left)]
	h.left -= len(keep)
	h.kept.Write(keep)
	return len(p), nil
}
