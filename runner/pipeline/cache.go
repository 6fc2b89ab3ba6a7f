package pipeline

import (
	"context"
	"log/slog"
	"time"

	imagebind "imagebind-llm"
)

func (c Cache) check() error {
	if !c.Enabled {
		return nil
	}
	if c.Collection == "" {
		return imagebind.WithParam(imagebind.Errorf(imagebind.Invalid, "the cache's collection has no name"), "cache.collection")
	}
	return imagebind.WithParam(c.Validate(), "cache")
}

// enhanceOne moves the mix of q, and notes in a what came of it.
func (p *Pipeline) enhanceOne(ctx context.Context, mix imagebind.Embedding, q Query, a *Answer) (imagebind.Embedding, error) {
	start := time.Now()
	enhanced, neighbours, reason, err := p.enhance(ctx, []imagebind.Embedding{mix}, q.Cache)
	a.Timings.Retrieve = time.Since(start)
	if err != nil {
		return nil, err
	}
	a.Bind.CacheApplied, a.Bind.Degraded, a.Bind.DegradedReason = reason == "", reason != "", reason
	if q.Neighbours && neighbours != nil {
		a.Bind.Neighbours = neighbours[0]
	}
	return enhanced[0], nil
}

// enhance moves queries towards the image features near them. Where the cache
// cannot be had and the queries may go on without, they come back as they are,
// with the reason.
func (p *Pipeline) enhance(ctx context.Context, queries []imagebind.Embedding, c Cache) (enhanced []imagebind.Embedding, neighbours [][]imagebind.Neighbour, reason string, err error) {
	if p.o.Retriever == nil {
		return p.without(queries, "no retriever is configured", nil)
	}
	start := time.Now()
	enhanced, neighbours, err = p.o.Retriever.Enhance(ctx, c.Collection, queries, c.EnhanceParams, c.Filter)
	if p.o.Observer != nil && ctx.Err() == nil {
		p.o.Observer.Retrieved(time.Since(start), err)
	}
	if err == nil {
		return enhanced, neighbours, "", nil
	}
	if ctx.Err() != nil {
		return nil, nil, "", ctx.Err()
	}
	switch imagebind.KindOf(err) {
	case imagebind.Invalid:
		return nil, nil, "", p.refused(ctx, c, err)
	case imagebind.NotFound:
		return p.without(queries, "the retriever has no collection "+c.Collection, err)
	case imagebind.Unauthorized:
		return p.without(queries, "the retriever does not accept the runner's key", err)
	case imagebind.Busy:
		return p.without(queries, "the retriever is overloaded", err)
	case imagebind.Timeout:
		return p.without(queries, "the retriever took too long", err)
	case imagebind.Unavailable:
		return p.without(queries, "the retriever does not answer", err)
	}
	return p.without(queries, "the retriever failed", err)
}

// without is what happens when the cache cannot be had.
func (p *Pipeline) without(queries []imagebind.Embedding, reason string, err error) ([]imagebind.Embedding, [][]imagebind.Neighbour, string, error) {
	if p.o.OnRetrieverFailure == Fail {
		return nil, nil, "", &imagebind.Error{Kind: imagebind.Unavailable, Message: "the feature cache cannot be used: " + reason, Err: err}
	}
	slog.Warn("answered without the feature cache", "reason", reason, "err", err)
	return queries, nil, reason, nil
}

// refused says what the retriever found wrong with a query: most likely a
// collection of another model's embeddings.
func (p *Pipeline) refused(ctx context.Context, c Cache, err error) error {
	if of, e := p.o.Retriever.Collection(ctx, c.Collection); e == nil && of.Dim != p.Dim() {
		return imagebind.WithParam(imagebind.Errorf(imagebind.Invalid, "collection %s holds embeddings of %d values, the bundle %s makes %d: they are of different models", c.Collection, of.Dim, p.b.Name, p.Dim()), "cache.collection")
	}
	param := "cache"
	if of := imagebind.ParamOf(err); of != "" {
		param += "." + of
	}
	return &imagebind.Error{Kind: imagebind.Invalid, Message: "the retriever refused the query: " + imagebind.MessageOf(err), Param: param, Err: err}
}
