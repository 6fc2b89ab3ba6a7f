package pipeline

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	imagebind "imagebind-llm"
	"imagebind-llm/internal/golden"
	"imagebind-llm/runner/internal/testbundle"
	"imagebind-llm/runner/modality/all"
)

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
		if got := p.Modalities(); slices.Contains(got, "point_cloud") || len(got) != len(all.Specs)-1 || p.Context() != 0 {
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
