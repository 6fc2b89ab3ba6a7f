package point

import (
	"archive/zip"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	imagebind "imagebind-llm"
	"imagebind-llm/internal/golden"
	"imagebind-llm/runner/modality"
)

// The small cloud that every format's file below holds: exact in 16 bits.
var (
	small = []float64{0, 0, 0, 1, 0, 0, 1, 1.5, 0, 0, 1, -0.25, 0.5, 0.5, 2}
	// its faces: a square and a triangle
	smallFaces = []int32{0, 1, 2, 0, 2, 3, 2, 3, 4}
)

var le = binary.LittleEndian

// pack writes values one after the other.
func pack(o binary.AppendByteOrder, values ...any) []byte {
	var b []byte
	for _, v := range values {
		b, _ = binary.Append(b, o.(binary.ByteOrder), v)
	}
	return b
}

func plyText() []byte {
	b := []byte("ply\r\nformat ascii 1.0\r\ncomment made by hand\r\nelement vertex 5\r\nproperty float x\r\nproperty float y\r\nproperty float z\r\n" +
		"element face 2\r\nproperty list uchar int vertex_indices\r\nend_header\r\n")
	for i := 0; i < len(small); i += 3 {
		b = fmt.Appendf(b, "%v %v %v \r\n", small[i], small[i+1], small[i+2])
	}
	return append(b, "4 0 1 2 3\r\n3 2 3 4\r\n"...)
}

// plyBinary has a table before the vertices, lists among their properties, and
// the axes in another order and of three types.
func plyBinary(name string, o binary.AppendByteOrder) []byte {
	b := fmt.Appendf(nil, "ply\nformat %s 1.0\nobj_info nothing\nelement camera 2\nproperty list uchar short views\nproperty double t\nelement empty 3\nelement vertex 5\n"+
		"property uchar red\nproperty double z\nproperty list uint16 float weights\nproperty float32 x\nproperty float y\nelement face 2\n"+
		"property uchar flag\nproperty list int32 uint vertex_index\nelement edge 1\nproperty int a\nend_header\n", name)
	b = append(b, pack(o, uint8(2), int16(1), int16(2), 0.5, uint8(0), 0.25)...)
	for i := 0; i < len(small); i += 3 {
		b = append(b, pack(o, uint8(i), small[i+2])...)
		b = append(b, pack(o, uint16(i%2))...)
		for range i % 2 {
			b = append(b, pack(o, float32(9))...)
		}
		b = append(b, pack(o, float32(small[i]), float32(small[i+1]))...)
	}
	b = append(b, pack(o, uint8(1), int32(4), uint32(0), uint32(1), uint32(2), uint32(3), uint8(1), int32(3), uint32(2), uint32(3), uint32(4))...)
	return append(b, pack(o, int32(7))...)
}

func pcdHeadOf(n int, data string) []byte {
	return fmt.Appendf(nil, "# .PCD v0.7 - Point Cloud Data file format\nVERSION 0.7\nFIELDS rgb y x normal z\nSIZE 4 4 8 4 2\nTYPE U F F F I\nCOUNT 1 1 1 3 1\nWIDTH %d\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS %[1]d\nDATA %s\n", n, data)
}

// pcdCloud is small with whole z: its z is an int16.
var pcdCloud = []float64{0, 0, 0, 1, 0, 0, 1, 1.5, 0, 0, 1, -3, 0.5, 0.5, 2}

func pcdText() []byte {
	b := pcdHeadOf(6, "ascii")
	for i := 0; i < len(pcdCloud); i += 3 {
		b = fmt.Appendf(b, "4278190080 %v %v 0 0 1 %v\n", pcdCloud[i+1], pcdCloud[i], pcdCloud[i+2])
		if i == 3 {
			b = append(b, "0 nan nan 0 0 1 nan\n"...) // nothing was measured there
		}
	}
	return b
}

func pcdBinary() []byte {
	b := pcdHeadOf(5, "binary")
	for i := 0; i < len(pcdCloud); i += 3 {
		b = append(b, pack(le, uint32(7), float32(pcdCloud[i+1]), pcdCloud[i], [3]float32{}, int16(pcdCloud[i+2]))...)
	}
	return b
}

func pcdCompressed() []byte {
	var x, y, z []byte
	for i := 0; i < len(pcdCloud); i += 3 {
		x, y, z = append(x, pack(le, pcdCloud[i])...), append(y, pack(le, float32(pcdCloud[i+1]))...), append(z, pack(le, int16(pcdCloud[i+2]))...)
	}
	rgb, normal := make([]byte, 5*4), make([]byte, 5*12)
	raw := slices.Concat(rgb, y, x, normal, z)
	packed := lzf(raw)
	return slices.Concat(pcdHeadOf(5, "binary_compressed"), pack(le, uint32(len(packed)), uint32(len(raw))), packed)
}

// lzf compresses runs of one byte, short and long, and copies what is none.
func lzf(raw []byte) (out []byte) {
	for len(raw) > 0 {
		run := 1
		for run < len(raw) && run < 265 && raw[run] == raw[0] {
			run++
		}
		if run < 4 {
			out, raw = append(out, 0, raw[0]), raw[1:]
			continue
		}
		out = append(out, 0, raw[0])
		if n := run - 1 - 2; n < 7 {
			out = append(out, byte(n<<5), 0)
		} else {
			out = append(out, 7<<5, byte(n-7), 0)
		}
		raw = raw[run:]
	}
	return out
}

func xyzText(between, tail, head string) []byte {
	b := []byte(head)
	for i := 0; i < len(small); i += 3 {
		b = fmt.Appendf(b, "%v%s%v%[2]s%[4]v%s\n", small[i], between, small[i+1], small[i+2], tail)
	}
	return b
}

func objText() []byte {
	b := []byte("# by hand\nmtllib x.mtl\no thing\n")
	for i := 0; i < len(small); i += 3 {
		b = fmt.Appendf(b, "v %v %v %v 0.5 0.5 0.5\nvn 0 0 1\n", small[i], small[i+1], small[i+2])
	}
	return append(b, "vt 0 0\ng a\nf 1/1/1 2//2 3/1 4\nf -3 -2 -1\n"...)
}

// corners are the small mesh's triangles, point by point.
func corners(yield func(triangle int, p [3]float32) bool) {
	for i, at := range smallFaces {
		if !yield(i/3, [3]float32{float32(small[3*at]), float32(small[3*at+1]), float32(small[3*at+2])}) {
			return
		}
	}
}

func stlText() []byte {
	b := []byte("solid thing\n")
	i := 0
	for _, p := range corners {
		if i%3 == 0 {
			b = append(b, "  facet normal 0 0 1\n    outer loop\n"...)
		}
		b = fmt.Appendf(b, "      vertex %e %e %e\n", p[0], p[1], p[2])
		if i++; i%3 == 0 {
			b = append(b, "    endloop\n  endfacet\n"...)
		}
	}
	return append(b, "endsolid thing\n"...)
}

func stlBinary() []byte {
	b := append([]byte("solid but binary"), make([]byte, 64)...)
	b = append(b, pack(le, uint32(3))...)
	i := 0
	for _, p := range corners {
		if i%3 == 0 {
			b = append(b, pack(le, [3]float32{0, 0, 1})...)
		}
		if b = append(b, pack(le, p)...); i%3 == 2 {
			b = append(b, 0, 0)
		}
		i++
	}
	return b
}

func glbOf(json string, bin []byte) []byte {
	json += strings.Repeat(" ", -len(json)&3)
	out := slices.Concat([]byte("glTF"), pack(le, uint32(2), uint32(0), uint32(len(json))), []byte("JSON"+json))
	if bin != nil {
		out = slices.Concat(out, pack(le, uint32(len(bin))), []byte("BIN\x00"), bin)
	}
	le.PutUint32(out[8:], uint32(len(out)))
	return out
}

// glbMesh has the small mesh twice as large, turned and moved, below a node
// that moves it back; interleaved with normals; indices of two bytes.
func glbMesh() []byte {
	var bin []byte
	for i := 0; i < len(small); i += 3 { // (x, y, z) is stored as (y, -x, z)·2 + (5, 6, 7)
		p := [3]float32{float32(2*small[i+1] + 5), float32(-2*small[i] + 6), float32(2*small[i+2] + 7)}
		bin = append(bin, pack(le, p, [3]float32{0, 0, 1})...)
	}
	at := len(bin)
	for _, f := range smallFaces {
		bin = append(bin, pack(le, uint16(f))...)
	}
	half := math.Sqrt2 / 2 // turns by 90° about z: (x, y) to (-y, x)
	json := fmt.Sprintf(`{"asset":{"version":"2.0"},"scene":1,"scenes":[{"nodes":[]},{"nodes":[1]}],
		"nodes":[{"mesh":0,"translation":[-5,-6,-7]},{"children":[2],"rotation":[0,0,%v,%v],"scale":[0.5,0.5,0.5]},{"children":[0],"matrix":[1,0,0,0,0,1,0,0,0,0,1,0,0,0,0,1]}],
		"meshes":[{"primitives":[{"attributes":{"NORMAL":2,"POSITION":0},"indices":1}]}],
		"accessors":[{"bufferView":0,"componentType":5126,"count":5,"type":"VEC3"},{"bufferView":1,"componentType":5123,"count":9,"type":"SCALAR"}],
		"bufferViews":[{"buffer":0,"byteLength":%d,"byteStride":24},{"buffer":0,"byteOffset":%[3]d,"byteLength":18}],"buffers":[{"byteLength":%d}]}`, half, half, at, len(bin))
	return glbOf(json, bin)
}

// glbStrip has the small points normalized to bytes, and the modes strip, fan and points.
func glbStrip() []byte {
	return glbOf(`{"scenes":[{"nodes":[0]}],"nodes":[{"mesh":0}],"meshes":[{"primitives":[
		{"attributes":{"POSITION":0},"mode":5},{"attributes":{"POSITION":0},"mode":6},{"attributes":{"POSITION":0},"mode":0},{"attributes":{}}]}],
		"accessors":[{"bufferView":0,"byteOffset":1,"componentType":5120,"normalized":true,"count":4,"type":"VEC3"}],
		"bufferViews":[{"byteLength":17,"byteStride":4}],"buffers":[{"byteLength":17}]}`,
		pack(le, int8(99), [4]int8{127, 0, 0, 9}, [4]int8{0, 127, 0, 9}, [4]int8{0, 0, -127, 9}, [4]int8{-128, 0, 0, 9}))
}

func npyOf(header string, values []byte) []byte {
	return slices.Concat([]byte("\x93NUMPY\x01\x00"), pack(le, uint16(len(header))), []byte(header), values)
}

func npyFloats() []byte {
	return npyOf("{'descr': '<f8', 'fortran_order': False, 'shape': (5, 3), }\n", pack(le, small))
}

// npyHalf is [1, 5, 4], column-major, with a fourth column.
func npyHalf() []byte {
	half := map[float64]uint16{0: 0, 1: 0x3c00, 1.5: 0x3e00, -0.25: 0xb400, 0.5: 0x3800, 2: 0x4000}
	var b []byte
	for a := range 4 {
		for i := range 5 {
			v := 0.5
			if a < 3 {
				v = small[3*i+a]
			}
			b = append(b, pack(le, half[v])...)
		}
	}
	return npyOf("{'descr': '<f2', 'fortran_order': True, 'shape': (1, 5, 4), }\n", b)
}

// ptOf is a .pt of one tensor of float32 values, in a dict or alone.
func ptOf(t testing.TB, alone bool, method uint16, extra int, shape ...byte) []byte {
	t.Helper()
	p := "\x80\x02"
	if !alone {
		p += "}X\x06\x00\x00\x00points"
	}
	ints := "("
	for _, n := range shape {
		ints += "K" + string([]byte{n})
	}
	stride := "(" // row-major
	for i := range shape {
		n := 1
		for _, d := range shape[i+1:] {
			n *= int(d)
		}
		stride += "K" + string([]byte{byte(n)})
	}
	p += "ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x0ftQK\x00" +
		ints + "t" + stride + "t\x89ccollections\nOrderedDict\n)RtR" + strings.Repeat("N0", extra)
	if !alone {
		p += "s"
	}
	p += "."
	var values []float32
	for _, v := range small {
		values = append(values, float32(v))
	}
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for _, e := range []struct {
		name   string
		data   []byte
		method uint16
	}{{"x/data.pkl", []byte(p), method}, {"x/data/0", pack(le, values), zip.Store}} {
		w, err := z.CreateHeader(&zip.FileHeader{Name: e.name, Method: e.method})
		if err == nil {
			_, err = w.Write(e.data)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// asPCD is a binary PCD file.
func asPCD(points []float32) []byte {
	return append(fmt.Appendf(nil, "VERSION .7\nFIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nWIDTH 1\nHEIGHT %d\nDATA binary\n", len(points)/3), pack(le, points)...)
}

func TestFormats(t *testing.T) {
	strip := []float64{1, 0, 0, 0, 1, 0, 0, 0, -1, -1, 0, 0}
	for _, tt := range []struct {
		name, media string
		data        []byte
		points      []float64
		faces       []int32 // nil: the format has none
		mesh        bool
	}{
		{"PLY, text", "model/ply", plyText(), small, smallFaces, false},
		{"PLY, little endian", "model/ply", plyBinary("binary_little_endian", binary.LittleEndian), small, smallFaces, false},
		{"PLY, big endian", "model/ply", plyBinary("binary_big_endian", binary.BigEndian), small, smallFaces, false},
		{"PCD, text", "model/pcd", pcdText(), pcdCloud, nil, false},
		{"PCD, binary", "model/pcd", pcdBinary(), pcdCloud, nil, false},
		{"PCD, compressed", "model/pcd", pcdCompressed(), pcdCloud, nil, false},
		{"PCD without a comment, without COUNT and POINTS", "model/pcd", asPCD([]float32{1, 2, 3, 4, 5, 6}), []float64{1, 2, 3, 4, 5, 6}, nil, false},
		{"xyz", "text/plain", xyzText(" ", "", ""), small, nil, false},
		{"pts", "text/plain", xyzText("\t", " 17 255 0 0", "5\n"), small, nil, false},
		{"csv with names", "text/plain", xyzText(", ", ",red", "\xef\xbb\xbf# a comment\nx,y,z,colour\n"), small, nil, false},
		{"semicolons", "text/plain", xyzText(";", "\r", "// a comment\n\n"), small, nil, false},
		{"OBJ", "model/obj", objText(), small, smallFaces, false},
		{"STL, text", "model/stl", stlText(), small, smallFaces, true},
		{"STL, binary", "model/stl", stlBinary(), small, smallFaces, true},
		{"GLB", "model/gltf-binary", glbMesh(), small, smallFaces, true},
		{"GLB, strip, fan and points", "model/gltf-binary", glbStrip(), slices.Concat(strip, strip, strip), []int32{0, 1, 2, 1, 2, 3, 4, 5, 6, 4, 6, 7}, true},
		{"npy", "application/x-npy", npyFloats(), small, nil, false},
		{"npy, 16 bits, column-major, a batch of one", "application/x-npy", npyHalf(), small, nil, false},
		{"pt", "application/zip", ptOf(t, true, zip.Store, 0, 5, 3), small, nil, false},
		{"pt, a dict, a batch of one", "application/zip", ptOf(t, false, zip.Deflate, 0, 1, 5, 3), small, nil, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := modality.Sniff(tt.data); got != tt.media {
				t.Fatalf("it is taken for %s", got)
			}
			c, err := readers[tt.media].read(tt.data, want{modality.DefaultLimits(), true})
			if err != nil {
				t.Fatal(err)
			}
			// A quarter turn by a quaternion is off by 1e-16.
			if !slices.EqualFunc(c.points, tt.points, func(a, b float64) bool { return math.Abs(a-b) < 1e-14 }) {
				t.Errorf("points are %v, want %v", c.points, tt.points)
			}
			if c.mesh != tt.mesh || !slices.Equal(c.faces, tt.faces) {
				t.Errorf("faces are %v, want %v", c.faces, tt.faces)
			}
			c, err = decode(tt.data, modality.Options{Params: modality.Params{"faces": 1}})
			if err != nil {
				t.Fatal(err)
			}
			if drawn := len(c.points) == 3*trained; drawn != (tt.faces != nil) {
				t.Errorf("%d points are drawn from its faces", len(c.points)/3)
			}
			for n := range tt.data { // a file cut anywhere ends, well or not
				if _, err := decode(tt.data[:n], modality.Options{}); err != nil && imagebind.KindOf(err) == imagebind.Internal {
					t.Fatalf("cut to %d bytes: %v", n, err)
				}
			}
		})
	}
}

// TestFaces: STL and GLB are drawn from their surface unless vertices are asked
// for, the others only when asked.
func TestFaces(t *testing.T) {
	for _, tt := range []struct {
		name string
		data []byte
		p    modality.Params
		want int
	}{
		{"OBJ", objText(), nil, 5},
		{"OBJ, faces", objText(), modality.Params{"faces": 1}, trained},
		{"PLY", plyText(), nil, 5},
		{"STL", stlText(), nil, trained},
		{"STL, vertices", stlText(), modality.Params{"faces": 0}, 5},
		{"GLB", glbMesh(), nil, trained},
		{"GLB, vertices", glbMesh(), modality.Params{"faces": 0}, 5},
	} {
		c, err := decode(tt.data, modality.Options{Params: tt.p})
		if err != nil || len(c.points) != 3*tt.want {
			t.Errorf("%s: %d points, want %d (%v)", tt.name, len(c.points)/3, tt.want, err)
		}
	}
}

// TestFilesGolden holds the values that are read against the reference's, by
// their bytes: .obj is float64 there, .npy float32.
func TestFilesGolden(t *testing.T) {
	for name, want := range map[string]string{
		"sph_700.obj":  "013ea4227133c2dbc73c5747d681f5bf6a63af749b6fcdda70ec67880831a6e7",
		"cyl_1024.npy": "afee712220d6f7e4684639a26f15ca0ad17c13fed6ef9e1a8b1c2faae02547a8",
		"ell_8192.npy": "af4f7c3311ba8d5a6b6b8f14200e1889560648afccc7e3b653f0fb18311b535a",
	} {
		c, err := decode(golden.Bytes(t, "testdata/"+name), modality.Options{})
		if err != nil {
			t.Fatal(err)
		}
		raw := pack(le, c.points)
		if strings.HasSuffix(name, ".npy") {
			raw = pack(le, floats(c.points))
		}
		if sum := sha256.Sum256(raw); hex.EncodeToString(sum[:]) != want {
			t.Errorf("%s: %d points are not the reference's", name, len(c.points)/3)
		}
	}
}
