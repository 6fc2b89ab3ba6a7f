package audio

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	imagebind "imagebind-llm"
	"imagebind-llm/internal/golden"
	"imagebind-llm/runner/modality"
)

// TestLossy holds lossy files against the sound that they were made of: of the
// same length, at the same place (silence that the encoder added dropped) and
// close in energy.
func TestLossy(t *testing.T) {
	for _, tt := range []struct{ file, of string }{
		{"mixed_44k_stereo.mp3", "mixed_44k_stereo.wav"},
		{"speech_22k_mono.mp3", "speech_22k_s24_mono.wav"},
		{"mixed_44k_stereo.ogg", "mixed_44k_stereo.wav"},
	} {
		t.Run(tt.file, func(t *testing.T) {
			got, err := decode(t.Context(), golden.Bytes(t, "testdata/"+tt.file), modality.Options{})
			if err != nil {
				t.Fatal(err)
			}
			want, err := decode(t.Context(), golden.Bytes(t, "testdata/inputs/"+tt.of), modality.Options{})
			if err != nil {
				t.Fatal(err)
			}
			if got.rate != want.rate || got.len() != want.len() {
				t.Fatalf("%d samples at %d Hz, want %d at %d", got.len(), got.rate, want.len(), want.rate)
			}
			residue := func(shift int) float64 {
				var diff, all float64
				for i := 100; i < want.len()-100; i++ {
					w := float64(want.samples[i*want.channels])
					d := float64(got.samples[(i+shift)*got.channels]) - w
					diff, all = diff+d*d, all+w*w
				}
				return diff / all
			}
			here := residue(0)
			t.Logf("residue %.3g", here)
			if here > 0.1 || here > residue(-5) || here > residue(5) {
				t.Errorf("the sound is not in its place: residue %g, shifted %g and %g", here, residue(-5), residue(5))
			}
		})
	}
}

// TestTagged reads a FLAC file with a tag in front.
func TestTagged(t *testing.T) {
	tag := "ID3\x04\x00\x00\x00\x00\x00\x03..."
	got, err := Read(t.Context(), append([]byte(tag), golden.Bytes(t, "testdata/speech_16k_mono.flac")...), modality.Options{})
	if err != nil {
		t.Fatal(err)
	}
	golden.Close(t, got.Floats, golden.Open(t, "testdata/audio.safetensors").Tensor(t, "speech_16k_mono.wav").Values, tolerance)
}

// wav makes a wave file of the samples' bytes.
func wav(tag, channels, hz, depth int, data []byte) []byte {
	b := []byte("RIFF\x00\x00\x00\x00WAVEfmt \x10\x00\x00\x00")
	le := binary.LittleEndian
	b = le.AppendUint16(b, uint16(tag))
	b = le.AppendUint16(b, uint16(channels))
	b = le.AppendUint32(b, uint32(hz))
	b = le.AppendUint32(b, uint32(hz*channels*depth/8))
	b = le.AppendUint16(b, uint16(channels*depth/8))
	b = le.AppendUint16(b, uint16(depth))
	b = append(b, "data"...)
	b = le.AppendUint32(b, uint32(len(data)))
	return append(b, data...)
}

// TestDecodeWAV reads one sample, -1/2, in every encoding.
func TestDecodeWAV(t *testing.T) {
	le := binary.LittleEndian
	for _, tt := range []struct {
		name       string
		tag, depth int
		sample     []byte
	}{
		{"u8", wavPCM, 8, []byte{64}},
		{"s16", wavPCM, 16, []byte{0, 0xc0}},
		{"s24", wavPCM, 24, []byte{0, 0, 0xc0}},
		{"s32", wavPCM, 32, []byte{0, 0, 0, 0xc0}},
		{"f32", wavFloat, 32, le.AppendUint32(nil, math.Float32bits(-0.5))},
		{"f64", wavFloat, 64, le.AppendUint64(nil, math.Float64bits(-0.5))},
	} {
		s, err := decodeWAV(wav(tt.tag, 1, 16000, tt.depth, tt.sample), &limits{seconds: 1})
		if err != nil || len(s.samples) != 1 || s.samples[0] != -0.5 {
			t.Errorf("%s: %v, %v", tt.name, s.samples, err)
		}
	}
}

// TestWAVClaims reads files whose chunks claim more than there is.
func TestWAVClaims(t *testing.T) {
	whole := wav(wavPCM, 1, 16000, 16, make([]byte, 2000))
	for _, claim := range []uint32{0xffffffff, 0x7fffffff, 5000} {
		b := bytes.Clone(whole)
		binary.LittleEndian.PutUint32(b[40:], claim)
		s, err := decodeWAV(b, &limits{seconds: 1})
		if err != nil || s.len() != 1000 {
			t.Errorf("a claim of %d bytes: %d samples, %v", claim, len(s.samples), err)
		}
	}
	extensible := []byte("RIFF\x00\x00\x00\x00WAVEfmt \x28\x00\x00\x00\xfe\xff\x01\x00\x80\x3e\x00\x00\x00\x7d\x00\x00\x02\x00\x10\x00" +
		"\x16\x00\x10\x00\x04\x00\x00\x00\x01\x00\x00\x00\x00\x00\x10\x00\x80\x00\x00\xaa\x00\x38\x9b\x71data\x04\x00\x00\x00\x00\x40\x00\xc0")
	s, err := decodeWAV(extensible, &limits{seconds: 1})
	if err != nil || s.len() != 2 || s.samples[0] != 0.5 || s.samples[1] != -0.5 {
		t.Errorf("extensible: %v, %v", s.samples, err)
	}
}

func TestReadErrors(t *testing.T) {
	speech := golden.Bytes(t, "testdata/inputs/speech_16k_mono.wav")
	flac := golden.Bytes(t, "testdata/speech_16k_mono.flac")
	mp3 := golden.Bytes(t, "testdata/mixed_44k_stereo.mp3")
	ogg := golden.Bytes(t, "testdata/mixed_44k_stereo.ogg")
	short := modality.Options{Limits: modality.Limits{Seconds: 1}}
	infinite := binary.LittleEndian.AppendUint32(nil, math.Float32bits(float32(math.Inf(1))))
	for _, tt := range []struct {
		name string
		data []byte
		o    modality.Options
		kind imagebind.Kind
	}{
		{"empty", nil, modality.Options{}, imagebind.Invalid},
		{"a picture", []byte("\x89PNG\r\n\x1a\n"), modality.Options{}, imagebind.Unsupported},
		{"text", []byte("no sound"), modality.Options{}, imagebind.Unsupported},
		{"mp4 without ffmpeg", golden.Bytes(t, "testdata/speech_16k_mono.m4a"), modality.Options{}, imagebind.Unsupported},
		{"opus without ffmpeg", golden.Bytes(t, "testdata/speech_opus.ogg"), modality.Options{}, imagebind.Unsupported},
		{"24 ms", wav(wavPCM, 1, 16000, 16, make([]byte, 2*399)), modality.Options{}, imagebind.Invalid},
		{"no samples", wav(wavPCM, 1, 16000, 16, nil), modality.Options{}, imagebind.Invalid},
		{"no channels", wav(wavPCM, 0, 16000, 16, make([]byte, 8)), modality.Options{}, imagebind.Invalid},
		{"1 Hz", wav(wavPCM, 1, 1, 16, make([]byte, 8)), modality.Options{}, imagebind.Invalid},
		{"12 bits in blocks of 1", wav(wavPCM, 1, 16000, 12, make([]byte, 8)), modality.Options{}, imagebind.Invalid},
		{"a-law", wav(6, 1, 8000, 8, make([]byte, 800)), modality.Options{}, imagebind.Unsupported},
		{"infinite samples", wav(wavFloat, 1, 16000, 32, bytes.Repeat(infinite, 800)), modality.Options{}, imagebind.Invalid},
		{"WAV, header only", speech[:30], modality.Options{}, imagebind.Invalid},
		{"FLAC, half", flac[:len(flac)/2], modality.Options{}, imagebind.Invalid},
		{"long WAV", speech, short, imagebind.TooLarge},
		{"long FLAC", flac, short, imagebind.TooLarge},
		{"long MP3", mp3, short, imagebind.TooLarge},
		{"long Vorbis", ogg, short, imagebind.TooLarge},
	} {
		if _, err := Read(t.Context(), tt.data, tt.o); imagebind.KindOf(err) != tt.kind {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Read(ctx, speech, modality.Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// TestVorbisHeaders doctors the headers so that the decoder would take much memory.
func TestVorbisHeaders(t *testing.T) {
	ogg := golden.Bytes(t, "testdata/mixed_44k_stereo.ogg")
	if err := checkVorbis(ogg); err != nil {
		t.Fatal(err)
	}
	comments := bytes.Clone(ogg)
	i := bytes.Index(comments, []byte("\x03vorbis"))
	vendor := int(binary.LittleEndian.Uint32(comments[i+7:]))
	binary.LittleEndian.PutUint32(comments[i+11+vendor:], 1<<31)
	books := bytes.Clone(ogg)
	i = bytes.Index(books, []byte("\x05vorbis"))
	copy(books[i+11:], "\xff\xff\xff\xff\xff") // dimensions and entries of the first codebook
	idle := bytes.Clone(ogg)
	page := append([]byte("OggS\x00\x00"), make([]byte, 21)...)
	idle = append(idle, bytes.Repeat(page, 300)...)
	for name, b := range map[string][]byte{"comments": comments, "codebook": books, "empty pages": idle} {
		if err := checkVorbis(b); imagebind.KindOf(err) != imagebind.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestFFmpeg reads what no decoder here does. The lossless file has the
// golden's features.
func TestFFmpeg(t *testing.T) {
	program, err := exec.LookPath("ffmpeg")
	if err != nil {
		golden.Need(t, "ffmpeg", "ffmpeg is not installed")
	}
	o := modality.Options{FFmpeg: program}
	got, err := Read(t.Context(), golden.Bytes(t, "testdata/speech_16k_mono.mka"), o)
	if err != nil {
		t.Fatal(err)
	}
	golden.Close(t, got.Floats, golden.Open(t, "testdata/audio.safetensors").Tensor(t, "speech_16k_mono.wav").Values, tolerance)
	for _, name := range []string{"speech_16k_mono.m4a", "speech_opus.ogg"} { // MP4 has its index at the end
		s, err := decode(t.Context(), golden.Bytes(t, "testdata/"+name), o)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if seconds := float64(s.len()) / float64(s.rate); math.Abs(seconds-4.5) > 0.1 {
			t.Errorf("%s: %g s, want 4.5", name, seconds)
		}
	}
	o.Limits.Seconds = 1
	if _, err := Read(t.Context(), golden.Bytes(t, "testdata/speech_16k_mono.m4a"), o); imagebind.KindOf(err) != imagebind.TooLarge {
		t.Errorf("too long: %v", err)
	}
	o.Limits.Seconds = 0
	broken := golden.Bytes(t, "testdata/speech_16k_mono.m4a")[:2000]
	if _, err := Read(t.Context(), broken, o); imagebind.KindOf(err) != imagebind.Invalid || strings.Contains(err.Error(), os.TempDir()) {
		t.Errorf("half a file: %v", err)
	}
	silent := golden.Bytes(t, "../vision/testdata/video/landscape_160x120_25fps_6s.mp4")
	if _, err := Read(t.Context(), silent, o); imagebind.KindOf(err) != imagebind.Invalid || !strings.Contains(err.Error(), "has no sound") {
		t.Errorf("a video without sound: %v", err)
	}
	o.FFmpeg = filepath.Join(t.TempDir(), "none")
	if _, err := Read(t.Context(), broken, o); imagebind.KindOf(err) != imagebind.Unsupported {
		t.Errorf("no program: %v", err)
	}
}

// TestSoundtracks reads the sound of videos. What is lossless has the golden's
// features; MP4's AAC has the length of the film's sound.
func TestSoundtracks(t *testing.T) {
	program, err := exec.LookPath("ffmpeg")
	if err != nil {
		golden.Need(t, "ffmpeg", "ffmpeg is not installed")
	}
	o := modality.Options{FFmpeg: program}
	// film adds a picture to a sound, or gives it another container.
	film := func(name string, args ...string) []byte {
		path := filepath.Join(t.TempDir(), name)
		args = append([]string{"-v", "error", "-nostdin", "-i", "testdata/inputs/speech_16k_mono.wav"}, append(args, path)...)
		if out, err := exec.CommandContext(t.Context(), program, args...).CombinedOutput(); err != nil {
			t.Fatalf("ffmpeg makes no %s: %v\n%s", name, err, out)
		}
		return golden.Bytes(t, path)
	}
	picture := []string{"-f", "lavfi", "-i", "testsrc=s=32x24:r=5:d=5", "-shortest"}
	for name, data := range map[string][]byte{
		"Matroska":  film("v.mkv", append(picture, "-c:v", "mpeg4", "-c:a", "flac")...),
		"QuickTime": film("v.mov", append(picture, "-c:v", "mpeg4", "-c:a", "pcm_s16le")...),
		"AVI":       film("v.avi", append(picture, "-c:v", "mpeg4", "-c:a", "pcm_s16le")...),
	} {
		got, err := Read(t.Context(), data, o)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		golden.Close(t, got.Floats, golden.Open(t, "testdata/audio.safetensors").Tensor(t, "speech_16k_mono.wav").Values, tolerance)
	}
	for name, tt := range map[string]struct {
		data    []byte
		seconds float64
	}{
		"MP4":  {golden.Bytes(t, "../vision/testdata/video/withaudio_160x90_25fps_2.5s.mp4"), 2.5},
		"WebM": {film("v.webm", "-c:a", "opus", "-strict", "-2", "-ar", "48000"), 4.5},
	} {
		s, err := decode(t.Context(), tt.data, o)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if seconds := float64(s.len()) / float64(s.rate); math.Abs(seconds-tt.seconds) > 0.1 {
			t.Errorf("%s: %g s, want %g", name, seconds, tt.seconds)
		}
	}
	blip := film("v.mkv", "-t", "0.02", "-c:a", "flac")
	if _, err := Read(t.Context(), blip, o); imagebind.KindOf(err) != imagebind.Invalid || !strings.Contains(err.Error(), "25 ms") {
		t.Errorf("20 ms: %v", err)
	}
}

// fuzz reads whatever comes of a file's head.
func fuzz(f *testing.F, files ...string) {
	for _, name := range files {
		b := golden.Bytes(f, "testdata/"+name)
		f.Add(b[:min(len(b), 12000)])
	}
	o := modality.Options{Limits: modality.Limits{Seconds: 10}}
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := Read(t.Context(), data, o)
		if err != nil {
			if imagebind.KindOf(err) == imagebind.Internal {
				t.Error(err)
			}
			return
		}
		for i, v := range got.Floats {
			if math.IsNaN(float64(v)) || math.IsInf(float64(v), 0) {
				t.Fatalf("value %d is %v", i, v)
			}
		}
	})
}

func FuzzReadWAV(f *testing.F) {
	fuzz(f, "inputs/speech_8k_u8_mono.wav", "inputs/tone_16k_f32_3s.wav", "inputs/speech_22k_s24_mono.wav")
}
func FuzzReadFLAC(f *testing.F)   { fuzz(f, "speech_16k_mono.flac") }
func FuzzReadMP3(f *testing.F)    { fuzz(f, "mixed_44k_stereo.mp3", "speech_22k_mono.mp3") }
func FuzzReadVorbis(f *testing.F) { fuzz(f, "mixed_44k_stereo.ogg", "speech_opus.ogg") }

func BenchmarkRead(b *testing.B) {
	data := golden.Bytes(b, "testdata/inputs/tone_48k_mono_4s.wav")
	for b.Loop() {
		if _, err := Read(b.Context(), data, modality.Options{}); err != nil {
			b.Fatal(err)
		}
	}
}
