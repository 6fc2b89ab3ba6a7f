package pipeline

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	imagebind "imagebind-llm"
	"imagebind-llm/internal/golden"
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
	b := *testbundle.Open(t, testbundle.ImageBind, testbundle.Point, testbundle.LLaMA, testbundle.Adapter)
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
	inputs := map[string]Part{
		"Image": {Data: golden.Bytes(t, picture)},
		"Audio": {Modality: "audio", Data: golden.Bytes(t, sound)},
		"Text":  {Modality: "text", Data: []byte(texts.Cases[8].Text)},
		"Video": {Modality: "video", Data: golden.Bytes(t, "../modality/vision/testdata/video/portrait_90x160_30fps_3s.mp4")},
		"Point": {Modality: "point_cloud", Data: golden.Bytes(t, "../modality/point/testdata/cyl_1024.npy")},
	}
	ids := golden.Open(t, goldens+"goldens.safetensors")
	program, err := exec.LookPath("ffmpeg")
	if err != nil {
		golden.Need(t, "ffmpeg", "wants ffmpeg for the video: "+err.Error())
	}
	ref := modality.Options{Reference: true, FFmpeg: program}
	p := open(t, tiny(t), Options{Retriever: serveCache(t).client(t), Read: ref})
	done := 0
	for name, c := range of.Cases {
		if c.Variant != "finetune" {
			continue
		}
		var parts []Part
		for _, kind := range []string{"Image", "Audio", "Text", "Video", "Point"} {
			if w, ok := c.Weights[kind]; ok {
				part := inputs[kind]
				part.Weight = w
				parts = append(parts, part)
			}
		}
		done++
		t.Run(name, func(t *testing.T) {
			q := query(p, c.Prompt, parts...)
			q.Neighbours = true
			if c.Cache != nil {
				q.Cache = Cache{Enabled: true, Collection: "default", EnhanceParams: imagebind.EnhanceParams{K: c.Cache.Size, Temperature: c.Cache.T, Weight: c.Cache.Weight}}
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
	if done != 16 {
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
func (o observer) Recalled(m string, hit bool)          { o.note("recalled %s %v", m, hit) }
func (o observer) Retrieved(d time.Duration, err error) { o.note("retrieved %v %v", d > 0, err) }
func (o observer) Ran(int, int, time.Duration)          {}
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
	want := []string{"encoded image true", "recalled image false", "retrieved true <nil>", fmt.Sprintf("prefilled %d true", a.PromptTokens), fmt.Sprintf("generated %d true", a.CompletionTokens)}
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
		{"unknown bytes", part(Part{Weight: 1, Data: []byte{0, 1, 2, 3}}), imagebind.Unsupported, "send it as one of image, ", "here"},
		{"a .npy of anything", part(Part{Weight: 1, Data: []byte("\x93NUMPY\x01\x00")}), imagebind.Unsupported, "send it as one of", "here"},
		{"parameter of another", part(Part{Weight: 1, Modality: "image", Data: image, Params: modality.Params{"rate": 1}}), imagebind.Invalid, "image has no", "here"},
		{"two things at once", part(Part{Weight: 1, Data: append(slices.Clone(image), "PK\x05\x06"+strings.Repeat("\x00", 18)...)}), imagebind.Invalid, "at once", "here"},
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
