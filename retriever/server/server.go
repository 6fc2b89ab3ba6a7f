// Package server answers the retriever's HTTP API (docs/api.md, "Retriever
// HTTP") over a store and its rebuild jobs. Routes and their handlers stand
// here, those of generations and exports in generations.go; requests are read in
// read.go, metrics in metrics.go, and openapi.yaml describes all of it. The package does no arithmetic of its own.
package server

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"regexp"
	"slices"
	"sync"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/google/uuid"
	"go.yaml.in/yaml/v3"

	imagebind "imagebind-llm"
	"imagebind-llm/internal/httpapi"
	"imagebind-llm/retriever/enhance"
	"imagebind-llm/retriever/jobs"
	"imagebind-llm/retriever/retrieverapi"
	"imagebind-llm/retriever/store"
)

// Options of a Server. Store and Jobs are needed.
type Options struct {
	Store   store.Store
	Jobs    *jobs.Manager
	Tenants Tenants
	MaxBody int64 // bytes of a request's body; default 64 MiB
	// MaxInFlight bounds the bytes of the bodies of all requests together, which
	// take some times that in memory; more are Busy, before they are read. Default 4·MaxBody.
	MaxInFlight int64
	// CacheBytes bounds what is kept of answers to searches; 0 keeps none. CacheFor
	// bounds how long, for a store that others write to unseen; 0 does not.
	CacheBytes int64
	CacheFor   time.Duration
}

// A Server is an http.Handler.
type Server struct {
	o        Options
	metrics  *metrics
	bytes    httpapi.Budget // of bodies
	answers  *answers
	handler  http.Handler
	routes   gin.RoutesInfo
	draining chan struct{}
	drain    sync.Once
}

//go:embed openapi.yaml
var openapiYAML []byte

// openapiJSON is openapi.yaml as JSON. That it can be written so is tested.
var openapiJSON = sync.OnceValue(func() []byte {
	var doc any
	if err := yaml.Unmarshal(openapiYAML, &doc); err != nil {
		panic(fmt.Sprintf("openapi.yaml: %v", err))
	}
	b, err := json.Marshal(doc)
	if err != nil {
		panic(fmt.Sprintf("openapi.yaml: %v", err))
	}
	return b
})

// New returns a server of o.Store.
func New(o Options) *Server {
	if o.MaxBody <= 0 {
		o.MaxBody = 64 << 20
	}
	if o.MaxInFlight <= 0 {
		o.MaxInFlight = 4 * o.MaxBody
	}
	s := &Server{o: o, draining: make(chan struct{}), metrics: newMetrics(o.Store, o.Jobs), answers: newAnswers(o.CacheBytes, o.CacheFor)}
	s.bytes.Size = o.MaxInFlight
	gin.SetMode(gin.ReleaseMode)
	g := gin.New()
	g.HandleMethodNotAllowed = true
	g.UseRawPath, g.UnescapePathValues = true, true
	g.Use(s.metrics.observe, s.hold)
	g.NoRoute(func(c *gin.Context) {
		httpapi.WriteError(c.Writer, c.Request, imagebind.Errorf(imagebind.NotFound, "no route %s; GET /openapi.json lists them", c.Request.URL.Path))
	})
	g.NoMethod(func(c *gin.Context) {
		body, _ := httpapi.ErrorOf(imagebind.Errorf(imagebind.Invalid, "%s is not for %s; GET /openapi.json lists the routes", c.Request.Method, c.Request.URL.Path))
		httpapi.WriteJSON(c.Writer, http.StatusMethodNotAllowed, body)
	})
	g.GET("/v1/collections", answer(s.list))
	g.GET("/v1/collections/:name", answer(s.get))
	g.PUT("/v1/collections/:name", answer(s.create))
	g.DELETE("/v1/collections/:name", answer(s.dropCollection))
	g.POST("/v1/collections/:name/vectors", answer(s.upsert))
	g.DELETE("/v1/collections/:name/vectors", answer(s.deleteVectors))
	g.POST("/v1/collections/:name/search", answer(s.search))
	g.POST("/v1/collections/:name/enhance", answer(s.enhance))
	g.GET("/v1/collections/:name/generations", answer(s.generations))
	g.DELETE("/v1/collections/:name/generations/:generation", answer(s.forget))
	g.POST("/v1/collections/:name/rollback", answer(s.rollback))
	g.GET("/v1/collections/:name/export", s.export)
	g.POST("/v1/jobs", answer(s.submit))
	g.GET("/v1/jobs", answer(s.jobs))
	g.GET("/v1/jobs/:id", answer(s.job))
	g.GET("/v1/jobs/:id/events", s.events)
	g.DELETE("/v1/jobs/:id", answer(s.cancel))
	g.GET("/healthz", answer(func(*gin.Context) (int, any, error) { return http.StatusOK, gin.H{"status": "ok"}, nil }))
	g.GET("/readyz", answer(s.ready))
	g.GET("/metrics", gin.WrapH(s.metrics.handler()))
	g.GET("/openapi.json", func(c *gin.Context) { c.Data(http.StatusOK, "application/json", openapiJSON()) })
	s.routes = g.Routes()
	var h http.Handler = g
	h = httpapi.WithBodyLimit(h, o.MaxBody)
	h = httpapi.WithOwners(h, o.Tenants.Owners, "/healthz", "/readyz", "/metrics", "/openapi.json")
	h = httpapi.WithLog(h, nil)
	s.handler = httpapi.WithRequestID(h)
	return s
}

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.handler.ServeHTTP(w, r) }

// Drain makes readiness fail and ends the event streams, before a shutdown.
func (s *Server) Drain() { s.drain.Do(func() { close(s.draining) }) }

// answer writes what a handler returns: JSON with a status, or its error.
func answer(h func(*gin.Context) (int, any, error)) gin.HandlerFunc {
	return func(c *gin.Context) {
		code, v, err := h(c)
		if err != nil {
			httpapi.WriteError(c.Writer, c.Request, err)
			return
		}
		httpapi.WriteJSON(c.Writer, code, v)
	}
}

const maxName = 100 // bytes of a collection's name

var nameRE = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_-]*$`)

func collection(i store.Info) retrieverapi.Collection {
	c := retrieverapi.Collection{Name: i.Name, Dim: i.Dim, Count: i.Count, Index: i.Index, Backend: i.Backend, Model: i.Model, Generation: i.Generation}
	if !i.BuiltAt.IsZero() {
		t := i.BuiltAt.UTC()
		c.BuiltAt = &t
	}
	return c
}

func (s *Server) list(c *gin.Context) (int, any, error) {
	infos, err := s.o.Store.List(c.Request.Context())
	if err != nil {
		return 0, nil, err
	}
	out := retrieverapi.CollectionList{Collections: []retrieverapi.Collection{}}
	who := tenantFrom(c)
	for _, i := range infos {
		if who.owns(i.Name) {
			out.Collections = append(out.Collections, who.collection(i))
		}
	}
	return http.StatusOK, out, nil
}

func (s *Server) get(c *gin.Context) (int, any, error) {
	name, err := named(c)
	if err != nil {
		return 0, nil, err
	}
	i, err := s.o.Store.Info(c.Request.Context(), name)
	return http.StatusOK, tenantFrom(c).collection(i), err
}

func (s *Server) create(c *gin.Context) (int, any, error) {
	var r retrieverapi.CreateCollection
	name, err := named(c)
	if err != nil {
		return 0, nil, err
	}
	if err := readJSON(c.Request, &r); err != nil {
		return 0, nil, err
	}
	if r.Dim < 1 || r.Dim > retrieverapi.MaxDim {
		return 0, nil, imagebind.WithParam(imagebind.Errorf(imagebind.Invalid, "dim is %d; it is 1 to %d", r.Dim, retrieverapi.MaxDim), "dim")
	}
	i, err := s.o.Store.Create(c.Request.Context(), name, store.Spec{Dim: r.Dim, Index: r.Index, Model: r.Model})
	return http.StatusOK, tenantFrom(c).collection(i), err
}

func (s *Server) dropCollection(c *gin.Context) (int, any, error) {
	name, err := named(c)
	if err != nil {
		return 0, nil, err
	}
	err = s.o.Store.Drop(c.Request.Context(), name)
	return http.StatusOK, gin.H{"name": c.Param("name"), "deleted": true}, err
}

func (s *Server) upsert(c *gin.Context) (int, any, error) {
	name, err := named(c)
	if err != nil {
		return 0, nil, err
	}
	var rows []store.Row
	if mediaType(c.Request) == "application/octet-stream" {
		var i store.Info
		if i, err = s.o.Store.Info(c.Request.Context(), name); err == nil {
			rows, err = readRows(c.Request, i.Dim)
		}
	} else {
		rows, err = readItems(c.Request)
	}
	if err != nil {
		return 0, nil, err
	}
	ids := make([]string, len(rows))
	for i := range rows {
		if rows[i].ID == "" {
			id, err := uuid.NewV7()
			if err != nil {
				return 0, nil, err
			}
			rows[i].ID = id.String()
		}
		ids[i] = rows[i].ID
	}
	if err := s.o.Tenants.Room(c.Request.Context(), s.o.Store, name, len(rows), true); err != nil {
		return 0, nil, err
	}
	if err := s.o.Store.Upsert(c.Request.Context(), name, rows); err != nil {
		return 0, nil, err
	}
	return http.StatusOK, retrieverapi.UpsertResponse{Count: len(ids), IDs: ids}, nil
}

func (s *Server) deleteVectors(c *gin.Context) (int, any, error) {
	var r retrieverapi.DeleteRequest
	name, err := named(c)
	if err != nil {
		return 0, nil, err
	}
	if err := readJSON(c.Request, &r); err != nil {
		return 0, nil, err
	}
	if len(r.IDs) == 0 || len(r.IDs) > retrieverapi.MaxItems {
		return 0, nil, imagebind.WithParam(imagebind.Errorf(imagebind.Invalid, "%d ids; a request has 1 to %d", len(r.IDs), retrieverapi.MaxItems), "ids")
	}
	n, err := s.o.Store.Delete(c.Request.Context(), name, r.IDs)
	return http.StatusOK, retrieverapi.DeleteResponse{Deleted: n}, err
}

func (s *Server) search(c *gin.Context) (int, any, error) {
	var r retrieverapi.SearchRequest
	name, err := named(c)
	if err != nil {
		return 0, nil, err
	}
	if err := readJSON(c.Request, &r); err != nil {
		return 0, nil, err
	}
	q := store.Query{K: imagebind.DefaultEnhance().K, Filter: r.Filter}
	if r.K != nil {
		q.K = *r.K
	}
	if q.K < 1 || q.K > imagebind.MaxNeighbours {
		return 0, nil, imagebind.WithParam(imagebind.Errorf(imagebind.Invalid, "k is %d; it is 1 to %d", q.K, imagebind.MaxNeighbours), "k")
	}
	inc, err := includes(r.Include)
	if err != nil {
		return 0, nil, err
	}
	if q.Vectors, err = embeddings(r.Vectors, q.K, inc); err != nil {
		return 0, nil, err
	}
	packed, err := packs(c)
	if err != nil {
		return 0, nil, err
	}
	start := time.Now()
	var out any
	if packed {
		out, err = searchAnswer[retrieverapi.Packed](s, c, name, q, inc)
	} else {
		out, err = searchAnswer[retrieverapi.Vector](s, c, name, q, inc)
	}
	if err != nil {
		return 0, nil, err
	}
	s.metrics.lookup.WithLabelValues("search").Observe(time.Since(start).Seconds())
	return http.StatusOK, out, nil
}

func searchAnswer[V retrieverapi.Vector | retrieverapi.Packed](s *Server, c *gin.Context, name string, q store.Query, inc include) (out retrieverapi.SearchResponseOf[V], err error) {
	err = s.lookup(c, name, q, func(_ imagebind.Embedding, list []imagebind.Neighbour) error {
		out.Neighbours = append(out.Neighbours, neighbours[V](list, inc, false))
		return nil
	})
	return out, err
}

// hold lets a request in whose body there is room for.
func (s *Server) hold(c *gin.Context) {
	r, hold, err := s.bytes.Holding(c.Request)
	defer hold.Free()
	if err != nil {
		httpapi.WriteError(c.Writer, c.Request, err)
		c.Abort()
		return
	}
	c.Request = r
	c.Next()
}

// lookup searches for q.Vectors and calls f with each and its neighbours, in
// order. So many at a time are searched for as keeps their prototypes, which
// the store returns whether they are asked for or not, within maxPrototypes.
// What was found lately, in the same rows, is not searched for again.
func (s *Server) lookup(c *gin.Context, name string, q store.Query, f func(imagebind.Embedding, []imagebind.Neighbour) error) error {
	for part := range slices.Chunk(q.Vectors, max(1, maxPrototypes/q.K)) {
		version := s.answers.version(s.o.Store, name)
		lists := make([][]imagebind.Neighbour, len(part))
		keys := make([]answerKey, len(part))
		var ask []imagebind.Embedding // those that were not found lately
		var at []int
		for i, v := range part {
			if version != "" {
				keys[i] = answerKeyOf(name, version, q, v)
			}
			if lists[i] = s.answers.get(keys[i], version); lists[i] == nil {
				ask, at = append(ask, v), append(at, i)
			}
		}
		s.metrics.answers.WithLabelValues("hit").Add(float64(len(part) - len(ask)))
		s.metrics.answers.WithLabelValues("miss").Add(float64(len(ask)))
		if len(ask) > 0 {
			found, err := s.o.Store.Search(c.Request.Context(), name, store.Query{Vectors: ask, K: q.K, Filter: q.Filter})
			if err != nil {
				return err
			}
			same := version != "" && s.o.Store.Version(name) == version // else they may be of other rows
			for i, list := range found {
				lists[at[i]] = list
				if same {
					s.answers.put(keys[at[i]], list)
				}
			}
		}
		for i, list := range lists {
			if err := f(part[i], slices.Clone(list)); err != nil { // weights are written to them
				return err
			}
		}
	}
	return nil
}

func neighbours[V retrieverapi.Vector | retrieverapi.Packed](list []imagebind.Neighbour, inc include, weighted bool) []retrieverapi.NeighbourOf[V] {
	out := make([]retrieverapi.NeighbourOf[V], len(list))
	for i, n := range list {
		out[i] = retrieverapi.NeighbourOf[V]{ID: n.ID, Score: n.Similarity, Caption: n.Caption, URI: n.URI}
		if weighted {
			w := n.Weight
			out[i].Weight = &w
		}
		if inc.metadata {
			out[i].Metadata = n.Metadata
		}
		if inc.vector {
			out[i].Vector = V(n.Prototype)
		}
	}
	return out
}

func (s *Server) enhance(c *gin.Context) (int, any, error) {
	var r retrieverapi.EnhanceRequest
	name, err := named(c)
	if err != nil {
		return 0, nil, err
	}
	if err := readJSON(c.Request, &r); err != nil {
		return 0, nil, err
	}
	p := imagebind.DefaultEnhance()
	if r.K != nil {
		p.K = *r.K
	}
	if r.Temperature != nil {
		p.Temperature = *r.Temperature
	}
	if r.Weight != nil {
		p.Weight = *r.Weight
	}
	if err := p.Validate(); err != nil {
		return 0, nil, err
	}
	inc, err := includes(r.Include)
	if err != nil {
		return 0, nil, err
	}
	vectors, err := embeddings(r.Vectors, p.K, inc)
	if err != nil {
		return 0, nil, err
	}
	packed, err := packs(c)
	if err != nil {
		return 0, nil, err
	}
	start := time.Now()
	q := store.Query{Vectors: vectors, K: p.K, Filter: r.Filter}
	var out any
	if packed {
		out, err = enhanceAnswer[retrieverapi.Packed](s, c, name, q, p, inc)
	} else {
		out, err = enhanceAnswer[retrieverapi.Vector](s, c, name, q, p, inc)
	}
	if err != nil {
		return 0, nil, err
	}
	s.metrics.lookup.WithLabelValues("enhance").Observe(time.Since(start).Seconds())
	return http.StatusOK, out, nil
}

func enhanceAnswer[V retrieverapi.Vector | retrieverapi.Packed](s *Server, c *gin.Context, name string, q store.Query, p imagebind.EnhanceParams, inc include) (out retrieverapi.EnhanceResponseOf[V], err error) {
	err = s.lookup(c, name, q, func(q imagebind.Embedding, list []imagebind.Neighbour) error {
		e, err := enhance.Mix(q, list, p)
		if err != nil {
			return imagebind.WithParam(err, fmt.Sprintf("vectors[%d]", len(out.Vectors)))
		}
		out.Vectors = append(out.Vectors, V(e))
		out.Neighbours = append(out.Neighbours, neighbours[V](list, inc, true))
		return nil
	})
	return out, err
}

func (s *Server) submit(c *gin.Context) (int, any, error) {
	var r retrieverapi.JobRequest
	if err := readJSON(c.Request, &r); err != nil {
		return 0, nil, err
	}
	who := tenantFrom(c)
	var err error
	if r.Collection, err = who.stored(r.Collection); err != nil {
		return 0, nil, err
	}
	r.Source.Path = who.source(r.Source.Path)
	j, err := s.o.Jobs.Submit(r)
	if err == nil {
		c.Header("Location", "/v1/jobs/"+j.ID)
	}
	return http.StatusAccepted, who.job(j), err
}

func (s *Server) jobs(c *gin.Context) (int, any, error) {
	out, who := retrieverapi.JobList{Jobs: []retrieverapi.Job{}}, tenantFrom(c)
	for _, j := range s.o.Jobs.List() {
		if who.owns(j.Collection) {
			out.Jobs = append(out.Jobs, who.job(j))
		}
	}
	return http.StatusOK, out, nil
}

// watch is Manager.Watch for whoever asks.
func (s *Server) watch(c *gin.Context) (retrieverapi.Job, <-chan struct{}, error) {
	j, changed, err := s.o.Jobs.Watch(c.Param("id"))
	who := tenantFrom(c)
	if err == nil && !who.owns(j.Collection) {
		err = imagebind.Errorf(imagebind.NotFound, "no job %q", c.Param("id"))
	}
	if err != nil {
		return retrieverapi.Job{}, nil, err
	}
	return who.job(j), changed, nil
}

func (s *Server) job(c *gin.Context) (int, any, error) {
	j, _, err := s.watch(c)
	return http.StatusOK, j, err
}

func (s *Server) cancel(c *gin.Context) (int, any, error) {
	if _, _, err := s.watch(c); err != nil {
		return 0, nil, err
	}
	j, err := s.o.Jobs.Cancel(c.Request.Context(), c.Param("id"))
	return http.StatusOK, tenantFrom(c).job(j), err
}

// heartbeat keeps proxies from cutting a quiet event stream.
const heartbeat = 15 * time.Second

// events streams the job at each change, as server-sent events, until it is
// over; then comes [DONE].
func (s *Server) events(c *gin.Context) {
	j, changed, err := s.watch(c)
	if err != nil {
		httpapi.WriteError(c.Writer, c.Request, err)
		return
	}
	h := c.Writer.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-cache")
	h.Set("X-Accel-Buffering", "no")
	c.Writer.WriteHeader(http.StatusOK)
	tick := time.NewTicker(heartbeat)
	defer tick.Stop()
	for {
		b, err := json.Marshal(j)
		if err != nil {
			slog.ErrorContext(c.Request.Context(), "job event", "err", err)
			return
		}
		if _, err := fmt.Fprintf(c.Writer, "data: %s\n\n", b); err != nil {
			return
		}
		if j.Over() {
			_, _ = fmt.Fprint(c.Writer, "data: [DONE]\n\n")
			return
		}
		c.Writer.Flush()
		for waiting := true; waiting; {
			select {
			case <-c.Request.Context().Done():
				return
			case <-s.draining:
				return
			case <-tick.C:
				if _, err := fmt.Fprint(c.Writer, ": still there\n\n"); err != nil {
					return
				}
				c.Writer.Flush()
			case <-changed:
				waiting = false
			}
		}
		if j, changed, err = s.watch(c); err != nil {
			return
		}
	}
}

func (s *Server) ready(c *gin.Context) (int, any, error) {
	select {
	case <-s.draining:
		return 0, nil, imagebind.Errorf(imagebind.Unavailable, "the server is stopping")
	default:
	}
	if err := s.o.Store.Ready(c.Request.Context()); err != nil {
		if imagebind.KindOf(err) == imagebind.Internal {
			err = imagebind.Errorf(imagebind.Unavailable, "the store cannot answer: %w", err)
		}
		return 0, nil, err
	}
	return http.StatusOK, gin.H{"status": "ready"}, nil
}
