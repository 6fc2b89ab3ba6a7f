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
	"imagebind-llm/runner/bundle"
	"imagebind-llm/runner/ort"
)

// encoders runs each case <encoder>[_what] of the goldens through its graph.
func (v *verifier) encoders(ctx context.Context, dir string) error {
	f, err := safetensors.Open(filepath.Join(dir, "goldens.safetensors"))
	if err != nil {
		return err
	}
	defer f.Close()
	for _, e := range v.b.Encoders {
		tol, ok := encoderTolerance[e.Precision]
		if !ok {
			return fmt.Errorf("encoder %s: no tolerance is known for precision %q", e.Name, e.Precision)
		}
		s, err := ort.Open(v.b.Path(e.Graph), v.o)
		if err != nil {
			return err
		}
		err = v.encoder(ctx, f, e, s, tol)
		if err := errors.Join(err, s.Close()); err != nil {
			return fmt.Errorf("encoder %s: %w", e.Name, err)
		}
	}
	return nil
}

func (v *verifier) encoder(ctx context.Context, f *safetensors.File, e bundle.Encoder, s *ort.Session, tol float64) error {
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
				break
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
