package jobs

import (
	"context"
	"slices"
	"testing"
	"time"

	"imagebind-llm/retriever/retrieverapi"
)

// Jobs of several collections run side by side, those of one collection one
// after another, and none waits behind one that cannot begin.
func TestParallel(t *testing.T) {
	l := &ledger{building: map[string]*generation{}}
	opened, goOn := make(chan string), make(chan struct{})
	m, err := Open(Options{Dir: t.TempDir(), Store: l, Parallel: 2,
		Open: func(ctx context.Context, s retrieverapi.Source, _ string) (Source, error) {
			select {
			case opened <- s.Path:
			case <-ctx.Done():
				return nil, ctx.Err()
			}
			select {
			case <-goOn:
			case <-ctx.Done():
				return nil, ctx.Err()
			}
			return newTable(20, 8), nil
		}})
	if err != nil {
		t.Fatal(err)
	}
	start(t, m)
	var ids []string
	for _, j := range [][2]string{{"pets", "1"}, {"pets", "2"}, {"food", "3"}, {"cars", "4"}} {
		made, err := m.Submit(retrieverapi.JobRequest{Type: "rebuild", Collection: j[0], Source: retrieverapi.Source{Path: j[1]}})
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, made.ID)
	}
	begun := func(n int) (paths []string) {
		t.Helper()
		for range n {
			select {
			case p := <-opened:
				paths = append(paths, p)
			case <-time.After(10 * time.Second):
				t.Fatalf("%d of %d jobs began", len(paths), n)
			}
		}
		slices.Sort(paths)
		return paths
	}
	if p := begun(2); !slices.Equal(p, []string{"1", "3"}) {
		t.Fatalf("jobs %v are under way", p)
	}
	select {
	case p := <-opened:
		t.Fatalf("job %s began as a third", p)
	case <-time.After(50 * time.Millisecond):
	}
	goOn <- struct{}{}
	goOn <- struct{}{}
	if p := begun(2); !slices.Equal(p, []string{"2", "4"}) {
		t.Fatalf("then jobs %v are under way", p)
	}
	goOn <- struct{}{}
	goOn <- struct{}{}
	for _, id := range ids {
		if j := until(t, m, id, over); j.State != "done" {
			t.Errorf("%+v", j)
		}
	}
}
