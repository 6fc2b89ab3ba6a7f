package audio

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math"

	"github.com/hajimehoshi/go-mp3"
	"github.com/jfreymuth/oggvorbis"
	"github.com/mewkiz/flac"

	imagebind "imagebind-llm"
	"imagebind-llm/runner/modality"
	"imagebind-llm/runner/modality/internal/ffmpeg"
	"imagebind-llm/runner/modality/internal/foreign"
	"imagebind-llm/runner/modality/internal/id3"
)

// A sound is decoded audio: samples of -1..1, [N, C], the channels of a moment
// side by side.
type sound struct {
	rate, channels int
	samples        []float32
}

// len returns the number of samples of one channel.
func (s sound) len() int { return len(s.samples) / s.channels }

// The rates and channels that are believed.
const (
	minRate, maxRate = 1000, 768000
	maxChannels      = 32
)

// stereo is the sound whose memory the limit in seconds allows: 48 kHz, two
// channels. Sound of more values a second may be shorter only.
const stereo = 2 * 48000

// limits hold while a file is decoded.
type limits struct {
	seconds        float64
	rate, channels int
	n              int // samples a channel so far
}

// check holds a header against what is believed. It comes before add.
func (l *limits) check(hz, channels int) error {
	if hz < minRate || hz > maxRate {
		return imagebind.Errorf(imagebind.Invalid, "the sound has %d samples a second; %d to %d are read", hz, minRate, maxRate)
	}
	if channels < 1 || channels > maxChannels {
		return imagebind.Errorf(imagebind.Invalid, "the sound has %d channels; 1 to %d are read", channels, maxChannels)
	}
	l.rate, l.channels = hz, channels
	return nil
}

// add counts n samples of each channel.
func (l *limits) add(n int) error {
	l.n += n
	if s := float64(l.n) / float64(l.rate); s > l.seconds {
		return imagebind.Errorf(imagebind.TooLarge, "the sound is longer than the %g seconds allowed; send a part of it", l.seconds)
	}
	if float64(l.n)*float64(l.channels) > l.seconds*stereo {
		return imagebind.Errorf(imagebind.TooLarge, "the sound of %d channels at %d Hz takes more memory than %g seconds of stereo at 48 kHz; send a part of it, or mono", l.channels, l.rate, l.seconds)
	}
	return nil
}

// A decoder reads one format.
type decoder struct {
	name   string
	decode func(data []byte, l *limits) (sound, error)
}

var decoders = map[string]decoder{
	"audio/wav":  {"WAV", decodeWAV},
	"audio/flac": {"FLAC", decodeFLAC},
	"audio/mpeg": {"MP3", decodeMP3},
	"audio/ogg":  {"Ogg Vorbis", decodeVorbis},
}

// decode returns the sound of a file. The content decides the format; what no
// decoder here reads goes to ffmpeg, where the options name it.
func decode(ctx context.Context, data []byte, o modality.Options) (sound, error) {
	if err := ctx.Err(); err != nil {
		return sound{}, err
	}
	if len(data) == 0 {
		return sound{}, imagebind.Errorf(imagebind.Invalid, "the sound is empty")
	}
	media := modality.Sniff(data)
	longest := o.Limits.OrDefault().Seconds
	err := error(unsupported(media))
	if d, ok := decoders[media]; ok {
		var s sound
		if s, err = d.guarded(id3.Skip(data), &limits{seconds: longest}); err == nil {
			return s, nil
		}
	}
	if imagebind.KindOf(err) != imagebind.Unsupported || o.FFmpeg == "" || !ffmpeg.Reads(media) {
		return sound{}, err
	}
	// One second more than allowed, so that the limit is noticed.
	most := int64((longest+2)*stereo) * 4
	wav, err := ffmpeg.Sound(ctx, o, media, data, longest+1, most)
	if err != nil {
		return sound{}, err
	}
	return decoder{"WAV", decodeWAV}.guarded(wav, &limits{seconds: longest})
}

// guarded decodes, with the decoder's panics as errors. An empty sound is one.
func (d decoder) guarded(data []byte, l *limits) (s sound, err error) {
	defer foreign.Recover(&err, d.name)
	if s, err = d.decode(data, l); err != nil {
		return sound{}, err
	}
	if len(s.samples) == 0 {
		return sound{}, imagebind.Errorf(imagebind.Invalid, "the %s file holds no sound", d.name)
	}
	return s, nil
}

// unsupported says what a file is instead of a sound.
func unsupported(media string) error {
	switch {
	case ffmpeg.Reads(media):
		return imagebind.Errorf(imagebind.Unsupported, "the file is %s, which is read with ffmpeg only, and none is configured; send WAV, MP3, FLAC or Ogg Vorbis", media)
	case media == "application/octet-stream":
		media = "no known format"
	}
	return imagebind.Errorf(imagebind.Unsupported, "the file is not a sound that can be read (its content is %s); send WAV, MP3, FLAC or Ogg Vorbis", media)
}

func decodeFLAC(data []byte, l *limits) (sound, error) {
	f, err := flac.New(bytes.NewReader(data)) // skips pictures and tags
	if err != nil {
		return sound{}, foreign.Broken("FLAC", err)
	}
	hz, channels, depth := int(f.Info.SampleRate), int(f.Info.NChannels), int(f.Info.BitsPerSample)
	if err := l.check(hz, channels); err != nil {
		return sound{}, err
	}
	if f.Info.NSamples > 0 { // what the header claims
		claim := *l
		if err := claim.add(int(min(f.Info.NSamples, math.MaxInt32))); err != nil {
			return sound{}, err
		}
	}
	s := sound{rate: hz, channels: channels}
	scale := 1 / float32(int64(1)<<(depth-1))
	for {
		fr, err := f.ParseNext()
		if errors.Is(err, io.EOF) {
			return s, nil
		}
		if err != nil {
			return sound{}, foreign.Broken("FLAC", err)
		}
		n := int(fr.BlockSize)
		if len(fr.Subframes) != channels {
			return sound{}, imagebind.Errorf(imagebind.Invalid, "the FLAC file changes its number of channels")
		}
		if err := l.add(n); err != nil {
			return sound{}, err
		}
		for i := range n {
			for _, sub := range fr.Subframes {
				s.samples = append(s.samples, float32(sub.Samples[i])*scale)
			}
		}
	}
}

// decodeMP3 reads MPEG-1 and 2, layer III. The decoder's first frame, which
// holds no sound but its description, and the silence that the encoder put
// around the sound are dropped.
func decodeMP3(data []byte, l *limits) (sound, error) {
	d, err := mp3.NewDecoder(struct{ io.Reader }{bytes.NewReader(data)}) // no Seek: it would scan the file first
	if err != nil {
		return sound{}, imagebind.Errorf(imagebind.Unsupported, "the MP3 file cannot be decoded: %w", err)
	}
	const channels = 2 // always
	if err := l.check(d.SampleRate(), channels); err != nil {
		return sound{}, err
	}
	s := sound{rate: d.SampleRate(), channels: channels}
	buf := make([]byte, 1<<14)
	for {
		n, err := io.ReadFull(d, buf)
		if err := l.add(n / 4); err != nil {
			return sound{}, err
		}
		for i := 0; i+2 <= n; i += 2 {
			s.samples = append(s.samples, float32(int16(binary.LittleEndian.Uint16(buf[i:])))/(1<<15))
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			break
		}
		if err != nil {
			return sound{}, foreign.Broken("MP3", err)
		}
	}
	first, last := trim(data, s.len())
	s.samples = s.samples[first*channels : last*channels]
	return s, nil
}

func decodeVorbis(data []byte, l *limits) (sound, error) {
	if err := checkVorbis(data); err != nil {
		return sound{}, err
	}
	r, err := oggvorbis.NewReader(struct{ io.Reader }{bytes.NewReader(data)})
	if err != nil {
		return sound{}, foreign.Broken("Ogg Vorbis", err)
	}
	if err := l.check(r.SampleRate(), r.Channels()); err != nil {
		return sound{}, err
	}
	s := sound{rate: r.SampleRate(), channels: r.Channels()}
	buf := make([]float32, 4096*s.channels)
	for {
		n, err := r.Read(buf)
		if err := l.add(n / s.channels); err != nil {
			return sound{}, err
		}
		s.samples = append(s.samples, buf[:n]...)
		if errors.Is(err, io.EOF) {
			return s, nil
		}
		if err != nil {
			return sound{}, foreign.Broken("Ogg Vorbis", err)
		}
	}
}
