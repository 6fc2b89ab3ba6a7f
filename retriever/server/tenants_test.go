package server

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	imagebind "imagebind-llm"
	"imagebind-llm/retriever/retrieverapi"
)

// Two tenants use the same names and neither sees what the other has: not in a
// list, an answer, an error or a count. An administrator sees all of it.
func TestTenants(t *testing.T) {
	dir, ctx := t.TempDir(), t.Context()
	file, _ := prototypes(t)
	for _, d := range []string{"acme", "zoo"} {
		if err := os.MkdirAll(filepath.Join(dir, "sources", d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "sources", "acme", "p.npy"), file, 0o644); err != nil {
		t.Fatal(err)
	}
	tenants, err := ParseTenants([]string{"root"}, []string{"acme=a1", "zoo=z", "acme=a2"}, 600)
	if err != nil {
		t.Fatal(err)
	}
	s := newSite(t, dir, Options{Tenants: tenants})
	client := func(key string) *retrieverapi.Client {
		c, err := retrieverapi.NewClient(s.url, retrieverapi.Options{Key: key, HTTP: &http.Client{Transport: s}})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	admin, acme, acme2, zoo := client("root"), client("a1"), client("a2"), client("z")

	rebuild := retrieverapi.JobRequest{Type: "rebuild", Collection: "pets", Source: retrieverapi.Source{Path: "p.npy"}}
	j, err := acme.Start(ctx, rebuild)
	if err != nil || j.Collection != "pets" || j.Source.Path != "p.npy" {
		t.Fatalf("%+v, %v", j, err)
	}
	if j, err = acme2.Wait(ctx, j.ID, time.Minute, nil); err != nil || j.State != "done" || j.Collection != "pets" {
		t.Fatalf("%+v, %v", j, err)
	}
	if _, err := zoo.Create(ctx, "pets", retrieverapi.CreateCollection{Dim: 64}); err != nil {
		t.Fatal(err)
	}
	v := make([]float32, 64)
	v[3] = 1
	if _, err := zoo.Upsert(ctx, "pets", []retrieverapi.Item{{ID: "z", Vector: v}}); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		c     *retrieverapi.Client
		names string
		rows  int
	}{{acme, "pets", 500}, {zoo, "pets", 1}, {admin, "acme__pets zoo__pets", 500}} {
		list, err := tt.c.Collections(ctx)
		var names []string
		for _, c := range list {
			names = append(names, c.Name)
		}
		if err != nil || strings.Join(names, " ") != tt.names || list[0].Count != tt.rows {
			t.Errorf("lists %+v, %v; want %s, the first of %d rows", list, err, tt.names, tt.rows)
		}
	}
	got, err := zoo.Search(ctx, "pets", []imagebind.Embedding{v}, 10, nil)
	if err != nil || len(got[0]) != 1 || got[0][0].ID != "z" {
		t.Errorf("zoo finds %v, %v", got, err)
	}
	if g, err := acme.Generations(ctx, "pets"); err != nil || len(g) != 1 || g[0].Name != "pets" {
		t.Errorf("%+v, %v", g, err)
	}

	t.Run("another's", func(t *testing.T) {
		missing := func(what string, err error) {
			t.Helper()
			if imagebind.KindOf(err) != imagebind.NotFound || strings.Contains(err.Error(), "forbidden") {
				t.Errorf("%s: %v", what, err)
			}
		}
		if list, err := zoo.Jobs(ctx); err != nil || len(list) != 0 {
			t.Errorf("zoo sees jobs %+v, %v", list, err)
		}
		_, err := zoo.Job(ctx, j.ID)
		missing("job", err)
		_, err = zoo.Cancel(ctx, j.ID)
		missing("cancel", err)
		_, err = zoo.Wait(ctx, j.ID, time.Second, nil)
		missing("events", err)
		for _, name := range []string{"acme__pets", "pets2"} {
			_, err = zoo.Collection(ctx, name)
			missing(name, err)
			missing("drop "+name, zoo.Drop(ctx, name))
		}
		for _, path := range []string{"p.npy", "../acme/p.npy", "/../acme/p.npy", filepath.Join(dir, "sources/acme/p.npy")} {
			r := rebuild
			r.Source.Path = path
			if _, err := zoo.Start(ctx, r); err == nil {
				t.Errorf("zoo reads %s", path)
			}
		}
	})
	t.Run("room", func(t *testing.T) {
		r := rebuild
		r.Collection = "more"
		j, err := acme.Start(ctx, r)
		if err == nil {
			j, err = acme.Wait(ctx, j.ID, time.Minute, nil)
		}
		if err != nil || j.State != "failed" || !strings.Contains(j.Error, "600") {
			t.Errorf("500 rows beside 500: %+v, %v", j, err)
		}
		if j, err = acme.Start(ctx, rebuild); err == nil { // in place of those that are there
			j, err = acme.Wait(ctx, j.ID, time.Minute, nil)
		}
		if err != nil || j.State != "done" {
			t.Errorf("%+v, %v", j, err)
		}
		items := make([]retrieverapi.Item, 101)
		for i := range items {
			items[i].Vector = v
		}
		if _, err := acme.Upsert(ctx, "pets", items); imagebind.KindOf(err) != imagebind.TooLarge {
			t.Errorf("101 rows beside 500: %v", err)
		}
		if _, err := acme.Upsert(ctx, "pets", items[:100]); err != nil {
			t.Errorf("100 rows beside 500: %v", err)
		}
	})
	t.Run("long name", func(t *testing.T) {
		name := strings.Repeat("n", 100)
		if _, err := acme.Create(ctx, name, retrieverapi.CreateCollection{Dim: 4}); imagebind.KindOf(err) != imagebind.Invalid {
			t.Errorf("tenant: %v", err)
		}
		if _, err := admin.Create(ctx, name, retrieverapi.CreateCollection{Dim: 4}); err != nil {
			t.Errorf("administrator: %v", err)
		}
	})
	if _, err := client("zz").Collections(ctx); imagebind.KindOf(err) != imagebind.Unauthorized {
		t.Errorf("a key of nobody: %v", err)
	}
}

func TestParseTenants(t *testing.T) {
	for _, bad := range [][]string{{"acme"}, {"acme="}, {"=k"}, {"Acme=k"}, {"a_b=k"}, {"a__b=k"}, {"a=k", "b=k"}, {"a=root"}} {
		if _, err := ParseTenants([]string{"root"}, bad, 0); imagebind.KindOf(err) != imagebind.Invalid {
			t.Errorf("%v: %v", bad, err)
		}
	}
	if _, err := ParseTenants(nil, nil, -1); err == nil {
		t.Error("fewer rows than none")
	}
}
