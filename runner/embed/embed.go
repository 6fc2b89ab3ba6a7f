// Package embed runs ImageBind's encoders: the input that a modality read from
// a file becomes a unit embedding. Mixing several is imagebind.Mix; moving the
// mix towards stored image features is the retriever's.
package embed

import (
	"context"
	"errors"
	"fmt"
	"slices"

	imagebind "imagebind-llm"
	"imagebind-llm/runner/bundle"
	"imagebind-llm/runner/modality"
	"imagebind-llm/runner/ort"
)

// maxClips is how many clips go through an encoder at once; more take several
// runs, so that memory stays bounded.
const maxClips = 16

// Encoders are the open encoder graphs of a bundle. They may be used concurrently.
type Encoders struct {
	dim      int
	sessions map[string]*ort.Session // by the encoder's name
	of       map[string]bundle.Encoder
}

// Open opens the encoders of b that specs can feed, and holds their inputs
// against what the specs make.
func Open(b *bundle.Bundle, specs []modality.Spec, o ort.Options) (*Encoders, error) {
	e := &Encoders{dim: b.Embed(), sessions: map[string]*ort.Session{}, of: map[string]bundle.Encoder{}}
	for _, spec := range specs {
		enc, ok := b.EncoderOf(spec.Name)
		if !ok {
			continue
		}
		if !fits(enc, spec.Encoder) {
			return nil, errors.Join(fmt.Errorf("encoder %s of %s takes %v, this program's %s is %v: export the bundle again", enc.Name, b.Dir, enc.Input, spec.Name, spec.Encoder.Input), e.Close())
		}
		if e.sessions[enc.Name] == nil {
			s, err := ort.Open(b.Path(enc.Graph), o)
			if err != nil {
				return nil, errors.Join(err, e.Close())
			}
			e.sessions[enc.Name] = s
		}
		e.of[spec.Name] = enc
	}
	return e, nil
}

// fits reports whether a bundle's encoder takes what its reader here makes. How
// many groups of how many points a point cloud is cut into, the bundle says.
func fits(b bundle.Encoder, e modality.Encoder) bool {
	if _, ok := e.Stem.(modality.Groups); ok {
		return len(b.Input) == 3 && b.Input[0] > 0 && b.Input[1] > 1 && b.Input[2] == 3
	}
	return slices.Equal(b.Input, e.Input) && b.Ints == e.Ints
}

// Has reports whether inputs of a modality can be embedded.
func (e *Encoders) Has(modality string) bool { _, ok := e.of[modality]; return ok }

// Input returns the shape of one clip of a modality, for its reader.
func (e *Encoders) Input(modality string) []int { return e.of[modality].Input }

// Dim returns E, or 0 when there is no encoder.
func (e *Encoders) Dim() int { return e.dim }

// Embed returns the unit embedding [E] of an input [S, …]: each clip is
// normalised and scaled by the encoder, the clips are averaged, and the mean is
// normalised again (imagebind_model.py, forward; llama_adapter.py, forward_visual).
func (e *Encoders) Embed(ctx context.Context, modality string, input imagebind.Tensor) (imagebind.Embedding, error) {
	enc, ok := e.of[modality]
	if !ok {
		return nil, imagebind.Errorf(imagebind.Unsupported, "this model has no encoder for %s", modality)
	}
	if len(input.Shape) != len(enc.Input)+1 || !slices.Equal(input.Shape[1:], enc.Input) || input.Shape[0] < 1 {
		panic(fmt.Sprintf("embed: %s input %v, want [S, %v]", modality, input.Shape, enc.Input))
	}
	sum := make([]float64, enc.Embed)
	for from := 0; from < input.Shape[0]; from += maxClips {
		clips := slice(input, from, min(from+maxClips, input.Shape[0]))
		out, err := e.sessions[enc.Name].Compute(ctx, map[string]imagebind.Tensor{"input": clips}, "embedding")
		if err != nil {
			return nil, err
		}
		for i, v := range out["embedding"].Floats {
			sum[i%enc.Embed] += float64(v)
		}
	}
	mean := make(imagebind.Embedding, enc.Embed)
	for i, v := range sum {
		mean[i] = float32(v / float64(input.Shape[0]))
	}
	mean.Normalize()
	if !mean.Finite() {
		return nil, fmt.Errorf("encoder %s gave a value that is not finite", enc.Name)
	}
	return mean, nil
}

// slice returns the clips from, …, to-1 of t, sharing its values.
func slice(t imagebind.Tensor, from, to int) imagebind.Tensor {
	n := imagebind.Size(t.Shape[1:])
	s := imagebind.Tensor{Shape: append([]int{to - from}, t.Shape[1:]...)}
	if t.Floats != nil {
		s.Floats = t.Floats[from*n : to*n]
	}
	if t.Ints != nil {
		s.Ints = t.Ints[from*n : to*n]
	}
	return s
}

// Close frees the graphs.
func (e *Encoders) Close() error {
	var errs []error
	for _, s := range e.sessions {
		errs = append(errs, s.Close())
	}
	return errors.Join(errs...)
}
