package ffmpeg

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	imagebind "imagebind-llm"
	"imagebind-llm/runner/modality"
)

// script is a program that stands for ffmpeg.
func script(t *testing.T, lines string) *File {
	t.Helper()
	path := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+lines), 0o700); err != nil {
		t.Fatal(err)
	}
	f, err := Open(modality.Options{FFmpeg: path}, "video/mp4", []byte("a file"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

func ignore(r io.Reader) error {
	_, err := io.Copy(io.Discard, r)
	return err
}

// TestBounds runs programs that never end, say too much, or are out of memory.
func TestBounds(t *testing.T) {
	f := script(t, "while :; do :; done")
	for _, left := range []time.Duration{-time.Second, 50 * time.Millisecond} {
		f.deadline = time.Now().Add(left)
		if _, err := f.run(t.Context(), "error", nil, nil, ignore); imagebind.KindOf(err) != imagebind.TooLarge {
			t.Errorf("endless: %v", err)
		}
	}
	f = script(t, "i=0; while [ $i -lt 3000 ]; do echo 'a line of some forty characters, about' >&2; i=$((i+1)); done")
	log, err := f.run(t.Context(), "error", nil, nil, ignore)
	if err != nil || len(log) != logSize {
		t.Errorf("%d bytes of log, %v; want %d", len(log), err, logSize)
	}
	stop := errors.New("enough")
	f = script(t, "while echo more; do :; done")
	if _, err := f.run(t.Context(), "error", nil, nil, func(io.Reader) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("a reader that has enough: %v", err)
	}
	f = script(t, "echo '[mov @ 0x5581] [error] file:'$0' is bad' >&2; exit 1")
	if _, err := f.run(t.Context(), "error", nil, nil, ignore); imagebind.KindOf(err) != imagebind.Invalid || !strings.Contains(err.Error(), "is bad") || strings.Contains(err.Error(), "0x5581") {
		t.Errorf("a complaint: %v", err)
	}
	if runtime.GOOS == "linux" {
		f = script(t, `while [ "$(ulimit -v)" = unlimited ]; do :; done; ulimit -v`) // it begins before the limit is set
		_, err := f.run(t.Context(), "error", nil, nil, func(r io.Reader) error {
			said, err := io.ReadAll(r)
			if got, want := strings.TrimSpace(string(said)), fmt.Sprint(memory>>10); got != want {
				t.Errorf("%s KiB of memory, want %s", got, want)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
}

func TestPackets(t *testing.T) {
	const head = "#tb 0: 1/25\n#dimensions 0: 64x48\n"
	for _, tt := range []struct {
		name, lines, demuxer string
		pts, keys            []int64
		duration             int64
		missing              bool
		kind                 imagebind.Kind // of the error, where there is one
	}{
		{"key frames and others", "0, 0, 0, 1, 9, 0x1\n0, 1, 3, 1, 9, 0x1, F=0x0\n\n0, 2, 1, 1, 9, 0x1, F=0x0, S=1, 1\n", "mov", []int64{0, 1, 3}, []int64{0}, 3, false, 0},
		{"Matroska", "0, 0, 0, 1, 9, 0x1\n0, 1, 3, 1, 9, 0x1\n", "matroska", []int64{0, 3}, []int64{0, 3}, 3, false, 0},
		{"no index", "0, 7, 7, 2, 9, 0x1\n0, 9, 9, 2, 9, 0x1\n", "avi", []int64{7, 9}, nil, 4, false, 0},
		{"edited away", "0, 0, 0, 1, 9, 0x1, F=0x5\n0, 1, 1, 1, 9, 0x1\n", "mov", []int64{1}, []int64{1}, 1, false, 0},
		{"no time", "0, 0, -9223372036854775808, 1, 9, 0x1\n", "avi", nil, nil, 0, true, 0},
		{"a time twice", "0, 0, 0, 1, 9, 0x1\n0, 1, 0, 1, 9, 0x1\n", "avi", []int64{0}, nil, 1, false, 0},
		{"spans without end", strings.Repeat("0, 0, 0, 9223372036854775807, 9, 0x1\n", 9), "mov", []int64{0}, nil, farthest, false, 0},
		{"absurd", "0, 0, 9223372036854775807, 1, 9, 0x1\n", "mov", nil, nil, 0, false, imagebind.Invalid},
		{"too many", strings.Repeat("0, 0, 0, 1, 9, 0x1\n", 11), "mov", nil, nil, 0, false, imagebind.TooLarge},
	} {
		var v Video
		missing, err := v.packets(strings.NewReader(head+tt.lines), tt.demuxer, 10)
		if tt.kind != 0 {
			if imagebind.KindOf(err) != tt.kind {
				t.Errorf("%s: %v", tt.name, err)
			}
			continue
		}
		if err != nil || missing != tt.missing || !slices.Equal(v.PTS, tt.pts) || tt.keys != nil && !slices.Equal(v.keys, tt.keys) || v.Duration != tt.duration || v.W != 64 || v.H != 48 {
			t.Errorf("%s: %+v, missing %v, %v", tt.name, v, missing, err)
		}
	}
}

func TestSideways(t *testing.T) {
	for _, tt := range []struct {
		log  string
		want bool
	}{
		{"Stream #0:0: Video: h264\n Side data:\n displaymatrix: rotation of -90.00 degrees\nStream mapping:", true},
		{"Stream #0:0: Video: h264\n displaymatrix: rotation of 90.00 degrees", true},
		{"Stream #0:0: Video: h264\n displaymatrix: rotation of -180.00 degrees", false},
		{"Stream #0:0: Video: h264\nStream #0:1: Video: h264\n displaymatrix: rotation of 90.00 degrees", false},
		{"Stream #0:0: Video: mjpeg (attached pic)\nStream #0:1: Video: h264\n displaymatrix: rotation of 90.00 degrees", true},
		{"Stream #0:0: Video: h264\nOutput #0\n Stream #0:0: Video: h264\n displaymatrix: rotation of 90.00 degrees", false},
		{"", false},
	} {
		if got := sideways(tt.log); got != tt.want {
			t.Errorf("%q: %v", tt.log, got)
		}
	}
}

// TestParts holds where decoding begins anew: only where a key frame is more
// than four seconds on.
func TestParts(t *testing.T) {
	v := &Video{}
	if _, err := v.packets(strings.NewReader("#tb 0: 1/1\n"), "mov", 1); err != nil {
		t.Fatal(err)
	}
	v.keys = []int64{0, 10, 20, 22}
	for _, tt := range []struct {
		pts  []int64
		want [][]int64
	}{
		{[]int64{0, 2, 8, 9}, [][]int64{{0, 2, 8, 9}}},
		{[]int64{0, 2, 12, 19}, [][]int64{{0, 2}, {12, 19}}},
		{[]int64{0, 7, 12, 25}, [][]int64{{0, 7, 12}, {25}}},
		{[]int64{30}, [][]int64{{30}}},
	} {
		if got := v.parts(tt.pts); !slices.EqualFunc(got, tt.want, slices.Equal) {
			t.Errorf("%v: %v, want %v", tt.pts, got, tt.want)
		}
	}
}

func FuzzPackets(f *testing.F) {
	f.Add("#tb 0: 1/25\n#dimensions 0: 64x48\n0, 0, 0, 1, 9, 0x1\n0, 1, 3, 1, 9, 0x1, F=0x0\n", "mov")
	f.Add("#tb 0: 1/0\n#dimensions 0: -1\n\n0, 0, -9223372036854775808, 1, 9, 0x1, F=0xg\n", "avi")
	f.Fuzz(func(t *testing.T, lines, demuxer string) {
		var v Video
		if _, err := v.packets(strings.NewReader(lines), demuxer, 100); err == nil && v.Duration < 0 {
			t.Errorf("duration %d", v.Duration)
		}
	})
}
