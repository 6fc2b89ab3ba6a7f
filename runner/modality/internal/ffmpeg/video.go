package ffmpeg

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/big"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"

	imagebind "imagebind-llm"
)

// A Video says which frames the first video stream of a file has. Times are in
// ticks of the stream.
type Video struct {
	W, H     int      // of a frame as it is shown
	Tick     *big.Rat // seconds
	PTS      []int64  // when each frame is shown, ascending
	Duration int64

	upright bool    // turned as the file asks
	keys    []int64 // the frames that decoding can begin at, ascending; nil where seeking is not reliable
}

// ErrMissing says that the packets of a stream do not tell its frames: some
// have no time, or are not shown.
var ErrMissing = errors.New("ffmpeg: the packets do not tell the frames")

// Survey reads the packets of a file, and decodes none: the sizes and times of
// its frames, at most so many. With upright, what the file says of its rotation
// is followed. Where the packets do not tell (ErrMissing), [File.Decode] does.
func (f *File) Survey(ctx context.Context, upright bool, most int) (*Video, error) {
	v := &Video{upright: upright}
	in := []string{"-copyts"}
	if demuxers[f.media] == "mov" {
		in = append(in, "-xerror") // a file that is cut does not have what its index lists; others play until there
	}
	missing := false
	log, err := f.run(ctx, "info", in, []string{"-map", "0:V:0", "-c", "copy", "-f", "framecrc"}, func(r io.Reader) (err error) {
		missing, err = v.packets(r, demuxers[f.media], most)
		return err
	})
	switch {
	case errors.Is(err, errNoStream):
		return nil, imagebind.Errorf(imagebind.Invalid, "the file (%s) has no video", f.media)
	case err != nil:
		return nil, err
	case v.W <= 0 || v.H <= 0 || v.Tick == nil || v.Tick.Sign() <= 0 || len(v.PTS) == 0 && !missing:
		return nil, imagebind.Errorf(imagebind.Invalid, "the file (%s) has a video without frames", f.media)
	}
	if upright && sideways(log) {
		v.W, v.H = v.H, v.W
	}
	if missing {
		return v, ErrMissing
	}
	return v, nil
}

// packets reads ffmpeg's framecrc (libavformat/framecrcenc.c): "#name stream:
// value" lines, then for each packet "stream, dts, pts, duration, size, crc,
// F=flags", the flags where they are not 1.
func (v *Video) packets(r io.Reader, demuxer string, most int) (missing bool, err error) {
	const key, discard = 1, 4 // AV_PKT_FLAG_KEY, _DISCARD: behind the file's edits
	lines := bufio.NewScanner(r)
	sum, end := int64(0), int64(-farthest)
	for n := 0; lines.Scan(); {
		line := lines.Text()
		switch value := line[strings.Index(line, ":")+1:]; {
		case strings.HasPrefix(line, "#tb 0:"):
			v.Tick, _ = new(big.Rat).SetString(strings.TrimSpace(value))
		case strings.HasPrefix(line, "#dimensions 0:"):
			_, _ = fmt.Sscanf(value, "%dx%d", &v.W, &v.H)
		}
		field := strings.Split(line, ",")
		if len(field) < 6 || line[0] == '#' {
			continue
		}
		if n++; n > most {
			return false, tooMany(most)
		}
		pts, ptsErr := strconv.ParseInt(strings.TrimSpace(field[2]), 10, 64)
		span, spanErr := strconv.ParseInt(strings.TrimSpace(field[3]), 10, 64)
		if ptsErr != nil || spanErr != nil {
			return false, errTimes
		}
		flags := int64(key)
		if _, hex, ok := strings.Cut(line, "F=0x"); ok {
			hex, _, _ = strings.Cut(hex, ",")
			if flags, err = strconv.ParseInt(hex, 16, 64); err != nil {
				return false, errTimes
			}
		}
		switch {
		case flags&discard != 0:
			continue
		case pts == math.MinInt64: // AV_NOPTS_VALUE
			missing = true
			continue
		case !exact(pts):
			return false, errTimes
		}
		span = min(max(span, 0), farthest)
		v.PTS = append(v.PTS, pts)
		if flags&key != 0 {
			v.keys = append(v.keys, pts)
		}
		sum, end = min(sum+span, farthest), max(end, pts+span)
	}
	if err := lines.Err(); err != nil || len(v.PTS) == 0 {
		return missing, err
	}
	v.sort()
	switch first := v.PTS[0]; demuxer {
	case "mov":
		v.Duration = sum // what the track's header has
	case "matroska": // has no duration of a stream; pytorchvideo takes the last frame's time
		v.Duration = v.PTS[len(v.PTS)-1] - first
	default:
		v.Duration = end - first
	}
	if demuxer != "mov" && demuxer != "matroska" {
		v.keys = nil // others have no index that seeking can rely on
	}
	return missing, nil
}

func (v *Video) sort() {
	slices.Sort(v.PTS)
	v.PTS = slices.Compact(v.PTS)
	slices.Sort(v.keys)
}

// farthest is the time until which ffmpeg's expressions are exact: doubles.
const farthest = 1 << 53

func exact(pts int64) bool { return pts >= -farthest && pts <= farthest }

var errTimes = imagebind.Errorf(imagebind.Invalid, "the video is broken: the times of its frames are absurd")

func tooMany(most int) error {
	return imagebind.Errorf(imagebind.TooLarge, "the video has more than the %d frames allowed; send a part of it", most)
}

var rotation = regexp.MustCompile(`rotation of (-?[0-9.]+) degrees`)

// sideways says whether ffmpeg will turn the first video of its log by a quarter.
func sideways(log string) bool {
	inVideo := false
	for line := range strings.Lines(log) {
		if strings.Contains(line, "Stream mapping:") || strings.Contains(line, "Output #") {
			return false
		}
		if strings.Contains(line, "Stream #0:") {
			if inVideo {
				return false
			}
			inVideo = strings.Contains(line, ": Video:") && !strings.Contains(line, "(attached pic)")
		}
		if m := rotation.FindStringSubmatch(line); inVideo && m != nil {
			angle, _ := strconv.ParseFloat(m[1], 64)
			quarters := int(math.Round(angle / 90))
			return quarters%2 != 0
		}
	}
	return false
}

// Decode decodes the whole video, throws the pixels away and sets the times of
// the frames that came.
func (f *File) Decode(ctx context.Context, v *Video, most int) error {
	v.PTS, v.keys = nil, nil
	// print says nothing of a frame without metadata
	filter := "metadata=mode=add:key=imagebind:value=1,metadata=mode=print:file=-"
	_, err := f.run(ctx, "error", []string{"-copyts"}, []string{"-map", "0:V:0", "-vf", filter, "-f", "null"}, func(r io.Reader) error {
		lines := bufio.NewScanner(r)
		for lines.Scan() { // "frame:0    pts:0       pts_time:0"
			_, s, ok := strings.Cut(lines.Text(), " pts:")
			s, _, _ = strings.Cut(s, " ")
			pts, err := strconv.ParseInt(s, 10, 64)
			if !ok || err != nil { // the metadata's line, or NOPTS
				continue
			}
			if !exact(pts) {
				return errTimes
			}
			if v.PTS = append(v.PTS, pts); len(v.PTS) > most {
				return tooMany(most)
			}
		}
		return lines.Err()
	})
	if err != nil {
		return err
	}
	v.sort()
	n := int64(len(v.PTS))
	if n == 0 {
		return imagebind.Errorf(imagebind.Invalid, "the video (%s) has no frame that can be decoded", f.media)
	}
	v.Duration = v.PTS[n-1] - v.PTS[0]
	if n > 1 {
		v.Duration += v.Duration / (n - 1) // the last frame is shown as long as the others
	}
	return nil
}

// Frames decodes the frames shown at pts, some of v.PTS, ascending, and hands
// each to each: RGB [H, W, 3], valid during the call. ErrMissing says that not
// all of them came, and that others may have come in their place.
func (f *File) Frames(ctx context.Context, v *Video, pts []int64, each func(i int, rgb []byte) error) error {
	frame := make([]byte, 3*v.W*v.H)
	done := 0
	for _, part := range v.parts(pts) {
		in := []string{"-copyts"}
		if !v.upright {
			in = append(in, "-noautorotate")
		}
		if part[0] != v.PTS[0] && v.keys != nil {
			at, _ := new(big.Rat).Mul(v.Tick, new(big.Rat).SetInt64(part[0])).Float64()
			in = append(in, "-noaccurate_seek", "-seek_timestamp", "1", "-ss", fmt.Sprintf("%.6f", at+0.0005)) // not before a key frame by rounding
		}
		_, err := f.run(ctx, "error", in, v.output(part), func(r io.Reader) error {
			for range part {
				if _, err := io.ReadFull(r, frame); err != nil {
					return ErrMissing
				}
				if err := each(done, frame); err != nil {
					return err
				}
				done++
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// output are the options that write the frames shown at pts, each once and all
// of one size. ffmpeg repeats and drops frames to keep the rate of its output,
// and versions differ in the option that forbids it: so the rate is set to one
// frame in 100,000 seconds, and the frames to come as slowly.
func (v *Video) output(pts []int64) []string {
	var chosen, rank []string
	for _, p := range pts {
		chosen = append(chosen, fmt.Sprintf("eq(pts,%d)", p))
		rank = append(rank, fmt.Sprintf("gte(PTS,%d)", p))
	}
	filter := fmt.Sprintf("select='(%s)*not(eq(pts,prev_selected_pts))',scale=%d:%d,setpts='(%s)*100000/TB'",
		strings.Join(chosen, "+"), v.W, v.H, strings.Join(rank, "+"))
	return []string{"-map", "0:V:0", "-frames:v", fmt.Sprint(len(pts)), "-vf", filter, "-r", "1/100000", "-pix_fmt", "rgb24", "-f", "rawvideo"}
}

// parts divides pts where it is quicker to seek than to decode on: where the
// key frame before the next is more than gap seconds away.
func (v *Video) parts(pts []int64) [][]int64 {
	const gap = 4
	tick, _ := v.Tick.Float64()
	var parts [][]int64
	for i, from := 0, 0; i < len(pts); i++ {
		last := i == len(pts)-1
		if !last {
			k := sort.Search(len(v.keys), func(k int) bool { return v.keys[k] > pts[i+1] }) - 1
			last = k >= 0 && float64(v.keys[k]-pts[i])*tick > gap
		}
		if last {
			parts = append(parts, pts[from:i+1])
			from = i + 1
		}
	}
	return parts
}
