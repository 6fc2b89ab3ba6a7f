package point

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"math"
	"strconv"
)

// A number is how a value is stored.
type number struct {
	size  int // bytes
	value func(o binary.ByteOrder, b []byte) float64
}

var (
	i8  = number{1, func(_ binary.ByteOrder, b []byte) float64 { return float64(int8(b[0])) }}
	u8  = number{1, func(_ binary.ByteOrder, b []byte) float64 { return float64(b[0]) }}
	i16 = number{2, func(o binary.ByteOrder, b []byte) float64 { return float64(int16(o.Uint16(b))) }}
	u16 = number{2, func(o binary.ByteOrder, b []byte) float64 { return float64(o.Uint16(b)) }}
	i32 = number{4, func(o binary.ByteOrder, b []byte) float64 { return float64(int32(o.Uint32(b))) }}
	u32 = number{4, func(o binary.ByteOrder, b []byte) float64 { return float64(o.Uint32(b)) }}
	i64 = number{8, func(o binary.ByteOrder, b []byte) float64 { return float64(int64(o.Uint64(b))) }}
	u64 = number{8, func(o binary.ByteOrder, b []byte) float64 { return float64(o.Uint64(b)) }}
	f32 = number{4, func(o binary.ByteOrder, b []byte) float64 { return float64(math.Float32frombits(o.Uint32(b))) }}
	f64 = number{8, func(o binary.ByteOrder, b []byte) float64 { return math.Float64frombits(o.Uint64(b)) }}
)

var errCut = errors.New("it is cut: it ends before the number of points that it says")

// parse reads a number in text.
func parse(b []byte) (float64, error) {
	v, err := strconv.ParseFloat(string(b), 64)
	if err != nil && !errors.Is(err, strconv.ErrRange) { // out of range is ±Inf, refused later with the point's number
		return 0, fmt.Errorf("%.20q is no number", b)
	}
	return v, nil
}

// appendPoint appends the first three of fields.
func appendPoint(points []float64, fields [][]byte) ([]float64, error) {
	if len(fields) < 3 {
		return nil, errors.New("a point has fewer than three coordinates")
	}
	for _, f := range fields[:3] {
		v, err := parse(f)
		if err != nil {
			return nil, err
		}
		points = append(points, v)
	}
	return points, nil
}

// lines yields the lines of a text, without white space at their ends, and
// their number, counted from 1. Empty ones are left out.
func lines(data []byte) iter.Seq2[int, []byte] {
	return func(yield func(int, []byte) bool) {
		for n := 1; len(data) > 0; n++ {
			var line []byte
			line, data, _ = bytes.Cut(data, []byte("\n"))
			if line = bytes.TrimSpace(line); len(line) > 0 && !yield(n, line) {
				return
			}
		}
	}
}

// fan appends the triangles of a polygon: all from its first corner.
func fan(faces, corners []int32) []int32 {
	for i := 2; i < len(corners); i++ {
		faces = append(faces, corners[0], corners[i-1], corners[i])
	}
	return faces
}

// corner returns a vertex number as a whole number that fits; -1 is none.
func corner(v float64) int32 {
	if v != math.Trunc(v) || v < 0 || v > math.MaxInt32 {
		return -1
	}
	return int32(v)
}
