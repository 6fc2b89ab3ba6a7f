package vision

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"image"
	"image/color"
	"image/gif"
	"image/png"
	"os"
	"testing"

	imagebind "imagebind-llm"
	"imagebind-llm/internal/golden"
	"imagebind-llm/runner/modality"
)

// TestDecodeMore holds further formats against Pillow, to the byte: lossy and
// animated WebP, TIFF, palettes, odd sizes, CMYK with and without
// Adobe's segment.
func TestDecodeMore(t *testing.T) {
	var want map[string]string
	golden.JSON(t, "testdata/more.json", &want)
	for name, sum := range want {
		p, err := Decode(t.Context(), golden.Bytes(t, "testdata/more/"+name), reference)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if hash(p) != sum {
			t.Errorf("%s: decoded pixels differ from Pillow's", name)
		}
	}
}

// TestRows asks a JPEG, of each subsampling, for parts of its rows in any order.
func TestRows(t *testing.T) {
	for _, name := range []string{"422", "420", "440", "411"} {
		r, err := decode(t.Context(), golden.Bytes(t, "testdata/more/flat_61x61_"+name+".jpg"), reference)
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := r.(*jpegRows); !ok {
			t.Fatalf("%s: a %T", name, r)
		}
		p := whole(r)
		for _, y := range []int{60, 0, 31, 30} {
			for _, part := range [][2]int{{0, 1}, {60, 61}, {0, 61}, {7, 22}, {30, 31}} {
				got := r.row(y, part[0], part[1])
				if want := p.row(y, part[0], part[1]); !bytes.Equal(got, want) {
					t.Errorf("%s, row %d, %v: %v, want %v", name, y, part, got, want)
				}
			}
		}
	}
}

// TestResize holds Fit against Pillow, to the byte, over many shapes.
func TestResize(t *testing.T) {
	var want []struct {
		W, H   int
		SHA256 string
	}
	golden.JSON(t, "testdata/resize.json", &want)
	for _, tt := range want {
		p := Picture{tt.W, tt.H, make([]byte, 3*tt.W*tt.H)}
		for i := range p.Pix {
			p.Pix[i] = byte(uint32(i) * 2654435761 >> 13)
		}
		if hash(Fit(p)) != tt.SHA256 {
			t.Errorf("%d × %d: pixels differ from Pillow's", tt.W, tt.H)
		}
	}
}

func encode(t *testing.T, img image.Image) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := png.Encode(&b, img); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestOptions holds the default against the reference's behaviour, where they
// differ.
func TestOptions(t *testing.T) {
	alpha := image.NewNRGBA(image.Rect(0, 0, 2, 1))
	alpha.SetNRGBA(0, 0, color.NRGBA{200, 100, 0, 0})
	alpha.SetNRGBA(1, 0, color.NRGBA{200, 100, 0, 51}) // a fifth
	grey := image.NewGray16(image.Rect(0, 0, 2, 1))
	grey.SetGray16(0, 0, color.Gray16{0x1234})
	grey.SetGray16(1, 0, color.Gray16{0x0034})
	palette := image.NewPaletted(image.Rect(0, 0, 2, 1), color.Palette{color.NRGBA{10, 20, 30, 0}, color.NRGBA{40, 50, 60, 255}})
	palette.Pix[1] = 1
	for _, tt := range []struct {
		name               string
		img                image.Image
		usual, inReference []byte
	}{
		{"alpha", alpha, []byte{255, 255, 255, 244, 224, 204}, []byte{200, 100, 0, 200, 100, 0}},
		{"16-bit grey", grey, []byte{0x12, 0x12, 0x12, 0, 0, 0}, []byte{255, 255, 255, 0x34, 0x34, 0x34}},
		{"transparent palette", palette, []byte{255, 255, 255, 40, 50, 60}, []byte{10, 20, 30, 40, 50, 60}},
	} {
		for _, o := range []struct {
			modality.Options
			want []byte
		}{{modality.Options{}, tt.usual}, {reference, tt.inReference}} {
			p, err := Decode(t.Context(), encode(t, tt.img), o.Options)
			if err != nil || !bytes.Equal(p.Pix, o.want) {
				t.Errorf("%s, reference %v: %v, want %v (%v)", tt.name, o.Reference, p.Pix, o.want, err)
			}
		}
	}
}

// TestGIFFrame reads a frame smaller than its screen: the rest is transparent.
func TestGIFFrame(t *testing.T) {
	frame := image.NewPaletted(image.Rect(1, 0, 2, 1), color.Palette{color.RGBA{1, 2, 3, 255}, color.RGBA{4, 5, 6, 255}})
	frame.Pix[0] = 1
	var b bytes.Buffer
	if err := gif.EncodeAll(&b, &gif.GIF{Image: []*image.Paletted{frame}, Delay: []int{0}, Config: image.Config{Width: 2, Height: 1, ColorModel: frame.Palette}}); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		o    modality.Options
		want []byte
	}{
		{modality.Options{}, []byte{255, 255, 255, 4, 5, 6}},
		{reference, []byte{1, 2, 3, 4, 5, 6}},
	} {
		if p, err := Decode(t.Context(), b.Bytes(), tt.o); err != nil || !bytes.Equal(p.Pix, tt.want) {
			t.Errorf("reference %v: %v, want %v (%v)", tt.o.Reference, p.Pix, tt.want, err)
		}
	}
}

// TestUpright turns a picture of 2 × 3 whose rows are ab cd ef.
func TestUpright(t *testing.T) {
	for orientation, want := range []string{1: "ab cd ef", 2: "ba dc fe", 3: "fe dc ba", 4: "ef cd ab", 5: "ace bdf", 6: "eca fdb", 7: "fdb eca", 8: "bdf ace"} {
		if want == "" {
			continue
		}
		p := Picture{2, 3, nil}
		for _, c := range "abcdef" {
			p.Pix = append(p.Pix, byte(c), byte(c), byte(c))
		}
		p = upright(p, orientation)
		var got []byte
		for i := 0; i < len(p.Pix); i += 3 {
			if i > 0 && i/3%p.W == 0 {
				got = append(got, ' ')
			}
			got = append(got, p.Pix[i])
		}
		if string(got) != want {
			t.Errorf("orientation %d: %s, want %s", orientation, got, want)
		}
	}
}

func TestOrientation(t *testing.T) {
	for _, tt := range []struct {
		file  string
		media string
		want  int
	}{
		{"inputs/exif6_320x200.jpg", "image/jpeg", 6},
		{"more/exif3_40x30.png", "image/png", 3},
		{"more/turned_33x21.tiff", "image/tiff", 6},
		{"inputs/rgba_250x250.png", "image/png", 1},
	} {
		if got := orientation(tt.media, golden.Bytes(t, "testdata/"+tt.file)); got != tt.want {
			t.Errorf("%s: %d, want %d", tt.file, got, tt.want)
		}
	}
	upside, err := Decode(t.Context(), golden.Bytes(t, "testdata/inputs/exif6_320x200.jpg"), modality.Options{})
	if err != nil || upside.W != 200 || upside.H != 320 {
		t.Errorf("turned to %d × %d, %v", upside.W, upside.H, err)
	}
}

// header makes a PNG of the given size in its header, without data.
func header(w, h uint32) []byte {
	b := []byte("\x89PNG\r\n\x1a\n\x00\x00\x00\x0dIHDR")
	b = binary.BigEndian.AppendUint32(b, w)
	b = binary.BigEndian.AppendUint32(b, h)
	b = append(b, 8, 2, 0, 0, 0)
	return binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(b[12:]))
}

func TestReadErrors(t *testing.T) {
	photo := golden.Bytes(t, "testdata/inputs/big_1024x769_q80_420.jpg")
	for _, tt := range []struct {
		name string
		data []byte
		l    modality.Limits
		kind imagebind.Kind
	}{
		{"empty", nil, modality.Limits{}, imagebind.Invalid},
		{"text", []byte("not a picture"), modality.Limits{}, imagebind.Unsupported},
		{"sound", []byte("RIFF\x00\x00\x00\x00WAVEfmt "), modality.Limits{}, imagebind.Unsupported},
		{"half a JPEG", photo[:len(photo)/2], modality.Limits{}, imagebind.Invalid},
		{"PNG, signature only", []byte("\x89PNG\r\n\x1a\n"), modality.Limits{}, imagebind.Invalid},
		{"pixels", photo, modality.Limits{Pixels: 1000}, imagebind.TooLarge},
		{"side", photo, modality.Limits{Side: 1000}, imagebind.TooLarge},
		{"a bomb", header(1<<15, 1<<14), modality.Limits{}, imagebind.TooLarge},
		{"elongated", header(30000, 2), modality.Limits{}, imagebind.TooLarge},
		{"no pixels", header(0, 2), modality.Limits{}, imagebind.Invalid},
	} {
		if _, err := ReadImage(t.Context(), tt.data, modality.Options{Limits: tt.l}); imagebind.KindOf(err) != tt.kind {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := ReadImage(ctx, photo, modality.Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func FuzzRead(f *testing.F) {
	for _, dir := range []string{"testdata/inputs/", "testdata/more/"} {
		files, err := os.ReadDir(dir)
		if err != nil {
			f.Fatal(err)
		}
		for _, file := range files {
			if info, err := file.Info(); err == nil && info.Size() < 30000 {
				f.Add(golden.Bytes(f, dir+file.Name()), false)
			}
		}
	}
	limits := modality.Limits{Pixels: 1 << 16, Side: 4096}
	f.Fuzz(func(t *testing.T, data []byte, reference bool) {
		got, err := ReadImage(t.Context(), data, modality.Options{Limits: limits, Reference: reference})
		if err != nil {
			if imagebind.KindOf(err) == imagebind.Internal {
				t.Error(err)
			}
			return
		}
		for i, v := range got.Floats {
			if !(v > -2 && v < 2.5) {
				t.Fatalf("value %d is %v", i, v)
			}
		}
	})
}

func BenchmarkRead(b *testing.B) {
	data := golden.Bytes(b, "testdata/inputs/big_1024x769_q80_420.jpg")
	for b.Loop() {
		if _, err := ReadImage(b.Context(), data, modality.Options{}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkFit is what ReadImage does after the decoder: of planes and of RGB.
func BenchmarkFit(b *testing.B) {
	planes := &jpegRows{YCbCr: image.NewYCbCr(image.Rect(0, 0, 4000, 3000), image.YCbCrSubsampleRatio420)}
	for name, r := range map[string]rows{"JPEG": planes, "RGB": whole(planes)} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				fit(r)
			}
		})
	}
}
