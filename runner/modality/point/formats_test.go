package point

import (
	"encoding/binary"
	"fmt"
	"math"
)

// asPCD is a binary PCD file.
func asPCD(points []float32) []byte {
	b := fmt.Appendf(nil, "# .PCD v.7 - Point Cloud Data file format\nVERSION .7\nFIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nCOUNT 1 1 1\nWIDTH %d\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS %[1]d\nDATA binary\n", len(points)/3)
	for _, v := range points {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(v))
	}
	return b
}
