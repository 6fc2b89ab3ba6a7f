package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	imagebind "imagebind-llm"
	"imagebind-llm/retriever/source"
	"imagebind-llm/retriever/store"
)

// A scripted store answers with what it was given.
type scripted struct {
	store.Store
	infos    []store.Info
	switched []int
	forgot   []int
	batches  [][]store.Row
	broken   error // behind the batches
}

func (s *scripted) Info(_ context.Context, name string) (store.Info, error) {
	for _, i := range s.infos {
		if i.Name == name {
			return i, nil
		}
	}
	return store.Info{}, imagebind.Errorf(imagebind.NotFound, "no collection %q", name)
}

func (s *scripted) Generations(ctx context.Context, name string) ([]store.Info, error) {
	_, err := s.Info(ctx, name)
	return s.infos, err
}

func (s *scripted) Switch(ctx context.Context, name string, n int) (store.Info, error) {
	s.switched = append(s.switched, n)
	return s.Info(ctx, name)
}

func (s *scripted) Forget(_ context.Context, _ string, n int) error {
	if n == s.infos[0].Generation {
		return imagebind.Errorf(imagebind.Conflict, "generation %d serves", n)
	}
	s.forgot = append(s.forgot, n)
	return nil
}

func (s *scripted) Scan(_ context.Context, _ string, do func([]store.Row) error) error {
	for _, b := range s.batches {
		if err := do(b); err != nil {
			return err
		}
	}
	return s.broken
}

func TestGenerations(t *testing.T) {
	st := &scripted{infos: []store.Info{
		{Name: "pets", Dim: 2, Count: 9, Backend: "embedded", Generation: 3, BuiltAt: time.Now(), Serves: true},
		{Name: "pets", Dim: 2, Count: 8, Backend: "embedded", Generation: 2, BuiltAt: time.Now()},
	}}
	s, ctx := newSite(t, t.TempDir(), Options{Store: st}), t.Context()
	got, err := s.client.Generations(ctx, "pets")
	if err != nil || len(got) != 2 || !got[0].Serves || got[0].Generation != 3 || got[0].Count != 9 || got[1].Serves || got[1].Generation != 2 || got[1].BuiltAt == nil {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := s.client.Generations(ctx, "none"); imagebind.KindOf(err) != imagebind.NotFound {
		t.Errorf("of no collection: %v", err)
	}
	for _, n := range []int{0, 2} {
		if c, err := s.client.Rollback(ctx, "pets", n); err != nil || c.Name != "pets" {
			t.Errorf("%+v, %v", c, err)
		}
	}
	if code, body := s.ask("POST", "/v1/collections/pets/rollback", "", ""); code != 200 {
		t.Errorf("without a body: %d %s", code, body)
	}
	if code, body := s.ask("POST", "/v1/collections/pets/rollback", "application/json", `{"generation":-1}`); code != 400 {
		t.Errorf("generation -1: %d %s", code, body)
	}
	if !slices.Equal(st.switched, []int{0, 2, 0}) {
		t.Errorf("the store was told to switch to %v", st.switched)
	}
	if err := s.client.Forget(ctx, "pets", 2); err != nil || !slices.Equal(st.forgot, []int{2}) {
		t.Errorf("%v, %v", st.forgot, err)
	}
	if err := s.client.Forget(ctx, "pets", 3); imagebind.KindOf(err) != imagebind.Conflict {
		t.Errorf("the one that serves: %v", err)
	}
	for _, bad := range []string{"0", "-2", "x"} {
		if code, body := s.ask("DELETE", "/v1/collections/pets/generations/"+bad, "", ""); code != 404 {
			t.Errorf("generation %s: %d %s", bad, code, body)
		}
	}
}

// exported are rows [n][2]; their batches fill several of the server's buffers.
func exported(n int) []store.Row {
	rows := make([]store.Row, n)
	for i := range rows {
		rows[i] = store.Row{ID: fmt.Sprint("id ", i), Vector: imagebind.Embedding{1, float32(i)}, Caption: fmt.Sprint("caption ", i)}
		if i%2 == 0 {
			rows[i].URI, rows[i].Metadata = "file:x", map[string]any{"n": float64(i)}
		}
	}
	return rows
}

func TestExport(t *testing.T) {
	st := &scripted{infos: []store.Info{{Name: "pets", Dim: 2}}}
	s, ctx := newSite(t, t.TempDir(), Options{Store: st}), t.Context()
	// Many rows, so that a good part of the file is sent before its end.
	want := exported(200_000)
	st.batches = slices.Collect(slices.Chunk(want, 1000))
	path := filepath.Join(t.TempDir(), "pets.parquet")
	var b bytes.Buffer
	if err := s.client.Export(ctx, "pets", &b); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	src, err := source.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	got, err := src.Read(ctx, 0, len(want))
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%d rows came back of %d, or others: %v", len(got), len(want), err)
	}

	if err := s.client.Export(ctx, "none", &b); imagebind.KindOf(err) != imagebind.NotFound {
		t.Errorf("of no collection: %v", err)
	}
	full := errors.New("no room")
	if err := s.client.Export(ctx, "pets", failing{full}); !errors.Is(err, full) {
		t.Errorf("a writer that fails: %v", err)
	}
	// What breaks before the first byte is said, what breaks later is cut.
	st.broken = imagebind.Errorf(imagebind.Unavailable, "the store went away")
	b.Reset()
	err = s.client.Export(ctx, "pets", &b)
	if imagebind.KindOf(err) != imagebind.Unavailable || b.Len() == 0 || bytes.HasSuffix(b.Bytes(), []byte("PAR1")) {
		t.Errorf("broken late: %d bytes, %v", b.Len(), err)
	}
	st.batches = st.batches[:1]
	b.Reset()
	if err := s.client.Export(ctx, "pets", &b); imagebind.KindOf(err) != imagebind.Unavailable || !strings.Contains(err.Error(), "went away") || b.Len() > 0 {
		t.Errorf("broken early: %d bytes, %v", b.Len(), err)
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

// TestExportHeaders: the answer names a file, and its type.
func TestExportHeaders(t *testing.T) {
	s := newSite(t, t.TempDir(), Options{Store: &scripted{infos: []store.Info{{Name: "pets", Dim: 2}}}})
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.url+"/v1/collections/pets/export", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if h := resp.Header; h.Get("Content-Type") != "application/vnd.apache.parquet" || h.Get("Content-Disposition") != `attachment; filename="pets.parquet"` {
		t.Errorf("%v", h)
	}
}
