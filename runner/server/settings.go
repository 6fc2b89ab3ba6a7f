package server

import (
	imagebind "imagebind-llm"
	"imagebind-llm/runner/constrain"
	"imagebind-llm/runner/pipeline"
	"imagebind-llm/runner/runnerapi"
	"imagebind-llm/runner/sample"
)

// include is what an answer is to tell.
type include struct{ neighbours, timings bool }

func includes(names []string) (include, error) {
	var inc include
	for _, n := range names {
		switch n {
		case runnerapi.IncludeNeighbours:
			inc.neighbours = true
		case runnerapi.IncludeTimings:
			inc.timings = true
		default:
			return inc, imagebind.WithParam(imagebind.Errorf(imagebind.Invalid, "include names %q; it may name %q and %q", short(n), runnerapi.IncludeNeighbours, runnerapi.IncludeTimings), "include")
		}
	}
	return inc, nil
}

// settings makes a query of all fields of r but its messages.
func (s *Server) settings(r runnerapi.ChatRequest) (pipeline.Query, include, error) {
	q := s.p.DefaultQuery()
	if err := s.checkModel(r.Model); err != nil {
		return q, include{}, err
	}
	inc, err := includes(r.Include)
	if err != nil {
		return q, inc, err
	}
	q.Neighbours = inc.neighbours
	g := &q.Generate
	for _, f := range []struct {
		value *int
		name  string
	}{{r.MaxTokens, "max_tokens"}, {r.MaxCompletionTokens, "max_completion_tokens"}} {
		if f.value == nil {
			continue
		}
		if *f.value < 1 {
			return q, inc, imagebind.WithParam(imagebind.Errorf(imagebind.Invalid, "%s is %d; it is at least 1", f.name, *f.value), f.name)
		}
		g.MaxTokens = *f.value
	}
	if err := sampling(&g.Sample, r); err != nil {
		return q, inc, err
	}
	if r.Seed != nil {
		seed := uint64(*r.Seed) // any number is one
		g.Sample.Seed = &seed
	}
	if len(r.Stop) > runnerapi.MaxStops {
		return q, inc, imagebind.WithParam(imagebind.Errorf(imagebind.Invalid, "%d stop strings; a request has at most %d", len(r.Stop), runnerapi.MaxStops), "stop")
	}
	if len(r.Stop) > 0 {
		g.Stop = r.Stop
	}
	set(&q.N, r.N)
	if q.Grammar, err = grammar(r); err != nil {
		return q, inc, err
	}
	g.Logprobs = r.Logprobs
	if n := r.TopLogprobs; n != nil {
		switch {
		case !r.Logprobs:
			return q, inc, imagebind.WithParam(imagebind.Errorf(imagebind.Invalid, "top_logprobs wants logprobs: true"), "top_logprobs")
		case *n < 0 || *n > runnerapi.MaxTopLogprobs:
			return q, inc, imagebind.WithParam(imagebind.Errorf(imagebind.Invalid, "top_logprobs is %d; it is 0 to %d", *n, runnerapi.MaxTopLogprobs), "top_logprobs")
		}
		g.TopLogprobs = *n
	}
	setCache(&q.Cache, r.Cache)
	return q, inc, nil
}

// grammar returns what an answer keeps to, or nil.
func grammar(r runnerapi.ChatRequest) (*constrain.Grammar, error) {
	f := r.ResponseFormat
	if f == nil || f.Type == runnerapi.FormatText {
		if r.Choices == nil {
			return nil, nil
		}
		g, err := constrain.Choices(r.Choices)
		return g, imagebind.WithParam(err, "choices")
	}
	if r.Choices != nil {
		return nil, imagebind.WithParam(imagebind.Errorf(imagebind.Invalid, "choices and response_format are two formats; give one"), "choices")
	}
	switch f.Type {
	case runnerapi.FormatObject:
		return constrain.Object()
	case runnerapi.FormatSchema:
		const at = "response_format.json_schema"
		if f.JSONSchema == nil || len(f.JSONSchema.Schema) == 0 {
			return nil, imagebind.WithParam(imagebind.Errorf(imagebind.Invalid, "response_format has no json_schema.schema"), at)
		}
		return constrain.Schema(f.JSONSchema.Schema, at+".schema")
	}
	return nil, imagebind.WithParam(imagebind.Errorf(imagebind.Invalid, "response_format is of type %q; it is %s, %s or %s",
		short(f.Type), runnerapi.FormatText, runnerapi.FormatObject, runnerapi.FormatSchema), "response_format.type")
}

// sampling overrides what r names, and checks all of it.
func sampling(p *sample.Params, r runnerapi.ChatRequest) error {
	set(&p.Temperature, r.Temperature)
	set(&p.TopP, r.TopP)
	set(&p.TopK, r.TopK)
	set(&p.MinP, r.MinP)
	set(&p.RepetitionPenalty, r.RepetitionPenalty)
	set(&p.FrequencyPenalty, r.FrequencyPenalty)
	set(&p.PresencePenalty, r.PresencePenalty)
	if v := r.RepetitionPenalty; v != nil && *v == 0 { // which Params takes for none
		return imagebind.WithParam(imagebind.Errorf(imagebind.Invalid, "repetition_penalty is 0; 1 is none"), "repetition_penalty")
	}
	return p.Check()
}

// set overrides v where a value is given.
func set[T any](v *T, given *T) {
	if given != nil {
		*v = *given
	}
}

// setCache overrides what r names.
func setCache(c *pipeline.Cache, r *runnerapi.Cache) {
	if r == nil {
		return
	}
	set(&c.Enabled, r.Enabled)
	if r.Collection != "" {
		c.Collection = r.Collection
	}
	set(&c.K, r.K)
	set(&c.Temperature, r.Temperature)
	set(&c.Weight, r.Weight)
	if r.Filter != nil {
		c.Filter = r.Filter
	}
}
