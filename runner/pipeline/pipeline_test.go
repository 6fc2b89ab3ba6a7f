package pipeline

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	imagebind "imagebind-llm"
	"imagebind-llm/internal/golden"
	"imagebind-llm/internal/httpapi"
	"imagebind-llm/retriever/retrieverapi"
	"imagebind-llm/runner/bundle"
	"imagebind-llm/runner/internal/testbundle"
	"imagebind-llm/runner/modality"
	"imagebind-llm/runner/prompt"
)

func TestMain(m *testing.M) { testbundle.Main(m) }

const (
	goldens = "../../testdata/golden/llama-adapter-tiny/"
	picture = "../modality/vision/testdata/inputs/landscape_401x300_q92_444.jpg"
	sound   = "../modality/audio/testdata/inputs/speech_16k_mono.wav"
)

// tiny is the bundle of the golden checkpoints, whose prompts are sent as they are.
func tiny(t testing.TB) *bundle.Bundle {
	b := *testbundle.Open(t, testbundle.ImageBind, testbundle.LLaMA, testbundle.Adapter)
	d := *b.Decoder
	d.Template = "plain"
	b.Decoder = &d
	return &b
}

func open(t testing.TB, b *bundle.Bundle, o Options) *Pipeline {
	t.Helper()
	p, err := Open(b, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	<-p.health.warm
	if err := p.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	return p
}

// query is greedy, 20 tokens, without the cache.
func query(p *Pipeline, text string, parts ...Part) Query {
	q := p.DefaultQuery()
	q.Messages = []prompt.Message{{Role: prompt.User, Content: text}}
	q.Cache.Enabled = false
	for i, part := range parts {
		part.Weight = cmp.Or(part.Weight, 1)
		part.Param = fmt.Sprintf("messages[0].content[%d]", i)
		q.Parts = append(q.Parts, part)
	}
	q.Generate.MaxTokens, q.Generate.Sample.Temperature = 20, 0
	return q
}

func answer(t testing.TB, p *Pipeline, q Query) Answer {
	t.Helper()
	a, err := p.Answer(t.Context(), q, nil)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

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

// The reference's answers, from files to ids: plain chat, one input, several
// mixed by weight, with and without the feature cache.
func TestAnswersGolden(t *testing.T) {
	var of struct {
		Cases map[string]struct {
			Variant, Prompt string
			Weights         map[string]float32
			Cache           *struct {
				Size      int
				T, Weight float32
			}
		}
	}
	golden.JSON(t, goldens+"goldens.json", &of)
	var texts struct{ Cases []struct{ Text string } }
	golden.JSON(t, "../modality/text/testdata/clip_bpe.json", &texts)
	ids := golden.Open(t, goldens+"goldens.safetensors")
	ref := modality.Options{Reference: true}
	p := open(t, tiny(t), Options{Retriever: serveCache(t).client(t), Read: ref})
	done := 0
	for name, c := range of.Cases {
		if c.Variant != "finetune" {
			continue
		}
		var parts []Part
		for _, kind := range []string{"Image", "Audio", "Text", "Video", "Point"} {
			w, ok := c.Weights[kind]
			switch {
			case !ok:
			case kind == "Image":
				parts = append(parts, Part{Data: golden.Bytes(t, picture), Weight: w})
			case kind == "Audio":
				parts = append(parts, Part{Modality: "audio", Data: golden.Bytes(t, sound), Weight: w})
			case kind == "Text":
				parts = append(parts, Part{Modality: "text", Data: []byte(texts.Cases[8].Text), Weight: w})
			case kind == "Video": // ready, until video is read
				e := golden.Open(t, "../../testdata/golden/imagebind-tiny/from_files.safetensors").Tensor(t, "video/portrait_90x160_30fps_3s.mp4")
				parts = append(parts, Part{Modality: "video", Embedding: e.Values, Weight: w})
			default:
				parts = nil
			}
		}
		if c.Weights["Point"] > 0 {
			continue // no point clouds yet
		}
		done++
		t.Run(name, func(t *testing.T) {
			q := query(p, c.Prompt, parts...)
			q.Neighbours = true
			if c.Cache != nil {
				q.Cache = Cache{true, "default", imagebind.EnhanceParams{K: c.Cache.Size, Temperature: c.Cache.T, Weight: c.Cache.Weight}}
			}
			a := answer(t, p, q)
			var want []int
			for _, v := range ids.Tensor(t, name+"/greedy_ids").Values {
				want = append(want, int(v))
			}
			if got := a.Choices[0].IDs; !slices.Equal(got, want) {
				t.Errorf("%v\nwant %v", got, want)
			}
			if a.Bind.CacheApplied != (c.Cache != nil) || c.Cache != nil && len(a.Bind.Neighbours) != c.Cache.Size || len(a.Bind.Modalities) != len(parts) {
				t.Errorf("bind: %+v", a.Bind)
			}
			if tm := a.Timings; tm.Total <= 0 || tm.Prefill <= 0 || len(parts) > 0 && tm.Bridge <= 0 || c.Cache != nil && tm.Retrieve <= 0 {
				t.Errorf("timings: %+v", tm)
			}
		})
	}
	if done < 12 {
		t.Errorf("%d cases", done)
	}
}

// A query without parts injects nothing, whatever was asked before in the slot.
func TestPlainChat(t *testing.T) {
	p := open(t, tiny(t), Options{Slots: 1})
	alone := answer(t, p, query(p, "Describe the image."))
	about := answer(t, p, query(p, "Describe the image.", Part{Data: golden.Bytes(t, picture)}))
	again := answer(t, p, query(p, "Describe the image."))
	if !slices.Equal(alone.Choices[0].IDs, again.Choices[0].IDs) {
		t.Error("plain chat remembers a picture")
	}
	if slices.Equal(alone.Choices[0].IDs, about.Choices[0].IDs) || len(alone.Bind.Modalities) != 0 {
		t.Error("the picture changes nothing")
	}
	if about.Bind.Modalities[0] != (Modality{"image", 1}) || about.Timings.Encoders["image"] <= 0 {
		t.Errorf("%+v, %+v", about.Bind, about.Timings)
	}
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

func TestQueueIsBounded(t *testing.T) {
	two := make(chan struct{}, 8)
	p := open(t, tiny(t), Options{Slots: 1, MaxQueue: 1, Observer: observer{queue: func(requests, _ int) {
		if requests == 2 {
			two <- struct{}{}
		}
	}}})
	hold, held, over := make(chan struct{}), make(chan struct{}), make(chan error, 2)
	go func() {
		var once sync.Once
		_, err := p.Answer(t.Context(), query(p, "Describe the image."), func(Event) error {
			once.Do(func() { close(held) })
			<-hold
			return nil
		})
		over <- err
	}()
	<-held
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		_, err := p.Answer(ctx, query(p, "Describe the image."), nil) // waits for the slot
		over <- err
	}()
	<-two
	if _, err := p.Answer(t.Context(), query(p, "Describe the image."), nil); imagebind.KindOf(err) != imagebind.Busy {
		t.Errorf("a third: %v", err)
	}
	if _, err := p.Embed(t.Context(), EmbedRequest{}); imagebind.KindOf(err) != imagebind.Busy {
		t.Errorf("embeddings: %v", err)
	}
	cancel()
	if err := <-over; imagebind.KindOf(err) != imagebind.Canceled {
		t.Errorf("cancelled in the queue: %v", err)
	}
	close(hold)
	if err := <-over; err != nil {
		t.Error(err)
	}
	answer(t, p, query(p, "Describe the image."))
	if err := p.Ready(t.Context()); err != nil {
		t.Error(err)
	}
}

// An observer passes on what is asked for and notes the rest.
type observer struct {
	queue func(requests, running int)
	notes chan string
}

func (o observer) note(format string, args ...any) {
	if o.notes != nil {
		o.notes <- fmt.Sprintf(format, args...)
	}
}

func (o observer) Queue(requests, running int) {
	if o.queue != nil {
		o.queue(requests, running)
	}
}
func (o observer) Encoded(m string, d time.Duration)    { o.note("encoded %s %v", m, d > 0) }
func (o observer) Retrieved(d time.Duration, err error) { o.note("retrieved %v %v", d > 0, err) }
func (o observer) Prefilled(n int, d time.Duration)     { o.note("prefilled %d %v", n, d > 0) }
func (o observer) Generated(n int, d time.Duration)     { o.note("generated %d %v", n, d > 0) }

func TestObserver(t *testing.T) {
	notes := make(chan string, 16)
	most := 0
	p := open(t, tiny(t), Options{Retriever: serveCache(t).client(t), Observer: observer{notes: notes, queue: func(requests, running int) {
		most = max(most, requests, running)
	}}})
	q := query(p, "Describe the image.", Part{Data: golden.Bytes(t, picture)})
	q.Cache.Enabled = true
	a := answer(t, p, q).Choices[0]
	close(notes)
	var got []string
	for n := range notes {
		got = append(got, n)
	}
	want := []string{"encoded image true", "retrieved true <nil>", fmt.Sprintf("prefilled %d true", a.PromptTokens), fmt.Sprintf("generated %d true", a.CompletionTokens)}
	if !slices.Equal(got, want) || most != 1 {
		t.Errorf("%q, want %q; at most %d at a time", got, want, most)
	}
}

func (p *Pipeline) requests() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.inside
}

func TestChoices(t *testing.T) {
	p := open(t, tiny(t), Options{Slots: 2})
	seed := uint64(7)
	image := Part{Data: golden.Bytes(t, picture)}
	q := query(p, "Describe the image.", image)
	q.N, q.Generate.Sample.Temperature, q.Generate.Sample.Seed = 5, 1, &seed
	said := make([]string, q.N)
	a, err := p.Answer(t.Context(), q, func(e Event) error { said[e.Choice] += e.Text; return nil })
	if err != nil {
		t.Fatal(err)
	}
	different := false
	for i, c := range a.Choices {
		one := q
		s := seed + uint64(i)
		one.N, one.Generate.Sample.Seed = 1, &s
		if alone := answer(t, p, one).Choices[0]; alone.Text != c.Text || said[i] != c.Text {
			t.Errorf("choice %d: %q, its events %q, alone %q", i, c.Text, said[i], alone.Text)
		}
		different = different || c.Text != a.Choices[0].Text
	}
	if !different {
		t.Errorf("five choices are the same: %q", said[0])
	}
	if seed != 7 {
		t.Error("the caller's seed changed")
	}
}

func TestEndsEarly(t *testing.T) {
	p := open(t, tiny(t), Options{Slots: 1})
	ctx, cancel := context.WithCancel(t.Context())
	q := query(p, "Describe the image.")
	a, err := p.Answer(ctx, q, func(Event) error { cancel(); return nil })
	if imagebind.KindOf(err) != imagebind.Canceled || len(a.Choices) != 1 || a.Choices[0].CompletionTokens == 0 {
		t.Errorf("%v, %+v", err, a.Choices)
	}
	gone := errors.New("broken pipe")
	if _, err := p.Answer(t.Context(), q, func(Event) error { return gone }); imagebind.KindOf(err) != imagebind.Canceled || !errors.Is(err, gone) {
		t.Errorf("emit failed: %v", err)
	}
	past, stop := context.WithDeadline(t.Context(), time.Now())
	defer stop()
	if _, err := p.Answer(past, q, nil); imagebind.KindOf(err) != imagebind.Timeout {
		t.Errorf("no time left: %v", err)
	}
	if p.health.failed.Load() {
		t.Error("callers that leave make the model unhealthy")
	}
	answer(t, p, q)
}

func TestRefuses(t *testing.T) {
	p := open(t, tiny(t), Options{})
	image, nan := golden.Bytes(t, picture), make(imagebind.Embedding, 64)
	nan[3] = float32(math.NaN())
	unit := make(imagebind.Embedding, 64)
	unit[0] = 1
	part := func(part Part) func(*Query) {
		return func(q *Query) {
			part.Param = "here"
			q.Parts = []Part{part}
		}
	}
	for _, tt := range []struct {
		name        string
		change      func(*Query)
		kind        imagebind.Kind
		says, param string
	}{
		{"no messages", func(q *Query) { q.Messages = nil }, imagebind.Invalid, "empty", "messages"},
		{"long prompt", func(q *Query) { q.Messages[0].Content = strings.Repeat("dog ", 5000) }, imagebind.Invalid, "tokens", "messages"},
		{"n", func(q *Query) { q.N = 0 }, imagebind.Invalid, "n is 0", "n"},
		{"temperature", func(q *Query) { q.Generate.Sample.Temperature = 3 }, imagebind.Invalid, "temperature", "temperature"},
		{"no weight", part(Part{Data: image}), imagebind.Invalid, "weight", "here"},
		{"weight NaN", part(Part{Data: image, Weight: float32(math.NaN())}), imagebind.Invalid, "weight", "here"},
		{"weight infinite", part(Part{Data: image, Weight: float32(math.Inf(1))}), imagebind.Invalid, "weight", "here"},
		{"empty", part(Part{Weight: 1, Modality: "image"}), imagebind.Invalid, "empty", "here"},
		{"no picture", part(Part{Weight: 1, Modality: "image", Data: []byte("hello")}), imagebind.Unsupported, "", "here"},
		{"cut picture", part(Part{Weight: 1, Data: image[:500]}), imagebind.Invalid, "", "here"},
		{"unknown bytes", part(Part{Weight: 1, Data: []byte{0, 1, 2, 3}}), imagebind.Unsupported, "image, audio, text", "here"},
		{"modality of later", part(Part{Weight: 1, Modality: "hologram", Data: image}), imagebind.Unsupported, "hologram", "here"},
		{"embedding's dims", part(Part{Weight: 1, Embedding: unit[:63]}), imagebind.Invalid, "63", "here"},
		{"embedding NaN", part(Part{Weight: 1, Embedding: nan}), imagebind.Invalid, "NaN", "here"},
		{"embedding zero", part(Part{Weight: 1, Embedding: make(imagebind.Embedding, 64)}), imagebind.Invalid, "zero", "here"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			q := query(p, "Describe the image.")
			tt.change(&q)
			_, err := p.Answer(t.Context(), q, nil)
			if imagebind.KindOf(err) != tt.kind || imagebind.ParamOf(err) != tt.param || !strings.Contains(imagebind.MessageOf(err), tt.says) {
				t.Errorf("kind %d, param %q: %v", imagebind.KindOf(err), imagebind.ParamOf(err), err)
			}
		})
	}
	if p.health.failed.Load() || p.requests() != 0 {
		t.Error("bad queries leave traces")
	}
}

func TestEmbed(t *testing.T) {
	s := serveCache(t)
	p := open(t, tiny(t), Options{Retriever: s.client(t)})
	image, text := Part{Data: golden.Bytes(t, picture), Weight: 3}, Part{Modality: "text", Data: []byte("a dog"), Weight: 1}
	r := EmbedRequest{Items: [][]Part{{image}, {text}, {image, text}}}
	got, err := p.Embed(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	mix, err := imagebind.Mix([]imagebind.Weighted{{Embedding: got[0].Embedding, Weight: 3}, {Embedding: got[1].Embedding, Weight: 1}})
	if err != nil {
		t.Fatal(err)
	}
	mix.Normalize()
	golden.Close(t, got[2].Embedding, mix, 1e-6)
	for i, e := range got {
		if math.Abs(e.Embedding.Norm()-1) > 1e-6 || e.Bind.CacheApplied || len(e.Bind.Modalities) != len(r.Items[i]) {
			t.Errorf("item %d: norm %v, %+v", i, e.Embedding.Norm(), e.Bind)
		}
	}
	c := p.DefaultQuery().Cache
	r.Cache = &c
	enhanced, err := p.Embed(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	for i, e := range enhanced {
		if !e.Bind.CacheApplied || len(e.Bind.Neighbours) != 10 || e.Embedding.Dot(got[i].Embedding) > 0.999 || math.Abs(e.Embedding.Norm()-1) > 1e-6 {
			t.Errorf("item %d: %+v", i, e.Bind)
		}
	}
	if n := s.asked.Load(); n != 1 {
		t.Errorf("%d requests for one batch", n)
	}
	if _, err := p.Embed(t.Context(), EmbedRequest{Items: [][]Part{{image}, {{Param: "input[1]", Modality: "image", Data: []byte("x"), Weight: 1}}}}); imagebind.ParamOf(err) != "input[1]" {
		t.Errorf("%v", err)
	}
}

// Parts of a bundle may be absent.
func TestHalfBundles(t *testing.T) {
	image := Part{Data: golden.Bytes(t, picture), Weight: 1, Param: "here"}
	t.Run("encoders", func(t *testing.T) {
		p := open(t, testbundle.Open(t, testbundle.ImageBind), Options{})
		if _, err := p.Answer(t.Context(), p.DefaultQuery(), nil); imagebind.KindOf(err) != imagebind.Unsupported || !strings.Contains(err.Error(), "no decoder") {
			t.Error(err)
		}
		if got, err := p.Embed(t.Context(), EmbedRequest{Items: [][]Part{{image}}}); err != nil || len(got[0].Embedding) != p.Dim() {
			t.Error(err)
		}
		if !slices.Equal(p.Modalities(), []string{"image", "audio", "text"}) || p.Context() != 0 {
			t.Errorf("%v, context %d", p.Modalities(), p.Context())
		}
	})
	t.Run("decoder", func(t *testing.T) {
		p := open(t, testbundle.Open(t, testbundle.LLaMA), Options{})
		if a := answer(t, p, query(p, "Describe the image.")); a.Choices[0].CompletionTokens == 0 {
			t.Error("no answer")
		}
		if _, err := p.Answer(t.Context(), query(p, "Describe the image.", image), nil); imagebind.KindOf(err) != imagebind.Unsupported || imagebind.ParamOf(err) == "" {
			t.Errorf("a picture: %v", err)
		}
		if len(p.Modalities()) != 0 || p.Context() == 0 {
			t.Errorf("%v, context %d", p.Modalities(), p.Context())
		}
		if _, err := p.Embed(t.Context(), EmbedRequest{Items: [][]Part{{image}}}); imagebind.KindOf(err) != imagebind.Unsupported {
			t.Errorf("an embedding: %v", err)
		}
	})
}

// A graph that computes nonsense is found by the warm-up.
func TestNotReady(t *testing.T) {
	good := tiny(t)
	b := *good
	b.Dir = t.TempDir()
	if err := os.CopyFS(b.Dir, os.DirFS(good.Dir)); err != nil {
		t.Fatal(err)
	}
	enc, _ := b.EncoderOf("audio")
	broken := 0
	for name := range b.Files {
		if strings.HasPrefix(name, strings.TrimSuffix(enc.Graph, ".onnx")) && strings.HasSuffix(name, ".data") {
			path := filepath.Join(b.Dir, name)
			if err := os.WriteFile(path, []byte(strings.Repeat("\xff", int(b.Files[name].Bytes))), 0o644); err != nil {
				t.Fatal(err)
			}
			broken++
		}
	}
	if broken == 0 {
		t.Fatalf("encoder %s has no data file", enc.Graph)
	}
	p, err := Open(&b, Options{})
	if err != nil {
		t.Fatal(err)
	}
	<-p.health.warm
	if err := p.Ready(t.Context()); imagebind.KindOf(err) != imagebind.Unavailable {
		t.Errorf("ready: %v", err)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if err := p.Ready(t.Context()); err == nil {
		t.Error("ready when closed")
	}
}

func TestRecovers(t *testing.T) {
	p := open(t, tiny(t), Options{})
	p.health.note(errors.New("a run failed"))
	if !p.health.failed.Load() {
		t.Fatal("a failed run is not noted")
	}
	if err := p.Ready(t.Context()); err != nil || p.health.failed.Load() {
		t.Errorf("it does not try again: %v", err)
	}
}

// Close ends what is under way, waits for it, and lets nothing in.
func TestClose(t *testing.T) {
	p, err := Open(tiny(t), Options{Slots: 1})
	if err != nil {
		t.Fatal(err)
	}
	over := make(chan error, 1)
	begun := make(chan struct{})
	go func() {
		var once sync.Once
		q := query(p, "Describe the image.")
		q.Generate.MaxTokens = 0
		_, err := p.Answer(t.Context(), q, func(Event) error {
			once.Do(func() { close(begun) })
			<-p.life.Done()
			return nil
		})
		over <- err
	}()
	<-begun
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if n := p.requests(); n != 0 {
		t.Errorf("closed with %d requests inside", n)
	}
	if err := <-over; imagebind.KindOf(err) != imagebind.Canceled {
		t.Errorf("cut: %v", err)
	}
	if _, err := p.Answer(t.Context(), query(p, "x"), nil); imagebind.KindOf(err) != imagebind.Unavailable {
		t.Errorf("closed: %v", err)
	}
}

func TestOpenRefuses(t *testing.T) {
	b := tiny(t)
	if p, err := Open(b, Options{OnRetrieverFailure: "shrug"}); err == nil {
		p.Close()
		t.Error("an unknown policy was taken")
	}
	b.Decoder.Vocab = 100
	if p, err := Open(b, Options{}); err == nil {
		p.Close()
		t.Error("a tokenizer larger than the decoder was taken")
	}
}
