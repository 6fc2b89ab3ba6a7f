package soak

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"mime/multipart"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"imagebind-llm/internal/bench/load"
)

// A known is a request whose answer is known, since it was asked alone.
type known struct {
	kind, name string
	ask        func(ctx context.Context, c *load.Client, stream bool) (reply, error)
	want       reply
}

// A reply is what is held against the known one.
type reply struct {
	text   string    // of all choices, with how they ended
	vector []float64 // of an embedding
}

// vectorTolerance is what an embedding may differ by when its input went through
// the encoder together with others: sums in another order.
const vectorTolerance = 1e-4

func (r reply) differs(want reply) error {
	if r.text != want.text {
		return fmt.Errorf("answered %q, alone %q", r.text, want.text)
	}
	if len(r.vector) != len(want.vector) {
		return fmt.Errorf("%d values, alone %d", len(r.vector), len(want.vector))
	}
	for i, x := range r.vector {
		if d := math.Abs(x - want.vector[i]); !(d <= vectorTolerance) {
			return fmt.Errorf("value %d of the embedding is %g away from that alone", i, d)
		}
	}
	return nil
}

func (k *known) check(ctx context.Context, c *load.Client, stream bool) error {
	got, err := k.ask(ctx, c, stream)
	if err != nil {
		return err
	}
	return got.differs(k.want)
}

// learn asks everything alone, whole and streamed.
func (s *soak) learn(ctx context.Context) error {
	if err := s.look(ctx); err != nil {
		return err
	}
	list, err := s.candidates(ctx)
	if err != nil {
		return err
	}
	for _, k := range list {
		if k.want, err = k.ask(ctx, s.client, false); err == nil {
			err = k.check(ctx, s.client, true)
		}
		if err == nil {
			err = k.check(ctx, s.client, false)
		}
		if err != nil {
			return fmt.Errorf("alone, %s: %w", k.name, err)
		}
		s.known = append(s.known, k)
	}
	s.say("%d answers are known; modalities: %s", len(s.known), strings.Join(append(s.modalities, "chat"), ", "))
	return nil
}

// chat is a known chat completion. A stream is now and then read slowly.
func chat(kind, name string, body load.Body) *known {
	slow := 0
	return &known{kind: kind, name: name, ask: func(ctx context.Context, c *load.Client, stream bool) (reply, error) {
		if !stream {
			a, err := c.Whole(ctx, body)
			return replyOf(a), err
		}
		var piece func(int, string) error
		if slow++; slow%8 == 0 { // a race between clients does no harm
			piece = func(int, string) error { time.Sleep(20 * time.Millisecond); return nil }
		}
		a, err := c.Stream(ctx, body, piece)
		return replyOf(a), err
	}}
}

func replyOf(a load.Answer) reply {
	var b strings.Builder
	for i, t := range a.Texts {
		fmt.Fprintf(&b, "%s (%s) ", t, a.Finish[i])
	}
	return reply{text: fmt.Sprintf("%s%d+%d tokens", b.String(), a.Usage.Prompt, a.Usage.Completion)}
}

func with(b load.Body, key string, value any) load.Body {
	b = maps.Clone(b)
	b[key] = value
	return b
}

func part(kind string, fields map[string]any) map[string]any {
	return map[string]any{"type": kind, kind: fields}
}

func dataURL(raw []byte) string {
	return "data:application/octet-stream;base64," + base64.StdEncoding.EncodeToString(raw)
}

// asked is a chat about parts.
func asked(prompt string, tokens int, parts ...map[string]any) load.Body {
	content := append([]map[string]any{{"type": "text", "text": prompt}}, parts...)
	return load.Body{"messages": []map[string]any{{"role": "user", "content": content}}, "max_tokens": tokens, "temperature": 0}
}

var prompts = []string{"What is this?", "Describe it in a few words.", "Say something about the sea.", "这是什么？", "Write a list of ten fruits, and why they are good."}

// files are those of each modality that are asked about, from the repository.
var files = []struct{ kind, pattern string }{
	{"image", "demo/samples/known-style/*-noto.png"},
	{"audio", "runner/modality/audio/testdata/*.flac"},
	{"depth", "runner/modality/depth/testdata/wide.png"},
	{"thermal", "runner/modality/thermal/testdata/grey.png"},
	{"imu", "runner/modality/imu/testdata/ego4d.csv"},
	{"point_cloud", "runner/modality/point/testdata/cyl_1024.npy"},
}

// candidates are requests of all kinds.
func (s *soak) candidates(ctx context.Context) ([]*known, error) {
	var list []*known
	add := func(k ...*known) { list = append(list, k...) }
	for i, p := range prompts {
		plain := load.Chat(p, 24)
		add(chat("chat", p, plain))
		drawn := with(with(with(plain, "temperature", 0.9), "top_p", 0.9), "seed", 7+i)
		add(chat("seed", "drawn, "+p, drawn), chat("choices of one request", "three, "+p, with(drawn, "n", 3)))
		stopped, err := s.stopped(ctx, plain)
		if err != nil {
			return nil, err
		}
		if stopped != nil {
			add(chat("stop", "stopped, "+p, stopped))
		}
		add(chat("form", "one of two, "+p, with(plain, "choices", []string{"yes", "no"})))
		add(chat("unknown fields", "unknown fields, "+p, with(plain, "not_a_field", map[string]any{"x": []int{1}})))
	}
	add(chat("form", "JSON", with(load.Chat(prompts[2], 40), "response_format", map[string]any{"type": "json_schema", "json_schema": map[string]any{"name": "x",
		"schema": map[string]any{"type": "object", "properties": map[string]any{"a": map[string]any{"type": "integer", "minimum": 0, "maximum": 99}}, "required": []string{"a"}}}})))
	add(chat("long prompt", "long prompt", load.Chat(s.words(s.context/8), 16)))
	for _, f := range files {
		if !slices.Contains(s.modalities, f.kind) {
			continue
		}
		paths, err := filepath.Glob(filepath.Join(s.Root, f.pattern))
		if err != nil {
			return nil, err
		}
		for i, path := range paths[:min(len(paths), 6)] {
			raw, err := os.ReadFile(path)
			if err != nil {
				return nil, err
			}
			name := filepath.Base(path)
			url := part(f.kind+"_url", map[string]any{"url": dataURL(raw)})
			body := asked(prompts[i%2], 24, url)
			add(chat("media", name, body), form(name, f.kind, raw))
			if slices.Contains(s.modalities, "text") {
				add(chat("media", name+" and a text", asked(prompts[1], 24, url, part("bind_text", map[string]any{"text": "strawberry"}))))
			}
			add(embedding(name, map[string]any{"content": []map[string]any{url}}))
			if i == 0 {
				turns, err := s.conversation(ctx, name, body)
				if err != nil {
					return nil, err
				}
				add(turns...)
			}
		}
	}
	if slices.Contains(s.modalities, "text") {
		add(embedding("a text", "a strawberry"))
	}
	return list, nil
}

// stopped asks the same with a stop string from the answer's middle; nil where
// the answer is too short for one.
func (s *soak) stopped(ctx context.Context, body load.Body) (load.Body, error) {
	a, err := s.client.Whole(ctx, body)
	if err != nil {
		return nil, err
	}
	text := []rune(a.Texts[0])
	if len(text) < 9 {
		return nil, nil
	}
	return with(body, "stop", []string{"\x00", string(text[len(text)/2 : len(text)/2+4])}), nil
}

// conversation is two further turns behind a request, each a known of its own.
func (s *soak) conversation(ctx context.Context, name string, body load.Body) ([]*known, error) {
	var list []*known
	for turn := 2; turn <= 3; turn++ {
		a, err := s.client.Whole(ctx, body)
		if err != nil {
			return nil, fmt.Errorf("%s, turn %d: %w", name, turn-1, err)
		}
		said := a.Texts[0]
		if said == "" {
			said = "…"
		}
		messages := append([]map[string]any{}, body["messages"].([]map[string]any)...)
		messages = append(messages, map[string]any{"role": "assistant", "content": said}, map[string]any{"role": "user", "content": prompts[turn%2]})
		body = with(body, "messages", messages)
		list = append(list, chat("conversation", fmt.Sprintf("%s, turn %d", name, turn), body))
	}
	return list, nil
}

// form asks about a file as a form does.
func form(name, field string, raw []byte) *known {
	return &known{kind: "form", name: "form with " + name, ask: func(ctx context.Context, c *load.Client, _ bool) (reply, error) {
		var b bytes.Buffer
		w := multipart.NewWriter(&b)
		for k, v := range map[string]string{"prompt": prompts[0], "max_tokens": "24", "temperature": "0"} {
			if err := w.WriteField(k, v); err != nil {
				return reply{}, err
			}
		}
		file, err := w.CreateFormFile(field, name)
		if err != nil {
			return reply{}, err
		}
		_, _ = file.Write(raw)
		if err := w.Close(); err != nil {
			return reply{}, err
		}
		body, err := c.Post(ctx, "/v1/ask", w.FormDataContentType(), &b)
		if err != nil {
			return reply{}, err
		}
		var a load.Answer
		err = a.Read(body)
		return replyOf(a), err
	}}
}

// embedding asks for one.
func embedding(name string, input any) *known {
	return &known{kind: "embedding", name: "embedding of " + name, ask: func(ctx context.Context, c *load.Client, _ bool) (reply, error) {
		raw, err := json.Marshal(map[string]any{"input": []any{input}})
		if err != nil {
			return reply{}, err
		}
		body, err := c.Post(ctx, "/v1/embeddings", "application/json", bytes.NewReader(raw))
		if err != nil {
			return reply{}, err
		}
		var got struct {
			Data []struct {
				Embedding []float64 `json:"embedding"`
			} `json:"data"`
		}
		if err := json.Unmarshal(body, &got); err != nil || len(got.Data) != 1 {
			return reply{}, fmt.Errorf("%d embeddings, %w", len(got.Data), err)
		}
		return reply{vector: got.Data[0].Embedding}, nil
	}}
}
