package pipeline

import (
	"context"
	"math"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	imagebind "imagebind-llm"
	"imagebind-llm/runner/embed"
	"imagebind-llm/runner/modality"
	"imagebind-llm/runner/modality/all"
)

// embed makes the parts' unit embeddings, side by side, and notes modalities
// and timings in a.
func (p *Pipeline) embed(ctx context.Context, parts []Part, a *Answer) ([]imagebind.Weighted, error) {
	specs := make([]modality.Spec, len(parts))
	for i, part := range parts {
		spec, err := p.specOf(part)
		if err != nil {
			return nil, imagebind.WithParam(err, part.Param)
		}
		specs[i] = spec
		a.Bind.Modalities = append(a.Bind.Modalities, Modality{typeOf(part, spec), part.Weight})
	}
	weighted := make([]imagebind.Weighted, len(parts))
	times := make([]struct{ read, encode time.Duration }, len(parts))
	g, ctx := errgroup.WithContext(ctx)
	for i, part := range parts {
		weighted[i].Weight = part.Weight
		if part.Embedding != nil {
			weighted[i].Embedding = append(imagebind.Embedding(nil), part.Embedding...)
			weighted[i].Embedding.Normalize()
			continue
		}
		g.Go(guard(func() error {
			x, hit, err := p.memo.get(ctx, keyOf(specs[i].Name, part), func(ctx context.Context) (encoded, error) {
				return p.encode(ctx, specs[i], part)
			})
			if o := p.o.Observer; o != nil && err == nil {
				o.Recalled(specs[i].Name, hit)
			}
			if x.unread {
				return imagebind.WithParam(err, part.Param)
			}
			weighted[i].Embedding, times[i].read, times[i].encode = x.Embedding, x.read, x.encode
			return err
		}))
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	for i, t := range times {
		if parts[i].Embedding != nil {
			continue
		}
		if a.Timings.Encoders == nil {
			a.Timings.Encoders = map[string]time.Duration{}
		}
		a.Timings.Read, a.Timings.Encode = max(a.Timings.Read, t.read), max(a.Timings.Encode, t.encode)
		a.Timings.Encoders[specs[i].Name] = max(a.Timings.Encoders[specs[i].Name], t.encode)
	}
	return weighted, nil
}

// encode reads a part and runs its encoder. What is read at a time has a place
// in p.work; encoders have bounds of their own.
func (p *Pipeline) encode(ctx context.Context, spec modality.Spec, part Part) (x encoded, err error) {
	arrived := p.encoders.Expect(spec.Name)
	defer arrived()
	job, err := p.read(ctx, spec, part, &x)
	if err != nil {
		return x, err
	}
	arrived()
	start := time.Now()
	x.Embedding, err = job.Wait()
	x.encode = time.Since(start)
	p.health.note(err)
	if o := p.o.Observer; o != nil && err == nil {
		o.Encoded(spec.Name, x.read+x.encode)
	}
	return x, err
}

// read reads a part and queues it at its encoder.
func (p *Pipeline) read(ctx context.Context, spec modality.Spec, part Part, x *encoded) (*embed.Job, error) {
	select {
	case p.work <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-p.work }()
	start := time.Now()
	o := p.o.Read
	o.Input, o.Params = p.encoders.Input(spec.Name), part.Params
	input, err := spec.Read(ctx, part.Data, o)
	x.read = time.Since(start)
	if err != nil {
		x.unread = true
		return nil, err
	}
	return p.encoders.Put(ctx, spec.Name, input)
}

// specOf checks a part and finds its kind of input; a ready embedding has none.
func (p *Pipeline) specOf(part Part) (modality.Spec, error) {
	if w := float64(part.Weight); !(w > 0) || math.IsInf(w, 0) {
		return modality.Spec{}, imagebind.Errorf(imagebind.Invalid, "the weight is %v; weights are positive numbers", part.Weight)
	}
	if e := part.Embedding; e != nil {
		switch {
		case len(e) != p.Dim():
			return modality.Spec{}, imagebind.Errorf(imagebind.Invalid, "the embedding has %d values, this model's have %d", len(e), p.Dim())
		case !e.Finite():
			return modality.Spec{}, imagebind.Errorf(imagebind.Invalid, "the embedding holds NaN or infinity")
		case e.Norm() == 0:
			return modality.Spec{}, imagebind.Errorf(imagebind.Invalid, "the embedding is zero: it points nowhere")
		}
		return modality.Spec{}, nil
	}
	if len(part.Data) == 0 {
		return modality.Spec{}, imagebind.Errorf(imagebind.Invalid, "the part is empty")
	}
	if other := modality.AlsoIs(part.Data); other != "" {
		return modality.Spec{}, imagebind.Errorf(imagebind.Invalid, "the file is %s and %s at once; send one that is one thing", modality.Sniff(part.Data), other)
	}
	spec, ok := all.ByName(part.Modality)
	switch {
	case part.Modality == "":
		media := modality.Sniff(part.Data)
		if spec, ok = all.ByMedia(media); !ok {
			return spec, imagebind.Errorf(imagebind.Unsupported, "this is %s, which does not say what it is of; send it as one of %s", media, p.has())
		}
	case !ok:
		return spec, imagebind.Errorf(imagebind.Unsupported, "%s is no modality; this model has %s", part.Modality, p.has())
	}
	if !p.encoders.Has(spec.Name) {
		return spec, imagebind.Errorf(imagebind.Unsupported, "this model has no encoder for %s; it has %s", spec.Name, p.has())
	}
	return spec, spec.Check(part.Params)
}

// has lists the modalities, for people.
func (p *Pipeline) has() string {
	if names := p.Modalities(); len(names) > 0 {
		return strings.Join(names, ", ")
	}
	return "no encoders"
}

func typeOf(part Part, spec modality.Spec) string {
	switch {
	case part.Embedding == nil:
		return spec.Name
	case part.Modality == "":
		return "embedding"
	}
	return part.Modality
}
