package point

import (
	"archive/zip"
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	imagebind "imagebind-llm"
	"imagebind-llm/internal/golden"
	"imagebind-llm/runner/modality"
)

// TestBad: every way to be wrong has its kind and says what is wrong.
func TestBad(t *testing.T) {
	ply := func(body string) []byte { return []byte("ply\n" + body) }
	vertex := "element vertex %s\nproperty float x\nproperty float y\nproperty float z\n"
	plyOf := func(count, data string) []byte {
		return ply("format ascii 1.0\n" + fmt.Sprintf(vertex, count) + "end_header\n" + data)
	}
	plyFaces := func(count, data string) []byte {
		return ply("format ascii 1.0\n" + fmt.Sprintf(vertex, "3") + "element face " + count + "\nproperty list uchar int vertex_indices\nend_header\n0 0 0 1 0 0 0 1 0 " + data)
	}
	pcd := func(size, typ, points, data string) []byte {
		return []byte("# .PCD\nVERSION .7\nFIELDS x y z\nSIZE " + size + "\nTYPE " + typ + "\nPOINTS " + points + "\nDATA " + data)
	}
	pcdPacked := func(packed, size uint32, data string) []byte {
		return append(append(pcd("4 4 4", "F F F", "2", "binary_compressed\n"), pack(le, packed, size)...), data...)
	}
	stl := func(count uint32, faces int) []byte {
		return append(append(make([]byte, 80), pack(le, count)...), make([]byte, 50*faces)...)
	}
	text, bin, err := glbChunks(glbMesh())
	if err != nil {
		t.Fatal(err)
	}
	glb := func(old, new string) []byte {
		if !bytes.Contains(text, []byte(old)) {
			t.Fatalf("the JSON has no %s", old)
		}
		return glbOf(strings.Replace(string(text), old, new, 1), bin)
	}
	npy := func(typ, shape string, values ...any) []byte {
		return npyOf("{'descr': '"+typ+"', 'fortran_order': False, 'shape': "+shape+", }\n", pack(le, values...))
	}
	nan := float32(math.NaN())
	const (
		invalid     = imagebind.Invalid
		tooLarge    = imagebind.TooLarge
		unsupported = imagebind.Unsupported
	)
	for _, tt := range []struct {
		name string
		data []byte
		kind imagebind.Kind
		want string
	}{
		{"empty", nil, invalid, "file is empty"},
		{"a picture", []byte("\x89PNG\r\n\x1a\n"), unsupported, "image/png is no point cloud"},
		{"noise", []byte{0, 1, 2, 3}, unsupported, "application/octet-stream"},

		{"PLY: no end", ply("format ascii 1.0\n"), invalid, "header has no end"},
		{"PLY: unknown format", ply("format binary_middle_endian 1.0\nend_header\n"), invalid, "line 2 of its header"},
		{"PLY: unknown type", ply("format ascii 1.0\nelement vertex 1\nproperty half x\nend_header\n"), invalid, `"property half x"`},
		{"PLY: unknown type of a length", ply("format ascii 1.0\nelement vertex 1\nproperty list half int x\nend_header\n"), invalid, "not understood"},
		{"PLY: a property of nothing", ply("property float x\nend_header\n"), invalid, "not understood"},
		{"PLY: negative count", plyOf("-1", ""), invalid, `"element vertex -1"`},
		{"PLY: huge count", plyOf("99999999999999999999", ""), invalid, "not understood"},
		{"PLY: unknown word", ply("vertices 3\nend_header\n"), invalid, `"vertices 3"`},
		{"PLY: no vertices", ply("format ascii 1.0\nelement face 0\nend_header\n"), invalid, "has no vertices"},
		{"PLY: no z", ply("format ascii 1.0\nelement vertex 1\nproperty float x\nproperty float y\nend_header\n1 2\n"), invalid, "no x, y and z"},
		{"PLY: z is a list", ply("format ascii 1.0\nelement vertex 1\nproperty float x\nproperty float y\nproperty list uchar float z\nend_header\n1 2 0\n"), invalid, "no x, y and z"},
		{"PLY: none", plyOf("0", ""), invalid, "holds no points"},
		{"PLY: too many", plyOf("5000000", ""), tooLarge, "5000000 points; at most 4194304"},
		{"PLY: more said than there are", plyOf("4000000", "1 2 3\n"), invalid, "it is cut"},
		{"PLY: cut", plyOf("2", "1 2 3\n4 5"), invalid, "it is cut"},
		{"PLY: words", plyOf("1", "a b c\n"), invalid, `"a" is no number`},
		{"PLY: NaN", plyOf("2", "1 2 3\n1 nan 3\n"), invalid, "point 1 of the PLY file, counted from 0, has the coordinate NaN"},
		{"PLY: infinite", plyOf("1", "1 2 -1e999\n"), invalid, "point 0 of the PLY file, counted from 0, has the coordinate -Inf"},
		{"PLY: far away", plyOf("1", "1 2 2e15\n"), invalid, "within ±1e+15"},
		{"PLY: too many faces", plyFaces("5000000", ""), tooLarge, "5000000 faces"},
		{"PLY: more faces said than there are", plyFaces("4000000", "3 0 1 2\n"), invalid, "it is cut"},
		{"PLY: a corner that is missing", plyFaces("1", "3 0 1 3\n"), invalid, "the corner 3; the file has 3 vertices"},
		{"PLY: a corner below 0", plyFaces("1", "3 0 1 -7\n"), invalid, "the corner -1"},
		{"PLY: a list of half", plyFaces("1", "2.5 0 1 2\n"), invalid, "a list has 2.5 values"},
		{"PLY: a list without end", plyFaces("1", "2000000000 0 1 2\n"), invalid, "it is cut"},
		{"PLY: a table before that is cut", ply("format binary_little_endian 1.0\nelement a 1000000000\nproperty int i\n" + fmt.Sprintf(vertex, "1") + "end_header\n123"), invalid, "it is cut"},

		{"PCD: no DATA", []byte("# .PCD\nVERSION .7\n"), invalid, "no DATA"},
		{"PCD: unknown DATA", pcd("4 4 4", "F F F", "1", "zipped\n"), invalid, `DATA is "zipped"`},
		{"PCD: fields without sizes", pcd("4 4", "F F F", "1", "ascii\n1 2 3\n"), invalid, "not of one length"},
		{"PCD: unknown type", pcd("4 4 2", "F F F", "1", "ascii\n1 2 3\n"), invalid, "type F and size 2"},
		{"PCD: no z", []byte("# .PCD\nFIELDS x y\nSIZE 4 4\nTYPE F F\nPOINTS 1\nDATA ascii\n1 2\n"), invalid, "no field z"},
		{"PCD: z of no values", []byte("# .PCD\nFIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nCOUNT 1 1 0\nPOINTS 1\nDATA ascii\n1 2\n"), invalid, "no field z"},
		{"PCD: negative COUNT", []byte("# .PCD\nFIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nCOUNT 1 1 -1\nPOINTS 1\nDATA ascii\n1 2\n"), invalid, `COUNT "-1"`},
		{"PCD: no count", pcd("4 4 4", "F F F", "many", "ascii\n"), invalid, "how many points"},
		{"PCD: none", pcd("4 4 4", "F F F", "0", "ascii\n"), invalid, "holds no points"},
		{"PCD: nothing measured", pcd("4 4 4", "F F F", "1", "ascii\nnan nan nan\n"), invalid, "holds no points"},
		{"PCD: one axis not measured", pcd("4 4 4", "F F F", "1", "ascii\n1 nan 2\n"), invalid, "point 0 of the PCD file"},
		{"PCD: too many", pcd("4 4 4", "F F F", "2000000000", "binary\n"), tooLarge, "2000000000 points"},
		{"PCD: too many by area", []byte("# .PCD\nFIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nWIDTH 2000000000\nHEIGHT 2000000000\nDATA ascii\n"), invalid, "how many points"},
		{"PCD: text cut", pcd("4 4 4", "F F F", "4000000", "ascii\n1 2 3\n"), invalid, "it is cut"},
		{"PCD: a short line", pcd("4 4 4", "F F F", "1", "ascii\n1 2\n"), invalid, "line 1 of its data has 2 values"},
		{"PCD: words", pcd("4 4 4", "F F F", "1", "ascii\n1 2 z\n"), invalid, `"z" is no number`},
		{"PCD: binary cut", pcd("4 4 4", "F F F", "4000000", "binary\n123456789012"), invalid, "it is cut"},
		{"PCD: packed, no sizes", pcd("4 4 4", "F F F", "2", "binary_compressed\n1234"), invalid, "it is cut"},
		{"PCD: packed, cut", pcdPacked(100, 24, "abc"), invalid, "it is cut"},
		{"PCD: packed, another size", pcdPacked(3, 25, "abc"), invalid, "25 bytes of values, 2 points of 12"},
		{"PCD: packed, a bomb", append(append(pcd("4 4 4", "F F F", "4000000", "binary_compressed\n"), pack(le, uint32(3), uint32(48000000))...), "abc"...), invalid, "more than 200 times"},
		{"PCD: packed, before the beginning", pcdPacked(3, 24, "\x20\x05\x00"), invalid, "compressed values are broken"},
		{"PCD: packed, literals cut", pcdPacked(3, 24, "\x1fab"), invalid, "compressed values are broken"},
		{"PCD: packed, a repetition cut", pcdPacked(3, 24, "\x00a\xe0"), invalid, "compressed values are broken"},
		{"PCD: packed, too much", pcdPacked(5, 24, "\x00a\xe0\xff\x00"), invalid, "compressed values are broken"},
		{"PCD: packed, too little", pcdPacked(2, 24, "\x00a"), invalid, "compressed values are broken"},

		{"text: prose", []byte("It is a truth\nuniversally acknowledged"), invalid, `line 2, "universally acknowledged"`},
		{"text: a line of two", []byte("1 2 3\n4 5\n"), invalid, "line 2"},
		{"text: a heading alone", []byte("x y z\n"), invalid, "holds no points"},
		{"text: two headings", []byte("x y z\nx y z\n"), invalid, "line 2"},
		{"text: OFF", []byte("OFF\n3 1 0\n"), invalid, `line 1, "OFF"`},
		{"text: fewer than said", []byte("3\n1 2 3\n"), invalid, "it is cut"},
		{"text: negative count", []byte("-3\n1 2 3\n"), invalid, "fewer than 0"},
		{"text: too many", []byte("5000000\n1 2 3\n"), tooLarge, "5000000 points"},
		{"text: NaN", []byte("1 2 NaN\n"), invalid, "point 0 of the text file"},

		{"OBJ: a vertex of two", []byte("v 1 2 3\nv 1 2\n"), invalid, "line 2: a point has fewer than three"},
		{"OBJ: words", []byte("v 1 2 3\nv 1 2 z\n"), invalid, `line 2: "z" is no number`},
		{"OBJ: vertex 0", []byte("v 1 2 3\nf 0 1 1\n"), invalid, `line 2: "0" is no vertex`},
		{"OBJ: a vertex of words", []byte("v 1 2 3\nf a 1 1\n"), invalid, `"a" is no vertex`},
		{"OBJ: a vertex too far back", []byte("v 1 2 3\nf -2 1 1\n"), invalid, "the corner -1"},
		{"OBJ: a vertex that is missing", []byte("v 1 2 3\nf 1 1 2\n"), invalid, "the corner 1; the file has 1 vertices"},
		{"OBJ: infinite", []byte("v 1 2 3\nv 1 2 inf\n"), invalid, "point 1 of the OBJ file"},

		{"STL: none", []byte("solid a\nfacet normal 0 0 1\n"), invalid, "holds no points"},
		{"STL: cut", []byte("solid a\nfacet normal 0 0 1\nvertex 1 2 3\n"), invalid, "within a triangle"},
		{"STL: a vertex of two", []byte("solid a\nfacet normal 0 0 1\nvertex 1 2\n"), invalid, "line 3"},
		{"STL: more said than there are", stl(7, 3), unsupported, "application/octet-stream"}, // then it isn't taken for STL
		{"STL: NaN", append(stl(1, 0), pack(le, [12]float32{3: nan}, uint16(0))...), invalid, "point 0 of the STL file"},

		{"GLB: a header alone", []byte("glTF\x02\x00\x00\x00"), invalid, "it is cut"},
		{"GLB: version 1", []byte("glTF\x01\x00\x00\x00\x00\x00\x00\x00"), invalid, "version 1"},
		{"GLB: a chunk cut", []byte("glTF\x02\x00\x00\x00\x14\x00\x00\x00\xff\xff\xff\xffJSON"), invalid, "within a chunk"},
		{"GLB: no JSON", []byte("glTF\x02\x00\x00\x00\x0c\x00\x00\x00"), invalid, "no JSON"},
		{"GLB: broken JSON", glbOf("{", nil), invalid, "JSON is broken"},
		{"GLB: another type", glbOf(`{"nodes":7}`, nil), invalid, "JSON is broken"},
		{"GLB: no scene", glbOf(`{}`, nil), invalid, "no scene"},
		{"GLB: a scene that is missing", glb(`"scene":1`, `"scene":2`), invalid, "no scene 2"},
		{"GLB: an empty scene", glb(`"scene":1`, `"scene":0`), invalid, "holds no points"},
		{"GLB: a node that is missing", glb(`"nodes":[1]`, `"nodes":[-1]`), invalid, "node -1"},
		{"GLB: a node in itself", glb(`"children":[0]`, `"children":[1]`), invalid, "node 1 is missing, has two parents"},
		{"GLB: a node twice", glb(`"nodes":[1]`, `"nodes":[1,2]`), invalid, "node 2 is missing, has two parents"},
		{"GLB: a mesh that is missing", glb(`"mesh":0`, `"mesh":1`), invalid, "no mesh 1"},
		{"GLB: a short matrix", glb(`"matrix":[1,`, `"matrix":[`), invalid, "matrix"},
		{"GLB: a short rotation", glb(`"rotation":[0,`, `"rotation":[`), invalid, "another number of values"},
		{"GLB: an accessor that is missing", glb(`"POSITION":0`, `"POSITION":2`), invalid, "no accessor 2"},
		{"GLB: positions of two", glb(`"VEC3"`, `"VEC2"`), invalid, "VEC3 is wanted"},
		{"GLB: positions of an unknown type", glb(`5126`, `5124`), invalid, "component type 5124"},
		{"GLB: more said than there are", glb(`"count":5`, `"count":4000000`), invalid, "it is cut"},
		{"GLB: negative count", glb(`"count":5`, `"count":-5`), invalid, "-5 values"},
		{"GLB: count of a float", glb(`"count":5`, `"count":5.5`), invalid, "JSON is broken"},
		{"GLB: elements that overlap", glb(`"byteStride":24`, `"byteStride":1`), invalid, "12 bytes every 1"},
		{"GLB: a view behind the buffer", glb(`"byteLength":120`, `"byteLength":120000`), invalid, "it is cut"},
		{"GLB: a view before it", glb(`"byteLength":120`, `"byteLength":-1`), invalid, "it is cut"},
		{"GLB: a view that overflows", glb(`"byteOffset":120`, `"byteOffset":9223372036854775807`), invalid, "it is cut"},
		{"GLB: an offset behind the view", glb(`"count":5`, `"byteOffset":121,"count":5`), invalid, "it is cut"},
		{"GLB: a view that is missing", glb(`"bufferView":1`, `"bufferView":2`), invalid, "no buffer view 2"},
		{"GLB: a corner that is missing", glb(`"count":5`, `"count":4`), invalid, "the corner 4; the mesh has 4 vertices"},
		{"GLB: another file", glb(`"buffers":[{`, `"buffers":[{"uri":"a.bin",`), unsupported, "another file"},
		{"GLB: another buffer", glb(`"buffer":0`, `"buffer":1`), unsupported, "another file"},
		{"GLB: no buffer", glbOf(string(text), nil), unsupported, "another file"},
		{"GLB: sparse", glb(`"count":5`, `"sparse":{},"count":5`), unsupported, "sparse or compressed"},
		{"GLB: Draco", glb(`"scene":1`, `"extensionsRequired":["KHR_draco_mesh_compression"],"scene":1`), unsupported, "KHR_draco_mesh_compression"},
		{"GLB: infinite by its node", glb(`"translation":[-5`, `"translation":[1e300`), invalid, "point 0 of the GLB file"},

		{"npy: cut", npyFloats()[:100], invalid, "cut"},
		{"npy: two columns", npy("<f4", "(3, 2)", [6]float32{}), invalid, "shape is [3 2]"},
		{"npy: a batch of two", npy("<f4", "(2, 1, 3)", [6]float32{}), invalid, "shape is [2 1 3]"},
		{"npy: a row", npy("<f4", "(3,)", [3]float32{}), invalid, "shape is [3]"},
		{"npy: none", npy("<f4", "(0, 3)"), invalid, "holds no points"},
		{"npy: very wide", npy("<i1", "(1, 2000)", [2000]int8{}), invalid, "shape is [1 2000]"},
		{"npy: more said than there are", npy("<f4", "(4000000, 3)", [3]float32{}), invalid, "cut"},
		{"npy: objects", npy("|O", "(1, 3)", [3]float32{}), invalid, `type "|O"`},
		{"npy: NaN", npy("<f4", "(1, 3)", [3]float32{1, nan, 2}), invalid, "point 0 of the .npy file"},

		{"pt: a zip of something else", zipOf(t, "readme.txt", "hello"), invalid, "no PyTorch checkpoint"},
		{"pt: cut", ptOf(t, true, zip.Store, 0, 5, 3)[:200], invalid, "no PyTorch checkpoint"},
		{"pt: code", zipOf(t, "x/data.pkl", "\x80\x02cos\nsystem\n(X\x02\x00\x00\x00lstR."), invalid, `"os.system" is not allowed`},
		{"pt: a list of nothing", zipOf(t, "x/data.pkl", "\x80\x02]."), invalid, "0 tensors"},
		{"pt: a column too many", ptOf(t, true, zip.Store, 0, 5, 4), invalid, "leaves its storage"},
		{"pt: two columns", ptOf(t, true, zip.Store, 0, 5, 2), invalid, "shape is [5 2]"},
		{"pt: a bomb", ptOf(t, true, zip.Deflate, 1<<20, 5, 3), invalid, "more than"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := modality.Options{}
			if bytes.Contains(tt.data, []byte("\nf ")) || bytes.Contains(tt.data, []byte("element face")) {
				o.Params = modality.Params{"faces": 1}
			}
			got, err := Read(t.Context(), tt.data, o)
			if err == nil {
				t.Fatalf("no error, but %v", got.Shape)
			}
			if kind := imagebind.KindOf(err); kind != tt.kind || !strings.Contains(imagebind.MessageOf(err), tt.want) {
				t.Errorf("%v (kind %d), want %q (kind %d)", imagebind.MessageOf(err), kind, tt.want, tt.kind)
			}
		})
	}
}

func zipOf(t testing.TB, name, text string) []byte {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	w, err := z.CreateHeader(&zip.FileHeader{Name: name, Method: zip.Store})
	if err == nil {
		_, err = w.Write([]byte(text))
	}
	if err := errors.Join(err, z.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestLimits: every format keeps the limits of points and triangles.
func TestLimits(t *testing.T) {
	for name, data := range map[string][]byte{
		"PLY": plyText(), "PCD": pcdBinary(), "PCD, compressed": pcdCompressed(), "xyz": xyzText(" ", "", ""), "OBJ": objText(),
		"STL, text": stlText(), "STL": stlBinary(), "GLB": glbMesh(), "npy": npyFloats(), "pt": ptOf(t, true, zip.Store, 0, 5, 3),
	} {
		for limit, kind := range map[int]imagebind.Kind{1: imagebind.TooLarge, 4: imagebind.TooLarge, 5: imagebind.Internal} {
			_, err := Read(t.Context(), data, modality.Options{Limits: modality.Limits{Points: limit}})
			if kind == imagebind.Internal && err != nil || kind != imagebind.Internal && imagebind.KindOf(err) != kind {
				t.Errorf("%s: at most %d points: %v", name, limit, err)
			}
		}
	}
	for name, data := range map[string][]byte{ // three triangles on one vertex
		"PLY":       []byte("ply\nformat ascii 1.0\nelement vertex 1\nproperty int x\nproperty int y\nproperty int z\nelement face 1\nproperty list int int vertex_index\nend_header\n0 0 0 5 0 0 0 0 0\n"),
		"OBJ":       []byte("v 0 0 0\nf 1 1 1 1 1\n"),
		"STL, text": []byte("solid\nfacet normal 0 0 0\n" + strings.Repeat("vertex 0 0 0\n", 9)),
		"GLB": glbOf(`{"scenes":[{"nodes":[0]}],"nodes":[{"mesh":0}],"meshes":[{"primitives":[{"attributes":{"POSITION":0},"indices":1}]}],
			"accessors":[{"bufferView":0,"componentType":5126,"count":1,"type":"VEC3"},{"bufferView":0,"componentType":5121,"count":9,"type":"SCALAR"}],
			"bufferViews":[{"byteLength":12}],"buffers":[{"byteLength":12}]}`, make([]byte, 12)),
	} {
		for limit, want := range map[int]string{2: "3 triangles; at most 2", 3: ""} {
			_, err := Read(t.Context(), data, modality.Options{Limits: modality.Limits{Points: limit}, Params: modality.Params{"faces": 1}})
			if want == "" && err != nil || want != "" && (imagebind.KindOf(err) != imagebind.TooLarge || !strings.Contains(err.Error(), want)) {
				t.Errorf("%s: at most %d triangles: %v", name, limit, err)
			}
		}
	}
}

func read(t testing.TB, data []byte, o modality.Options) []float32 {
	t.Helper()
	got, err := Read(t.Context(), data, o)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got.Shape, append([]int{1}, Spec.Encoder.Input...)) || len(got.Floats) != got.Len() {
		t.Fatalf("shape %v, %d values", got.Shape, len(got.Floats))
	}
	return got.Floats
}

// TestRead: the golden files come to the encoder as in the reference, by
// default too; parameters and Options.Reference do what they say.
func TestRead(t *testing.T) {
	for _, name := range []string{"cyl_1024.npy", "ell_8192.npy", "sph_700.obj"} {
		data := golden.Bytes(t, "testdata/"+name)
		want := Group(loaded(t, name), groups, size, 0)
		for what, o := range map[string]modality.Options{
			"default": {}, "reference": {Reference: true}, "as it is": {Params: modality.Params{"normalise": 0}},
		} {
			if !slices.Equal(read(t, data, o), want) {
				t.Errorf("%s, %s: it's not the reference's grouping", name, what)
			}
		}
		started := read(t, data, modality.Options{Params: modality.Params{"start": 17}})
		if !slices.Equal(started[:3], loaded(t, name)[3*17:3*17+3]) {
			t.Errorf("%s: it starts at %v", name, started[:3])
		}
		if err := Spec.Check(modality.Params{"start": 8191, "normalise": 1, "faces": 0}); err != nil {
			t.Error(err)
		}
	}

	metres := []byte("10 0 0\n14 0 0\n")
	for _, tt := range []struct {
		name string
		o    modality.Options
		want []float32
	}{
		{"normalised", modality.Options{}, []float32{-1, 0, 0}},
		{"as it is", modality.Options{Params: modality.Params{"normalise": 0}}, []float32{10, 0, 0}},
		{"reference", modality.Options{Reference: true}, []float32{10, 0, 0}},
		{"reference, normalised", modality.Options{Reference: true, Params: modality.Params{"normalise": 1}}, []float32{-1, 0, 0}},
	} {
		if got := read(t, metres, tt.o)[:3]; !slices.Equal(got, tt.want) {
			t.Errorf("%s: the first centre is %v, want %v", tt.name, got, tt.want)
		}
	}

	_, err := Read(t.Context(), metres, modality.Options{Params: modality.Params{"start": 2}})
	if imagebind.KindOf(err) != imagebind.Invalid || imagebind.ParamOf(err) != "start" || !strings.Contains(err.Error(), "start is 2; the cloud has 2 points") {
		t.Errorf("start behind the end: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Read(ctx, metres, modality.Options{}); imagebind.KindOf(err) != imagebind.Canceled {
		t.Errorf("cancelled: %v", err)
	}
}

// TestThin: of more than 8192 points the farthest are taken, normalised anew;
// the same file gives the same tensor. The reference takes all.
func TestThin(t *testing.T) {
	const n = 10000
	points := make([]float32, 0, 3*n)
	for i := range n { // a spiral on a sphere of radius 3, whose last point comes a thousand times
		z := 1 - 2*min(float64(i), 9000)/9000
		r := math.Sqrt(1 - z*z)
		points = append(points, float32(3*r*math.Cos(float64(i))), float32(3*r*math.Sin(float64(i))), float32(3*z))
	}
	got := read(t, asPCD(points), modality.Options{})
	if !slices.Equal(got, read(t, asPCD(points), modality.Options{})) {
		t.Error("the same file gives another tensor")
	}
	norm := make([]float64, len(points))
	for i, v := range points {
		norm[i] = float64(v)
	}
	normaliseTo(norm, norm)
	var few []float64
	for _, i := range newIndex(floats(norm)).farthest(trained, 0) { // as TestIndex checks it
		few = append(few, norm[3*i:3*i+3]...)
	}
	normaliseTo(few, few)
	if want := Group(floats(few), groups, size, 0); !slices.Equal(got, want) {
		t.Error("its points are not the farthest")
	}
	if !slices.Equal(read(t, asPCD(points), modality.Options{Reference: true}), Group(points, groups, size, 0)) {
		t.Error("with Reference, it is not all points as they are")
	}
}
