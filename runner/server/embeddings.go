package server

import (
	"fmt"

	"github.com/gin-gonic/gin"

	imagebind "imagebind-llm"
	"imagebind-llm/runner/pipeline"
	"imagebind-llm/runner/runnerapi"
)

// maxEmbedParts bounds the parts of an embeddings request, all items together.
const maxEmbedParts = 2 * runnerapi.MaxInputs

func (s *Server) embeddings(c *gin.Context) (any, error) {
	var r runnerapi.EmbeddingRequest
	body, err := readBody(c.Request)
	if err != nil {
		return nil, err
	}
	if err := runnerapi.Decode(body, &r); err != nil {
		return nil, err
	}
	inc, err := s.embeddingSettings(r)
	if err != nil {
		return nil, err
	}
	items, err := s.items(c, r.Input)
	if err != nil {
		return nil, err
	}
	req := pipeline.EmbedRequest{Items: items}
	if r.Cache != nil {
		cache := s.p.DefaultQuery().Cache
		cache.Enabled = true // who names it wants it
		setCache(&cache, r.Cache)
		req.Cache = &cache
	}
	embedded, err := s.p.Embed(c.Request.Context(), req)
	if err != nil {
		return nil, err
	}
	out := runnerapi.EmbeddingResponse{Object: "list", Model: s.model, Data: make([]runnerapi.EmbeddingData, len(embedded))}
	for i, e := range embedded {
		out.Data[i] = runnerapi.EmbeddingData{Object: "embedding", Index: i, Embedding: runnerapi.Vector(e.Embedding), Base64: r.EncodingFormat == runnerapi.FormatBase64}
		if r.Cache != nil || len(r.Include) > 0 {
			out.Data[i].Bind = bind(e.Bind, inc)
		}
	}
	if len(embedded) > 0 {
		s.o.Metrics.degraded(embedded[0].Bind)
	}
	return out, nil
}

func (s *Server) embeddingSettings(r runnerapi.EmbeddingRequest) (include, error) {
	if err := s.checkModel(r.Model); err != nil {
		return include{}, err
	}
	switch r.EncodingFormat {
	case "", runnerapi.FormatFloat, runnerapi.FormatBase64:
	default:
		return include{}, imagebind.WithParam(imagebind.Errorf(imagebind.Invalid, "encoding_format is %q; it is %s or %s", short(r.EncodingFormat), runnerapi.FormatFloat, runnerapi.FormatBase64), "encoding_format")
	}
	if n := r.Dimensions; n != nil && *n != s.p.Dim() {
		return include{}, imagebind.WithParam(imagebind.Errorf(imagebind.Invalid, "dimensions is %d; this model's embeddings have %d and cannot be cut", *n, s.p.Dim()), "dimensions")
	}
	if len(r.Input) == 0 {
		return include{}, imagebind.WithParam(imagebind.Errorf(imagebind.Invalid, "input is empty: a string, an array of strings, or an array of {\"content\": [parts]}"), "input")
	}
	return includes(r.Include)
}

// items gets the parts of all inputs. A text is one of them here: no prompt is read.
func (s *Server) items(c *gin.Context, inputs runnerapi.Inputs) ([][]pipeline.Part, error) {
	var sources []source
	ends := make([]int, len(inputs))
	for i, in := range inputs {
		at := fmt.Sprintf("input[%d]", i)
		parts := in.Content.Parts
		if parts == nil {
			parts = []runnerapi.Part{runnerapi.Text(in.Content.Text)}
		} else {
			at += ".content"
		}
		if len(parts) == 0 || len(parts) > s.o.MaxParts {
			return nil, imagebind.WithParam(imagebind.Errorf(imagebind.Invalid, "an input of %d parts; it has 1 to %d", len(parts), s.o.MaxParts), at)
		}
		for j, p := range parts {
			of := at
			if in.Content.Parts != nil {
				of = fmt.Sprintf("%s[%d]", at, j)
			}
			if p.Type == runnerapi.PartText {
				p.Type = runnerapi.PartBindText
			}
			src, err := s.source(p, of)
			if err != nil {
				return nil, err
			}
			sources = append(sources, src)
		}
		ends[i] = len(sources)
	}
	if len(sources) > maxEmbedParts {
		return nil, imagebind.WithParam(imagebind.Errorf(imagebind.TooLarge, "%d parts in all; a request has at most %d", len(sources), maxEmbedParts), "input")
	}
	loaded, err := s.load(c.Request.Context(), sources)
	if err != nil {
		return nil, err
	}
	items := make([][]pipeline.Part, len(inputs))
	from := 0
	for i, end := range ends {
		items[i], from = loaded[from:end], end
	}
	return items, nil
}
