package pipeline

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	imagebind "imagebind-llm"
	"imagebind-llm/internal/golden"
	"imagebind-llm/runner/modality"
)

func TestKeyOf(t *testing.T) {
	seen := map[memoKey]int{}
	for i, x := range []struct {
		modality string
		Part
	}{
		{"image", Part{Data: []byte("ab")}},
		{"image", Part{Data: []byte("ac")}},
		{"audio", Part{Data: []byte("ab")}},
		{"imag", Part{Data: []byte("eab")}},
		{"image", Part{Data: []byte("ab"), Params: modality.Params{"clips": 2}}},
		{"image", Part{Data: []byte("ab"), Params: modality.Params{"clips": 3}}},
		{"image", Part{Data: []byte("ab"), Params: modality.Params{"clips": 2, "rate": 2}}},
	} {
		key := keyOf(x.modality, x.Part)
		if j, ok := seen[key]; ok {
			t.Errorf("parts %d and %d have one key", i, j)
		}
		seen[key] = i
		x.Weight, x.Param = 7, "messages[3]"
		if keyOf(x.modality, x.Part) != key {
			t.Errorf("part %d: the weight is in the key", i)
		}
	}
}

func TestMemo(t *testing.T) {
	m := newMemo(2)
	made := 0
	get := func(id byte) bool {
		x, hit, err := m.get(t.Context(), memoKey{id}, func(context.Context) (encoded, error) {
			made++
			return encoded{Embedding: imagebind.Embedding{float32(id)}, read: 1, encode: 2}, nil
		})
		if err != nil || x.Embedding[0] != float32(id) || hit && x.read+x.encode != 0 {
			t.Errorf("%v %v", x, err)
		}
		m.wait()
		return hit
	}
	for i, x := range []struct {
		id  byte
		hit bool
	}{{1, false}, {2, false}, {1, true}, {3, false}, {1, true}, {2, false}, {3, false}} { // 2 goes for 3, then 3 for 2
		if hit := get(x.id); hit != x.hit {
			t.Errorf("call %d: hit is %v", i, hit)
		}
	}
	if made != 5 || len(m.entries) != 2 || m.recent.Len() != 2 {
		t.Errorf("%d made, %d and %d kept", made, len(m.entries), m.recent.Len())
	}
	m = newMemo(0)
	if get(1); get(1) || len(m.entries) != 0 {
		t.Error("something was kept")
	}
	for range 2 {
		fail := errors.New("fails")
		if _, hit, err := m.get(t.Context(), memoKey{9}, func(context.Context) (encoded, error) { return encoded{}, fail }); !errors.Is(err, fail) || hit {
			t.Error(hit, err)
		}
		m.wait()
	}
	if _, _, err := m.get(t.Context(), memoKey{9}, func(context.Context) (encoded, error) { panic("broken") }); err == nil {
		t.Error("a panic is no error")
	}
}

// Several who want the same wait for one making, which goes on until the last
// of them leaves.
func TestMemoTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemo(1)
		made, stopped := 0, 0
		get := func(ctx context.Context) chan error {
			c := make(chan error, 1)
			go func() {
				_, _, err := m.get(ctx, memoKey{}, func(ctx context.Context) (encoded, error) {
					made++
					select {
					case <-time.After(time.Second):
						return encoded{}, nil
					case <-ctx.Done():
						stopped++
						return encoded{}, ctx.Err()
					}
				})
				c <- err
			}()
			synctest.Wait()
			return c
		}
		first, leave := context.WithCancel(t.Context())
		a, b := get(first), get(t.Context())
		leave()
		if err := <-a; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		if err := <-b; err != nil || made != 1 || stopped != 0 {
			t.Errorf("%v; %d made, %d stopped", err, made, stopped)
		}
		m = newMemo(1)
		first, leave = context.WithCancel(t.Context())
		a = get(first)
		leave()
		synctest.Wait()
		b = get(t.Context()) // the one that was left is not taken over
		if err := <-a; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		if err := <-b; err != nil || made != 3 || stopped != 1 {
			t.Errorf("%v; %d made, %d stopped", err, made, stopped)
		}
		m.wait()
		if len(m.entries) != 1 {
			t.Error("what was left is kept")
		}
	})
}

// The second turn about a picture neither reads nor encodes it, and means the
// same to the last bit.
func TestRecall(t *testing.T) {
	p := open(t, tiny(t), Options{EmbedCache: 4})
	part := Part{Data: golden.Bytes(t, picture), Weight: 1, Param: "input"}
	embedOnce := func() imagebind.Embedding {
		out, err := p.Embed(t.Context(), EmbedRequest{Items: [][]Part{{part}, {part}}})
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(out[0].Embedding, out[1].Embedding) {
			t.Error("twice the same has two embeddings")
		}
		return out[0].Embedding
	}
	first := embedOnce()
	if !slices.Equal(first, embedOnce()) {
		t.Error("the second turn has another embedding")
	}
	q := query(p, "What is this?", part)
	if a := answer(t, p, q); a.Timings.Read != 0 || a.Timings.Encode != 0 {
		t.Errorf("read again: %+v", a.Timings)
	}
	if len(p.memo.entries) != 1 {
		t.Errorf("%d are kept", len(p.memo.entries))
	}
	bad := part
	bad.Data = []byte("\x89PNG\r\n\x1a\nbroken")
	for _, name := range []string{"messages[0]", "messages[1]"} {
		bad.Param = name
		_, err := p.Embed(t.Context(), EmbedRequest{Items: [][]Part{{bad}}})
		if imagebind.ParamOf(err) != name || imagebind.KindOf(err) != imagebind.Invalid {
			t.Errorf("%v of %s", err, imagebind.ParamOf(err))
		}
	}
}
