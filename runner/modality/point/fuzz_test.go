package point

import (
	"archive/zip"
	"encoding/binary"
	"math"
	"testing"

	"imagebind-llm/runner/modality"
)

// fuzzed runs a format's reader on anything: it ends, with no more points than
// allowed, and what it makes can be drawn from and grouped.
func fuzzed(f *testing.F, media string, seeds ...[]byte) {
	for _, s := range seeds {
		f.Add(s)
	}
	const most = 1000
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := readers[media].read(data, want{modality.Limits{Points: most}.OrDefault(), true})
		if err != nil {
			return
		}
		if len(c.points)%3 != 0 || len(c.faces)%3 != 0 || len(c.points) > 3*most || len(c.faces) > 3*most {
			t.Fatalf("%d coordinates, %d corners", len(c.points), len(c.faces))
		}
		if c.check("fuzzed") != nil {
			return
		}
		c.points = surface(c, 20)
		normaliseTo(c.points, c.points)
		for _, v := range Group(floats(c.points), 3, 5, 0) {
			if math.IsNaN(float64(v)) || math.IsInf(float64(v), 0) {
				t.Fatalf("%v after normalising", v)
			}
		}
	})
}

func FuzzPLY(f *testing.F) {
	fuzzed(f, "model/ply", plyText(), plyBinary("binary_little_endian", binary.LittleEndian), plyBinary("binary_big_endian", binary.BigEndian))
}

func FuzzPCD(f *testing.F) { fuzzed(f, "model/pcd", pcdText(), pcdBinary(), pcdCompressed()) }

func FuzzXYZ(f *testing.F) {
	fuzzed(f, "text/plain", xyzText(" ", "", "5\n"), xyzText(",", ";7", "x,y,z\n#\n//\n"))
}

func FuzzOBJ(f *testing.F) { fuzzed(f, "model/obj", objText()) }

func FuzzSTL(f *testing.F) { fuzzed(f, "model/stl", stlText(), stlBinary()) }

func FuzzGLB(f *testing.F) { fuzzed(f, "model/gltf-binary", glbMesh(), glbStrip()) }

func FuzzNPY(f *testing.F) { fuzzed(f, "application/x-npy", npyFloats(), npyHalf()) }

func FuzzPT(f *testing.F) {
	fuzzed(f, "application/zip", ptOf(f, true, zip.Store, 0, 5, 3), ptOf(f, false, zip.Deflate, 0, 1, 5, 3))
}
