package verify

import (
	"context"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strings"

	imagebind "imagebind-llm"
	"imagebind-llm/internal/format/safetensors"
	"imagebind-llm/internal/ort"
	"imagebind-llm/runner/bundle"
	"imagebind-llm/runner/modality/point"
)

// encoders runs each case <encoder>[_what] of the goldens in dir through its graph.
func (v *verifier) encoders(ctx context.Context, dir string) error {
	return v.each(dir, v.b.Encoders, func(f *safetensors.File, e bundle.Encoder, s *ort.Session) error {
		for _, t := range f.Tensors() {
			name, isInput := strings.CutSuffix(t.Name, "/input")
			if !isInput || name != e.Name && !strings.HasPrefix(name, e.Name+"_") {
				continue
			}
			in, items, err := clips(f, t.Name, e)
			if err != nil {
				return err
			}
			if items == 0 {
				v.skip("%s: its input %v is no batch of %v", name, t.Shape, e.Input)
				continue
			}
			if err := v.encoder(ctx, f, name, e, s, in, items, 0); err != nil {
				return err
			}
		}
		return nil
	})
}

// nearTie is a case in which two points are as far from a centre, but for
// 2.5e-8: either may be its neighbour.
const nearTie = "real_grouping_8192"

// points does the same for clouds, which are grouped here; encoders are those
// that serve them.
func (v *verifier) points(ctx context.Context, dir string, encoders []bundle.Encoder) error {
	return v.each(dir, encoders, func(f *safetensors.File, e bundle.Encoder, s *ort.Session) error {
		for _, t := range f.Tensors() {
			name, isInput := strings.CutSuffix(t.Name, "/input")
			if !isInput {
				continue
			}
			near, _ := f.Tensor(name + "/neighbour_index_sorted") // [B, G, K]
			if len(near.Shape) != 3 || near.Shape[1] != e.Input[0] || near.Shape[2] != e.Input[1]-1 {
				v.skip("%s: groups of %v, the bundle's encoder takes %v", name, near.Shape, e.Input)
				continue
			}
			clouds, err := floats(f, name+"/input")
			if err != nil {
				return err
			}
			start, err := floats(f, name+"/start_index")
			if err != nil {
				return err
			}
			in := imagebind.Tensor{Shape: append([]int{len(start)}, e.Input...)}
			for i, from := range start {
				n := len(clouds) / len(start)
				in.Floats = append(in.Floats, point.Group(clouds[i*n:(i+1)*n], near.Shape[1], near.Shape[2], int(from))...)
			}
			least := 0.0
			if name == nearTie {
				least = 1e-4
			}
			if err := v.encoder(ctx, f, name, e, s, in, len(start), least); err != nil {
				return err
			}
		}
		return nil
	})
}

// each calls run with the goldens in dir for every one of the encoders, opened.
func (v *verifier) each(dir string, encoders []bundle.Encoder, run func(*safetensors.File, bundle.Encoder, *ort.Session) error) error {
	f, err := safetensors.Open(filepath.Join(dir, "goldens.safetensors"))
	if err != nil {
		return err
	}
	defer f.Close()
	for _, e := range encoders {
		s, err := ort.Open(v.b.Path(e.Graph), v.o)
		if err != nil {
			return err
		}
		err = run(f, e, s)
		if err := errors.Join(err, s.Close()); err != nil {
			return fmt.Errorf("encoder %s: %w", e.Name, err)
		}
	}
	return nil
}

// encoder holds the outputs for in, the clips of so many items, against a
// case's, within the precision's tolerance or least.
func (v *verifier) encoder(ctx context.Context, f *safetensors.File, name string, e bundle.Encoder, s *ort.Session, in imagebind.Tensor, items int, least float64) error {
	tol, ok := encoderTolerance[e.Precision]
	if !ok {
		return fmt.Errorf("no tolerance is known for precision %q", e.Precision)
	}
	tol = max(tol, least)
	got, err := s.Compute(ctx, map[string]imagebind.Tensor{"input": in})
	if err != nil {
		return err
	}
	length := 1.0 // of prenorm
	for _, what := range []string{"prenorm", "embedding"} {
		want, err := floats(f, name+"/"+what)
		if err != nil {
			return err
		}
		if len(want) != items*e.Embed {
			v.skip("%s: its outputs have %d values, the bundle's encoder gives %d", name, len(want)/items, e.Embed)
			return nil
		}
		have := mean(got[what].Floats, items, e.Embed)
		t, note := tol, ""
		if what == "prenorm" {
			length = norm(want[:e.Embed])
		} else { // prenorm made 1 long, times the logit scale; rounding makes it no better than float32
			t = math.Max(tol*norm(want[:e.Embed])/length, encoderTolerance["fp32"])
			note = fmt.Sprintf("cosine %.6f", cosine(have, want, e.Embed))
		}
		v.add("encoder "+e.Name+" "+e.Precision, name+"/"+what, diff(have, want), t, note)
	}
	return nil
}

// clips reads an input [B, …] or [B, S, …] as B·S clips of the encoder; items
// is B, or 0 where the shape does not fit. A still picture [B, C, H, W] fits an
// encoder of [C, T, H, W]: it is repeated T times, as by ImageBind's PadIm2Video.
func clips(f *safetensors.File, name string, e bundle.Encoder) (in imagebind.Tensor, items int, err error) {
	t, _ := f.Tensor(name)
	still := len(e.Input) == 4 && len(t.Shape) == 4 && slices.Equal(t.Shape[1:], slices.Delete(slices.Clone(e.Input), 1, 2))
	lead := len(t.Shape) - len(e.Input)
	if !still && (lead < 1 || lead > 2 || !slices.Equal(t.Shape[lead:], e.Input)) {
		return in, 0, nil
	}
	values, err := t.Floats()
	if err != nil {
		return in, 0, err
	}
	if still {
		lead = 1
		values = repeated(values, e.Input[2]*e.Input[3], e.Input[1])
	}
	in.Shape = append([]int{imagebind.Size(t.Shape[:lead])}, e.Input...)
	in.Floats = values
	if e.Ints {
		in.Floats, in.Ints = nil, make([]int64, len(values))
		for i, x := range values {
			in.Ints[i] = int64(x)
		}
	}
	return in, t.Shape[0], nil
}

// repeated returns each plane of that many values n times.
func repeated(values []float32, plane, n int) []float32 {
	out := make([]float32, 0, n*len(values))
	for p := range slices.Chunk(values, plane) {
		for range n {
			out = append(out, p...)
		}
	}
	return out
}

// cosine returns the smallest of each two rows [E].
func cosine(a, b []float32, e int) float64 {
	least := 1.0
	for i := 0; i+e <= len(a); i += e {
		x, y := a[i:i+e], b[i:i+e]
		least = min(least, imagebind.Embedding(x).Dot(y)/(norm(x)*norm(y)))
	}
	return least
}

// mean averages clips [items·S, E] to [items, E].
func mean(x []float32, items, e int) []float32 {
	clips := len(x) / (items * e)
	out := make([]float32, items*e)
	for i := range out {
		var sum float64
		for c := range clips {
			sum += float64(x[(i/e*clips+c)*e+i%e])
		}
		out[i] = float32(sum / float64(clips))
	}
	return out
}
