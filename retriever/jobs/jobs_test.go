package jobs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	imagebind "imagebind-llm"
	"imagebind-llm/retriever/retrieverapi"
	"imagebind-llm/retriever/store"
)

// table is a Source in memory.
type table struct {
	rows []store.Row
	dim  int
	// notes are what it says of itself.
	notes []string
	read  func(ctx context.Context, at int) error // before each Read; may be nil
}

func (s *table) Dim() int     { return s.dim }
func (s *table) Rows() int    { return len(s.rows) }
func (s *table) Close() error { return nil }
func (s *table) Notes() []string {
	return s.notes
}
func (s *table) Read(ctx context.Context, at, n int) ([]store.Row, error) {
	if s.read != nil {
		if err := s.read(ctx, at); err != nil {
			return nil, err
		}
	}
	return s.rows[at:min(at+min(n, 50), len(s.rows))], nil
}

func newTable(n, dim int) *table {
	r := rand.New(rand.NewPCG(1, 2))
	t := &table{dim: dim}
	for i := range n {
		v := make(imagebind.Embedding, dim)
		for j := range v {
			v[j] = float32(r.NormFloat64())
		}
		v.Normalize()
		t.rows = append(t.rows, store.Row{ID: fmt.Sprint("r", i), Vector: v})
	}
	return t
}

// ledger is a store that fails on purpose: it remembers what was built, loses
// nothing that was checkpointed and all that was not, and is away or forgetful
// when a test says so.
type ledger struct {
	mu       sync.Mutex
	model    string                 // of the last build
	building map[string]*generation // by job
	live     *generation
	number   int
	fail     func(rows int) error // in Append, which then stores half the batch; may be nil
	deaf     bool                 // Search finds other rows
}

type generation struct {
	l             *ledger
	job           string
	mu            sync.Mutex // a checkpoint runs beside appends
	rows, durable []store.Row
}

func (l *ledger) Build(_ context.Context, _ string, spec store.Spec, job string) (store.Builder, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.model = spec.Model
	g := l.building[job]
	if g == nil {
		g = &generation{l: l, job: job}
		l.building[job] = g
	}
	g.rows = slices.Clone(g.durable)
	return g, nil
}

func (g *generation) Committed() (store.Info, bool) { return store.Info{}, false }
func (g *generation) Rows() int                     { return len(g.rows) }
func (g *generation) Append(_ context.Context, rows []store.Row) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.l.fail != nil {
		if err := g.l.fail(len(g.rows)); err != nil {
			g.rows = append(g.rows, rows[:len(rows)/2]...)
			g.durable = slices.Clone(g.rows)
			return err
		}
	}
	g.rows = append(g.rows, rows...)
	return nil
}
func (g *generation) Checkpoint(context.Context) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.durable = slices.Clone(g.rows)
	return nil
}
func (g *generation) Search(_ context.Context, q store.Query) ([][]imagebind.Neighbour, error) {
	out := make([][]imagebind.Neighbour, len(q.Vectors))
	for i, v := range q.Vectors {
		for _, r := range g.rows {
			s := float32(v.Dot(r.Vector))
			if g.l.deaf {
				s = -s
			}
			out[i] = append(out[i], imagebind.Neighbour{ID: r.ID, Similarity: s})
		}
		slices.SortFunc(out[i], func(a, b imagebind.Neighbour) int { return cmp.Compare(b.Similarity, a.Similarity) })
		out[i] = out[i][:min(q.K, len(out[i]))]
	}
	if g.l.deaf { // the worst rows, with their true similarity
		for i := range out {
			for k := range out[i] {
				out[i][k].Similarity *= -1
			}
		}
	}
	return out, nil
}
func (g *generation) Commit(context.Context) (store.Info, error) {
	g.l.mu.Lock()
	defer g.l.mu.Unlock()
	g.l.number++
	g.l.live = g
	delete(g.l.building, g.job)
	return store.Info{Generation: g.l.number, Count: len(g.rows)}, nil
}
func (g *generation) Abort(context.Context) error {
	g.l.mu.Lock()
	defer g.l.mu.Unlock()
	delete(g.l.building, g.job)
	return nil
}

func open(t *testing.T, dir string, l *ledger, src *table) *Manager {
	t.Helper()
	m, err := Open(Options{Dir: dir, Store: l, Backoff: time.Millisecond, Patience: 200 * time.Millisecond, Checkpoint: time.Nanosecond,
		Open: func(context.Context, retrieverapi.Source, string) (Source, error) { return src, nil }})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// start runs the manager until the returned function is called, or the test ends.
func start(t *testing.T, m *Manager) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); m.Run(ctx) }()
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)
	return stop
}

func submit(t *testing.T, m *Manager) string {
	t.Helper()
	j, err := m.Submit(retrieverapi.JobRequest{Type: "rebuild", Collection: "pets", Source: retrieverapi.Source{Path: "x.npy"}})
	if err != nil {
		t.Fatal(err)
	}
	return j.ID
}

// until waits for the job to be so.
func until(t *testing.T, m *Manager, id string, so func(retrieverapi.Job) bool) retrieverapi.Job {
	t.Helper()
	for {
		j, changed, err := m.Watch(id)
		if err != nil {
			t.Fatal(err)
		}
		if so(j) {
			return j
		}
		if j.Over() {
			t.Fatalf("job is over: %+v", j)
		}
		select {
		case <-changed:
		case <-time.After(20 * time.Second):
			t.Fatalf("job stands still: %+v", j)
		}
	}
}

func over(j retrieverapi.Job) bool { return j.Over() }

func ids(rows []store.Row) []string {
	var out []string
	for _, r := range rows {
		out = append(out, r.ID)
	}
	return out
}

func TestRebuild(t *testing.T) {
	src, l := newTable(1000, 16), &ledger{building: map[string]*generation{}}
	src.notes = []string{"x.npy, half of it was guessed"}
	src.rows[3].Vector[5] = float32(math.NaN())
	src.rows[500].Vector = make(imagebind.Embedding, 16)
	src.rows[700].Metadata = map[string]any{"text": strings.Repeat("x", retrieverapi.MaxText)}
	src.rows[999].Vector = src.rows[999].Vector[:15]
	m := open(t, t.TempDir(), l, src)
	start(t, m)
	j := until(t, m, submit(t, m), over)
	if j.State != "done" || j.Phase != "done" || j.RowsDone != 1000 || j.RowsTotal != 1000 || j.Generation != 1 || j.Error != "" {
		t.Fatalf("%+v", j)
	}
	var bad []int
	for _, e := range j.RowErrors {
		bad = append(bad, e.Row)
	}
	if !slices.Equal(j.Notes, src.notes) {
		t.Errorf("notes %q", j.Notes)
	}
	if j.RowsFailed != 4 || !slices.Equal(bad, []int{3, 500, 700, 999}) {
		t.Errorf("row errors %v", j.RowErrors)
	}
	if c := j.Checks; c == nil || c.Rows != 996 || c.Dim != 16 || c.Recall != 1 || c.Queries == 0 || c.NormMin < 0.999 || c.NormMax > 1.001 {
		t.Errorf("checks %+v", j.Checks)
	}
	if len(l.live.rows) != 996 || l.live.rows[3].ID != "r4" {
		t.Errorf("%d rows serve", len(l.live.rows))
	}
}

func TestBadSourcesFailAndLeaveNothing(t *testing.T) {
	tests := []struct {
		name string
		src  *table
		l    *ledger
	}{
		{"no rows", &table{dim: 4}, &ledger{}},
		{"most rows broken", &table{dim: 4, rows: []store.Row{{ID: "a", Vector: imagebind.Embedding{1, 0, 0, 0}}, {ID: "b"}, {ID: "c"}}}, &ledger{}},
		{"unreadable", &table{dim: 4, rows: newTable(200, 4).rows, read: func(_ context.Context, at int) error {
			if at >= 100 {
				return errors.New("disk")
			}
			return nil
		}}, &ledger{}},
		{"low recall", newTable(200, 8), &ledger{deaf: true}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.l.building = map[string]*generation{}
			m := open(t, t.TempDir(), tt.l, tt.src)
			start(t, m)
			j := until(t, m, submit(t, m), over)
			if j.State != "failed" || j.Error == "" || tt.l.live != nil || len(tt.l.building) != 0 {
				t.Errorf("state %s, error %q, live %v, left %d", j.State, j.Error, tt.l.live, len(tt.l.building))
			}
			if _, err := m.Cancel(t.Context(), j.ID); imagebind.KindOf(err) != imagebind.Conflict {
				t.Errorf("cancel of a failed job: %v", err)
			}
		})
	}
}

// pause lets a copy reach row at, then holds it until released or cancelled.
func pause(src *table, at int) (reached <-chan struct{}, release func()) {
	r, go_ := make(chan struct{}), make(chan struct{})
	var once, free sync.Once
	src.read = func(ctx context.Context, row int) error {
		if row >= at {
			once.Do(func() { close(r) })
			select {
			case <-go_:
			case <-ctx.Done():
			}
		}
		return nil
	}
	return r, func() { free.Do(func() { close(go_) }) }
}

func TestCancelKeepsTheOldGeneration(t *testing.T) {
	src, l := newTable(500, 8), &ledger{building: map[string]*generation{}}
	m := open(t, t.TempDir(), l, src)
	start(t, m)
	until(t, m, submit(t, m), over)
	old := l.live
	reached, release := pause(src, 200)
	defer release()
	id, waiting := submit(t, m), submit(t, m)
	<-reached
	if j, err := m.Cancel(t.Context(), waiting); err != nil || j.State != "cancelled" {
		t.Errorf("a job that waits: %+v, %v", j, err)
	}
	if j, err := m.Cancel(t.Context(), id); err != nil || j.State != "cancelled" {
		t.Errorf("a job that runs: %+v, %v", j, err)
	}
	if l.live != old || len(l.building) != 0 {
		t.Error("the old generation does not serve alone")
	}
}

func TestAKilledJobGoesOn(t *testing.T) {
	src, l, dir := newTable(500, 8), &ledger{building: map[string]*generation{}}, t.TempDir()
	src.rows[10].Vector[0] = float32(math.Inf(1)) // a row left out before the break must count once
	m := open(t, dir, l, src)
	stop := start(t, m)
	reached, release := pause(src, 250)
	id := submit(t, m)
	<-reached
	// What a kill leaves: the job's file as it is now, and the builder's durable rows.
	file, err := os.ReadFile(filepath.Join(dir, id+".json"))
	if err != nil {
		t.Fatal(err)
	}
	durable := slices.Clone(l.building[id].durable)
	release()
	stop()
	if err := os.WriteFile(filepath.Join(dir, id+".json"), file, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, lost := range []int{0, 60, 249} { // rows that the builder had beyond what it finds again
		t.Run(fmt.Sprint("lost ", lost), func(t *testing.T) {
			dir2 := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir2, id+".json"), file, 0o644); err != nil {
				t.Fatal(err)
			}
			l2 := &ledger{building: map[string]*generation{}}
			l2.building[id] = &generation{l: l2, job: id, durable: durable[:max(0, len(durable)-lost)]}
			src.read = nil
			m2 := open(t, dir2, l2, src)
			if j, _, err := m2.Watch(id); err != nil || j.State != "queued" || j.Resumed != 1 {
				t.Fatalf("%+v, %v", j, err)
			}
			start(t, m2)
			j := until(t, m2, id, over)
			if j.State != "done" || j.RowsFailed != 1 || len(j.RowErrors) != 1 || j.Resumed != 1 {
				t.Fatalf("%+v", j)
			}
			want := slices.Concat(ids(src.rows[:10]), ids(src.rows[11:]))
			if got := ids(l2.live.rows); !slices.Equal(got, want) {
				t.Errorf("%d rows, want %d, each once and in order", len(got), len(want))
			}
		})
	}
}

func TestAStoreThatIsAwayComesBack(t *testing.T) {
	src, l := newTable(500, 8), &ledger{building: map[string]*generation{}}
	failures := 0
	l.fail = func(rows int) error {
		if rows >= 200 && failures < 3 {
			failures++
			return imagebind.Errorf(imagebind.Unavailable, "milvus is away")
		}
		return nil
	}
	m := open(t, t.TempDir(), l, src)
	start(t, m)
	j := until(t, m, submit(t, m), over)
	if j.State != "done" || failures != 3 || !slices.Equal(ids(l.live.rows), ids(src.rows)) {
		t.Errorf("%+v after %d failures, %d rows", j, failures, len(l.live.rows))
	}
}

func TestSubmitRefuses(t *testing.T) {
	m := open(t, t.TempDir(), &ledger{building: map[string]*generation{}}, newTable(1, 1)) // never run: jobs wait
	tests := []struct {
		name  string
		r     retrieverapi.JobRequest
		kind  imagebind.Kind
		param string
	}{
		{"type", retrieverapi.JobRequest{Type: "compact", Source: retrieverapi.Source{Path: "x"}}, imagebind.Invalid, "type"},
		{"modality of features", retrieverapi.JobRequest{Type: "rebuild", Source: retrieverapi.Source{Path: "x", Modality: "depth"}}, imagebind.Invalid, "source.runner"},
		{"path", retrieverapi.JobRequest{Type: "rebuild"}, imagebind.Invalid, "source.path"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := m.Submit(tt.r); imagebind.KindOf(err) != tt.kind || imagebind.ParamOf(err) != tt.param {
				t.Errorf("got %v", err)
			}
		})
	}
	for range 16 {
		submit(t, m)
	}
	if _, err := m.Submit(retrieverapi.JobRequest{Type: "rebuild", Source: retrieverapi.Source{Path: "x"}}); imagebind.KindOf(err) != imagebind.Busy {
		t.Errorf("a full queue: %v", err)
	}
}

// made is a table that says what a source of media does.
type made struct {
	*table
	hash string
}

func (m made) Model() string      { return "tiny" }
func (m made) Hash() string       { return m.hash }
func (m made) Why(row int) string { return fmt.Sprint("no picture ", row) }

// openMade is open for a source that hash may change; it keeps a scratch file.
func openMade(t *testing.T, dir string, l *ledger, src *table, hash *string) *Manager {
	t.Helper()
	m, err := Open(Options{Dir: dir, Store: l, Backoff: time.Millisecond, Patience: 200 * time.Millisecond, Checkpoint: time.Nanosecond,
		Open: func(_ context.Context, _ retrieverapi.Source, scratch string) (Source, error) {
			return made{src, *hash}, os.WriteFile(scratch, []byte("x"), 0o600)
		}})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func scratches(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.rows"))
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestMade(t *testing.T) {
	src, l, dir, hash := newTable(300, 8), &ledger{building: map[string]*generation{}}, t.TempDir(), "h"
	src.rows[7].Vector = nil
	src.rows[9].Caption = strings.Repeat("x", retrieverapi.MaxText+1)
	m := openMade(t, dir, l, src, &hash)
	start(t, m)
	reached, release := pause(src, 100)
	defer release()
	id := submit(t, m)
	<-reached
	if j := until(t, m, id, func(j retrieverapi.Job) bool { return j.RowsDone > 0 }); j.Phase != "embed" || len(scratches(t, dir)) != 1 {
		t.Errorf("phase %s, scratch files %v", j.Phase, scratches(t, dir))
	}
	release()
	j := until(t, m, id, over)
	if j.State != "done" || j.Model != "tiny" || l.model != "tiny" || j.RowsFailed != 2 || j.RowErrors[0].Message != "no picture 7" {
		t.Errorf("%+v, built for %q", j, l.model)
	}
	if left := scratches(t, dir); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

// A folder that changes under a job fails it, and a job's file does not outlive it.
func TestMadeChanges(t *testing.T) {
	src, l, dir, hash := newTable(300, 8), &ledger{building: map[string]*generation{}}, t.TempDir(), "h"
	m := openMade(t, dir, l, src, &hash)
	stop := start(t, m)
	reached, release := pause(src, 100)
	defer release()
	id := submit(t, m)
	<-reached
	stop()
	if err := os.WriteFile(filepath.Join(dir, "gone.rows"), nil, 0o600); err != nil { // of a job that is no more
		t.Fatal(err)
	}
	hash, src.read = "other", nil
	m = openMade(t, dir, l, src, &hash)
	if left := scratches(t, dir); len(left) != 1 || !strings.Contains(left[0], id) {
		t.Errorf("scratch files after a restart: %v", left)
	}
	start(t, m)
	if j := until(t, m, id, over); j.State != "failed" || !strings.Contains(j.Error, "changed while") || len(l.building) != 0 {
		t.Errorf("%+v", j)
	}
	if left := scratches(t, dir); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

// A source that holds nothing good is not read to its end.
func TestTooManyBadRowsEndTheCopy(t *testing.T) {
	for name, tt := range map[string]struct {
		bad  func(row int) bool
		read int // rows at most
		says string
	}{
		"all from the first":        {func(int) bool { return true }, 150, "first 100 rows are all broken, the first: no picture 0"},
		"a tenth, and one too many": {func(row int) bool { return row%2 == 1 }, 1100, "of 5000 rows are broken, the first: row 1, no picture 1"},
	} {
		t.Run(name, func(t *testing.T) {
			src, l, hash, last := newTable(5000, 8), &ledger{building: map[string]*generation{}}, "h", 0
			for i := range src.rows {
				if tt.bad(i) {
					src.rows[i].Vector = nil
				}
			}
			src.read = func(_ context.Context, at int) error { last = at; return nil }
			m := openMade(t, t.TempDir(), l, src, &hash)
			start(t, m)
			j := until(t, m, submit(t, m), over)
			if j.State != "failed" || !strings.Contains(j.Error, tt.says) || last > tt.read || len(j.RowErrors) == 0 {
				t.Errorf("read up to row %d: %+v", last, j)
			}
		})
	}
}

// A source that is away now and then is waited for as often as it takes, so
// long as the copy gets on between.
func TestAwayAgainAndAgain(t *testing.T) {
	src, l, hash := newTable(1000, 8), &ledger{building: map[string]*generation{}}, "h"
	failed := map[int]bool{}
	src.read = func(_ context.Context, at int) error {
		if at%100 == 0 && !failed[at] {
			failed[at] = true
			return imagebind.Errorf(imagebind.Unavailable, "the runner is away")
		}
		return nil
	}
	m := openMade(t, t.TempDir(), l, src, &hash)
	start(t, m)
	if j := until(t, m, submit(t, m), over); j.State != "done" || len(failed) != 10 || j.RowsFailed != 0 {
		t.Errorf("after %d failures: %+v", len(failed), j)
	}
	src.read = func(context.Context, int) error { return imagebind.Errorf(imagebind.Unavailable, "the runner is away") }
	if j := until(t, m, submit(t, m), over); j.State != "failed" || !strings.Contains(j.Error, "the runner is away") {
		t.Errorf("%+v", j)
	}
}

func TestRoot(t *testing.T) {
	dir := t.TempDir()
	root := filepath.Join(dir, "root")
	for _, p := range []string{"root/a/x.npy", "root2/y.npy", "secret.npy"} {
		p = filepath.Join(dir, p)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(filepath.Join(dir, "secret.npy"), filepath.Join(root, "link.npy")); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		path string
		kind imagebind.Kind // of the refusal; Internal for none
	}{
		{"a/x.npy", imagebind.Internal},
		{"a", imagebind.Internal},
		{filepath.Join(root, "a/x.npy"), imagebind.Internal},
		{"a/../a/x.npy", imagebind.Internal},
		{"a/none.npy", imagebind.NotFound},
		{"../secret.npy", imagebind.Invalid},
		{"../none.npy", imagebind.Invalid},
		{"link.npy", imagebind.Invalid},
		{filepath.Join(dir, "root2/y.npy"), imagebind.Invalid},
		{"/etc/passwd", imagebind.Invalid},
	}
	for _, tt := range tests {
		at, name, err := Root(root).Find(tt.path)
		if tt.kind == imagebind.Internal {
			if _, gone := os.Stat(filepath.Join(at, name)); err != nil || gone != nil || filepath.IsAbs(name) {
				t.Errorf("%s: %q, %v", tt.path, name, errors.Join(err, gone))
			}
		} else if imagebind.KindOf(err) != tt.kind {
			t.Errorf("%s: %v, found %q", tt.path, err, name)
		}
	}
	if _, _, err := Root("").Find("x"); imagebind.KindOf(err) != imagebind.Invalid {
		t.Errorf("no root: %v", err)
	}
}

// A job with a rate takes its time, and can be cancelled while it waits.
func TestMaxRate(t *testing.T) {
	l := &ledger{building: map[string]*generation{}}
	m := open(t, t.TempDir(), l, newTable(3000, 1024))
	defer start(t, m)()
	begin := func(rate float64) string {
		j, err := m.Submit(retrieverapi.JobRequest{Type: "rebuild", Collection: "pets", Source: retrieverapi.Source{Path: "x.npy"}, MaxRate: rate})
		if err != nil {
			t.Fatal(err)
		}
		return j.ID
	}
	from := time.Now()
	if j := until(t, m, begin(6000), over); j.State != retrieverapi.JobDone || j.MaxRate != 6000 {
		t.Errorf("%+v", j)
	}
	if took := time.Since(from); took < 450*time.Millisecond || took > 5*time.Second {
		t.Errorf("3000 rows at 6000 a second took %v", took)
	}
	id := begin(1)
	until(t, m, id, func(j retrieverapi.Job) bool { return j.State == retrieverapi.JobRunning && j.Phase == "copy" })
	if j, err := m.Cancel(t.Context(), id); err != nil || j.State != retrieverapi.JobCancelled {
		t.Errorf("%+v, %v", j, err)
	}
	for _, bad := range []float64{-1, math.NaN(), math.Inf(1)} {
		if _, err := m.Submit(retrieverapi.JobRequest{Type: "rebuild", Collection: "pets", Source: retrieverapi.Source{Path: "x.npy"}, MaxRate: bad}); imagebind.KindOf(err) != imagebind.Invalid {
			t.Errorf("rate %v: %v", bad, err)
		}
	}
}
