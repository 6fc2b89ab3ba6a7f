package vision

import (
	"crypto/sha256"
	"encoding/hex"
	"math"
	"os"
	"strings"
	"testing"

	"imagebind-llm/internal/golden"
	"imagebind-llm/runner/modality"
)

// reference reads as the goldens were made.
var reference = modality.Options{Reference: true}

// inexact says which decoders differ from Pillow's (inverse DCTs round apart),
// and by how much the goldens' authors found: docs/numerics.md.
func inexact(name string) bool { return strings.HasSuffix(name, ".jpg") }

// TestReadImageGolden holds every file of testdata/inputs against the tensor
// of the reference. Its values are one of 256 for each channel, so the golden
// holds the bytes, and the values of each byte as "normalized" [3, 256].
func TestReadImageGolden(t *testing.T) {
	want := golden.Open(t, "testdata/image.safetensors")
	table := want.Tensor(t, "normalized").Values
	for _, name := range want.Names() {
		if name == "normalized" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			got, err := ReadImage(t.Context(), golden.Bytes(t, "testdata/inputs/"+name), reference)
			if err != nil {
				t.Fatal(err)
			}
			bytes := want.Tensor(t, name).Values
			const plane = Side * Side
			worst, sum := 0.0, 0.0
			for i, b := range bytes {
				c := i / plane
				w := table[256*c+int(b)]
				for f := range 2 {
					d := math.Abs(float64(got.Floats[(2*c+f)*plane+i%plane] - w))
					if math.IsNaN(d) {
						t.Fatalf("value %d is NaN", i)
					}
					worst, sum = max(worst, d), sum+d
				}
			}
			most, average := 1e-5, 1e-5
			if inexact(name) {
				most, average = 0.05, 0.005
			}
			mean := sum / float64(2*len(bytes))
			t.Logf("off by at most %.2g, %.2g on average", worst, mean)
			if worst > most || mean > average {
				t.Errorf("off by at most %.3g, %.3g on average; tolerance %g, %g", worst, mean, most, average)
			}
		})
	}
}

func hash(p Picture) string {
	sum := sha256.Sum256(p.Pix)
	return hex.EncodeToString(sum[:])
}

// TestDecodeGolden holds the decoded RGB bytes against the hash of Pillow's.
func TestDecodeGolden(t *testing.T) {
	var want map[string]struct {
		RGB string `json:"rgb_sha256"`
	}
	golden.JSON(t, "testdata/image.json", &want)
	files, err := os.ReadDir("testdata/inputs")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		name := f.Name()
		p, err := Decode(t.Context(), golden.Bytes(t, "testdata/inputs/"+name), reference)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if hash(p) != want[name].RGB && !inexact(name) {
			t.Errorf("%s: decoded pixels differ from Pillow's", name)
		}
	}
}
