package nn

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/x448/float16"

	imagebind "imagebind-llm"
	"imagebind-llm/exporter/graph"
	"imagebind-llm/exporter/onnx"
	"imagebind-llm/internal/format"
	"imagebind-llm/internal/golden"
	"imagebind-llm/internal/ort"
)

// random draws a tensor of a normal distribution; the same for the same seed.
func random(seed uint64, shape ...int) format.Tensor {
	r := rand.New(rand.NewPCG(seed, 0))
	values := make([]float32, imagebind.Size(shape))
	for i := range values {
		values[i] = float32(r.NormFloat64())
	}
	return tensor(values, shape...)
}

func tensor(values []float32, shape ...int) format.Tensor {
	return format.Tensor{Name: fmt.Sprint("t", shape), Shape: shape, Read: func(dst []float32, from int) error {
		if from+len(dst) > len(values) {
			return errors.New("beyond the end")
		}
		copy(dst, values[from:])
		return nil
	}}
}

func floats(t testing.TB, x format.Tensor) []float32 {
	t.Helper()
	v, err := x.Floats()
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// apply runs a layer on x [.., D] as a graph.
func apply(t testing.TB, x format.Tensor, layer func(g *graph.Graph, x *graph.Value) *graph.Value) imagebind.Tensor {
	t.Helper()
	if _, err := ort.Load(""); err != nil {
		golden.Need(t, "ort", "wants onnxruntime: "+err.Error())
	}
	g, err := graph.Build(func(g *graph.Graph) {
		dims := []any{"N"}
		for _, d := range x.Shape[1:] {
			dims = append(dims, d)
		}
		g.Output("y", g.Cast(layer(g, g.Input("x", onnx.Float, dims...)), onnx.Float))
	})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "g.onnx")
	if err := g.Save(path, nil); err != nil {
		t.Fatal(err)
	}
	s, err := ort.Open(path, ort.Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	out, err := s.Compute(t.Context(), map[string]imagebind.Tensor{"x": {Shape: x.Shape, Floats: floats(t, x)}})
	if err != nil {
		t.Fatal(err)
	}
	return out["y"]
}

// affine is x·Wᵀ + b in float64, for x [n, in].
func affine(x, w, b []float32, in int) []float32 {
	out := len(w) / in
	y := make([]float32, len(x)/in*out)
	for i := range y {
		row, o := x[i/out*in:][:in], i%out
		sum := float64(0)
		if b != nil {
			sum = float64(b[o])
		}
		for k, v := range row {
			sum += float64(v) * float64(w[o*in+k])
		}
		y[i] = float32(sum)
	}
	return y
}

// dequantised is what MatMulNBits takes the weight for.
func dequantised(w []float32, in int, p Precision) []float32 {
	out := slices.Clone(w)
	q := make([]uint8, Block)
	for row := range slices.Chunk(out, in) {
		for block := range slices.Chunk(row, Block) {
			scale, zero := float32(0), uint8(1)<<(p.bits()-1)
			if p == Int4A {
				scale, zero = QuantiseZero(q, block)
			} else {
				scale = Quantise(q, block, p.bits())
			}
			for i := range block {
				block[i] = scale * (float32(q[i]) - float32(zero))
			}
		}
	}
	return out
}

// TestLinear: two weights side by side, one with a bias; inputs that are and
// are not a multiple of a block; more rows than a tile.
func TestLinear(t *testing.T) {
	for _, in := range []int{96, 80} {
		x := random(1, 3, 5, in)
		w1, w2, b := random(2, 70, in), random(3, 40, in), random(4, 40)
		w := slices.Concat(floats(t, w1), floats(t, w2))
		bias := slices.Concat(make([]float32, 70), floats(t, b))
		for _, tt := range []struct {
			Precision
			accuracy int
			want     []float32 // the weight that it should act as
			tol      float64   // results are about √in = 10 large
		}{
			{FP32, 0, w, 3e-5},
			{FP16, 0, w, 5e-2},
			{Int8, 0, dequantised(w, in, Int8), 3e-5},
			{Int4, 0, dequantised(w, in, Int4), 3e-5},
			{Int4A, 0, dequantised(w, in, Int4A), 3e-5},
			{Int8, 4, dequantised(w, in, Int8), 0.5}, // x is rounded to 8 bits too
			{Int4, 4, dequantised(w, in, Int4), 0.5},
			{Int4A, 4, dequantised(w, in, Int4A), 0.5},
		} {
			t.Run(fmt.Sprintf("%s, accuracy %d, %d wide", tt.Precision, tt.accuracy, in), func(t *testing.T) {
				l := Linear{
					Name: "l", Weight: []format.Tensor{w1, w2}, Bias: []format.Tensor{{}, b},
					Precision: tt.Precision, Accuracy: tt.accuracy,
				}
				got := apply(t, x, func(g *graph.Graph, x *graph.Value) *graph.Value {
					return l.Apply(g, g.Cast(x, tt.Activations()))
				})
				if !slices.Equal(got.Shape, []int{3, 5, 110}) {
					t.Fatalf("shape is %v", got.Shape)
				}
				worst := golden.Close(t, got.Floats, affine(floats(t, x), tt.want, bias, in), tt.tol)
				t.Logf("off by %.2g", worst)
			})
		}
	}
}

// TestLinearHalfScales: quantised weights in a float16 graph have float16 scales.
func TestLinearHalfScales(t *testing.T) {
	x, w := random(1, 4, 64), random(2, 8, 64)
	l := Linear{Name: "l", Weight: []format.Tensor{w}, Precision: Int4}
	got := apply(t, x, func(g *graph.Graph, x *graph.Value) *graph.Value { return l.Apply(g, g.Cast(x, onnx.Float16)) })
	golden.Close(t, got.Floats, affine(floats(t, x), dequantised(floats(t, w), 64, Int4), nil, 64), 5e-2)
}

// TestLinearHalf: a weight of half precision, stored so, acts as itself, and the
// file is half as large.
func TestLinearHalf(t *testing.T) {
	x, w := random(1, 3, 64), random(2, 8, 64)
	values := floats(t, w)
	for i, v := range values {
		values[i] = float16.Fromfloat32(v).Float32()
	}
	l := Linear{Name: "l", Weight: []format.Tensor{tensor(values, 8, 64)}, Half: true}
	var g *graph.Graph
	got := apply(t, x, func(graph *graph.Graph, x *graph.Value) *graph.Value {
		g = graph
		return l.Apply(graph, x)
	})
	golden.Close(t, got.Floats, affine(floats(t, x), values, nil, 64), 1e-5)
	if n := g.Tensors()[0].Bytes; n != 2*8*64 {
		t.Errorf("stored in %d bytes", n)
	}
	if _, err := graph.Build(func(g *graph.Graph) { g.Output("y", l.Apply(g, g.Input("x", onnx.Float, 3, 64))) }); err == nil {
		t.Error("a graph without open dimensions has nothing that is known late")
	}
}

func TestLinearErrors(t *testing.T) {
	failing := random(1, 4, 8)
	failing.Name, failing.Read = "w.broken", func([]float32, int) error { return errors.New("disk on fire") }
	for _, tt := range []struct {
		name string
		l    Linear
		want string
	}{
		{"input", Linear{Name: "l", Weight: []format.Tensor{random(1, 4, 9)}}, "tensor t[4 9] has shape [4 9], want [.. 8]"},
		{"rank", Linear{Name: "l", Weight: []format.Tensor{random(1, 8)}}, "has shape [8]"},
		{"bias", Linear{Name: "l", Weight: []format.Tensor{random(1, 4, 8)}, Bias: []format.Tensor{random(1, 5)}}, "has shape [5], want [4]"},
		{"biases", Linear{Name: "l", Weight: []format.Tensor{random(1, 4, 8)}, Bias: []format.Tensor{{}, random(1, 4)}}, "2 biases for 1 weights"},
		{"broken", Linear{Name: "l", Weight: []format.Tensor{failing}}, "tensor w.broken: disk on fire"},
		{"broken int8", Linear{Name: "l", Weight: []format.Tensor{failing}, Precision: Int8}, "tensor w.broken: disk on fire"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g, err := graph.Build(func(g *graph.Graph) { g.Output("y", tt.l.Apply(g, g.Input("x", onnx.Float, "N", 8))) })
			if err == nil {
				err = g.Save(filepath.Join(t.TempDir(), "g.onnx"), nil)
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error is %v, want %q", err, tt.want)
			}
		})
	}
}

// TestQuantise: half a step at most is lost, and what ggml's Q4_0 or Q8_0
// stored comes out as it was.
func TestQuantise(t *testing.T) {
	w := floats(t, random(7, 100, Block))
	q, q2 := make([]uint8, Block), make([]uint8, Block)
	for _, bits := range []int{4, 8} {
		zero := float64(int(1) << (bits - 1))
		for block := range slices.Chunk(w, Block) {
			scale := float64(Quantise(q, block, bits))
			for i, x := range block {
				back := scale * (float64(q[i]) - zero)
				// Four bits end at +7 steps: what is opposite to the largest may lose a whole one.
				limit := math.Abs(scale) * 0.51 // a float16's rounding, 127 times
				if bits == 4 && q[i] == 15 {
					limit *= 2
				}
				if math.Abs(back-float64(x)) > limit {
					t.Fatalf("%d bits: %v became %v, step %v", bits, x, back, scale)
				}
			}
			half := float32(scale)
			if half != float16.Fromfloat32(half).Float32() {
				t.Fatalf("scale %v is no float16", half)
			}
			stored := make([]float32, Block)
			for i := range stored {
				stored[i] = half * float32(float64(q[i])-zero)
			}
			if s := Quantise(q2, stored, bits); s != half || !slices.Equal(q, q2) {
				t.Fatalf("%d bits: quantised twice it differs: %v, %v", bits, s, half)
			}
		}
	}
	if s := Quantise(q[:3], make([]float32, 3), 4); s != 0 || !slices.Equal(q[:3], []uint8{8, 8, 8}) {
		t.Errorf("zeros: %v, %v", s, q[:3])
	}
}

// TestPacking: the first weight of a row is the low nibble of its first byte.
func TestPacking(t *testing.T) {
	var b bytes.Buffer
	values := make([]float32, 2*40)
	values[0], values[1], values[39], values[40] = -8, 7, 4, -8
	m := matrix{tensors: []format.Tensor{tensor(values, 2, 40)}, precision: Int4}
	got, err := m.write(&b)
	if err != nil {
		t.Fatal(err)
	}
	row := b.Bytes()
	// 4 alone in the second block is the extreme, -8·(-0.5), and the block is filled with zeros (8).
	if len(row) != 2*2*16 || row[0] != 0xf0 || row[1] != 0x88 || row[16+3] != 0x08 || row[16+15] != 0x88 || row[32] != 0x80 {
		t.Errorf("packed as % x", row)
	}
	if !slices.Equal(got.scales, []float32{1, -0.5, 1, 0}) || got.zeros != nil {
		t.Errorf("scales are %v, zero points %v", got.scales, got.zeros)
	}
}

// TestPackingZeros: a row of three blocks has its zero points in two bytes, and
// the weights of the last block's end are 0.
func TestPackingZeros(t *testing.T) {
	var b bytes.Buffer
	values := make([]float32, 70)
	for i := range 15 {
		values[i] = float32(i) + 1 // 0..15: zero point 0
		values[32+i] = float32(-i) - 1
	}
	values[64], values[65] = -4, 11 // zero point 4
	m := matrix{tensors: []format.Tensor{tensor(values, 1, 70)}, precision: Int4A}
	got, err := m.write(&b)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got.zeros, []byte{0xf0, 0x04}) || !slices.Equal(got.scales, []float32{1, 1, 1}) {
		t.Errorf("zero points % x, scales %v", got.zeros, got.scales)
	}
	if row := b.Bytes(); len(row) != 48 || row[0] != 0x21 || row[15] != 0x00 || row[16] != 0xde || row[31] != 0xff || row[32] != 0xf0 || row[33] != 0x44 {
		t.Errorf("packed as % x", row)
	}
}

// TestQuantiseZero: it leaves less than the grid between the ends does, 0 stays
// 0, and what is on such a grid already comes out as it was.
func TestQuantiseZero(t *testing.T) {
	q, again := make([]uint8, Block), make([]uint8, Block)
	var found, plain float64
	for block := range slices.Chunk(floats(t, random(8, 100, Block)), Block) {
		block[5] = 0
		scale, zero := QuantiseZero(q, block)
		step := (slices.Max(block) - slices.Min(block)) / 15
		from := float32(math.Round(float64(slices.Min(block) / step))) // the zero point is an integer
		stored := make([]float32, Block)
		for i, x := range block {
			stored[i] = scale * (float32(q[i]) - float32(zero))
			found += math.Pow(float64(stored[i]-x), 2)
			plain += math.Pow(float64(step*max(from, min(from+15, float32(math.Round(float64(x/step)))))-x), 2)
		}
		if stored[5] != 0 {
			t.Fatalf("0 became %v", stored[5])
		}
		if s, z := QuantiseZero(again, stored); slices.Contains(q, 0) && slices.Contains(q, 15) && (s != scale || z != zero || !slices.Equal(again, q)) {
			t.Fatalf("quantised twice it differs: %v and %v, %v and %v", s, scale, z, zero)
		}
	}
	if t.Logf("squares: %.4g, of the grid between the ends %.4g", found, plain); found > 0.95*plain {
		t.Errorf("squares: %.4g, of the grid between the ends %.4g", found, plain)
	}
	if s, z := QuantiseZero(q[:3], make([]float32, 3)); s != 0 || z != 0 || !slices.Equal(q[:3], []uint8{0, 0, 0}) {
		t.Errorf("zeros: %v, %v, %v", s, z, q[:3])
	}
}

// TestEmbedding: rows of every precision, some of them twice, of widths that are
// and are not a multiple of a block.
func TestEmbedding(t *testing.T) {
	ids := []float32{3, 0, 9, 3, 1, 2}
	for _, d := range []int{64, 80} {
		w := random(5, 10, d)
		for p, tol := range map[Precision]float64{FP32: 0, FP16: 2e-3, Int8: 0, Int4: 0} {
			want, table := make([]float32, 0, 6*d), floats(t, w)
			if p.Quantised() {
				table = dequantised(table, d, p)
			}
			for _, id := range ids {
				want = append(want, table[int(id)*d:(int(id)+1)*d]...)
			}
			got := apply(t, tensor(ids, 2, 3), func(g *graph.Graph, x *graph.Value) *graph.Value {
				e := &Embedding{Name: "e", Weight: w, Precision: p}
				return e.Apply(g, g.Cast(x, onnx.Int64), onnx.Float)
			})
			if !slices.Equal(got.Shape, []int{2, 3, d}) {
				t.Fatalf("%s: shape is %v", p, got.Shape)
			}
			golden.Close(t, got.Floats, want, tol)
		}
	}
}

// TestTied: a head that is the table is stored with it where both are stored
// alike and rows fill their blocks.
func TestTied(t *testing.T) {
	for _, tt := range []struct {
		d           int
		table, head Precision
		once        bool
	}{{64, Int8, Int8, true}, {64, Int4, Int4, true}, {80, Int8, Int8, false}, {64, Int8, Int4, false}, {64, FP16, Int8, false}} {
		w, x := random(5, 1000, tt.d), random(6, 3, tt.d)
		var bytes int64
		got := apply(t, x, func(g *graph.Graph, x *graph.Value) *graph.Value {
			e := &Embedding{Name: "e", Weight: w, Precision: tt.table}
			zero := g.Const(onnx.Float, 0)
			rows := e.Apply(g, g.Cast(g.Mul(g.Slice(x, 1, 0, 1), zero), onnx.Int64), onnx.Float)
			head := Linear{Name: "h", Weight: []format.Tensor{w}, Precision: tt.head, Table: e}
			y := head.Apply(g, g.Add(x, g.Mul(g.Reshape(rows, -1, tt.d), zero)))
			for _, w := range g.Tensors() {
				bytes += w.Bytes
			}
			return y
		})
		golden.Close(t, got.Floats, affine(floats(t, x), dequantised(floats(t, w), tt.d, tt.head), nil, tt.d), 3e-5)
		blocks := int64(1000 * ((tt.d + Block - 1) / Block))
		once := blocks * int64(Block*tt.head.bits()/8+4)
		if tt.once != (bytes < once+once/2) {
			t.Errorf("%+v: %d bytes, a matrix has %d", tt, bytes, once)
		}
	}
}

func TestTransposed(t *testing.T) {
	a, b := random(1, 130, 201), random(2, 67, 201)
	var out bytes.Buffer
	if err := writeTransposed(&out, onnx.Float, []format.Tensor{a, b}); err != nil {
		t.Fatal(err)
	}
	src := slices.Concat(floats(t, a), floats(t, b))
	for k := range 201 {
		for o := range 197 {
			got := math.Float32frombits(binary.LittleEndian.Uint32(out.Bytes()[4*(k*197+o):]))
			if got != src[o*201+k] {
				t.Fatalf("at %d, %d: %v, want %v", k, o, got, src[o*201+k])
			}
		}
	}
	if err := writeTransposed(failWriter{}, onnx.Float, []format.Tensor{a}); err == nil {
		t.Error("a write that failed is not reported")
	}
}

type failWriter struct{}

func (failWriter) Write([]byte) (int, error) { return 0, errors.New("full") }

// TestWeight: tensors longer than a chunk, as float16.
func TestWeight(t *testing.T) {
	x := random(1, chunk+17)
	var out bytes.Buffer
	if err := write(&out, onnx.Float16, x); err != nil {
		t.Fatal(err)
	}
	for i, v := range floats(t, x) {
		if got := binary.LittleEndian.Uint16(out.Bytes()[2*i:]); got != float16.Fromfloat32(v).Bits() {
			t.Fatalf("at %d: %v", i, got)
		}
	}
}

func TestNorms(t *testing.T) {
	const d = 24
	x, w, b := random(1, 5, d), random(2, d), random(3, d)
	xs, ws, bs := floats(t, x), floats(t, w), floats(t, b)
	want := func(eps float64, center bool, times float64) []float32 {
		var out []float32
		for row := range slices.Chunk(xs, d) {
			var mean, square float64
			for _, v := range row {
				mean += times * float64(v) / d
			}
			if !center {
				mean = 0
			}
			for _, v := range row {
				square += (times*float64(v) - mean) * (times*float64(v) - mean) / d
			}
			for i, v := range row {
				y := (times*float64(v) - mean) / math.Sqrt(square+eps) * float64(ws[i])
				if center {
					y += float64(bs[i])
				}
				out = append(out, float32(y))
			}
		}
		return out
	}
	layer, rms := LayerNorm{Name: "n", Weight: w, Bias: b, Eps: 1e-2}, RMSNorm{Name: "n", Weight: w, Eps: 1e-2}
	for name, tt := range map[string]struct {
		f    func(*graph.Graph, *graph.Value) *graph.Value
		want []float32
	}{
		"layer": {layer.Apply, want(1e-2, true, 1)},
		"rms":   {rms.Apply, want(1e-2, false, 1)},
		"rms, of a sum": {func(g *graph.Graph, x *graph.Value) *graph.Value {
			n, _ := rms.Skip(g, x, x)
			return n
		}, want(1e-2, false, 2)},
	} {
		t.Run(name, func(t *testing.T) { golden.Close(t, apply(t, x, tt.f).Floats, tt.want, 1e-5) })
	}
}

func TestEmbeddingAndSiLU(t *testing.T) {
	table := random(1, 9, 4)
	ids := tensor([]float32{8, 0, 3}, 3)
	got := apply(t, ids, func(g *graph.Graph, x *graph.Value) *graph.Value {
		return SiLU(g, (&Embedding{Name: "e", Weight: table}).Apply(g, g.Cast(x, onnx.Int64), onnx.Float))
	})
	v := floats(t, table)
	want := slices.Concat(v[32:], v[:4], v[12:16])
	for i, x := range want {
		want[i] = float32(float64(x) / (1 + math.Exp(-float64(x))))
	}
	golden.Close(t, got.Floats, want, 1e-6)
}

// TestAttention against the formula, with and without the extra key and value
// and the mask.
func TestAttention(t *testing.T) {
	const batch, tokens, d, heads = 2, 5, 12, 3
	x, w, b := random(1, batch, tokens, d), random(2, 3*d, d), random(3, 3*d)
	ow, ob := random(4, d, d), random(5, d)
	bk, bv := random(6, 1, 1, d), random(7, 1, 1, d)
	for _, tt := range []struct{ causal, extra bool }{{false, false}, {true, false}, {false, true}} {
		t.Run(fmt.Sprintf("causal %v, extra %v", tt.causal, tt.extra), func(t *testing.T) {
			l := Attention{
				QKV:   Linear{Name: "qkv", Weight: []format.Tensor{w}, Bias: []format.Tensor{b}},
				Out:   Linear{Name: "out", Weight: []format.Tensor{ow}, Bias: []format.Tensor{ob}},
				Heads: heads, Causal: tt.causal,
			}
			if tt.extra {
				l.BiasK, l.BiasV = bk, bv
			}
			qkv := affine(floats(t, x), floats(t, w), floats(t, b), d)
			mixed := make([]float32, batch*tokens*d)
			for i := range batch {
				for h := range heads {
					for q := range tokens {
						attend(t, mixed, qkv, tt.causal, tt.extra, bk, bv, i, h, q)
					}
				}
			}
			got := apply(t, x, func(g *graph.Graph, x *graph.Value) *graph.Value {
				return l.Out.Apply(g, l.Attend(g, g.Reshape(x, -1, d), "N", tokens))
			})
			golden.Close(t, got.Floats, affine(mixed, floats(t, ow), floats(t, ob), d), 3e-5)
		})
	}
}

// attend writes one query's result of one head; sizes as in TestAttention.
func attend(t *testing.T, dst, qkv []float32, causal, extra bool, bk, bv format.Tensor, i, h, q int) {
	t.Helper()
	const tokens, d, heads, dh = 5, 12, 3, 4
	at := func(part, token int) []float32 { return qkv[((i*tokens+token)*3+part)*d+h*dh:][:dh] }
	var keys, values [][]float32
	for k := range tokens {
		if !causal || k <= q {
			keys, values = append(keys, at(1, k)), append(values, at(2, k))
		}
	}
	if extra {
		keys, values = append(keys, floats(t, bk)[h*dh:][:dh]), append(values, floats(t, bv)[h*dh:][:dh])
	}
	weights, sum := make([]float64, len(keys)), 0.0
	for k := range keys {
		var dot float64
		for c := range dh {
			dot += float64(at(0, q)[c]) * float64(keys[k][c])
		}
		weights[k] = math.Exp(dot / math.Sqrt(dh))
		sum += weights[k]
	}
	for c := range dh {
		var y float64
		for k := range keys {
			y += weights[k] / sum * float64(values[k][c])
		}
		dst[(i*tokens+q)*d+h*dh+c] = float32(y)
	}
}

func TestParsePrecision(t *testing.T) {
	for name, want := range map[string]Precision{"": FP32, "fp32": FP32, "fp16": FP16, "int8": Int8, "int4": Int4, "int4a": Int4A} {
		if p, err := ParsePrecision(name); p != want || err != nil {
			t.Errorf("%q: %v, %v", name, p, err)
		}
	}
	if _, err := ParsePrecision("bf16"); imagebind.KindOf(err) != imagebind.Invalid {
		t.Errorf("error is %v", err)
	}
}

// The widest product of LLaMA-7B: 180 MB.
func benchmarkWrite(b *testing.B, f func(io.Writer, format.Tensor) error) {
	w := random(1, 11008, 4096)
	b.SetBytes(int64(4 * w.Len()))
	for b.Loop() {
		if err := f(io.Discard, w); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkTransposed(b *testing.B) {
	benchmarkWrite(b, func(w io.Writer, t format.Tensor) error {
		return writeTransposed(w, onnx.Float, []format.Tensor{t})
	})
}

func BenchmarkTransposedHalf(b *testing.B) {
	benchmarkWrite(b, func(w io.Writer, t format.Tensor) error {
		return writeTransposed(w, onnx.Float16, []format.Tensor{t})
	})
}

func BenchmarkQuantised(b *testing.B) {
	for _, p := range []Precision{Int8, Int4, Int4A} {
		b.Run(string(p), func(b *testing.B) {
			benchmarkWrite(b, func(w io.Writer, t format.Tensor) error {
				m := matrix{tensors: []format.Tensor{t}, precision: p}
				_, err := m.write(w)
				return err
			})
		})
	}
}
