package view

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	imagebind "imagebind-llm"
	"imagebind-llm/internal/format"
)

// numbers is the storage 0, 1, 2, … of n int32.
func numbers(n int) []byte {
	b := make([]byte, 0, 4*n)
	for i := range n {
		b = binary.LittleEndian.AppendUint32(b, uint32(i))
	}
	return b
}

// place returns the storage index of the i-th element in row-major order.
func (v View) place(i int) int {
	at := v.Offset
	for axis := len(v.Shape) - 1; axis >= 0; axis-- {
		at += i % v.Shape[axis] * v.Stride[axis]
		i /= v.Shape[axis]
	}
	return at
}

// TestRead reads views of the storage 0, 1, 2, …, whole and in parts, against
// the definition of a stride.
func TestRead(t *testing.T) {
	for _, tt := range []struct {
		name          string
		offset        int
		shape, stride []int
	}{
		{"scalar", 5, nil, nil},
		{"contiguous", 0, []int{30, 40}, []int{40, 1}},
		{"offset", 7, []int{30, 40}, []int{40, 1}},
		{"larger than one read", 3, []int{300, 700}, []int{700, 1}},
		{"transposed", 0, []int{300, 700}, []int{1, 300}},
		{"transposed, offset, gap", 11, []int{300, 600}, []int{1, 333}},
		{"narrow columns", 2, []int{1000, 3}, []int{200, 1}},
		{"every seventh", 1, []int{30000}, []int{7}},
		{"far apart", 1, []int{40}, []int{5000}},
		{"expanded rows", 9, []int{100, 50}, []int{0, 1}},
		{"expanded columns", 9, []int{100, 50}, []int{3, 0}},
		{"expanded scalar", 9, []int{70, 1000}, []int{0, 0}},
		{"overlapping windows", 0, []int{100, 16}, []int{4, 1}},
		{"permuted", 4, []int{5, 60, 7, 80}, []int{80 * 7, 1, 80, 560 * 5}},
		{"axes of one", 4, []int{1, 30, 1, 40, 1}, []int{999999, 1, 777777, 30, 1}},
		{"empty", 4, []int{3, 0, 2}, []int{1 << 40, 1, 1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			const n = 300000
			v := View{bytes.NewReader(append([]byte("head"), numbers(n)...)), 4, format.I32, tt.offset, tt.shape, tt.stride}
			if err := v.Check(n); err != nil {
				t.Fatal(err)
			}
			x := v.Tensor("x")
			got, err := x.Floats()
			if err != nil {
				t.Fatal(err)
			}
			for i, g := range got {
				if int(g) != v.place(i) {
					t.Fatalf("element %d is %v, want %d", i, g, v.place(i))
				}
			}
			for range 50 {
				from := rand.IntN(len(got) + 1)
				part := make([]float32, rand.IntN(len(got)-from+1))
				if err := x.Read(part, from); err != nil {
					t.Fatal(err)
				}
				if !slices.Equal(part, got[from:from+len(part)]) {
					t.Fatalf("%d elements from %d differ from the same in the whole", len(part), from)
				}
			}
			for _, bad := range [][2]int{{-1, 1}, {len(got), 1}, {0, len(got) + 1}, {math.MaxInt, 1}} {
				if err := x.Read(make([]float32, bad[1]), bad[0]); err == nil {
					t.Errorf("reads %d elements from %d of %d", bad[1], bad[0], len(got))
				}
			}
		})
	}
}

func TestCheck(t *testing.T) {
	const big = math.MaxInt
	for _, tt := range []struct {
		name          string
		n, offset     int
		shape, stride []int
		want          string // "" is good
	}{
		{"fits", 12, 0, []int{3, 4}, []int{4, 1}, ""},
		{"one behind the end", 11, 0, []int{3, 4}, []int{4, 1}, "leaves its storage"},
		{"offset", 12, 1, []int{3, 4}, []int{4, 1}, "leaves its storage"},
		{"last element", 12, 11, nil, nil, ""},
		{"scalar behind the end", 12, 12, nil, nil, "offset 12"},
		{"nothing behind the end", 12, 12, []int{0}, []int{1}, ""},
		{"offset behind the end", 12, 13, []int{0}, []int{1}, "offset 13"},
		{"negative offset", 12, -1, nil, nil, "offset -1"},
		{"nothing at all", 0, 0, []int{0, 7}, []int{7, 1}, ""},
		{"negative axis", 12, 0, []int{-1}, []int{1}, "shape [-1]"},
		{"negative stride", 12, 11, []int{3}, []int{-1}, "strides [-1]"},
		{"strides missing", 12, 0, []int{3}, nil, "strides []"},
		{"stride of an axis of one", 12, 0, []int{1, 2}, []int{big, 1}, ""},
		{"stride overflows", 12, 0, []int{3}, []int{big}, "leaves its storage"},
		{"sum of strides overflows", big, 0, []int{2, 2, 2}, []int{big - 1, big - 1, big - 1}, "leaves its storage"},
		{"count overflows", 12, 0, []int{1 << 32, 1 << 32}, []int{0, 0}, "more elements"},
		{"expanded", 1, 0, []int{1 << 12, 1 << 12}, []int{0, 0}, ""},
		{"expanded without end", 1, 0, []int{1 << 12, 1<<12 + 1}, []int{0, 0}, "more elements"},
		{"empty with a huge axis", 12, 0, []int{0, big}, []int{1, 1}, "more elements"},
		{"too many axes", 12, 0, make([]int, 65), make([]int, 65), "65 axes"},
	} {
		err := View{Offset: tt.offset, Shape: tt.shape, Stride: tt.stride}.Check(tt.n)
		switch {
		case err == nil && tt.want != "":
			t.Errorf("%s: no error, want %q", tt.name, tt.want)
		case err != nil && (tt.want == "" || !strings.Contains(err.Error(), tt.want) || imagebind.KindOf(err) != imagebind.Invalid):
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
}

// A meter counts what is read.
type meter struct {
	io.ReaderAt
	bytes, calls int
}

func (m *meter) ReadAt(b []byte, at int64) (int, error) {
	m.bytes, m.calls = m.bytes+len(b), m.calls+1
	return m.ReaderAt.ReadAt(b, at)
}

// TestCost bounds bytes and calls when a tensor is read in pieces of 64 Ki
// elements, as the exporter does.
func TestCost(t *testing.T) {
	const n = 2048 * 2048
	data := bytes.NewReader(make([]byte, 2*n))
	for _, tt := range []struct {
		name          string
		shape, stride []int
		waste         float64 // bytes read by bytes wanted
		calls         int
	}{
		{"contiguous", []int{2048, 2048}, []int{2048, 1}, 1, n / (64 << 10)},
		{"transposed", []int{2048, 2048}, []int{1, 2048}, 1, n / 32},
		{"half of each row", []int{2048, 1024}, []int{2048, 1}, 2, 64},
		{"every fourth", []int{n / 4}, []int{4}, 4, 64},
		{"one column", []int{2048}, []int{2048}, 1, 2048},
	} {
		m := &meter{ReaderAt: data}
		x := View{m, 0, format.F16, 0, tt.shape, tt.stride}.Tensor("x")
		dst := make([]float32, 64<<10)
		for from := 0; from < x.Len(); from += len(dst) {
			if err := x.Read(dst[:min(len(dst), x.Len()-from)], from); err != nil {
				t.Fatal(err)
			}
		}
		if waste := float64(m.bytes) / float64(2*x.Len()); waste > tt.waste || m.calls > tt.calls {
			t.Errorf("%s: reads %.2f times its bytes in %d calls, want %.2f in %d", tt.name, waste, m.calls, tt.waste, tt.calls)
		}
	}
}

func TestTruncated(t *testing.T) {
	for _, v := range []View{
		{bytes.NewReader(make([]byte, 39)), 0, format.I32, 0, []int{10}, []int{1}},
		{bytes.NewReader(make([]byte, 39)), 0, format.I32, 0, []int{2, 5}, []int{1, 2}},
	} {
		if _, err := v.Tensor("x").Floats(); !errors.Is(err, io.ErrUnexpectedEOF) || !strings.Contains(err.Error(), "tensor x") {
			t.Errorf("error is %v", err)
		}
	}
}

func TestConcurrent(t *testing.T) {
	const n = 100000
	x := View{bytes.NewReader(numbers(n)), 0, format.I32, 0, []int{100, 1000}, []int{1, 100}}.Tensor("x")
	want, err := x.Floats()
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for from := 0; from < n; from += 12500 {
				got := make([]float32, 12500)
				if err := x.Read(got, from); err != nil || !slices.Equal(got, want[from:from+len(got)]) {
					t.Errorf("from %d: other values (%v)", from, err)
				}
			}
		})
	}
	all.Wait()
}

func TestDecode(t *testing.T) {
	for _, tt := range []struct {
		dtype format.DType
		raw   string
		want  []float32
	}{
		{format.F64, "\x18\x2d\x44\x54\xfb\x21\x09\x40\x00\x00\x00\x00\x00\x00\x00\xc0", []float32{math.Pi, -2}},
		{format.F32, "\xdb\x0f\x49\x40\x00\x00\x00\xc0", []float32{math.Pi, -2}},
		{format.BF16, "\x49\x40\x00\xc0", []float32{3.140625, -2}},
		{format.I64, "\x01\x00\x00\x00\x01\x00\x00\x00\xfe\xff\xff\xff\xff\xff\xff\xff", []float32{1 << 32, -2}},
		{format.I32, "\x01\x00\x01\x00\xfe\xff\xff\xff", []float32{65537, -2}},
		{format.I16, "\x01\x01\xfe\xff", []float32{257, -2}},
		{format.I8, "\x7f\xfe", []float32{127, -2}},
		{format.U8, "\x7f\xfe", []float32{127, 254}},
		{format.Bool, "\x00\x02", []float32{0, 1}},
	} {
		got := make([]float32, len(tt.want))
		Decode(got, []byte(tt.raw), tt.dtype)
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: %v, want %v", tt.dtype, got, tt.want)
		}
	}
	defer func() {
		if recover() == nil {
			t.Error("decodes blocks of ggml")
		}
	}()
	Decode(make([]float32, 32), make([]byte, 1000), format.Q4_0)
}

// TestHalf compares all 16-bit floats with their definition.
func TestHalf(t *testing.T) {
	raw := make([]byte, 2<<16)
	for h := range 1 << 16 {
		binary.LittleEndian.PutUint16(raw[2*h:], uint16(h))
	}
	got := make([]float32, 1<<16)
	Decode(got, raw, format.F16)
	for h, g := range got {
		exponent, fraction := h>>10&31, float64(h&0x3ff)
		want := math.Ldexp(1+fraction/1024, exponent-15)
		switch {
		case exponent == 0:
			want = math.Ldexp(fraction, -24)
		case exponent == 31 && fraction == 0:
			want = math.Inf(1)
		case exponent == 31:
			if g == g {
				t.Fatalf("%#04x is %v, want NaN", h, g)
			}
			continue
		}
		if h >= 1<<15 {
			want = -want
		}
		if float64(g) != want || math.Signbit(float64(g)) != (h >= 1<<15) {
			t.Fatalf("%#04x is %v, want %v", h, g, want)
		}
	}
}

// FuzzView: what passes Check reads what the strides say.
func FuzzView(f *testing.F) {
	f.Add(0, 3, 4, 5, 20, 5, 1, 0, 7)
	f.Add(3, 4, 5, 6, 1, 4, 20, 2, 100)
	f.Add(0, 1<<62, 4, 0, 4, 1<<62, 1<<62, 0, 0)
	f.Add(9, 3, 30, 2, 0, 1, 0, 0, 9)
	const n = 500
	data := bytes.NewReader(numbers(n))
	f.Fuzz(func(t *testing.T, offset, a, b, c, sa, sb, sc, from, count int) {
		v := View{data, 0, format.I32, offset, []int{a, b, c}, []int{sa, sb, sc}}
		if v.Check(n) != nil {
			return
		}
		x := v.Tensor("x")
		if from < 0 || from > x.Len() {
			return
		}
		dst := make([]float32, max(0, min(count, x.Len()-from, 5000)))
		if err := x.Read(dst, from); err != nil {
			t.Fatal(err)
		}
		for i, g := range dst {
			if int(g) != v.place(from+i) {
				t.Fatalf("element %d is %v, want %d", from+i, g, v.place(from+i))
			}
		}
	})
}

// BenchmarkRead: bytes of the file a second, from the page cache, in pieces.
func BenchmarkRead(b *testing.B) {
	const n = 4096 * 4096
	path := filepath.Join(b.TempDir(), "x")
	if err := os.WriteFile(path, bytes.Repeat([]byte{0x12, 0x34, 0x56, 0xb7}, n/2), 0o600); err != nil {
		b.Fatal(err)
	}
	file, err := os.Open(path)
	if err != nil {
		b.Fatal(err)
	}
	defer file.Close()
	for _, bb := range []struct {
		name          string
		dtype         format.DType
		shape, stride []int
	}{
		{"F16", format.F16, []int{4096, 4096}, []int{4096, 1}},
		{"BF16", format.BF16, []int{4096, 4096}, []int{4096, 1}},
		{"F32", format.F32, []int{4096, 2048}, []int{2048, 1}},
		{"F16 transposed", format.F16, []int{4096, 4096}, []int{1, 4096}},
		{"F16 half rows", format.F16, []int{4096, 2048}, []int{4096, 1}},
	} {
		b.Run(bb.name, func(b *testing.B) {
			x := View{file, 0, bb.dtype, 0, bb.shape, bb.stride}.Tensor("x")
			dst := make([]float32, 64<<10)
			b.SetBytes(int64(x.Len() * bb.dtype.BlockBytes()))
			for b.Loop() {
				for from := 0; from < x.Len(); from += len(dst) {
					if err := x.Read(dst, from); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}
