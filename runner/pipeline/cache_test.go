package pipeline

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	imagebind "imagebind-llm"
	"imagebind-llm/internal/golden"
	"imagebind-llm/internal/httpapi"
	"imagebind-llm/retriever/retrieverapi"
)

// A cacheServer is a retriever with one collection, default.
type cacheServer struct {
	*httptest.Server
	rows  [][]float32
	fail  atomic.Pointer[func(w http.ResponseWriter, r *http.Request)] // instead of answering
	asked atomic.Int64
}

func serveCache(t testing.TB) *cacheServer {
	t.Helper()
	raw := golden.Bytes(t, "testdata/knn.npy")
	raw = raw[len(raw)-500*64*4:]
	s := &cacheServer{}
	for len(raw) > 0 {
		row := make([]float32, 64)
		for i := range row {
			row[i] = math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:]))
		}
		s.rows, raw = append(s.rows, row), raw[256:]
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /readyz", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("GET /v1/collections/default", func(w http.ResponseWriter, _ *http.Request) {
		httpapi.WriteJSON(w, 200, retrieverapi.Collection{Name: "default", Dim: 64, Count: 500})
	})
	mux.HandleFunc("GET /v1/collections/wide", func(w http.ResponseWriter, _ *http.Request) {
		httpapi.WriteJSON(w, 200, retrieverapi.Collection{Name: "wide", Dim: 1024})
	})
	mux.HandleFunc("POST /v1/collections/{name}/enhance", s.enhance)
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if f := s.fail.Load(); f != nil {
			_, _ = io.Copy(io.Discard, r.Body) // else the server does not see its client leave
			(*f)(w, r)
			return
		}
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *cacheServer) client(t testing.TB) *retrieverapi.Client {
	t.Helper()
	c, err := retrieverapi.NewClient(s.URL, retrieverapi.Options{Retries: -1, BreakAfter: 1 << 20, Timeout: 2 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// enhance is docs/api.md's "Cache enhancement".
func (s *cacheServer) enhance(w http.ResponseWriter, r *http.Request) {
	s.asked.Add(1)
	switch r.PathValue("name") {
	case "default":
	case "wide":
		httpapi.WriteError(w, r, imagebind.WithParam(imagebind.Errorf(imagebind.Invalid, "vector 0 has 64 values, the collection's have 1024"), "vectors"))
		return
	default:
		httpapi.WriteError(w, r, imagebind.Errorf(imagebind.NotFound, "no collection"))
		return
	}
	var req retrieverapi.EnhanceRequest
	if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
		httpapi.WriteError(w, r, imagebind.Errorf(imagebind.Invalid, "%w", err))
		return
	}
	var resp retrieverapi.EnhanceResponse
	for _, v := range req.Vectors {
		q := imagebind.Embedding(v)
		var near []retrieverapi.Neighbour
		for i, row := range s.rows {
			near = append(near, retrieverapi.Neighbour{ID: fmt.Sprint(i), Score: float32(q.Dot(row)), Vector: row})
		}
		slices.SortFunc(near, func(a, b retrieverapi.Neighbour) int { return cmp.Compare(b.Score, a.Score) })
		near = near[:*req.K]
		c, sum := make([]float64, len(q)), 0.0
		for i := range near {
			a := math.Exp(float64(*req.Temperature) * float64(near[i].Score-near[0].Score))
			sum += a
			for j, x := range near[i].Vector {
				c[j] += a * float64(x)
			}
			weight := float32(a)
			near[i].Weight, near[i].Vector = &weight, nil
		}
		for i := range near {
			*near[i].Weight /= float32(sum)
		}
		mean := make(imagebind.Embedding, len(q))
		for j := range c {
			mean[j] = float32(c[j] / sum)
		}
		mean.Normalize()
		for j := range mean {
			mean[j] = (1-*req.Weight)*q[j] + *req.Weight*mean[j]
		}
		mean.Normalize()
		resp.Vectors, resp.Neighbours = append(resp.Vectors, retrieverapi.Vector(mean)), append(resp.Neighbours, near)
	}
	httpapi.WriteJSON(w, 200, resp)
}

func TestRetrieverFails(t *testing.T) {
	s := serveCache(t)
	status := func(kind imagebind.Kind) *func(http.ResponseWriter, *http.Request) {
		f := func(w http.ResponseWriter, r *http.Request) {
			httpapi.WriteError(w, r, imagebind.Errorf(kind, "secret of the retriever"))
		}
		return &f
	}
	hang := func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	cut := func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }
	nonsense := func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("{")) }
	short := func(w http.ResponseWriter, _ *http.Request) {
		httpapi.WriteJSON(w, 200, retrieverapi.EnhanceResponse{Vectors: []retrieverapi.Vector{{1}}, Neighbours: [][]retrieverapi.Neighbour{{}}})
	}
	image := Part{Data: golden.Bytes(t, picture)}
	for _, policy := range []string{Degrade, Fail} {
		p := open(t, tiny(t), Options{Retriever: s.client(t), OnRetrieverFailure: policy})
		without := answer(t, p, query(p, "Describe the image.", image))
		for _, tt := range []struct {
			name string
			fail *func(http.ResponseWriter, *http.Request)
			says string
		}{
			{"closed connection", &cut, "does not answer"},
			{"hangs", &hang, "too long"},
			{"nonsense", &nonsense, "does not answer"},
			{"wrong answer", &short, "does not answer"},
			{"broken", status(imagebind.Internal), "failed"},
			{"busy", status(imagebind.Busy), "overloaded"},
			{"store away", status(imagebind.Unavailable), "does not answer"},
			{"key", status(imagebind.Unauthorized), "key"},
			{"no collection", status(imagebind.NotFound), "no collection default"},
		} {
			t.Run(policy+"/"+tt.name, func(t *testing.T) {
				s.fail.Store(tt.fail)
				defer s.fail.Store(nil)
				q := query(p, "Describe the image.", image)
				q.Cache.Enabled = true
				a, err := p.Answer(t.Context(), q, nil)
				if policy == Fail {
					if imagebind.KindOf(err) != imagebind.Unavailable || !strings.Contains(imagebind.MessageOf(err), tt.says) || strings.Contains(imagebind.MessageOf(err), "secret") {
						t.Errorf("%v", err)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				if !a.Bind.Degraded || a.Bind.CacheApplied || !strings.Contains(a.Bind.DegradedReason, tt.says) || strings.Contains(a.Bind.DegradedReason, "secret") {
					t.Errorf("%+v", a.Bind)
				}
				if !slices.Equal(a.Choices[0].IDs, without.Choices[0].IDs) {
					t.Error("the answer is not that without a cache")
				}
			})
		}
		t.Run(policy+"/caller's mistakes", func(t *testing.T) {
			for _, tt := range []struct {
				change func(*Cache)
				says   []string
				param  string
			}{
				{func(c *Cache) { c.Collection = "wide" }, []string{"1024", "64", "wide"}, "cache.collection"},
				{func(c *Cache) { c.K = 0 }, []string{"k is 0"}, "cache"},
				{func(c *Cache) { c.Weight = 2 }, []string{"weight is 2"}, "cache"},
				{func(c *Cache) { c.Collection = "" }, []string{"no name"}, "cache.collection"},
			} {
				q := query(p, "Describe the image.", image)
				q.Cache.Enabled = true
				tt.change(&q.Cache)
				_, err := p.Answer(t.Context(), q, nil)
				if imagebind.KindOf(err) != imagebind.Invalid || imagebind.ParamOf(err) != tt.param {
					t.Errorf("%v, param %q", err, imagebind.ParamOf(err))
				}
				for _, s := range tt.says {
					if !strings.Contains(imagebind.MessageOf(err), s) {
						t.Errorf("%q says nothing of %s", imagebind.MessageOf(err), s)
					}
				}
			}
		})
		s.fail.Store(&cut)
		if err := p.Ready(t.Context()); (err != nil) != (policy == Fail) {
			t.Errorf("%s: ready without retriever: %v", policy, err)
		}
		s.fail.Store(nil)
	}
	t.Run("cancelled meanwhile", func(t *testing.T) {
		p := open(t, tiny(t), Options{Retriever: s.client(t)})
		ctx, cancel := context.WithCancel(t.Context())
		stop := func(_ http.ResponseWriter, r *http.Request) { cancel(); <-r.Context().Done() }
		s.fail.Store(&stop)
		defer s.fail.Store(nil)
		q := query(p, "Describe the image.", image)
		q.Cache.Enabled = true
		if _, err := p.Answer(ctx, q, nil); imagebind.KindOf(err) != imagebind.Canceled {
			t.Error(err)
		}
	})
	t.Run("none configured", func(t *testing.T) {
		p := open(t, tiny(t), Options{})
		if p.DefaultQuery().Cache.Enabled {
			t.Error("the cache is on by default without a retriever")
		}
		q := query(p, "Describe the image.", image)
		q.Cache.Enabled = true
		if a := answer(t, p, q); !a.Bind.Degraded || !strings.Contains(a.Bind.DegradedReason, "configured") {
			t.Errorf("%+v", a.Bind)
		}
	})
}
