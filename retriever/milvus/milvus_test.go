package milvus

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	imagebind "imagebind-llm"
	"imagebind-llm/internal/golden"
	"imagebind-llm/retriever/store"
)

// server returns the address of a running Milvus: the one IMAGEBIND_MILVUS
// names, or one that scripts/milvus.sh starts for this test binary when its
// files are in .cache/milvus ("scripts/milvus.sh install" puts them there).
var server = sync.OnceValues(func() (addr, why string) {
	if a := os.Getenv("IMAGEBIND_MILVUS"); a != "" {
		return a, ""
	}
	root, err := filepath.Abs("../..")
	if err != nil {
		return "", err.Error()
	}
	if _, err := os.Stat(filepath.Join(root, ".cache/milvus/bin/milvus")); err != nil {
		return "", "no Milvus: set IMAGEBIND_MILVUS=HOST:PORT or run scripts/milvus.sh install"
	}
	if c, err := net.DialTimeout("tcp", "127.0.0.1:19530", time.Second); err == nil {
		c.Close()
		return "", "port 19530 is in use; set IMAGEBIND_MILVUS=127.0.0.1:19530 to test against what listens there"
	}
	dir, err := os.MkdirTemp("", "milvus-test-")
	if err != nil {
		return "", err.Error()
	}
	serverDir = dir
	out, err := exec.Command(filepath.Join(root, "scripts/milvus.sh"), "start", dir).Output()
	if err != nil {
		return "", fmt.Sprintf("scripts/milvus.sh start: %v", err)
	}
	return strings.TrimSpace(string(out)), ""
})

var serverDir string // to stop and remove after the tests

func TestMain(m *testing.M) {
	flag.Parse()
	// Tests side by side wait for the server and not for processors.
	if f := flag.Lookup("test.parallel"); f.Value.String() == f.DefValue {
		_ = f.Value.Set("8")
	}
	code := m.Run()
	if serverDir != "" {
		_ = exec.Command("../../scripts/milvus.sh", "stop", serverDir).Run()
		_ = os.RemoveAll(serverDir)
	}
	os.Exit(code)
}

func open(t *testing.T) *Store {
	t.Helper()
	addr, why := server()
	if addr == "" {
		golden.Need(t, "milvus", why)
	}
	s, err := Open(Options{Address: addr, Timeout: 30 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// name is a collection's name of this test, dropped after it.
func name(t *testing.T, s *Store) string {
	n := fmt.Sprintf("t%08x", rand.Uint32())
	t.Cleanup(func() { _ = s.Drop(context.WithoutCancel(t.Context()), n) })
	return n
}

func rows(from, n, dim int) []store.Row {
	r := rand.New(rand.NewPCG(uint64(from), 1))
	out := make([]store.Row, n)
	for i := range out {
		v := make(imagebind.Embedding, dim)
		for j := range v {
			v[j] = float32(r.NormFloat64())
		}
		v.Normalize()
		out[i] = store.Row{ID: fmt.Sprintf("r%06d", from+i), Vector: v, Caption: fmt.Sprintf("row %d", from+i), Metadata: map[string]any{"half": float64((from + i) % 2)}}
	}
	return out
}

func TestWritesAreSeenAtOnce(t *testing.T) {
	s, ctx := open(t), t.Context()
	n := name(t, s)
	if _, err := s.Create(ctx, n, store.Spec{Dim: 8}); err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		row := rows(i, 1, 8)
		if err := s.Upsert(ctx, n, row); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		got, err := s.Search(ctx, n, store.Query{Vectors: []imagebind.Embedding{row[0].Vector}, K: 10})
		if err != nil {
			t.Fatal(err)
		}
		if len(got[0]) != i+1 || got[0][0].ID != row[0].ID {
			t.Fatalf("after %d rows: %d hits, best %v", i+1, len(got[0]), got[0])
		}
		t.Logf("search after a write: %v", time.Since(start))
	}
	start := time.Now()
	if _, err := s.Search(ctx, n, store.Query{Vectors: []imagebind.Embedding{rows(1, 1, 8)[0].Vector}, K: 10}); err != nil {
		t.Fatal(err)
	}
	t.Logf("search later: %v", time.Since(start))
}

func TestBuildGoesOnAfterACrash(t *testing.T) {
	s, ctx := open(t), t.Context()
	n := name(t, s)
	b, err := s.Build(ctx, n, store.Spec{Dim: 1024}, "job-1")
	if err != nil {
		t.Fatal(err)
	}
	all := rows(0, 8000, 1024)
	start := time.Now()
	if err := b.Append(ctx, all); err != nil {
		t.Fatal(err)
	}
	t.Logf("%.0f rows/s", 8000/time.Since(start).Seconds())
	start = time.Now()
	got, err := b.Search(ctx, store.Query{Vectors: []imagebind.Embedding{all[7].Vector}, K: 1})
	if err != nil || got[0][0].ID != "r000007" {
		t.Fatal(got, err)
	}
	t.Logf("index, load and search %v", time.Since(start))
	// A crash: another process goes on where this one stopped.
	other := open(t)
	b2, err := other.Build(ctx, n, store.Spec{Dim: 1024}, "job-1")
	if err != nil || b2.Rows() != 8000 {
		t.Fatal(b2, err)
	}
	if err := b2.Append(ctx, rows(7000, 1000, 1024)); err != nil { // sent again
		t.Fatal(err)
	}
	i, err := b2.Commit(ctx)
	if err != nil || i.Count != 8000 || i.Generation != 1 {
		t.Fatal(i, err)
	}
	t.Log(i)
}

func TestNobodyThere(t *testing.T) {
	s, err := Open(Options{Address: "127.0.0.1:1", Timeout: 300 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Ready(t.Context()); imagebind.KindOf(err) != imagebind.Unavailable {
		t.Errorf("Ready: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := s.List(ctx); imagebind.KindOf(err) != imagebind.Timeout {
		t.Errorf("List with a deadline of 50 ms: %v", err)
	}
}

func TestOptionsRefused(t *testing.T) {
	for _, o := range []Options{{}, {Address: "h:1", Index: "IVF_PQ"}, {Address: "h:1", Index: "BIN_FLAT"}} {
		if _, err := Open(o); imagebind.KindOf(err) != imagebind.Invalid {
			t.Errorf("%+v: %v", o, err)
		}
	}
}

func TestFilterExpression(t *testing.T) {
	got, err := filter(map[string]any{"b": true, "s": "a \"quote\" \\ ümlaut", "n": 2.5, "whole": 3.0})
	want := `metadata["b"] == true && metadata["n"] == 2.5 && metadata["s"] == "a \"quote\" \\ ümlaut" && metadata["whole"] == 3`
	if err != nil || got != want {
		t.Errorf("got %s, %v\nwant %s", got, err, want)
	}
	got, err = filter(map[string]any{"a": map[string]any{"exists": true}, "b": map[string]any{"exists": false}})
	if want := `(exists metadata["a"]) && not (exists metadata["b"])`; err != nil || got != want {
		t.Errorf("got %s, %v\nwant %s", got, err, want)
	}
	for _, f := range []map[string]any{{"": 1.0}, {`a"] == 1 || metadata["b`: 1.0}, {"a": nil}, {"a": []any{1.0}}} {
		if _, err := filter(f); imagebind.KindOf(err) != imagebind.Invalid {
			t.Errorf("%v: %v", f, err)
		}
	}
}

// No search fails or mixes generations while the name is switched, and a
// second process follows when the generation it knows is gone.
func TestSwitchUnderLoad(t *testing.T) {
	s, other, ctx := open(t), open(t), t.Context()
	n := name(t, s)
	if _, err := s.Create(ctx, n, store.Spec{Dim: 16}); err != nil {
		t.Fatal(err)
	}
	generation := func(g int) []store.Row {
		out := rows(0, 300, 16)
		for i := range out {
			out[i].Caption = fmt.Sprint(g)
		}
		return out
	}
	first := generation(0)
	if err := s.Upsert(ctx, n, first); err != nil {
		t.Fatal(err)
	}
	if i, err := other.Info(ctx, n); err != nil || i.Count != 300 {
		t.Fatal(i, err)
	}
	late := open(t) // connects before the next collection is made
	if err := late.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	made := name(t, s)
	if _, err := s.Create(ctx, made, store.Spec{Dim: 2}); err != nil {
		t.Fatal(err)
	}
	if i, err := late.Info(ctx, made); err != nil || i.Dim != 2 {
		t.Errorf("a collection that another process made: %+v, %v", i, err)
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var mu sync.Mutex
	searches := 0
	for range 3 {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				got, err := s.Search(ctx, n, store.Query{Vectors: []imagebind.Embedding{first[i%300].Vector}, K: 10})
				if err != nil || len(got[0]) != 10 || got[0][0].ID != first[i%300].ID {
					t.Errorf("search %d: %v, %v", i, got, err)
					return
				}
				for _, nb := range got[0] {
					if nb.Caption != got[0][0].Caption {
						t.Errorf("generations %s and %s in one answer", nb.Caption, got[0][0].Caption)
						return
					}
				}
				mu.Lock()
				searches++
				mu.Unlock()
			}
		})
	}
	for g := 1; g <= 2; g++ {
		b, err := s.Build(ctx, n, store.Spec{Dim: 16}, fmt.Sprint("job", g))
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Append(ctx, generation(g)); err != nil {
			t.Fatal(err)
		}
		if i, err := b.Commit(ctx); err != nil || i.Generation != g+1 || i.Count != 300 {
			t.Fatal(i, err)
		}
	}
	close(stop)
	wg.Wait()
	t.Logf("%d searches over 2 switches", searches)
	s.drop.Wait() // the old generations are gone
	got, err := other.Search(ctx, n, store.Query{Vectors: []imagebind.Embedding{first[0].Vector}, K: 1})
	if err != nil || got[0][0].Caption != "2" {
		t.Errorf("another process: %v, %v", got, err)
	}
}

func TestIndexTypes(t *testing.T) {
	s, ctx := open(t), t.Context()
	all := rows(0, 3000, 32)
	for _, index := range []string{"IVF_FLAT", "HNSW", "SCANN"} {
		t.Run(index, func(t *testing.T) {
			n := name(t, s)
			b, err := s.Build(ctx, n, store.Spec{Dim: 32, Index: index}, "job")
			if err != nil {
				t.Fatal(err)
			}
			if err := b.Append(ctx, all); err != nil {
				t.Fatal(err)
			}
			info, err := b.Commit(ctx)
			if err != nil || info.Index != index || info.Count != 3000 {
				t.Fatal(info, err)
			}
			for _, k := range []int{1, 1000} {
				got, err := s.Search(ctx, n, store.Query{Vectors: []imagebind.Embedding{all[17].Vector}, K: k})
				if err != nil || got[0][0].ID != all[17].ID {
					t.Errorf("k %d: %v", k, err)
				}
			}
		})
	}
}

// killServer kills the server that this test started with SIGKILL and returns
// when it is gone.
func killServer(t *testing.T) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(serverDir, "milvus.pid"))
	if err != nil {
		t.Fatal(err)
	}
	pid := strings.TrimSpace(string(text))
	if err := exec.Command("kill", "-9", pid).Run(); err != nil {
		t.Fatal(err)
	}
	for start := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		stat, err := os.ReadFile("/proc/" + pid + "/stat")
		if err != nil || strings.Contains(string(stat), ") Z ") {
			return
		}
		if time.Since(start) > 10*time.Second {
			t.Fatal("the server outlives its kill")
		}
	}
}

// A server that was killed is found again by the same Store, with every row
// that it had acknowledged.
func TestServerKilled(t *testing.T) {
	if testing.Short() {
		t.Skip("Milvus takes a minute to recover")
	}
	s, ctx := open(t), t.Context()
	if serverDir == "" {
		t.Skip("only a server that this test started may be killed")
	}
	n := name(t, s)
	if _, err := s.Create(ctx, n, store.Spec{Dim: 16}); err != nil {
		t.Fatal(err)
	}
	all := rows(0, 500, 16)
	if err := s.Upsert(ctx, n, all); err != nil {
		t.Fatal(err)
	}
	killServer(t)
	killed := time.Now()
	short, cancel := context.WithTimeout(ctx, time.Second)
	if err := s.Ready(short); err == nil {
		t.Error("ready without a server")
	}
	cancel()
	if d := time.Since(killed); d > 3*time.Second {
		t.Errorf("a search with a deadline of 1 s took %v", d)
	}
	if out, err := exec.Command("../../scripts/milvus.sh", "start", serverDir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for ; s.Ready(ctx) != nil; <-tick.C {
		if time.Since(killed) > 3*time.Minute {
			t.Fatal(s.Ready(ctx))
		}
	}
	t.Logf("ready %v after the kill", time.Since(killed).Round(time.Second))
	i, err := s.Info(ctx, n)
	if err != nil || i.Count != 500 {
		t.Fatal(i, err)
	}
	got, err := s.Search(ctx, n, store.Query{Vectors: []imagebind.Embedding{all[7].Vector}, K: 1})
	if err != nil || got[0][0].ID != all[7].ID {
		t.Errorf("%v, %v", got, err)
	}
}

// An index without vectors of its own loses them on Milvus 2.3 with local
// storage when a search returns them: it is refused, whatever asks for it.
func TestRawlessRefused(t *testing.T) {
	s := open(t)
	for _, index := range []string{"IVF_SQ8", "DISKANN"} {
		_, err := s.Create(t.Context(), "rawless", store.Spec{Dim: 8, Index: index})
		if imagebind.KindOf(err) != imagebind.Invalid || !strings.Contains(err.Error(), "2.4") {
			t.Errorf("create: %v", err)
		}
		if _, err := s.Build(t.Context(), "rawless", store.Spec{Dim: 8, Index: index}, "job"); imagebind.KindOf(err) != imagebind.Invalid {
			t.Errorf("build: %v", err)
		}
	}
	if _, err := s.Info(t.Context(), "rawless"); imagebind.KindOf(err) != imagebind.NotFound {
		t.Errorf("it is there: %v", err)
	}
}

func TestVersions(t *testing.T) {
	for v, want := range map[string]bool{"v2.3.5": false, "2.3.22": false, "v2.4.0": true, "2.4.15-gpu": true, "v2.10.1": true, "3.0": true, "": false, "latest": false, "v2": false} {
		if atLeast24(v) != want {
			t.Errorf("%q: %v", v, !want)
		}
	}
}

// How rows are indexed follows from how many there are, unless it is said.
func TestChoose(t *testing.T) {
	for _, tt := range []struct {
		o     Options
		index string
		rows  int
		want  built
	}{
		{Options{}, autoIndex, 0, built{Type: "FLAT"}},
		{Options{}, autoIndex, 99_999, built{Type: "FLAT"}},
		{Options{}, autoIndex, 1_000_000, built{"IVF_FLAT", 1448}},
		{Options{}, autoIndex, 3_000_000, built{"IVF_FLAT", 1448}},
		{Options{}, autoIndex, 30_000_000, built{Type: "HNSW"}},
		{Options{}, "IVF_FLAT", 10, built{"IVF_FLAT", 64}},
		{Options{NList: 1024}, "IVF_SQ8", 3_000_000, built{"IVF_SQ8", 1024}},
		{Options{}, "SCANN", 10_000, built{"SCANN", 400}},
		{Options{NList: 7}, "HNSW", 100, built{Type: "HNSW"}},
	} {
		if got := tt.o.choose(tt.index, tt.rows, min(tt.rows, segmentBytes/4096)); got != tt.want {
			t.Errorf("%s, %d rows: %+v, want %+v", tt.index, tt.rows, got, tt.want)
		}
	}
	for _, b := range []built{{Type: "FLAT"}, {"IVF_FLAT", 64}, {"IVF_SQ8", 64}, {"SCANN", 64}, {Type: "HNSW"}, {Type: "DISKANN"}} {
		o := Options{Ef: 256, M: 16, EfConstruct: 200}
		for _, all := range []bool{false, true} {
			p, err := o.searchParam(b, 1000, all)
			if err != nil {
				t.Errorf("%s: %v", b.Type, err)
				continue
			}
			if v := p.Params(); b.Type == "HNSW" && v["ef"] != 1000 || b.NList > 0 && v["nprobe"] != map[bool]int{false: 8, true: 64}[all] {
				t.Errorf("%s, all %v: %v", b.Type, all, v)
			}
		}
		if _, err := o.index(b); err != nil {
			t.Errorf("%s: %v", b.Type, err)
		}
	}
}

// A generation that the alias leads to is not dropped by the abort of its job,
// as after a switch whose answer was lost.
func TestAbortOfWhatServes(t *testing.T) {
	s, ctx := open(t), t.Context()
	n := name(t, s)
	b, err := s.Build(ctx, n, store.Spec{Dim: 8}, "job")
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Append(ctx, rows(0, 5, 8)); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Commit(ctx); err != nil {
		t.Fatal(err)
	}
	b.(*builder).over = false // as it was before the answer
	if err := b.Abort(ctx); imagebind.KindOf(err) != imagebind.Conflict {
		t.Errorf("abort: %v", err)
	}
	if i, err := s.Info(ctx, n); err != nil || i.Count != 5 {
		t.Errorf("%+v, %v", i, err)
	}
}

// A collection that the server let go of is loaded again by the search that
// misses it.
func TestReleasedComesBack(t *testing.T) {
	s, ctx := open(t), t.Context()
	n := name(t, s)
	if _, err := s.Create(ctx, n, store.Spec{Dim: 8}); err != nil {
		t.Fatal(err)
	}
	all := rows(0, 5, 8)
	if err := s.Upsert(ctx, n, all); err != nil {
		t.Fatal(err)
	}
	c, err := s.conn(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.ReleaseCollection(ctx, n+"_g1"); err != nil {
		t.Fatal(err)
	}
	got, err := s.Search(ctx, n, store.Query{Vectors: []imagebind.Embedding{all[2].Vector}, K: 1})
	if err != nil || got[0][0].ID != all[2].ID {
		t.Errorf("%v, %v", got, err)
	}
}

// Another process makes a generation of another dim behind the same alias. The
// SDK keeps schemas by the name that was used, for ever; a store that knew the
// old one must read and write the new.
func TestOtherDimBehindTheAlias(t *testing.T) {
	s, other, ctx := open(t), open(t), t.Context()
	n := name(t, s)
	if _, err := s.Create(ctx, n, store.Spec{Dim: 8}); err != nil {
		t.Fatal(err)
	}
	if err := s.Upsert(ctx, n, rows(0, 3, 8)); err != nil {
		t.Fatal(err)
	}
	if i, err := other.Info(ctx, n); err != nil || i.Dim != 8 {
		t.Fatal(i, err)
	}
	wide := rows(0, 5, 16)
	b, err := s.Build(ctx, n, store.Spec{Dim: 16}, "wider")
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Append(ctx, wide); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Commit(ctx); err != nil {
		t.Fatal(err)
	}
	s.drop.Wait() // the old one is out of memory: the other process has to look again
	if _, err := other.Search(ctx, n, store.Query{Vectors: []imagebind.Embedding{rows(0, 1, 8)[0].Vector}, K: 1}); err == nil {
		t.Error("the other process found rows in a generation that was put aside")
	}
	got, err := other.Search(ctx, n, store.Query{Vectors: []imagebind.Embedding{wide[3].Vector}, K: 5})
	if err != nil || len(got[0]) != 5 || got[0][0].ID != wide[3].ID || len(got[0][0].Prototype) != 16 {
		t.Errorf("%v, %v", got, err)
	}
	if err := other.Upsert(ctx, n, rows(9, 1, 16)); err != nil {
		t.Error(err)
	}
}

// Answers over the 4 MB that gRPC takes when options are set without the
// SDK's own come through, batches over the server's 64 MiB are cut.
func TestBigMessages(t *testing.T) {
	s, ctx := open(t), t.Context()
	n := name(t, s)
	if _, err := s.Create(ctx, n, store.Spec{Dim: 4096}); err != nil {
		t.Fatal(err)
	}
	all := rows(0, 4200, 4096) // 69 MB
	start := time.Now()
	if err := s.Upsert(ctx, n, all); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d rows of 16 KiB in %v", len(all), time.Since(start))
	got, err := s.Search(ctx, n, store.Query{Vectors: []imagebind.Embedding{all[0].Vector, all[1].Vector}, K: 1000}) // 16 MB a list
	if err != nil || len(got) != 2 || len(got[1]) != 1000 || got[1][0].ID != all[1].ID {
		t.Fatal(len(got), err)
	}
}

// Rows of the same vector, more than are asked for to spare: which of them are
// among the nearest follows their ids, in every search.
func TestManyTies(t *testing.T) {
	s, ctx := open(t), t.Context()
	n := name(t, s)
	if _, err := s.Create(ctx, n, store.Spec{Dim: 16}); err != nil {
		t.Fatal(err)
	}
	all := rows(0, 60, 16)
	for i := range 20 { // of the same vector
		all[40+i].Vector = all[40].Vector
	}
	if err := s.Upsert(ctx, n, all); err != nil {
		t.Fatal(err)
	}
	q := all[40].Vector
	got, err := s.Search(ctx, n, store.Query{Vectors: []imagebind.Embedding{all[0].Vector, q}, K: 10})
	if err != nil {
		t.Fatal(err)
	}
	for i, h := range got[1] {
		if want := fmt.Sprintf("r%06d", 40+i); h.ID != want {
			t.Errorf("place %d: %s, want %s", i, h.ID, want)
		}
	}
	if got[0][0].ID != all[0].ID || len(got[0]) != 10 {
		t.Errorf("the other query: %v", got[0])
	}
}

// Every test that docs/milvus.md names is there.
func TestPitfalls(t *testing.T) {
	doc, err := os.ReadFile("../../docs/milvus.md")
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	var code []byte
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		code = append(code, b...)
	}
	named := regexp.MustCompile(`\bTest[A-Z]\w+`).FindAllString(string(doc), -1)
	if len(named) < 20 {
		t.Errorf("docs/milvus.md names %d tests", len(named))
	}
	for _, name := range named {
		if !strings.Contains(string(code), "\nfunc "+name+"(") {
			t.Errorf("docs/milvus.md names %s, which is not there", name)
		}
	}
}

// Copies want query nodes of their own: where there are too few, that is what
// the message says, and nothing is left that serves.
func TestReplicas(t *testing.T) {
	n := name(t, open(t))
	addr, _ := server()
	s, err := Open(Options{Address: addr, Timeout: 30 * time.Second, Replicas: 2})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	all := rows(0, 50, 8)
	if _, err := s.Create(t.Context(), n, store.Spec{Dim: 8}); err != nil {
		if !strings.Contains(err.Error(), "milvus_replicas") { // a server with one query node
			t.Error(err)
		}
		if i, err := s.Info(t.Context(), n); imagebind.KindOf(err) != imagebind.NotFound {
			t.Errorf("it is there: %+v, %v", i, err)
		}
		return
	}
	if err := s.Upsert(t.Context(), n, all); err != nil {
		t.Fatal(err)
	}
	got, err := s.Search(t.Context(), n, store.Query{Vectors: []imagebind.Embedding{all[7].Vector}, K: 1})
	if err != nil || got[0][0].ID != all[7].ID {
		t.Errorf("%v, %v", got, err)
	}
}
