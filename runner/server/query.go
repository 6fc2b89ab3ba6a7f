package server

import (
	"context"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	imagebind "imagebind-llm"
	"imagebind-llm/internal/httpapi"
	"imagebind-llm/runner/media"
	"imagebind-llm/runner/modality"
	"imagebind-llm/runner/modality/all"
	"imagebind-llm/runner/pipeline"
	"imagebind-llm/runner/prompt"
	"imagebind-llm/runner/runnerapi"
)

// conversation splits messages into texts and the sources in force: those of
// the latest turn that has any, a turn being the user's messages up to an answer.
func (s *Server) conversation(messages runnerapi.Messages) ([]prompt.Message, []source, error) {
	texts := make([]prompt.Message, len(messages))
	var inForce, turn []source
	for i, m := range messages {
		at := fmt.Sprintf("messages[%d].content", i)
		if m.Role == prompt.Assistant {
			turn = nil
		}
		text, sources, err := s.parts(m.Content, at)
		if err != nil {
			return nil, nil, err
		}
		if len(sources) > 0 {
			if m.Role != prompt.User {
				return nil, nil, imagebind.WithParam(imagebind.Errorf(imagebind.Invalid, "only the user's messages have parts other than text, this is of role %q", short(m.Role)), sources[0].Param)
			}
			turn = append(turn, sources...)
			inForce = turn
		}
		texts[i] = prompt.Message{Role: m.Role, Content: text}
	}
	if len(inForce) > s.o.MaxParts {
		return nil, nil, imagebind.WithParam(imagebind.Errorf(imagebind.TooLarge, "%d media parts; a query has at most %d", len(inForce), s.o.MaxParts), "messages")
	}
	return texts, inForce, nil
}

// A source is a part whose bytes are yet to be got.
type source struct {
	pipeline.Part
	load func(ctx context.Context) ([]byte, error) // nil: nothing to load
}

// parts splits a message's content into the prompt's text and sources.
func (s *Server) parts(c runnerapi.Content, at string) (string, []source, error) {
	if c.Parts == nil {
		return c.Text, nil, nil
	}
	var texts []string
	var sources []source
	for i, p := range c.Parts {
		if p.Type == runnerapi.PartText {
			texts = append(texts, p.Text)
			continue
		}
		src, err := s.source(p, fmt.Sprintf("%s[%d]", at, i))
		if err != nil {
			return "", nil, err
		}
		sources = append(sources, src)
	}
	return strings.Join(texts, "\n"), sources, nil
}

// modalityRE is what an embedding may say it was made of.
var modalityRE = regexp.MustCompile(`^[a-z][a-z0-9_]{0,31}$`)

// source checks a part other than text.
func (s *Server) source(p runnerapi.Part, at string) (source, error) {
	src := source{Part: pipeline.Part{Weight: 1, Param: at}}
	if p.Weight != nil {
		w, err := weight(*p.Weight)
		if err != nil {
			return src, imagebind.WithParam(err, at+".weight")
		}
		src.Weight = w
	}
	if p.Type == runnerapi.PartEmbedding {
		if p.Embedding == nil || len(p.Embedding.Data) == 0 {
			return src, imagebind.WithParam(imagebind.Errorf(imagebind.Invalid, "the embedding has no data"), at+".embedding")
		}
		src.Modality, src.Embedding = p.Embedding.Modality, imagebind.Embedding(p.Embedding.Data)
		if src.Modality != "" && !modalityRE.MatchString(src.Modality) {
			return src, imagebind.WithParam(imagebind.Errorf(imagebind.Invalid, "modality %q is no name of one, as image is", short(src.Modality)), at+".embedding.modality")
		}
		return src, nil
	}
	kind := p.Type
	if kind == runnerapi.PartInputAudio {
		kind = "audio_url"
	}
	spec, err := s.spec(kind)
	if err != nil {
		return src, imagebind.WithParam(err, at)
	}
	src.Modality = spec.Name
	if src.Params, err = params(spec, p.Params); err != nil {
		return src, imagebind.WithParam(err, at+"."+p.Type)
	}
	switch p.Type {
	case runnerapi.PartBindText:
		src.Data = []byte(p.Text)
	case runnerapi.PartInputAudio:
		src.Param = at + ".input_audio.data"
		src.load = func(ctx context.Context) ([]byte, error) {
			if err := httpapi.TakeFor(ctx, media.DecodedLen(p.Audio.Data)); err != nil {
				return nil, err
			}
			return media.Base64(p.Audio.Data, s.o.MaxFile)
		}
	default:
		src.Param = at + "." + p.Type + ".url"
		src.load = func(ctx context.Context) ([]byte, error) {
			return s.o.Media.FetchWithin(ctx, p.URL, func(n int64) error { return httpapi.TakeFor(ctx, n) })
		}
	}
	return src, nil
}

// params checks those of a part. A field that is neither number nor switch, as
// OpenAI's detail of an image, is ignored where the modality does not know it.
// Of a file whose kind is yet unknown, package pipeline checks them.
func params(spec modality.Spec, given runnerapi.Params) (modality.Params, error) {
	if len(given) == 0 {
		return nil, nil
	}
	known := modality.Params{}
	for name, v := range given {
		switch v := v.(type) {
		case float64:
			known[name] = v
		case bool:
			known[name] = 0
			if v {
				known[name] = 1
			}
		default:
			if spec.Has(name) {
				return nil, imagebind.Errorf(imagebind.Invalid, "%s is neither a number nor true or false", name)
			}
		}
	}
	if spec.Name == "" {
		return known, nil
	}
	return known, spec.Check(known)
}

// spec finds the kind of input of a part's type, and whether it is served. That
// of media_url, which the content tells, has no name.
func (s *Server) spec(part string) (modality.Spec, error) {
	if part == runnerapi.PartMedia {
		return modality.Spec{Part: part}, nil
	}
	spec, ok := all.ByPart(part)
	name := spec.Name
	if !ok {
		if name, ok = strings.CutSuffix(part, "_url"); !ok {
			return spec, imagebind.Errorf(imagebind.Invalid, "unknown part type %q; use %s", short(part), strings.Join(partTypes(), ", "))
		}
	}
	if !slices.Contains(s.p.Modalities(), name) {
		return spec, imagebind.Errorf(imagebind.Unsupported, "%s is not read by this model; it has %s", short(name), s.has())
	}
	return spec, nil
}

// has lists the modalities, for people.
func (s *Server) has() string {
	if names := s.p.Modalities(); len(names) > 0 {
		return strings.Join(names, ", ")
	}
	return "no encoders"
}

func partTypes() []string {
	types := []string{runnerapi.PartText}
	for _, spec := range all.Specs {
		types = append(types, spec.Part)
	}
	return append(types, runnerapi.PartMedia, runnerapi.PartInputAudio, runnerapi.PartEmbedding)
}

// weight checks a part's.
func weight(w float64) (float32, error) {
	if f := float32(w); f > 0 && !math.IsInf(float64(f), 0) {
		return f, nil
	}
	return 0, imagebind.Errorf(imagebind.Invalid, "the weight is %v; weights are positive numbers", w)
}

// loading bounds the sources of a request that are fetched side by side.
const loading = 4

// load gets the bytes of all sources, at most MaxBody together.
func (s *Server) load(ctx context.Context, sources []source) ([]pipeline.Part, error) {
	parts := make([]pipeline.Part, len(sources))
	var sum atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(loading)
	for i, src := range sources {
		parts[i] = src.Part
		if src.load == nil {
			continue
		}
		g.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			data, err := src.load(ctx)
			if err == nil && sum.Add(int64(len(data))) > s.o.MaxBody {
				err = imagebind.Errorf(imagebind.TooLarge, "the files of the request have more than %d bytes together, which is the limit", s.o.MaxBody)
			}
			parts[i].Data = data
			return imagebind.WithParam(err, src.Param)
		})
	}
	return parts, g.Wait()
}
