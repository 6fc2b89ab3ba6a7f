package raster

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"image"
	"image/color"
	"image/jpeg"
	"image/png"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	imagebind "imagebind-llm"
	"imagebind-llm/internal/golden"
	"imagebind-llm/runner/modality"
)

const wide, high = 37, 23 // of the files in testdata

// What the files in testdata hold; see README.md there.
func floats(x, y int) float32 { return float32((x*7+y*13)%100)/8 + 0.5 }
func wholes(x, y int) float32 { return float32((x*911 + y*1777) % 65536) }
func blocks(x, y int) float32 { return float32(x/9 + y/4 + 1) }

func file(t testing.TB, name string) []byte { return golden.Bytes(t, "testdata/"+name) }

// TestDecode reads files by other programs: every value is exact.
func TestDecode(t *testing.T) {
	for _, tt := range []struct {
		file string
		want func(x, y int) float32
		bits int
	}{
		{"uint16.png", wholes, 16},
		{"uint16.tif", wholes, 16},
		{"uint16.npy", wholes, 16}, // [1, H, W]
		{"float.npy", floats, 0},
		{"float.pfm", floats, 0},
		{"float.tif", floats, 0},
		{"float_pillow.tif", floats, 0},
		{"float_big.tif", floats, 0}, // big-endian, strips of 5 rows
		{"float_deflate.tif", floats, 0},
		{"float_lzw.tif", floats, 0},
		{"half.tif", floats, 0},
		{"double.tif", floats, 0}, // strips of 4 rows
		{"signed.tif", wholes, 32},
		{"none.exr", floats, 0},
		{"rle.exr", blocks, 0},
		{"zips.exr", floats, 0},   // depth.Z and A
		{"zip.exr", floats, 0},    // Z among R, G, B, of which G is half
		{"half.exr", floats, 0},   // Y
		{"uint.exr", wholes, 32},  // V, the only one
		{"window.exr", floats, 0}, // R, its data window away from the origin
	} {
		t.Run(tt.file, func(t *testing.T) {
			p, err := Decode(t.Context(), file(t, tt.file), modality.Options{}, "a depth map")
			if err != nil {
				t.Fatal(err)
			}
			if p.W != wide || p.H != high || len(p.Pix) != wide*high || p.Bits != tt.bits {
				t.Fatalf("%d × %d of %d bits, %d values", p.W, p.H, p.Bits, len(p.Pix))
			}
			for i, got := range p.Pix {
				if want := tt.want(i%wide, i/wide); got != want {
					t.Fatalf("pixel %d, %d is %v, want %v", i%wide, i/wide, got, want)
				}
			}
		})
	}
}

// encoded makes a PNG or JPEG.
func encoded(t testing.TB, img image.Image, jpg bool) []byte {
	t.Helper()
	var b bytes.Buffer
	err := png.Encode(&b, img)
	if jpg {
		b.Reset()
		err = jpeg.Encode(&b, img, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestPicture(t *testing.T) {
	grey := image.NewGray(image.Rect(0, 0, 3, 2))
	grey.Pix = []byte{0, 1, 2, 3, 254, 255}
	alpha := image.NewNRGBA64(image.Rect(0, 0, 3, 2))
	for i := range 6 {
		v := uint16(10000 * i)
		alpha.SetNRGBA64(i%3, i/3, color.NRGBA64{v, v, v, 0x7fff})
	}
	for _, tt := range []struct {
		name string
		img  image.Image
		bits int
		want []float32
	}{
		{"8 bits", grey, 8, []float32{0, 1, 2, 3, 254, 255}},
		{"16 bits with alpha", alpha, 16, []float32{0, 10000, 20000, 30000, 40000, 50000}},
	} {
		p, err := Decode(t.Context(), encoded(t, tt.img, false), modality.Options{}, "a depth map")
		if err != nil || p.Bits != tt.bits || !slices.Equal(p.Pix, tt.want) {
			t.Errorf("%s: %v, error %v", tt.name, p, err)
		}
	}
}

func TestDeep(t *testing.T) {
	grey := image.NewGray(image.Rect(0, 0, 3, 2))
	for name, tt := range map[string]struct {
		data []byte
		want bool
	}{
		"8-bit PNG":   {encoded(t, grey, false), false},
		"JPEG":        {encoded(t, grey, true), false},
		"16-bit PNG":  {file(t, "uint16.png"), true},
		"16-bit TIFF": {file(t, "uint16.tif"), true},
		"float TIFF":  {file(t, "float.tif"), true},
		".npy":        {file(t, "float.npy"), true},
		"OpenEXR":     {file(t, "zip.exr"), true},
		"text":        {[]byte("hello"), false},
		"cut TIFF":    {[]byte("II*\x00\xff\xff"), false},
	} {
		if got := Deep(tt.data); got != tt.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// patched returns a copy of b with what stands at or behind the first mark replaced.
func patched(b []byte, mark string, at int, with ...byte) []byte {
	b = bytes.Clone(b)
	copy(b[bytes.Index(b, []byte(mark))+at:], with)
	return b
}

// tag returns a copy of a little-endian TIFF with a tag's value replaced.
func tag(b []byte, tag uint16, value uint32) []byte {
	b = bytes.Clone(b)
	at := binary.LittleEndian.Uint32(b[4:])
	for e := b[at+2:]; ; e = e[12:] {
		if binary.LittleEndian.Uint16(e) == tag {
			binary.LittleEndian.PutUint32(e[8:], value)
			return b
		}
	}
}

func TestRefused(t *testing.T) {
	none, zip, tif := file(t, "none.exr"), file(t, "zip.exr"), file(t, "float_pillow.tif")
	const window, compression = "dataWindow\x00box2i\x00", "compression\x00compression\x00"
	const top, right, bottom = 25, 29, 33                    // behind the start of window
	first := bytes.Index(none, []byte("scanlineimage")) + 14 // the first offset
	npy := file(t, "float.npy")
	colour := image.NewRGBA(image.Rect(0, 0, 4, 4))
	colour.Set(1, 1, color.RGBA{255, 0, 0, 255})
	for _, tt := range []struct {
		name string
		data []byte
		kind imagebind.Kind
		want string
	}{
		{"empty", nil, imagebind.Invalid, "empty; a depth map is needed"},
		{"text", []byte("hello, world"), imagebind.Unsupported, "text/plain"},
		{"noise", []byte{0, 1, 2, 0}, imagebind.Unsupported, "no known format"},
		{"JPEG", encoded(t, colour, true), imagebind.Unsupported, "image/jpeg); send PNG"},
		{"colour", encoded(t, colour, false), imagebind.Invalid, "colour; a depth map has one channel"},
		{"cut PNG", file(t, "uint16.png")[:100], imagebind.Invalid, "PNG file cannot be decoded"},
		{"bare PNG", []byte("\x89PNG\r\n\x1a\n"), imagebind.Invalid, "PNG file cannot be decoded"},
		{"huge PNG", patched(file(t, "uint16.png"), "IHDR", 4, 0, 0, 0x75, 0x30, 0, 0, 0x75, 0x30, 16, 0, 0, 0, 0, 0xe8, 0x6f, 0x8b, 0x37), imagebind.Invalid, "PNG"},

		{"bare TIFF", []byte("II*\x00"), imagebind.Invalid, "directory lies outside"},
		{"TIFF's directory outside", []byte("II*\x00\xff\xff\xff\xff"), imagebind.Invalid, "directory lies outside"},
		{"TIFF's tag outside", tag(tif, tagBits, 32)[:len(tif)-40], imagebind.Invalid, "TIFF"},
		{"cut TIFF", tag(tif, tagStrips, uint32(len(tif))-100), imagebind.Invalid, "cut"},
		{"short strip", tag(tif, tagSizes, 50), imagebind.Invalid, "cut or broken"},
		{"wide TIFF", tag(tif, tagWidth, 1<<31), imagebind.TooLarge, "2147483648 × 23"},
		{"no width", tag(tif, tagWidth, 0), imagebind.Invalid, "0 × 23"},
		{"rows missing", tag(tif, tagRows, 2), imagebind.Invalid, "1 strips of 2 rows"},
		{"no rows", tag(tif, tagRows, 0), imagebind.Invalid, "strips of 0 rows"},
		{"TIFF's ratio", tag(tag(tif, tagWidth, 30000), tagHeight, 2000), imagebind.TooLarge, "more than 200 times"},
		{"float TIFF in tiles", file(t, "tiled.tif"), imagebind.Unsupported, "tiles or a predictor"},
		{"packbits", file(t, "float_pack.tif"), imagebind.Unsupported, "compression 32773"},

		{"bare EXR", none[:6], imagebind.Invalid, "cut"},
		{"EXR's header cut", none[:60], imagebind.Invalid, "header ends early"},
		{"EXR's name endless", append(none[:8:8], bytes.Repeat([]byte("x"), 400)...), imagebind.Invalid, "header ends early"},
		{"EXR's table cut", none[:first+10], imagebind.Invalid, "cut"},
		{"EXR cut", none[:len(none)-10], imagebind.Invalid, "cut"},
		{"EXR of version 3", patched(none, "\x76\x2f", 4, 3), imagebind.Unsupported, "version 3"},
		{"EXR in tiles", patched(none, "\x76\x2f", 5, 2), imagebind.Unsupported, "tiles, deep pixels or several parts"},
		{"EXR of parts", patched(none, "\x76\x2f", 5, 16), imagebind.Unsupported, "several parts"},
		{"PIZ", file(t, "piz.exr"), imagebind.Unsupported, "compression PIZ is not read; save it with ZIP"},
		{"compression 99", patched(none, compression, 28, 99), imagebind.Unsupported, "of a new kind"},
		{"no depth", file(t, "many.exr"), imagebind.Invalid, `["B" "G"]; a depth map is read from Z, Y or R`},
		{"subsampled", patched(none, "Z\x00", 10, 2), imagebind.Unsupported, `"Z" of the OpenEXR file is subsampled`},
		{"channel's type", patched(none, "Z\x00", 2, 9), imagebind.Invalid, "unknown type"},
		{"EXR's window huge", patched(none, window, right, 0, 0, 0x7f), imagebind.TooLarge, "allowed"},
		{"EXR's window negative", patched(none, window, right+3, 0x80), imagebind.Invalid, "pixels"},
		{"EXR's window moved", patched(none, window, top, 1), imagebind.Invalid, "outside of the picture"},
		{"EXR's ratio", patched(patched(zip, window, right, 0, 32), window, bottom, 0, 16), imagebind.TooLarge, "more than 200 times"},
		{"EXR's offset outside", patched(none, "scanlineimage", 14, 255, 255, 255, 255, 255, 255, 255, 255), imagebind.Invalid, "cut"},
		{"EXR's offset elsewhere", patched(none, "scanlineimage", 14, 0, 0), imagebind.Invalid, "OpenEXR"},
		{"EXR's ZIP broken", patched(zip, "\x78\x5e", 0, 1, 2), imagebind.Invalid, "unpacked"},

		{"PFM in colour", []byte("PF\n2 2\n-1\n"), imagebind.Invalid, "colour"},
		{"PFM without a header", []byte("Pf\n"), imagebind.Invalid, "header is width"},
		{"PFM's words", []byte("Pf\na b\nc\n"), imagebind.Invalid, `"a" wide`},
		{"PFM's scale", []byte("Pf\n2 2\n0\n"), imagebind.Invalid, `scale "0"`},
		{"PFM cut", []byte("Pf\n2 2\n-1\n123456789012345"), imagebind.Invalid, "cut"},
		{"PFM negative", []byte("Pf\n-2 2\n-1\n"), imagebind.Invalid, "-2 × 2"},
		{"PFM huge", []byte("Pf\n2000000000 2000000000\n-1\n"), imagebind.TooLarge, "2000000000"},

		{".npy cut", npy[:len(npy)-1], imagebind.Invalid, "cut"},
		{".npy of another shape", bytes.Replace(npy, []byte("(23, 37)"), []byte("(851,  )"), 1), imagebind.Invalid, "[851] of F32; a depth map is numbers [H, W]"},
		{".npy, batch of more", bytes.Replace(npy, []byte("(23, 37), "), []byte("(5, 5, 5),"), 1), imagebind.Invalid, "[5 5 5]"},
		{".npy of bool", bytes.Replace(npy, []byte("<f4"), []byte("|b1"), 1), imagebind.Invalid, "BOOL"},
		{".npy, empty", bytes.Replace(npy, []byte("(23, 37)"), []byte("(23,  0)"), 1), imagebind.Invalid, "0 × 23"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Decode(t.Context(), tt.data, modality.Options{}, "a depth map")
			if err == nil || imagebind.KindOf(err) != tt.kind || !strings.Contains(imagebind.MessageOf(err), tt.want) {
				t.Errorf("error is %v (kind %v), want %q", err, imagebind.KindOf(err), tt.want)
			}
		})
	}
}

// TestSharedTags: a directory of 60000 tags whose lists are the same megabyte is read in no time.
func TestSharedTags(t *testing.T) {
	const tags, longs = 60000, 1 << 18
	b := binary.LittleEndian.AppendUint32([]byte("II*\x00"), 8)
	b = binary.LittleEndian.AppendUint16(b, tags)
	for i := range tags {
		b = binary.LittleEndian.AppendUint16(b, []uint16{tagStrips, 60000}[i%2])
		b = binary.LittleEndian.AppendUint16(b, 4)
		b = binary.LittleEndian.AppendUint32(b, longs)
		b = binary.LittleEndian.AppendUint32(b, 0)
	}
	b = append(b, make([]byte, 4*longs)...)
	if n := testing.AllocsPerRun(1, func() { _, _ = parseTIFF(b) }); n > 100 {
		t.Errorf("%v allocations; each list is one", n)
	}
}

func TestLimits(t *testing.T) {
	for _, name := range []string{"uint16.png", "uint16.tif", "float.tif", "float.npy", "float.pfm", "zip.exr"} {
		for _, l := range []modality.Limits{{Pixels: wide*high - 1}, {Side: wide - 1}} {
			_, err := Decode(t.Context(), file(t, name), modality.Options{Limits: l}, "a depth map")
			if imagebind.KindOf(err) != imagebind.TooLarge {
				t.Errorf("%s, %+v: error is %v", name, l, err)
			}
		}
		_, err := Decode(t.Context(), file(t, name), modality.Options{Limits: modality.Limits{Smallest: wide + 1}}, "a depth map")
		if imagebind.KindOf(err) != imagebind.Invalid {
			t.Errorf("%s, too small: error is %v", name, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Decode(ctx, file(t, "float.npy"), modality.Options{}, "a depth map"); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: error is %v", err)
	}
}

// FuzzDecode reads anything: it ends, without a panic that foreign caught, and
// what it makes has the size that it says and no more than allowed.
func FuzzDecode(f *testing.F) {
	names, err := filepath.Glob("testdata/*.*")
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	const most = 1 << 16
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := Decode(t.Context(), data, modality.Options{Limits: modality.Limits{Pixels: most}}, "a depth map")
		if err != nil {
			if imagebind.KindOf(err) == imagebind.Internal {
				t.Fatal(err)
			}
			if strings.Contains(err.Error(), "panicked") && !strings.Contains(err.Error(), "PNG") {
				t.Fatal(err)
			}
			return
		}
		if len(p.Pix) != p.W*p.H || len(p.Pix) > most {
			t.Fatalf("%d × %d, %d values", p.W, p.H, len(p.Pix))
		}
	})
}
