package soak

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"imagebind-llm/internal/bench/load"
)

// look learns what the server reads, and how long a prompt may be.
func (s *soak) look(ctx context.Context) error {
	raw, err := s.client.Get(ctx, "/v1/models")
	if err != nil {
		return err
	}
	var models struct {
		Data []struct {
			Context    int      `json:"max_context"`
			Modalities []string `json:"modalities"`
		} `json:"data"`
	}
	if err := json.Unmarshal(raw, &models); err != nil {
		return err
	}
	if len(models.Data) != 1 || models.Data[0].Context == 0 {
		return errors.New("the server has no model that chats; give a bundle with a decoder")
	}
	s.context, s.modalities = models.Data[0].Context, models.Data[0].Modalities
	return nil
}

// words is a prompt of n words.
func (s *soak) words(n int) string { return strings.Repeat("a dog and ", n/3+1) + "what?" }

// errLeft is how a client leaves.
var errLeft = errors.New("left")

// leave begins a request and leaves in its middle. What it had is of no
// interest, but the server must not have failed.
func (s *soak) leave(ctx context.Context, r *rand.Rand) (kind string, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	soon := func(most time.Duration) { time.AfterFunc(time.Duration(r.Int64N(int64(most))), cancel) }
	n := 4
	if !slices.Contains(s.modalities, "image") {
		n = 3
	}
	switch r.IntN(n) {
	case 0:
		kind = "left in a stream"
		left := r.IntN(12)
		_, err = s.client.Stream(ctx, load.Chat(prompts[r.IntN(len(prompts))], 200), func(int, string) error {
			if left--; left < 0 {
				return errLeft
			}
			return nil
		})
	case 1:
		kind = "left while its prompt was read"
		soon(60 * time.Millisecond)
		// The first word is not that of any other, so that the prompt is read from there.
		_, err = s.client.Whole(ctx, load.Chat(fmt.Sprint(r.IntN(1e6))+" "+s.words(s.context/8), 100))
	case 2:
		kind = "left in an upload"
		in, out := io.Pipe()
		go func() {
			_, _ = io.WriteString(out, `{"messages":[{"role":"user","content":"`+strings.Repeat("x", r.IntN(1<<20)))
			time.Sleep(time.Duration(r.IntN(50)) * time.Millisecond)
			out.CloseWithError(errLeft)
		}()
		_, err = s.client.Post(ctx, "/v1/chat/completions", "application/json", in)
		in.Close()
	default:
		kind = "left while its picture was read"
		soon(30 * time.Millisecond)
		_, err = s.client.Whole(ctx, asked(prompts[0], 100, part("image_url", map[string]any{"url": dataURL(s.picture(r))})))
	}
	var status *load.StatusError
	if !errors.As(err, &status) && (errors.Is(err, errLeft) || errors.Is(err, context.Canceled)) {
		err = nil
	}
	return kind, err
}

// picture is one of the demo's with a few bytes behind its end that no other has.
func (s *soak) picture(r *rand.Rand) []byte {
	list, _ := filepath.Glob(filepath.Join(s.Root, "demo/samples/new-style/*.png"))
	if len(list) == 0 {
		return nil
	}
	raw, _ := os.ReadFile(list[r.IntN(len(list))])
	return fmt.Append(raw, r.Uint64())
}

// A bad request, and the statuses that are right for it.
type bad struct {
	name   string
	route  string // chat's where empty
	typ    string // JSON's where empty
	body   func(s *soak) []byte
	status []int
}

func text(b string) func(*soak) []byte { return func(*soak) []byte { return []byte(b) } }

// chatting is a chat completion with one more field, or another in place of one.
func chatting(fields string) func(*soak) []byte {
	return text(`{"messages":[{"role":"user","content":"x"}],"max_tokens":4,` + fields + `}`)
}

// about is a chat completion with one part.
func about(p string) func(*soak) []byte {
	return text(`{"messages":[{"role":"user","content":[{"type":"text","text":"x"},` + p + `]}],"max_tokens":4}`)
}

const tooLarge = 413

var nonsense = []bad{
	{name: "no JSON", body: text("{\"messages\": ["), status: []int{400}},
	{name: "nothing", body: text(""), status: []int{400}},
	{name: "an array", body: text("[]"), status: []int{400}},
	{name: "no messages", body: text("{}"), status: []int{400}},
	{name: "messages of a wrong type", body: text(`{"messages":5}`), status: []int{400}},
	{name: "an unknown role", body: text(`{"messages":[{"role":"cook","content":"x"}]}`), status: []int{400}},
	{name: "max_tokens below 1", body: chatting(`"max_tokens":-1`), status: []int{400}},
	{name: "temperature of 9", body: chatting(`"temperature":9`), status: []int{400}},
	{name: "too many choices", body: chatting(`"n":100000`), status: []int{400}},
	{name: "another model", body: chatting(`"model":"gpt-99"`), status: []int{404}},
	{name: "a schema that is none", body: chatting(`"response_format":{"type":"json_schema","json_schema":{"name":"x","schema":{"type":"cook"}}}`), status: []int{400}},
	{name: "a broken picture", body: about(`{"type":"image_url","image_url":{"url":"data:image/png;base64,iVBORw0KGgoAAAANSUhEUg=="}}`), status: []int{400, 415}},
	{name: "no picture", body: about(`{"type":"image_url","image_url":{"url":"data:image/png;base64,AAAAAAAAAAAAAAAA"}}`), status: []int{400, 415}},
	{name: "no base64", body: about(`{"type":"image_url","image_url":{"url":"data:image/png;base64,%%%"}}`), status: []int{400}},
	{name: "a part of no known type", body: about(`{"type":"smell_url","smell_url":{"url":"data:,x"}}`), status: []int{400, 415}},
	{name: "a host that is not allowed", body: about(`{"type":"image_url","image_url":{"url":"http://127.0.0.1:1/x.png"}}`), status: []int{400}},
	{name: "an embedding of another width", body: about(`{"type":"embedding","embedding":{"data":[1,2,3]}}`), status: []int{400}},
	{name: "half a picture", body: func(s *soak) []byte {
		raw := s.picture(rand.New(rand.NewPCG(1, 1)))
		b, _ := json.Marshal(asked("x", 4, part("image_url", map[string]any{"url": dataURL(raw[:len(raw)/2])})))
		return b
	}, status: []int{400, 415}},
	{name: "a prompt that is too long", body: func(s *soak) []byte {
		b, _ := json.Marshal(load.Chat(s.words(4*s.context), 4))
		return b
	}, status: []int{400}},
	{name: "a body that is too large", body: func(s *soak) []byte { return bytes.Repeat([]byte{' '}, s.Body+1) }, status: []int{tooLarge}},
	{name: "no such route", route: "/v1/nothing", body: text("{}"), status: []int{404}},
	{name: "no form", route: "/v1/ask", typ: "multipart/form-data; boundary=x", body: text("nothing"), status: []int{400}},
	{name: "embeddings of nothing", route: "/v1/embeddings", body: text(`{"input":5}`), status: []int{400}},
}

// check sends b and holds the status against what is right.
func (b bad) check(ctx context.Context, s *soak) error {
	route, typ := b.route, b.typ
	if route == "" {
		route = "/v1/chat/completions"
	}
	if typ == "" {
		typ = "application/json"
	}
	_, err := s.client.Post(ctx, route, typ, bytes.NewReader(b.body(s)))
	var status *load.StatusError
	switch {
	case err == nil:
		return fmt.Errorf("was answered, want status %v", b.status)
	case errors.As(err, &status) && slices.Contains(b.status, status.Status):
		return nil
	case status != nil && status.Status == 415 && !slices.Contains(s.modalities, "image"):
		return nil // all media are too much for a bundle of texts
	case status == nil && b.status[0] == tooLarge && ctx.Err() == nil:
		return nil // the server hung up on the upload, which is its right
	}
	return fmt.Errorf("want status %v: %w", b.status, err)
}
