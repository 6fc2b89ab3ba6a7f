package point

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
)

// A pcdHeader is what a PCD file says before its points, by key
// (https://pointclouds.org/documentation/tutorials/pcd_file_format.html).
type pcdHeader struct {
	points int
	fields []pcdField
	row    int // bytes of a point
	words  int // of a point in text
}

type pcdField struct {
	name  string
	value number
	count int // values
	at    int // bytes before it in a point
	word  int // words before it
}

// readPCD reads the fields x, y and z of the formats ascii, binary and
// binary_compressed. A point of three NaNs is where a sensor measured nothing,
// as the format has it, and left out.
func readPCD(data []byte, w want) (cloud, error) {
	h, kind, data, err := readPCDHeader(data)
	if err != nil {
		return cloud{}, err
	}
	if err := w.check(h.points, "points"); err != nil {
		return cloud{}, err
	}
	var axes [3]pcdField
	for a, name := range []string{"x", "y", "z"} {
		i := slices.IndexFunc(h.fields, func(f pcdField) bool { return f.name == name && f.count > 0 })
		if i < 0 {
			return cloud{}, fmt.Errorf("it has no field %s", name)
		}
		axes[a] = h.fields[i]
	}
	var points []float64
	switch kind {
	case "ascii":
		points, err = h.text(data, axes)
	case "binary":
		points, err = h.binary(data, func(i, a int) int { return i*h.row + axes[a].at }, axes)
	case "binary_compressed":
		if data, err = h.decompress(data, w); err == nil { // field after field
			points, err = h.binary(data, func(i, a int) int { return h.points*axes[a].at + i*axes[a].count*axes[a].value.size }, axes)
		}
	default:
		err = fmt.Errorf("its DATA is %.30q; ascii, binary and binary_compressed are read", kind)
	}
	return cloud{points: points}, err
}

func readPCDHeader(data []byte) (h pcdHeader, kind string, body []byte, err error) {
	keys := map[string][]string{}
	for n := 0; ; n++ {
		line, rest, found := bytes.Cut(data, []byte("\n"))
		if !found || n > 1000 {
			return h, "", nil, errors.New("its header has no DATA")
		}
		data = rest
		line, _, _ = bytes.Cut(line, []byte("#"))
		if len(line) > 4096 {
			return h, "", nil, errors.New("a line of its header is too long")
		}
		var words []string
		for _, w := range bytes.Fields(line) {
			words = append(words, string(w))
		}
		if len(words) < 2 {
			continue
		}
		keys[words[0]] = words[1:]
		if words[0] == "DATA" {
			break
		}
	}
	if h.points, err = pcdCount(keys["POINTS"]); err != nil {
		width, err1 := pcdCount(keys["WIDTH"])
		height, err2 := pcdCount(keys["HEIGHT"])
		if err1 != nil || err2 != nil || height > 0 && width > math.MaxInt32/height {
			return h, "", nil, errors.New("it does not say how many points it has")
		}
		h.points = width * height
	}
	names, sizes, types, counts := keys["FIELDS"], keys["SIZE"], keys["TYPE"], keys["COUNT"]
	if len(sizes) != len(names) || len(types) != len(names) || len(counts) != len(names) && counts != nil {
		return h, "", nil, errors.New("its FIELDS, SIZE, TYPE and COUNT are not of one length")
	}
	for i, name := range names {
		f := pcdField{name: name, count: 1, at: h.row, word: h.words}
		var known bool
		if f.value, known = pcdTypes[types[i]+sizes[i]]; !known {
			return h, "", nil, fmt.Errorf("its field %.30q is of type %.10s and size %.10s, which is not known", name, types[i], sizes[i])
		}
		if counts != nil {
			if f.count, err = pcdCount(counts[i : i+1]); err != nil || f.count > 1<<16 {
				return h, "", nil, fmt.Errorf("its field %.30q has the COUNT %.20q", name, counts[i])
			}
		}
		h.row += f.count * f.value.size
		h.words += f.count
		h.fields = append(h.fields, f)
	}
	return h, keys["DATA"][0], data, nil
}

var pcdTypes = map[string]number{
	"I1": i8, "I2": i16, "I4": i32, "I8": i64, "U1": u8, "U2": u16, "U4": u32, "U8": u64, "F4": f32, "F8": f64,
}

func pcdCount(words []string) (int, error) {
	if len(words) == 0 {
		return 0, errors.New("no count")
	}
	n, err := strconv.ParseInt(words[0], 10, 32)
	if err == nil && n < 0 {
		err = errors.New("a count below 0")
	}
	return int(n), err
}

// keep appends a point that was measured.
func keep(points []float64, p [3]float64) []float64 {
	if math.IsNaN(p[0]) && math.IsNaN(p[1]) && math.IsNaN(p[2]) {
		return points
	}
	return append(points, p[:]...)
}

func (h pcdHeader) text(data []byte, axes [3]pcdField) (points []float64, err error) {
	n := 0
	for at, line := range lines(data) {
		if n == h.points {
			break
		}
		words := bytes.Fields(line)
		if len(words) < h.words {
			return nil, fmt.Errorf("line %d of its data has %d values, its points have %d", at, len(words), h.words)
		}
		var p [3]float64
		for a := range p {
			if p[a], err = parse(words[axes[a].word]); err != nil {
				return nil, fmt.Errorf("line %d of its data: %w", at, err)
			}
		}
		points = keep(points, p)
		n++
	}
	if n < h.points {
		return nil, errCut
	}
	return points, nil
}

// binary reads the values that stand at the byte at(point, axis).
func (h pcdHeader) binary(data []byte, at func(i, axis int) int, axes [3]pcdField) ([]float64, error) {
	if h.points > len(data)/h.row {
		return nil, errCut
	}
	points := make([]float64, 0, 3*h.points)
	for i := range h.points {
		var p [3]float64
		for a := range p {
			p[a] = axes[a].value.value(binary.LittleEndian, data[at(i, a):])
		}
		points = keep(points, p)
	}
	return points, nil
}

// decompress returns what follows two sizes, compressed by LZF.
func (h pcdHeader) decompress(data []byte, w want) ([]byte, error) {
	if len(data) < 8 {
		return nil, errCut
	}
	packed, size := int64(binary.LittleEndian.Uint32(data)), int64(binary.LittleEndian.Uint32(data[4:]))
	data = data[8:]
	switch {
	case packed > int64(len(data)):
		return nil, errCut
	case size != int64(h.points)*int64(h.row):
		return nil, fmt.Errorf("it has %d bytes of values, %d points of %d bytes are said", size, h.points, h.row)
	case size > packed*int64(w.limits.Ratio):
		return nil, fmt.Errorf("it says that %d bytes become %d, more than %d times as many", packed, size, w.limits.Ratio)
	}
	return unLZF(data[:packed], int(size))
}
