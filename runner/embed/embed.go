// Package embed runs ImageBind's encoders: the input that a modality read from
// a file becomes a unit embedding. Inputs of one encoder that come at the same
// time go through it in one run (batch.go). Mixing several is imagebind.Mix; moving the
// mix towards stored image features is the retriever's.
package embed

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	imagebind "imagebind-llm"
	"imagebind-llm/internal/ort"
	"imagebind-llm/runner/bundle"
	"imagebind-llm/runner/modality"
)

// Options of Open. The zero value works.
type Options struct {
	ORT ort.Options
	// Clips is how many go through an encoder at once, of one caller or several;
	// more take several runs, so that memory stays bounded. The default is 16 on
	// a GPU. On the CPU it is 2: one clip of a released encoder keeps all cores
	// busy, and more at once leave the caches (8 take 5 to 15 % longer, each).
	Clips int
	// Window is how long an idle encoder waits for inputs that are known to come;
	// 0 or less is not at all.
	Window time.Duration
}

// Encoders are the open encoder graphs of a bundle. They may be used concurrently.
type Encoders struct {
	dim      int
	sessions map[string]*ort.Session   // by the encoder's name
	batchers map[string]*batcher       // the same
	of       map[string]bundle.Encoder // by modality
}

// Open opens the encoders of b that specs can feed, and holds their inputs
// against what the specs make.
func Open(b *bundle.Bundle, specs []modality.Spec, o Options) (*Encoders, error) {
	if o.Clips < 1 {
		o.Clips = 16
		if o.ORT.Provider == "" || o.ORT.Provider == "cpu" {
			o.Clips = 2
		}
	}
	e := &Encoders{dim: b.Embed(), sessions: map[string]*ort.Session{}, batchers: map[string]*batcher{}, of: map[string]bundle.Encoder{}}
	for _, spec := range specs {
		enc, ok := b.EncoderOf(spec.Name)
		if !ok {
			continue
		}
		if !fits(enc, spec.Encoder) {
			return nil, errors.Join(fmt.Errorf("encoder %s of %s takes %v, this program's %s is %v: export the bundle again", enc.Name, b.Dir, enc.Input, spec.Name, spec.Encoder.Input), e.Close())
		}
		if e.sessions[enc.Name] == nil {
			s, err := ort.Open(b.Path(enc.Graph), o.ORT)
			if err != nil {
				return nil, errors.Join(err, e.Close())
			}
			e.sessions[enc.Name] = s
			if err := s.Shrink(); err != nil {
				return nil, errors.Join(err, e.Close())
			}
			e.batchers[enc.Name] = newBatcher(enc.Embed, o, func(ctx context.Context, clips imagebind.Tensor) ([]float32, error) {
				out, err := s.Compute(ctx, map[string]imagebind.Tensor{"input": clips}, "embedding")
				return out["embedding"].Floats, err
			})
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
// It is Put and Wait in one.
func (e *Encoders) Embed(ctx context.Context, modality string, input imagebind.Tensor) (imagebind.Embedding, error) {
	j, err := e.Put(ctx, modality, input)
	if err != nil {
		return nil, err
	}
	return j.Wait()
}

// Put queues an input [S, …], which may go through the encoder together with
// those of other callers, and returns once there is room for it. Its values must
// not be changed any more. When ctx ends it leaves the queue, and a run that is
// for nobody else is stopped.
func (e *Encoders) Put(ctx context.Context, modality string, input imagebind.Tensor) (*Job, error) {
	enc, ok := e.of[modality]
	if !ok {
		return nil, imagebind.Errorf(imagebind.Unsupported, "this model has no encoder for %s", modality)
	}
	if len(input.Shape) != len(enc.Input)+1 || !slices.Equal(input.Shape[1:], enc.Input) || input.Shape[0] < 1 {
		panic(fmt.Sprintf("embed: %s input %v, want [S, %v]", modality, input.Shape, enc.Input))
	}
	return e.batchers[enc.Name].put(ctx, enc.Name, input)
}

// Wait returns the unit embedding [E], or the error of the context that Put got.
func (j *Job) Wait() (imagebind.Embedding, error) {
	select {
	case <-j.done:
	case <-j.ctx.Done():
		return nil, j.ctx.Err()
	}
	if j.err != nil {
		return nil, j.err
	}
	mean := make(imagebind.Embedding, len(j.sum))
	for i, v := range j.sum {
		mean[i] = float32(v / float64(j.input.Shape[0]))
	}
	mean.Normalize()
	if !mean.Finite() {
		return nil, fmt.Errorf("encoder %s gave a value that is not finite", j.enc)
	}
	return mean, nil
}

// Expect says that an input of a modality is being read: an encoder that is
// idle waits for it a little (Options.Window) when another comes first. The
// caller calls arrived after Put, or when there will be none.
func (e *Encoders) Expect(modality string) (arrived func()) {
	b := e.batchers[e.of[modality].Name]
	b.expect(1)
	return sync.OnceFunc(func() { b.expect(-1) })
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

// Close waits for runs under way, whose callers have left, and frees the graphs.
func (e *Encoders) Close() error {
	var errs []error
	for _, b := range e.batchers {
		b.loops.Wait()
	}
	for _, s := range e.sessions {
		errs = append(errs, s.Close())
	}
	return errors.Join(errs...)
}
