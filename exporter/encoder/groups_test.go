package encoder

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	imagebind "imagebind-llm"
	"imagebind-llm/exporter/graph"
	"imagebind-llm/exporter/onnx"
	"imagebind-llm/internal/golden"
	"imagebind-llm/internal/ort"
	"imagebind-llm/runner/modality"
	"imagebind-llm/runner/modality/point"
)

// pointCases are the golden clouds of an encoder's number of groups, grouped as
// the reference grouped them.
func pointCases(t testing.TB, enc modality.Encoder) []expected {
	t.Helper()
	f := golden.Open(t, pointTiny+"goldens.safetensors")
	var list []expected
	for _, n := range f.Names() {
		name, ok := strings.CutSuffix(n, "/neighbour_index_sorted")
		if near := f.Tensor(t, n); ok && near.Shape[1] == enc.Input[0] {
			input := regroup(f.Tensor(t, name+"/input"), f.Tensor(t, name+"/fps_index").Values, near)
			list = append(list, expected{name, input, f.Tensor(t, name+"/prenorm"), f.Tensor(t, name+"/embedding")})
		}
	}
	if len(list) == 0 {
		t.Fatalf("no golden of %d groups", enc.Input[0])
	}
	return list
}

// regroup makes [B, G, K+1, 3] of clouds [B, N, 3], the indices of the centres
// [B, G] and of their neighbours [B, G, K].
func regroup(clouds golden.Tensor, centres []float32, near golden.Tensor) imagebind.Tensor {
	b, g, k := near.Shape[0], near.Shape[1], near.Shape[2]
	out := imagebind.NewFloats(b, g, k+1, 3)
	dst := out.Floats
	for i, c := range centres {
		cloud := clouds.Values[i/g*clouds.Shape[1]*3:]
		centre := cloud[3*int(c):][:3]
		copy(dst, centre)
		dst = dst[3:]
		for _, n := range near.Values[i*k : (i+1)*k] {
			for axis := range 3 {
				dst[axis] = cloud[3*int(n)+axis] - centre[axis]
			}
			dst = dst[3:]
		}
	}
	return out
}

// TestGroups holds the point encoder's inside against the reference's, and the
// same clouds once more grouped by package point.
//
// real_grouping_8192 may differ by 1e-4 then: two points are as far from a
// centre but for 2.5e-8, and either may be its neighbour. The reference itself
// differs by 5e-6 there between float32 and float64.
func TestGroups(t *testing.T) {
	src := load(t)
	f := golden.Open(t, pointTiny+"goldens.safetensors")
	for _, size := range []struct{ groups, size int }{{64, 16}, {512, 32}} {
		enc := pointEncoder(size.groups, size.size)
		path, info := export(t, src, enc, Options{Heads: 4, Taps: true})
		s := session(t, path)
		for _, c := range pointCases(t, enc) {
			t.Run(c.name, func(t *testing.T) {
				out, err := s.Compute(t.Context(), map[string]imagebind.Tensor{"input": c.input}, "groups", "feature", "projected", "prenorm")
				if err != nil {
					t.Fatal(err)
				}
				tokens := f.Tensor(t, c.name+"/group_tokens") // of the first 64 groups
				var got []float32
				for one := range slices.Chunk(out["groups"].Floats, size.groups*tokens.Shape[2]) {
					got = append(got, one[:64*tokens.Shape[2]]...)
				}
				golden.Close(t, got, tokens.Values, 1e-5)
				golden.Close(t, out["feature"].Floats, f.Tensor(t, c.name+"/encoder_feature").Values, 1e-5)
				golden.Close(t, out["projected"].Floats, f.Tensor(t, c.name+"/projected").Values, 1e-5)
				worst := golden.Close(t, out["prenorm"].Floats, c.prenorm.Values, 1e-5)

				clouds, start := f.Tensor(t, c.name+"/input"), f.Tensor(t, c.name+"/start_index").Values
				ours := imagebind.Tensor{Shape: c.input.Shape}
				for i, from := range start {
					n := clouds.Shape[1] * 3
					ours.Floats = append(ours.Floats, point.Group(clouds.Values[i*n:(i+1)*n], size.groups, size.size, int(from))...)
				}
				tol := 1e-5
				if size.groups == 512 {
					tol = 1e-4
				}
				prenorm, _ := run(t, s, expected{input: ours, prenorm: c.prenorm})
				t.Logf("prenorm %.1e; grouped here %.1e", worst, golden.Close(t, prenorm, c.prenorm.Values, tol))
			})
		}
		if info.Tokens != size.groups+1 || info.Layers != 3 || info.Width != 48 {
			t.Errorf("%+v", info)
		}
	}
}

func TestGroupsErrors(t *testing.T) {
	enc := pointEncoder(64, 16)
	const p = "point_trunk.point_encoder."
	src := load(t)
	delete(src, "point_trunk.pc_projection")
	delete(src, p+"encoder.first_conv.1.running_var")
	delete(src, p+"encoder.second_conv.3.weight")
	src[p+"extra"] = src[p+"norm.weight"]
	src[p+"cls_pos"] = src[p+"norm.weight"]
	_, _, err := Build(src, enc, Options{Heads: 4})
	for _, want := range []string{"point_trunk.pc_projection is missing", "first_conv.1.running_var is missing", "second_conv.3.weight is missing", p + "extra is not part", p + "cls_pos has shape [48], want [1 1 48]"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in: %v", want, err)
		}
	}
	if imagebind.KindOf(err) != imagebind.Invalid {
		t.Errorf("kind of %v", err)
	}
	if strings.Contains(err.Error(), "want [0]") {
		t.Errorf("what follows from a missing tensor is named too: %v", err)
	}
	src = load(t)
	v := src[p+"encoder.first_conv.1.running_var"]
	v.Read = func(dst []float32, _ int) error {
		for i := range dst {
			dst[i] = -1
		}
		return nil
	}
	src[v.Name] = v
	g, _, err := Build(src, enc, Options{Heads: 4})
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Save(filepath.Join(t.TempDir(), "g.onnx"), nil); err == nil || !strings.Contains(err.Error(), v.Name) {
		t.Errorf("a variance of -1: %v", err)
	}
	src = load(t)
	scale := src["modality_postprocessors.point.1.log_logit_scale"]
	scale.Shape = []int{2}
	src[scale.Name] = scale
	if _, _, err := Build(src, enc, Options{Heads: 4}); err == nil || !strings.Contains(err.Error(), scale.Name+" has shape [2]") {
		t.Errorf("two scales: %v", err)
	}
	enc.Input = []int{8192, 3}
	if _, _, err := Build(load(t), enc, Options{Heads: 4}); err == nil || !strings.Contains(err.Error(), "[G, K+1, 3]") {
		t.Errorf("a cloud as input: %v", err)
	}
}

// BenchmarkNearest compares the two places that 32 neighbours of 512 centres
// among 8192 points can be found in: a graph (all distances as one product,
// then TopK), and package point, which chooses the centres too. One thread each.
func BenchmarkNearest(b *testing.B) {
	const n, groups, size = 8192, 512, 32
	f := golden.Open(b, pointTiny+"goldens.safetensors")
	cloud := f.Tensor(b, "real_grouping_8192/input").Values[:3*n]
	b.Run("graph", func(b *testing.B) {
		g, err := graph.Build(func(g *graph.Graph) {
			points, centres := g.Input("points", onnx.Float, n, 3), g.Input("centres", onnx.Float, groups, 3)
			squares := g.Reshape(g.ReduceSum(g.Mul(points, points), 1), 1, n)
			distance := g.Sub(squares, g.Mul(g.Const(onnx.Float, 2), g.MatMul(centres, g.Transpose(points, 1, 0))))
			found := []graph.Dim{{N: groups}, {N: size}}
			near := g.OpN("", "TopK", []*graph.Value{distance, g.Ints(size)},
				[]graph.Out{{DType: onnx.Float, Shape: found}, {DType: onnx.Int64, Shape: found}},
				graph.Int("largest", 0), graph.Int("sorted", 0))[1]
			g.Output("neighbours", g.Sub(g.Gather(points, near, 0), g.Unsqueeze(centres, 1)))
		})
		if err != nil {
			b.Fatal(err)
		}
		path := filepath.Join(b.TempDir(), "nearest.onnx")
		if err := g.Save(path, nil); err != nil {
			b.Fatal(err)
		}
		s, err := ort.Open(path, ort.Options{Threads: 1})
		if err != nil {
			b.Fatal(err)
		}
		defer s.Close()
		centres := make([]float32, 0, 3*groups)
		for i := range groups {
			centres = append(centres, cloud[3*16*i:][:3]...)
		}
		in := map[string]imagebind.Tensor{"points": {Shape: []int{n, 3}, Floats: cloud}, "centres": {Shape: []int{groups, 3}, Floats: centres}}
		for b.Loop() {
			if _, err := s.Compute(b.Context(), in, "neighbours"); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("go, with the centres", func(b *testing.B) {
		for b.Loop() {
			point.Group(cloud, groups, size, 0)
		}
	})
}
