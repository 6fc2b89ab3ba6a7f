package all_test

import (
	"bytes"
	"fmt"
	"image"
	"image/color"
	"image/jpeg"
	"image/png"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"imagebind-llm/internal/golden"
	"imagebind-llm/runner/modality"
	"imagebind-llm/runner/modality/all"
)

// A benchFile is read by BenchmarkRead. One without make is path, below
// runner/modality.
type benchFile struct {
	path string
	make func(tb testing.TB) []byte
}

var benchFiles = map[string][]benchFile{
	"image": {
		{path: "vision/testdata/inputs/big_1024x769_q80_420.jpg"},
		{path: "vision/testdata/inputs/portrait_231x517.png"},
		{"photo_4000x3000.jpg", photo},
	},
	"video": {
		{path: "vision/testdata/video/wide_400x300_ntsc_4s.mp4"},
		{"hd_1280x720_30fps_10s.mp4", film},
	},
	"audio": {
		{path: "audio/testdata/inputs/speech_16k_mono.wav"},
		{path: "audio/testdata/inputs/tone_48k_mono_4s.wav"},
		{path: "audio/testdata/mixed_44k_stereo.mp3"},
	},
	"text": {
		{"caption.txt", func(testing.TB) []byte {
			return []byte("a photograph of a very long street market in the early morning with many people walking between the stalls")
		}},
	},
	"depth":   {{"depth16_640x480.png", func(tb testing.TB) []byte { return grey16(tb, 640, 480) }}},
	"thermal": {{"thermal16_640x512.png", func(tb testing.TB) []byte { return grey16(tb, 640, 512) }}},
	"imu":     {{"minute_200hz.csv", motion}},
	"point_cloud": {
		{path: "point/testdata/ell_8192.npy"},
		{path: "point/testdata/sph_700.obj"},
	},
}

// TestBenchFiles: a new modality brings a file for make bench.
func TestBenchFiles(t *testing.T) {
	for _, s := range all.Specs {
		if len(benchFiles[s.Name]) == 0 {
			t.Errorf("benchFiles has nothing of %s", s.Name)
		}
		for _, f := range benchFiles[s.Name] {
			if f.make != nil {
				continue
			}
			if _, err := os.Stat(filepath.Join("..", f.path)); err != nil {
				t.Errorf("%s: %v", s.Name, err)
			}
		}
	}
}

// BenchmarkRead is from a file on disk to the encoder's input, as by default;
// scripts/bench_files.sh holds it against the reference's loaders. With BENCH_FILES
// the files stay there, as MODALITY/FILE.
func BenchmarkRead(b *testing.B) {
	dir := os.Getenv("BENCH_FILES")
	if dir == "" {
		dir = b.TempDir()
	}
	program, _ := exec.LookPath("ffmpeg")
	for _, s := range all.Specs {
		for _, f := range benchFiles[s.Name] {
			path := filepath.Join(dir, s.Name, filepath.Base(f.path))
			b.Run(s.Name+"/"+filepath.Base(path), func(b *testing.B) {
				if s.Name == "video" && program == "" {
					golden.Need(b, "ffmpeg", "video is read with ffmpeg")
				}
				lay(b, path, f)
				read := func() {
					data, err := os.ReadFile(path)
					if err == nil {
						_, err = s.Read(b.Context(), data, modality.Options{FFmpeg: program})
					}
					if err != nil {
						b.Fatal(err)
					}
				}
				read() // vocabularies and tables are made once
				b.ReportAllocs()
				for b.Loop() {
					read()
				}
			})
		}
	}
}

// lay puts the file at path, unless an earlier run did.
func lay(b *testing.B, path string, f benchFile) {
	b.Helper()
	if _, err := os.Stat(path); err == nil {
		return
	}
	var data []byte
	var err error
	if f.make != nil {
		data = f.make(b)
	} else if data, err = os.ReadFile(filepath.Join("..", f.path)); err != nil {
		b.Fatal(err)
	}
	if err = os.MkdirAll(filepath.Dir(path), 0o755); err == nil {
		err = os.WriteFile(path, data, 0o600)
	}
	if err != nil {
		b.Fatal(err)
	}
}

// photo is of a telephone's size, with detail everywhere.
func photo(tb testing.TB) []byte {
	img := image.NewRGBA(image.Rect(0, 0, 4000, 3000))
	for y := range 3000 {
		for x := range 4000 {
			v := math.Sin(float64(x)/40)*math.Cos(float64(y)/23)*90 + 128
			grain := uint8(uint32(x*7919+y*104729) * 2654435761 >> 28) // 0..15
			img.SetRGBA(x, y, color.RGBA{uint8(v) + grain, uint8(x/16) + grain, uint8(y/16) + grain, 255})
		}
	}
	var w bytes.Buffer
	if err := jpeg.Encode(&w, img, &jpeg.Options{Quality: 90}); err != nil { // 4:2:0
		tb.Fatal(err)
	}
	return w.Bytes()
}

func film(tb testing.TB) []byte {
	path := filepath.Join(tb.TempDir(), "film.mp4")
	out, err := exec.Command("ffmpeg", "-v", "error", "-f", "lavfi", "-i", "testsrc2=s=1280x720:r=30:d=10",
		"-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p", path).CombinedOutput()
	if err != nil {
		tb.Skipf("ffmpeg makes no film: %v: %s", err, out)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	return data
}

// grey16 is a slope of 0.5 to 10 thousand: millimetres, or a sensor's counts.
func grey16(tb testing.TB, w, h int) []byte {
	img := image.NewGray16(image.Rect(0, 0, w, h))
	for y := range h {
		for x := range w {
			img.SetGray16(x, y, color.Gray16{uint16(500 + 9500*(x+y)/(w+h) + x*y%7)})
		}
	}
	var out bytes.Buffer
	if err := png.Encode(&out, img); err != nil {
		tb.Fatal(err)
	}
	return out.Bytes()
}

// motion is a minute at 200 Hz.
func motion(testing.TB) []byte {
	var w strings.Builder
	w.WriteString("time,acc_x,acc_y,acc_z,gyro_x,gyro_y,gyro_z\n")
	for i := range 60 * 200 {
		t := float64(i) / 200
		fmt.Fprint(&w, t)
		for c := range 6 {
			fmt.Fprintf(&w, ",%.6f", math.Sin(t*float64(c+1)))
		}
		w.WriteByte('\n')
	}
	return []byte(w.String())
}
