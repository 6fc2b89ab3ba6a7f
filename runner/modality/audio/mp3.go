package audio

import "bytes"

// decoderDelay is how many samples a decoder of layer III lags behind.
const decoderDelay = 529

// trim returns which of the n decoded samples of an MP3 file are its sound. The
// first frame may be a description ("Xing" or "Info", the LAME tag behind it)
// that says how many samples the encoder put before and after.
func trim(data []byte, n int) (first, last int) {
	at := 0
	for at+4 < len(data) && (data[at] != 0xff || data[at+1]&0xe0 != 0xe0) {
		at++
	}
	if at+4 >= len(data) {
		return 0, n
	}
	frame := data[at:]
	mpeg1, mono := frame[1]&0x18 == 0x18, frame[3]>>6 == 3
	samples, side := 576, 17
	switch {
	case mpeg1 && mono:
		samples = 1152
	case mpeg1:
		samples, side = 1152, 32
	case mono:
		side = 9
	}
	if len(frame) < 4+side+8 {
		return 0, n
	}
	info := frame[4+side:]
	if name := string(info[:4]); name != "Xing" && name != "Info" {
		return 0, n
	}
	first, last = min(samples, n), n
	flags := info[7]
	size := 8
	for i, field := range []int{4, 4, 100, 4} { // frames, bytes, table of contents, quality
		if flags>>i&1 != 0 {
			size += field
		}
	}
	if len(info) < size+24 || !bytes.HasPrefix(info[size:], []byte("LAME")) && !bytes.HasPrefix(info[size:], []byte("Lav")) {
		return first, last
	}
	lame := info[size:]
	delay, padding := int(lame[21])<<4|int(lame[22])>>4, int(lame[22]&0x0f)<<8|int(lame[23])
	last = max(last-max(padding-decoderDelay, 0), first)
	first = min(first+delay+decoderDelay, last)
	return first, last
}
