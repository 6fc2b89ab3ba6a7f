package vision

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	imagebind "imagebind-llm"
	"imagebind-llm/internal/golden"
	"imagebind-llm/runner/modality"
	"imagebind-llm/runner/modality/internal/ffmpeg"
)

// program is ffmpeg's path.
func program(t testing.TB) string {
	t.Helper()
	p, err := exec.LookPath("ffmpeg")
	if err != nil {
		golden.Need(t, "ffmpeg", "ffmpeg is not installed")
	}
	return p
}

const (
	landscape = "testdata/video/landscape_160x120_25fps_6s.mp4"
	portrait  = "testdata/video/portrait_90x160_30fps_3s.mp4"
)

// TestReadVideoGolden holds the tensors against the reference's at 2048 points
// each, and each crop's mean. 1e-4 is three times what float32 rounds apart.
func TestReadVideoGolden(t *testing.T) {
	want := golden.Open(t, "testdata/video.safetensors")
	var files map[string]struct{}
	golden.JSON(t, "testdata/video.json", &files)
	for name := range files {
		t.Run(name, func(t *testing.T) {
			data := golden.Bytes(t, "testdata/video/"+name)
			got, err := ReadVideo(t.Context(), data, modality.Options{Reference: true, FFmpeg: program(t)})
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(got.Shape, []int{15, 3, 2, Side, Side}) {
				t.Fatalf("shape %v", got.Shape)
			}
			var points []float32
			for _, i := range want.Tensor(t, name+"/sample_index").Values {
				points = append(points, got.Floats[int(i)])
			}
			t.Logf("off by %.2g", golden.Close(t, points, want.Tensor(t, name+"/sample_value").Values, 1e-4))
			var means []float32
			for crop := range slices.Chunk(got.Floats, len(got.Floats)/15) {
				sum := 0.0
				for _, v := range crop {
					sum += float64(v)
				}
				means = append(means, float32(sum/float64(len(crop))))
			}
			golden.Close(t, means, want.Tensor(t, name+"/crop_mean").Values, 1e-5)

			// No file here is turned: the default is the same.
			plain, err := ReadVideo(t.Context(), data, modality.Options{FFmpeg: program(t)})
			if err != nil {
				t.Fatal(err)
			}
			golden.Close(t, plain.Floats, got.Floats, 0)

			one, err := ReadVideo(t.Context(), data, modality.Options{FFmpeg: program(t), Params: modality.Params{"crops": 1}})
			if err != nil {
				t.Fatal(err)
			}
			n := len(got.Floats) / 15
			for clip := range 5 {
				golden.Close(t, one.Floats[clip*n:][:n], got.Floats[(3*clip+1)*n:][:n], 0)
			}
		})
	}
}

// frames returns the frames that make the clips of a file, by their places.
func frames(t *testing.T, data []byte, o modality.Options) (*ffmpeg.Video, map[place][]byte) {
	t.Helper()
	f, err := ffmpeg.Open(modality.Options{FFmpeg: program(t)}, modality.Sniff(data), data)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	v, err := f.Survey(t.Context(), !o.Reference, 1000)
	if err != nil {
		t.Fatal(err)
	}
	places, err := choose(v, int(o.Value(clips)), o)
	if err != nil {
		t.Fatal(err)
	}
	var pts []int64
	for p := range places {
		pts = append(pts, p)
	}
	slices.Sort(pts)
	got := map[place][]byte{}
	err = f.Frames(t.Context(), v, pts, func(i int, rgb []byte) error {
		for _, at := range places[pts[i]] {
			got[at] = bytes.Clone(rgb)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return v, got
}

// TestFramesGolden holds the decoded frames against PyAV's, to the byte.
func TestFramesGolden(t *testing.T) {
	var want map[string]struct {
		Clips []int      `json:"clips"`
		Hash  [][]string `json:"frames_sha256"` // [len(Clips), T=2]
	}
	golden.JSON(t, "testdata/video.json", &want)
	for name, w := range want {
		v, got := frames(t, golden.Bytes(t, "testdata/video/"+name), reference)
		for i, clip := range w.Clips {
			for f := range 2 {
				if h := hash(Picture{v.W, v.H, got[place{clip, f}]}); h != w.Hash[i][f] {
					t.Errorf("%s: clip %d, frame %d differs from PyAV's", name, clip, f)
				}
			}
		}
	}
}

// numbered is a film source whose frames show their number in base 16, the low
// digit in the left half.
const numbered = "nullsrc=s=64x48:r=%s:d=%g,format=yuv420p,geq=lum='16+12*if(lt(X,W/2),mod(N,16),floor(N/16))':cb=128:cr=128"

// film makes a video with ffmpeg: its input and output options.
func film(t testing.TB, name string, args ...string) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	cmd := exec.Command(program(t), append(append([]string{"-v", "error", "-nostdin"}, args...), path)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("ffmpeg makes no %s: %v\n%s", name, err, out)
	}
	return golden.Bytes(t, path)
}

// numbers reads the numbers that the centre crops of a numbered film show, a
// clip's first and last.
func numbers(t *testing.T, data []byte, o modality.Options) (got [][2]int, err error) {
	t.Helper()
	o.FFmpeg = program(t)
	params := modality.Params{"crops": 1}
	for name, v := range o.Params {
		params[name] = v
	}
	o.Params = params
	x, err := ReadVideo(t.Context(), data, o)
	if err != nil {
		return nil, err
	}
	for clip := range x.Shape[0] {
		var n [2]int
		for f := range n {
			digit := func(column int) int {
				v := x.Floats[((clip*3)*2+f)*Side*Side+Side/2*Side+column]
				return int(math.Round(float64(v*std[0]+mean[0]) * 219 / 12))
			}
			n[f] = digit(40) + 16*digit(Side-40)
		}
		got = append(got, n)
	}
	return got, nil
}

// TestClips holds the chosen frames of every container against those that
// pytorchvideo's rules choose of what PyAV 18.1 decodes from the same films. Some
// go another way on purpose: no_times.avi, whose times PyAV has wrong by a frame;
// slides.mkv, where the reference fails; 25.mpg and 25.ts, whose first frame is
// not at 0, which the reference reads as a shorter video.
func TestClips(t *testing.T) {
	lavfi := func(rate string, seconds float64) []string {
		return []string{"-f", "lavfi", "-i", fmt.Sprintf(numbered, rate, seconds)}
	}
	track := [][2]int{{0, 19}, {5, 24}, {9, 28}, {13, 32}, {17, 36}} // d = 4.1 s
	frame := [][2]int{{0, 19}, {4, 23}, {8, 27}, {12, 31}, {16, 35}} // d = 4.0 s, until the last frame begins
	five := func(a, b int) [][2]int { return slices.Repeat([][2]int{{a, b}}, 5) }
	// 2 s with a frame each 0.1 s, then one each 0.5 s: at 0, 0.1, … 1.9, 2, 2.5, 3, …
	slowing := "settb=1/1000,setpts='if(lt(N,20),100*N,2000+500*(N-20))'"
	for _, tt := range []struct {
		name string
		args []string
		o    modality.Options
		want [][2]int
	}{
		{"mpeg4.mp4", append(lavfi("10", 4.1), "-c:v", "mpeg4", "-q:v", "1"), modality.Options{}, track},
		{"b_frames.mp4", append(lavfi("10", 4.1), "-c:v", "mpeg4", "-q:v", "1", "-bf", "2"), modality.Options{}, track},
		{"mjpeg.mov", append(lavfi("10", 4.1), "-c:v", "mjpeg", "-q:v", "1", "-strict", "-1"), modality.Options{}, track},
		{"fragments.mp4", append(lavfi("10", 4.1), "-c:v", "mpeg4", "-q:v", "1", "-movflags", "frag_keyframe+empty_moov"), modality.Options{}, track},
		{"ffv1.mkv", append(lavfi("10", 4.1), "-c:v", "ffv1"), modality.Options{}, frame},
		{"mpeg4.avi", append(lavfi("10", 4.1), "-c:v", "mpeg4", "-q:v", "1"), modality.Options{}, track},
		{"no_times.avi", append(lavfi("10", 4.1), "-c:v", "mpeg4", "-q:v", "1", "-bf", "2"), modality.Options{}, track},
		{"wmv.asf", append(lavfi("10", 4.1), "-c:v", "wmv2", "-q:v", "1"), modality.Options{}, track},
		{"25.mpg", append(lavfi("25", 3), "-c:v", "mpeg2video", "-q:v", "1", "-bf", "2"), modality.Options{}, [][2]int{{0, 49}, {5, 54}, {10, 59}, {15, 64}, {20, 69}}},
		{"25.ts", append(lavfi("25", 3), "-c:v", "mpeg2video", "-q:v", "1", "-bf", "2"), modality.Options{}, [][2]int{{0, 49}, {5, 54}, {10, 59}, {15, 64}, {20, 69}}},
		// The reference takes the stream's start, 1.44 s, from its duration.
		{"25.ts", append(lavfi("25", 3), "-c:v", "mpeg2video", "-q:v", "1", "-bf", "2"), reference, five(0, 49)},
		{"slowing.mkv", append(lavfi("10", 3), "-vf", slowing, "-c:v", "ffv1"), modality.Options{}, // until 6.5 s
			[][2]int{{0, 19}, {9, 21}, {18, 23}, {22, 25}, {24, 27}}},
		{"short.mp4", append(lavfi("10", 1.2), "-c:v", "mpeg4", "-q:v", "1"), modality.Options{}, five(0, 11)},
		{"one_frame.mp4", append(lavfi("10", 0.1), "-c:v", "mpeg4", "-q:v", "1"), modality.Options{}, five(0, 0)},
		{"one_frame.mkv", append(lavfi("10", 0.1), "-c:v", "ffv1"), modality.Options{}, five(0, 0)},
		{"slides.mkv", append(lavfi("1/5", 20), "-c:v", "ffv1"), modality.Options{}, // until 15 s; held frames
			[][2]int{{0, 0}, {0, 0}, {1, 1}, {1, 1}, {2, 2}}},
		{"two_clips.mp4", append(lavfi("10", 4.1), "-c:v", "mpeg4", "-q:v", "1"), modality.Options{Params: modality.Params{"clips": 2}}, [][2]int{{0, 19}, {11, 30}}},
		{"long.mkv", append(lavfi("4", 60), "-c:v", "ffv1", "-g", "12"), modality.Options{}, // by seeking, until 59.75 s
			[][2]int{{0, 7}, {47, 54}, {93, 100}, {139, 146}, {185, 192}}},
		{"long.mp4", append(lavfi("4", 60), "-c:v", "mpeg4", "-q:v", "1", "-bf", "2", "-g", "12"), modality.Options{},
			[][2]int{{0, 7}, {47, 54}, {93, 100}, {140, 147}, {186, 193}}},
		{"sound_first.mkv", append(append([]string{"-f", "lavfi", "-i", "sine=duration=4"}, lavfi("10", 4.1)...), "-map", "0", "-map", "1", "-c:v", "ffv1"), modality.Options{}, frame},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := numbers(t, film(t, tt.name, tt.args...), tt.o)
			if err != nil || !slices.Equal(got, tt.want) {
				t.Errorf("clips are %v (%v), want %v", got, err, tt.want)
			}
		})
	}
}

// TestPixels reads what cameras and editors write: more bits, odd sizes, alpha.
// A flat colour must come back.
func TestPixels(t *testing.T) {
	for _, tt := range []struct{ format, size string }{
		{"yuv420p10le", "64x48"}, {"yuv422p16le", "64x48"}, {"yuv444p12le", "64x48"}, {"gbrp16le", "64x48"}, {"yuva420p", "64x48"},
		{"gray", "64x48"}, {"yuv420p", "61x45"}, {"yuv420p", "35x77"}, {"bgr0", "3x2"}, {"yuv420p", "16x2"},
	} {
		data := film(t, "flat.mkv", "-f", "lavfi", "-i", "color=0x808080:s="+tt.size+":r=5:d=1", "-c:v", "ffv1", "-pix_fmt", tt.format)
		got, err := ReadVideo(t.Context(), data, modality.Options{FFmpeg: program(t)})
		if err != nil {
			t.Errorf("%v: %v", tt, err)
			continue
		}
		for i, v := range got.Floats {
			c := i / (2 * Side * Side) % 3
			if grey := float64(v*std[c]+mean[c]) * 255; !(math.Abs(grey-128) < 3) { // 8-bit luma has 219 steps, and versions round apart
				t.Errorf("%v: value %d is %g, want 128", tt, i, grey)
				break
			}
		}
	}
}

// turned is a QuickTime or MP4 file with the first track's matrix set, as
// phones do it: a quarter, a half or three quarters clockwise.
func turned(t *testing.T, file string, quarters int) []byte {
	t.Helper()
	b := golden.Bytes(t, file)
	at := bytes.Index(b, []byte("tkhd"))
	if at < 0 || b[at+4] != 0 {
		t.Fatal("no track header of version 0")
	}
	const one = 1 << 16
	m := [][4]uint32{{one, 0, 0, one}, {0, one, 0xffff0000, 0}, {0xffff0000, 0, 0, 0xffff0000}, {0, 0xffff0000, one, 0}}[quarters]
	for i, v := range []int{0, 1, 3, 4} { // a b u, c d v, x y w
		binary.BigEndian.PutUint32(b[at+44+4*v:], m[i])
	}
	return b
}

// TestTurned turns videos as their files ask, and not for the reference. 4:2:0
// repeats chroma samples either way: no tolerance but float32's is needed.
func TestTurned(t *testing.T) {
	v, raw := frames(t, golden.Bytes(t, portrait), reference)
	for _, tt := range []struct{ quarters, orientation int }{{1, 6}, {2, 3}, {3, 8}} {
		data := turned(t, portrait, tt.quarters)
		_, plain := frames(t, data, reference)
		for at, rgb := range raw {
			if !bytes.Equal(plain[at], rgb) {
				t.Errorf("%d quarters: %v is turned for the reference", tt.quarters, at)
			}
		}
		got, err := ReadVideo(t.Context(), data, modality.Options{FFmpeg: program(t)})
		if err != nil {
			t.Fatal(err)
		}
		want := imagebind.NewFloats(15, 3, 2, Side, Side)
		for at, rgb := range raw {
			p := upright(Picture{v.W, v.H, rgb}, tt.orientation)
			for i, c := range newCuts(p.W, p.H, 3) {
				c.resizeTo(want.Floats[((3*at.clip+i)*6+at.t)*Side*Side:], 2*Side*Side, p)
			}
		}
		golden.Close(t, got.Floats, want.Floats, 1e-5)
	}
}

func TestReadVideoErrors(t *testing.T) {
	mp4 := golden.Bytes(t, landscape)
	fast := film(t, "fast.mp4", "-i", landscape, "-c", "copy", "-movflags", "faststart")
	broken := bytes.Clone(mp4)
	mdat := bytes.Index(broken, []byte("mdat"))
	for i := mdat + 4; i < mdat+90000; i++ {
		broken[i] = byte(i * i)
	}
	secret := filepath.Join(t.TempDir(), "other.mp4")
	if err := os.WriteFile(secret, mp4, 0o600); err != nil {
		t.Fatal(err)
	}
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	o := modality.Options{FFmpeg: program(t)}
	limited := func(l modality.Limits) modality.Options { return modality.Options{FFmpeg: o.FFmpeg, Limits: l} }
	slides := film(t, "slides.mkv", "-f", "lavfi", "-i", fmt.Sprintf(numbered, "1/5", 20.), "-c:v", "ffv1")
	for _, tt := range []struct {
		name string
		data []byte
		o    modality.Options
		kind imagebind.Kind
		says string
	}{
		{"empty", nil, o, imagebind.Invalid, "empty"},
		{"text", []byte("not a video"), o, imagebind.Unsupported, "text/plain"},
		{"a picture", []byte("\x89PNG\r\n\x1a\n"), o, imagebind.Unsupported, "image/png"},
		{"noise", []byte("\x00\xff\x13noise"), o, imagebind.Unsupported, "no known format"},
		{"playlist", []byte("#EXTM3U\n#EXTINF:6,\nfile:" + secret + "\n#EXT-X-ENDLIST\n"), o, imagebind.Unsupported, "text/plain"},
		{"concat", []byte("ffconcat version 1.0\nfile '" + secret + "'\n"), o, imagebind.Unsupported, "text/plain"},
		{"no ffmpeg", mp4, modality.Options{}, imagebind.Unsupported, "media.ffmpeg"},
		{"ffmpeg is not there", mp4, modality.Options{FFmpeg: filepath.Join(t.TempDir(), "none")}, imagebind.Unsupported, "does not start"},
		{"sound only", film(t, "sound.mp4", "-f", "lavfi", "-i", "sine=duration=1", "-c:a", "aac"), o, imagebind.Invalid, "has no video"},
		{"sound only, Matroska", film(t, "sound.mkv", "-f", "lavfi", "-i", "sine=duration=1", "-c:a", "flac"), o, imagebind.Invalid, "has no video"},
		{"cut, index at the end", mp4[:len(mp4)/2], o, imagebind.Invalid, "cannot decode"},
		{"cut, index in front", fast[:len(fast)/2], o, imagebind.Invalid, "cannot decode"},
		{"header only", mp4[:32], o, imagebind.Invalid, "cannot decode"},
		{"broken frames", broken, o, imagebind.Invalid, "frames"},
		{"MPEG-TS of nothing", bytes.Repeat([]byte("G\x00\x00\x10"), 47*20), o, imagebind.Invalid, ""},
		{"two crops", mp4, modality.Options{FFmpeg: o.FFmpeg, Params: modality.Params{"crops": 2}}, imagebind.Invalid, "1 (the centre) or 3"},
		{"too many pixels", mp4, limited(modality.Limits{Pixels: 160*120 - 1}), imagebind.TooLarge, "160 × 120"},
		{"too long", mp4, limited(modality.Limits{Seconds: 5.9}), imagebind.TooLarge, "6.0 seconds"},
		{"too many frames", mp4, limited(modality.Limits{Frames: 149}), imagebind.TooLarge, "149 frames"},
		{"clip without frames", slides, modality.Options{FFmpeg: o.FFmpeg, Reference: true}, imagebind.Invalid, "no frame in the two seconds from 2.60 s"},
	} {
		_, err := ReadVideo(t.Context(), tt.data, tt.o)
		if imagebind.KindOf(err) != tt.kind || !strings.Contains(err.Error(), tt.says) || strings.Contains(err.Error(), temp) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := ReadVideo(ctx, mp4, o); imagebind.KindOf(err) != imagebind.Canceled {
		t.Errorf("cancelled: %v", err)
	}
	if left, err := filepath.Glob(filepath.Join(temp, "imagebind-media-*")); err != nil || len(left) > 0 {
		t.Errorf("files are left: %v, %v", left, err)
	}
}

// TestExactLimits passes what is just allowed.
func TestExactLimits(t *testing.T) {
	o := modality.Options{FFmpeg: program(t), Limits: modality.Limits{Pixels: 160 * 120, Seconds: 6, Frames: 150}}
	if _, err := ReadVideo(t.Context(), golden.Bytes(t, landscape), o); err != nil {
		t.Error(err)
	}
}

// TestSizeChanges reads a stream whose frames change their size halfway: they
// are scaled to the first.
func TestSizeChanges(t *testing.T) {
	both := film(t, "small.ts", "-f", "lavfi", "-i", fmt.Sprintf(numbered, "25", 2.), "-c:v", "mpeg2video")
	both = append(both, film(t, "large.ts", "-f", "lavfi", "-i", "testsrc=s=320x100:r=25:d=2", "-c:v", "mpeg2video", "-output_ts_offset", "2")...)
	got, err := ReadVideo(t.Context(), both, modality.Options{FFmpeg: program(t)})
	if err != nil || got.Shape[0] != 15 {
		t.Errorf("shape %v, %v", got.Shape, err)
	}
}

func FuzzVideo(f *testing.F) {
	o := modality.Options{FFmpeg: program(f), Limits: modality.Limits{Pixels: 1 << 20, Seconds: 20, Frames: 200}}
	f.Add(golden.Bytes(f, "testdata/video/short_128x128_24fps_1.2s.mp4"))
	for _, name := range []string{"v.mkv", "v.avi", "v.ts", "v.mpg", "v.asf"} {
		f.Add(film(f, name, "-f", "lavfi", "-i", "testsrc=s=32x24:r=5:d=0.6", "-c:v", "mpeg2video", "-r", "25"))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := ReadVideo(t.Context(), data, o)
		if err != nil {
			if k := imagebind.KindOf(err); k != imagebind.Invalid && k != imagebind.Unsupported && k != imagebind.TooLarge {
				t.Error(err)
			}
			return
		}
		for i, v := range got.Floats {
			if !(v > -3 && v < 3) {
				t.Fatalf("value %d is %v", i, v)
			}
		}
	})
}

// BenchmarkReadVideo reads ten seconds of 1280 × 720, BenchmarkResize what is
// resized for them: ten frames, three crops each.
func BenchmarkReadVideo(b *testing.B) {
	data := film(b, "hd.mp4", "-f", "lavfi", "-i", "testsrc2=s=1280x720:r=30:d=10", "-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p")
	o := modality.Options{FFmpeg: program(b)}
	for b.Loop() {
		if _, err := ReadVideo(b.Context(), data, o); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkResize(b *testing.B) {
	p := Picture{1280, 720, make([]byte, 3*1280*720)}
	cuts := newCuts(p.W, p.H, 3)
	dst := make([]float32, 3*Side*Side)
	for b.Loop() {
		for range 10 {
			for _, c := range cuts {
				c.resizeTo(dst, Side*Side, p)
			}
		}
	}
}
