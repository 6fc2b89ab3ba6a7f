package point

import "errors"

var errLZF = errors.New("its compressed values are broken")

// unLZF returns the size bytes that packed stands for (liblzf's format, as its
// README describes it): a byte below 32 comes before one more literal bytes than
// it says; any other holds the length of a repetition less 2 in three bits, 7
// adding a byte, and the distance back less 1 in five bits and a byte.
func unLZF(packed []byte, size int) ([]byte, error) {
	out := make([]byte, 0, size)
	for len(packed) > 0 {
		control := int(packed[0])
		packed = packed[1:]
		if control < 32 {
			n := control + 1
			if n > len(packed) || n > size-len(out) {
				return nil, errLZF
			}
			out, packed = append(out, packed[:n]...), packed[n:]
			continue
		}
		n := control >> 5
		if n == 7 && len(packed) > 0 {
			n += int(packed[0])
			packed = packed[1:]
		}
		if len(packed) == 0 {
			return nil, errLZF
		}
		from := len(out) - (control&31<<8 | int(packed[0])) - 1
		packed = packed[1:]
		if n += 2; from < 0 || n > size-len(out) {
			return nil, errLZF
		}
		for i := range n { // byte by byte: it may repeat what it writes
			out = append(out, out[from+i])
		}
	}
	if len(out) != size {
		return nil, errLZF
	}
	return out, nil
}
