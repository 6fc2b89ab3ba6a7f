package audio

import (
	"encoding/binary"
	"math"

	imagebind "imagebind-llm"
)

// Format tags of a wave file (mmreg.h).
const (
	wavPCM        = 1
	wavFloat      = 3
	wavExtensible = 0xfffe
)

// decodeWAV reads RIFF/WAVE and RF64: integers of 8 (unsigned) to 32 bits and
// floats of 32 and 64. A data chunk that claims more than there is, as streams
// have it, ends with the file.
func decodeWAV(data []byte, l *limits) (sound, error) {
	var format []byte
	for at := 12; at+8 <= len(data); {
		name, size := string(data[at:at+4]), uint64(binary.LittleEndian.Uint32(data[at+4:]))
		body := data[at+8:]
		if size < uint64(len(body)) {
			body = body[:size]
		}
		switch name {
		case "fmt ":
			format = body
		case "data":
			if len(format) < 16 {
				return sound{}, imagebind.Errorf(imagebind.Invalid, "the WAV file has no format before its data")
			}
			return decodePCM(format, body, l)
		}
		if size+size&1 > uint64(len(data)-at-8) {
			break
		}
		at += 8 + int(size+size&1)
	}
	return sound{}, imagebind.Errorf(imagebind.Invalid, "the WAV file has no data")
}

// decodePCM converts samples to -1..1, as torchaudio.load does.
func decodePCM(format, data []byte, l *limits) (sound, error) {
	le := binary.LittleEndian
	tag, channels, hz := le.Uint16(format), int(le.Uint16(format[2:])), int(le.Uint32(format[4:]))
	block, depth := int(le.Uint16(format[12:])), int(le.Uint16(format[14:]))
	if tag == wavExtensible && len(format) >= 26 {
		tag = le.Uint16(format[24:]) // the GUID's first field
	}
	if err := l.check(hz, channels); err != nil {
		return sound{}, err
	}
	width := (depth + 7) / 8 // bytes of a sample
	if block != width*channels {
		return sound{}, imagebind.Errorf(imagebind.Invalid, "the WAV file is broken: %d channels of %d bits don't make blocks of %d bytes", channels, depth, block)
	}
	var sample func(b []byte) float32
	switch {
	case tag == wavPCM && width == 1:
		sample = func(b []byte) float32 { return (float32(b[0]) - 128) / (1 << 7) }
	case tag == wavPCM && width == 2:
		sample = func(b []byte) float32 { return float32(int16(le.Uint16(b))) / (1 << 15) }
	case tag == wavPCM && width == 3:
		sample = func(b []byte) float32 {
			return float32(int32(uint32(b[0])<<8|uint32(b[1])<<16|uint32(b[2])<<24)>>8) / (1 << 23)
		}
	case tag == wavPCM && width == 4:
		sample = func(b []byte) float32 { return float32(float64(int32(le.Uint32(b))) / (1 << 31)) }
	case tag == wavFloat && width == 4:
		sample = func(b []byte) float32 { return math.Float32frombits(le.Uint32(b)) }
	case tag == wavFloat && width == 8:
		sample = func(b []byte) float32 { return float32(math.Float64frombits(le.Uint64(b))) }
	default:
		return sound{}, imagebind.Errorf(imagebind.Unsupported, "the WAV file's encoding (format %d, %d bits) is not read; save it as 16-bit PCM", tag, depth)
	}
	n := len(data) / block
	if err := l.add(n); err != nil {
		return sound{}, err
	}
	s := sound{rate: hz, channels: channels, samples: make([]float32, n*channels)}
	for i := range s.samples {
		s.samples[i] = sample(data[i*width : (i+1)*width])
	}
	return s, nil
}
