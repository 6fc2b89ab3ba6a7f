// Package id3 skips the tags that some put in front of sound files.
package id3

// Skip returns data without the ID3v2 tags in front.
func Skip(data []byte) []byte {
	for len(data) > 10 && string(data[:3]) == "ID3" {
		n := 10 + int(data[6]&0x7f)<<21 + int(data[7]&0x7f)<<14 + int(data[8]&0x7f)<<7 + int(data[9]&0x7f)
		if data[5]&0x10 != 0 {
			n += 10 // a footer
		}
		data = data[min(n, len(data)):]
	}
	return data
}
