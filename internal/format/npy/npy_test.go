package npy

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"imagebind-llm/internal/golden"
)

// file makes a .npy of version 1 around data.
func file(descr, order, shape string, data []byte) []byte {
	header := fmt.Sprintf("{'descr': '%s', 'fortran_order': %s, 'shape': (%s), }", descr, order, shape)
	header += strings.Repeat(" ", 63-(len(header)+10)%64) + "\n"
	b := append([]byte("\x93NUMPY\x01\x00"), byte(len(header)), byte(len(header)>>8))
	return append(append(b, header...), data...)
}

func f32(values ...float32) []byte {
	var b []byte
	for _, v := range values {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(v))
	}
	return b
}

func TestParse(t *testing.T) {
	six := f32(0, 1, 2, 3, 4, 5)
	v2 := file("<f4", "False", "6,", six)
	v2 = append(append([]byte("\x93NUMPY\x02\x00"), v2[8], v2[9], 0, 0), v2[10:]...)
	for _, tt := range []struct {
		name  string
		raw   []byte
		shape []int
		want  []float32
	}{
		{"rows", file("<f4", "False", "2, 3", six), []int{2, 3}, []float32{0, 1, 2, 3, 4, 5}},
		{"columns", file("<f4", "True", "2, 3", six), []int{2, 3}, []float32{0, 2, 4, 1, 3, 5}},
		{"one axis", file("<f4", "False", "6,", six), []int{6}, []float32{0, 1, 2, 3, 4, 5}},
		{"version 2", v2, []int{6}, []float32{0, 1, 2, 3, 4, 5}},
		{"scalar", file("<f4", "False", "", f32(7)), nil, []float32{7}},
		{"half", file("<f2", "False", "2,", []byte{0, 0x3c, 0, 0xc0}), []int{2}, []float32{1, -2}},
		{"double", file("<f8", "False", "1,", []byte{0, 0, 0, 0, 0, 0, 0xf0, 0x3f}), []int{1}, []float32{1}},
		{"int64", file("<i8", "False", "1,", []byte{0xfe, 255, 255, 255, 255, 255, 255, 255}), []int{1}, []float32{-2}},
		{"uint16", file("<u2", "False", "2,", []byte{0x10, 0x27, 255, 255}), []int{2}, []float32{10000, 65535}},
		{"byte", file("|u1", "False", "2,", []byte{0, 255}), []int{2}, []float32{0, 255}},
		{"bool", file("|b1", "False", "2,", []byte{0, 1}), []int{2}, []float32{0, 1}},
		{"empty", file("<f4", "False", "0, 3", nil), []int{0, 3}, []float32{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			x, err := Parse(tt.raw)
			if err != nil {
				t.Fatal(err)
			}
			got, err := x.Floats()
			if err != nil || !slices.Equal(got, tt.want) || !slices.Equal(x.Shape, tt.shape) {
				t.Errorf("%v %v, want %v %v (%v)", x.Shape, got, tt.shape, tt.want, err)
			}
		})
	}
}

func TestRefused(t *testing.T) {
	six := f32(0, 1, 2, 3, 4, 5)
	for _, tt := range []struct {
		name string
		raw  []byte
		want string
	}{
		{"empty", nil, "no .npy file"},
		{"text", []byte("hello, this is text"), "no .npy file"},
		{"version 9", append([]byte("\x93NUMPY\x09\x00"), make([]byte, 40)...), "version 9"},
		{"cut", file("<f4", "False", "2, 3", six[:20]), "the file is cut"},
		{"lying shape", file("<f4", "False", "4000000000, 4000000000", six), "too large"},
		{"big endian", file(">f4", "False", "6,", six), "not read"},
		{"complex", file("<c8", "False", "3,", six), "not read"},
		{"objects", file("|O", "False", "3,", six), "not read"},
		{"structured", []byte("\x93NUMPY\x01\x00\x20\x00{'descr': [('a', '<f4')], 'fortr"), "not understood"},
		{"header behind the end", []byte("\x93NUMPY\x01\x00\xff\xff{}  "), "does not fit"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := Parse(tt.raw); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error is %v, want %q in it", err, tt.want)
			}
		})
	}
}

// TestNumpy reads numpy's own files: every type, both orders, versions 1 to 3.
func TestNumpy(t *testing.T) {
	var want map[string]struct {
		Shape  []int
		Values []float32
	}
	golden.JSON(t, "testdata/want.json", &want)
	if len(want) < 15 {
		t.Fatalf("want.json has %d files", len(want))
	}
	for name, w := range want {
		f, err := Open("testdata/" + name + ".npy")
		if err != nil {
			t.Error(err)
			continue
		}
		x, _ := f.Tensor("")
		got, err := x.Floats()
		if err != nil || !slices.Equal(got, w.Values) || !slices.Equal(x.Shape, w.Shape) {
			t.Errorf("%s: %v %v, want %v %v (%v)", name, x.Shape, got, w.Shape, w.Values, err)
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
	for name, want := range map[string]string{
		"bigendian": `">f4" is not read`, "complex": `"<c8" is not read`, "structured": "structured arrays are not read",
		"unsigned": `"<u4" is not read`, "unicode": `"<U1" is not read`, "object": `"|O" is not read`,
	} {
		path := "testdata/refused_" + name + ".npy"
		if _, err := Open(path); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: error is %v, want %q", path, err, want)
		}
	}
}

// TestDemo reads numpy's own file.
func TestDemo(t *testing.T) {
	f, err := Open("../../../demo/features.npy")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	x, ok := f.Tensor("")
	if !ok || len(x.Shape) != 2 || x.Shape[1] != 256 {
		t.Fatalf("%v", x)
	}
	row := make([]float32, 256)
	if err := x.Read(row, x.Len()-256); err != nil {
		t.Fatal(err)
	}
	var norm float64
	for _, v := range row {
		norm += float64(v) * float64(v)
	}
	if math.Abs(norm-1) > 1e-5 {
		t.Errorf("the last row's squared length is %v; they are unit vectors", norm)
	}
	if _, err := Open(filepath.Join(t.TempDir(), "none")); !os.IsNotExist(err) {
		t.Errorf("error is %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(file("<f4", "True", "2, 3", f32(0, 1, 2, 3, 4, 5)))
	f.Add(file("<i8", "False", "1,", make([]byte, 8)))
	f.Fuzz(func(t *testing.T, raw []byte) {
		x, err := parse(bytes.NewReader(raw), int64(len(raw)))
		if err != nil {
			return
		}
		if _, err := x.Floats(); err != nil {
			t.Errorf("%v: %v", x, err)
		}
	})
}
