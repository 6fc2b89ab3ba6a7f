package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	imagebind "imagebind-llm"
	"imagebind-llm/internal/format/npy"
	"imagebind-llm/retriever/enhance"
	"imagebind-llm/retriever/flat"
	"imagebind-llm/retriever/jobs"
	"imagebind-llm/retriever/kernel"
	"imagebind-llm/retriever/retrieverapi"
	"imagebind-llm/retriever/source"
	"imagebind-llm/retriever/store"
)

const retrievalName = "bench"

// retrieval measures the embedded store with rows shaped like image features:
// an import beside copying its file, searches beside one pass over the codes,
// beside faiss and onnxruntime, and what comes back beside brute force.
func (e *env) retrieval(ctx context.Context) ([]Result, error) {
	features, err := e.featuresFile()
	if err != nil {
		return nil, err
	}
	b := &lookup{e: e, features: features, dir: filepath.Join(e.work, fmt.Sprintf("retrieval-%d", e.features))}
	defer b.close()
	var out []Result
	for _, step := range []func(context.Context) ([]Result, error){b.load, b.imports, b.quality, b.scans, b.clients, b.peers} {
		results, err := step(ctx)
		out = append(out, results...)
		if err != nil {
			return out, err
		}
		writeTable(os.Stderr, results)
	}
	return out, nil
}

// featuresFile is the file of rows, made when it is not there.
func (e *env) featuresFile() (string, error) {
	features := filepath.Join(e.work, fmt.Sprintf("features-%d.npy", e.features))
	if _, err := os.Stat(features); err == nil {
		return features, nil
	}
	say("%d rows like image features", e.features)
	part := strings.TrimSuffix(features, ".npy") + ".part.npy"
	if err := errors.Join(os.MkdirAll(e.work, 0o755), writeFeatures(part, e.features, 1024)); err != nil {
		return "", err
	}
	return features, errors.Join(os.Rename(queriesOf(part), queriesOf(features)), os.Rename(part, features))
}

func queriesOf(features string) string { return features[:len(features)-len(".npy")] + ".queries.npy" }

// A lookup is the state of the row.
type lookup struct {
	e             *env
	features, dir string
	queries       []imagebind.Embedding
	st            *flat.Store
	one, sixteen  map[int][]float64 // seconds of a search, by threads
}

func (b *lookup) close() {
	if b.st != nil {
		_ = b.st.Close()
	}
}

func (b *lookup) load(context.Context) ([]Result, error) {
	f, err := npy.Open(queriesOf(b.features))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	t := f.Tensors()[0]
	all := make([]float32, t.Shape[0]*t.Shape[1])
	if err := t.Read(all, 0); err != nil {
		return nil, err
	}
	for q := range slices.Chunk(all, t.Shape[1]) {
		b.queries = append(b.queries, q)
	}
	return nil, nil
}

// imports makes the collection by a rebuild job, unless an earlier run did, and
// copies the file.
func (b *lookup) imports(ctx context.Context) (out []Result, err error) {
	store := filepath.Join(b.dir, "store")
	if b.st, err = flat.Open(store, flat.Options{Half: b.e.half}); err != nil {
		return nil, err
	}
	if i, err := b.st.Info(ctx, retrievalName); err == nil && i.Count == b.e.features {
		say("the collection is there: no import; remove %s for one", b.dir)
		return nil, nil
	}
	var ours, theirs []float64
	for round := range min(b.e.rounds, 2) {
		say("copy %s", b.features)
		took, err := copyFile(b.features, filepath.Join(b.dir, "copy"))
		if err != nil {
			return nil, err
		}
		theirs = append(theirs, took.Seconds())
		say("import, round %d (copying took %.1f s)", round+1, took.Seconds())
		took, err = b.rebuild(ctx)
		if err != nil {
			return nil, err
		}
		ours = append(ours, took.Seconds())
		say("imported in %.1f s", took.Seconds())
	}
	size := dirSize(filepath.Join(store, retrievalName))
	out = append(out, Result{Work: fmt.Sprintf("import of %d rows, with its checks", b.e.features), Unit: "s", Lower: true, Ours: ours, Theirs: theirs,
		Peer: "cp and sync of the .npy", Want: "≥ 0.67", Note: fmt.Sprintf("%.0f bytes of disk a row", float64(size)/float64(b.e.features))})
	start := time.Now()
	if err := b.st.Close(); err != nil {
		return out, err
	}
	closed := time.Since(start)
	start = time.Now()
	if b.st, err = flat.Open(store, flat.Options{Half: b.e.half}); err != nil {
		return out, err
	}
	say("closed in %.2f s, opened in %.2f s", closed.Seconds(), time.Since(start).Seconds())
	return out, nil
}

func (b *lookup) rebuild(ctx context.Context) (time.Duration, error) {
	if err := b.st.Drop(ctx, retrievalName); err != nil && imagebind.KindOf(err) != imagebind.NotFound {
		return 0, err
	}
	m, err := jobs.Open(jobs.Options{Dir: filepath.Join(b.dir, "jobs"), Store: b.st, Open: func(_ context.Context, s retrieverapi.Source, _ string) (jobs.Source, error) {
		return source.Open(s.Path)
	}})
	if err != nil {
		return 0, err
	}
	run, stop := context.WithCancel(ctx)
	defer stop()
	go m.Run(run)
	start := time.Now()
	j, err := m.Submit(retrieverapi.JobRequest{Type: retrieverapi.JobRebuild, Collection: retrievalName, Source: retrieverapi.Source{Path: b.features}})
	if err != nil {
		return 0, err
	}
	for told := start; ; {
		now, changed, err := m.Watch(j.ID)
		if err != nil {
			return 0, err
		}
		if now.Over() {
			if now.State != retrieverapi.JobDone {
				return 0, fmt.Errorf("the import %s: %s", now.State, now.Error)
			}
			say("recall@10 of its check: %.4f over %d searches", now.Checks.Recall, now.Checks.Queries)
			return time.Since(start), nil
		}
		if time.Since(told) > 10*time.Second {
			told = time.Now()
			say("  %s: %d of %d rows, %.0f rows/s", now.Phase, now.RowsDone, now.RowsTotal, now.Rate)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

// copyFile copies as cp and sync would, and removes the copy.
func copyFile(from, to string) (time.Duration, error) {
	start := time.Now()
	in, err := os.Open(from)
	if err != nil {
		return 0, err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return 0, err
	}
	defer os.Remove(to)
	buf := make([]byte, 4<<20)
	// Not a copy within the kernel, which may only share the blocks.
	if _, err := io.CopyBuffer(struct{ io.Writer }{out}, struct{ io.Reader }{in}, buf); err != nil {
		return 0, err
	}
	if err := errors.Join(out.Sync(), out.Close()); err != nil {
		return 0, err
	}
	return time.Since(start), nil
}

func dirSize(dir string) (n int64) {
	_ = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			if info, err := d.Info(); err == nil {
				n += info.Size()
			}
		}
		return nil
	})
	return n
}

// brute is the 10 best of all rows for each of the queries, by float64.
func (b *lookup) brute(queries []imagebind.Embedding) ([][]imagebind.Neighbour, error) {
	f, err := npy.Open(b.features)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	t := f.Tensors()[0]
	n, dim := t.Shape[0], t.Shape[1]
	best := make([][]imagebind.Neighbour, len(queries))
	const block = 4096
	rows := make([]float32, block*dim)
	for at := 0; at < n; at += block {
		count := min(block, n-at)
		if err := t.Read(rows[:count*dim], at*dim); err != nil {
			return nil, err
		}
		var wg sync.WaitGroup
		workers := runtime.GOMAXPROCS(0)
		for w := range workers {
			wg.Go(func() {
				for r := range count {
					row := rows[r*dim : (r+1)*dim]
					for i := w; i < len(queries); i += workers {
						s := float32(kernel.Dot(queries[i], row))
						list := best[i]
						if len(list) == 10 && s <= list[9].Similarity {
							continue
						}
						p, _ := slices.BinarySearchFunc(list, s, func(n imagebind.Neighbour, s float32) int {
							if n.Similarity >= s {
								return -1
							}
							return 1
						})
						list = slices.Insert(list, p, imagebind.Neighbour{ID: strconv.Itoa(at + r), Similarity: s, Prototype: slices.Clone(row)})
						best[i] = list[:min(10, len(list))]
					}
				}
			})
		}
		wg.Wait()
	}
	return best, nil
}

// quality holds what is found, and what enhancement makes of it, to brute force.
func (b *lookup) quality(ctx context.Context) ([]Result, error) {
	var queries []imagebind.Embedding
	for i := range 32 { // of either kind
		queries = append(queries, b.queries[i*31], b.queries[eachQuery+i*31])
	}
	say("brute force for %d queries", len(queries))
	exact, err := b.brute(queries)
	if err != nil {
		return nil, err
	}
	got, err := b.st.Search(ctx, retrievalName, store.Query{Vectors: queries, K: 10})
	if err != nil {
		return nil, err
	}
	return []Result{quality(fmt.Sprintf("recall@10, %d rows", b.e.features), queries, got, exact, "≥ 0.9999")}, nil
}

// quality is what of the neighbours brute force finds too, and how far
// enhancement with either comes out apart.
func quality(work string, queries []imagebind.Embedding, got, exact [][]imagebind.Neighbour, want string) Result {
	found, order, least, mean := 0, 0, 1.0, 0.0
	for i, list := range got {
		ids := map[string]bool{}
		for _, nb := range exact[i] {
			ids[nb.ID] = true
		}
		for j, nb := range list {
			if ids[nb.ID] {
				found++
			}
			if exact[i][j].ID == nb.ID && exact[i][j].Similarity == nb.Similarity {
				order++
			}
		}
		a, err := enhance.Mix(queries[i], list, imagebind.DefaultEnhance())
		e, err2 := enhance.Mix(queries[i], exact[i], imagebind.DefaultEnhance())
		if err != nil || err2 != nil { // no such rows are made here
			return Result{Work: work, Note: fmt.Sprint("not enhanced: ", err, err2)}
		}
		c := a.Dot(e) / (a.Norm() * e.Norm())
		least, mean = min(least, c), mean+c/float64(len(got))
	}
	n := float64(10 * len(got))
	return Result{Work: fmt.Sprintf("%s, %d queries", work, len(queries)), Ours: []float64{float64(found) / n}, Want: want,
		Note: fmt.Sprintf("same id and score at the same place: %.4f; enhanced embeddings beside those by brute force: mean cosine 1 − %.1e, least 1 − %.1e", float64(order)/n, max(0, 1-mean), max(0, 1-least))}
}

// scans times searches in turns with a pass over the codes' file.
func (b *lookup) scans(ctx context.Context) ([]Result, error) {
	files, err := filepath.Glob(filepath.Join(b.dir, "store", retrievalName, "rows-*", "rows.i8"))
	if err != nil || len(files) == 0 {
		return nil, fmt.Errorf("no codes in %s: %w", b.dir, err)
	}
	words, done, err := mapWords(files[len(files)-1], b.e.features*1024)
	if err != nil {
		return nil, err
	}
	defer done()
	b.one, b.sixteen = map[int][]float64{}, map[int][]float64{}
	var out []Result
	for _, threads := range b.e.threads {
		before := runtime.GOMAXPROCS(threads)
		var read []float64
		for round := range b.e.rounds + 1 {
			start := time.Now()
			var wg sync.WaitGroup
			for t := range threads {
				wg.Go(func() { sink[t&7] += sum(words[t*len(words)/threads : (t+1)*len(words)/threads]) })
			}
			wg.Wait()
			pass := time.Since(start).Seconds()
			one, err := b.search(ctx, b.queries[round*17:round*17+1])
			if err != nil {
				return nil, err
			}
			sixteen, err := b.search(ctx, b.queries[round*17:round*17+16])
			if err != nil {
				return nil, err
			}
			if round > 0 { // what is read for the first time is
				read, b.one[threads], b.sixteen[threads] = append(read, pass), append(b.one[threads], one), append(b.sixteen[threads], sixteen)
			}
		}
		runtime.GOMAXPROCS(before)
		gbs := float64(len(words)*8) / Median(read) / 1e9
		out = append(out, Result{Work: fmt.Sprintf("search, one query, %d rows", b.e.features), Threads: threads, Unit: "ms", Lower: true, Ours: millis(b.one[threads]), Theirs: millis(read),
			Peer: "a loop that reads the codes", Want: "≥ 0.87", Note: fmt.Sprintf("it reads %.1f GB/s", gbs)})
	}
	return out, nil
}

// millis are seconds in ms.
func millis(v []float64) []float64 {
	out := make([]float64, len(v))
	for i := range v {
		out[i] = 1000 * v[i]
	}
	return out
}

func (b *lookup) search(ctx context.Context, q []imagebind.Embedding) (float64, error) {
	start := time.Now()
	_, err := b.st.Search(ctx, retrievalName, store.Query{Vectors: q, K: 10})
	return time.Since(start).Seconds(), err
}

func mapWords(path string, n int) ([]uint64, func(), error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	m, err := unix.Mmap(int(f.Fd()), 0, n, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, nil, err
	}
	return unsafe.Slice((*uint64)(unsafe.Pointer(unsafe.SliceData(m))), n/8), func() { _ = unix.Munmap(m) }, nil
}

// clients asks from several sides at once.
func (b *lookup) clients(ctx context.Context) ([]Result, error) {
	var out []Result
	for _, clients := range []int{1, 8, 32} {
		var mu sync.Mutex
		var all []float64
		var failed error
		start := time.Now()
		var wg sync.WaitGroup
		for c := range clients {
			wg.Go(func() {
				for i := 0; time.Since(start) < 8*time.Second; i++ {
					t, err := b.search(ctx, b.queries[(c*61+i)%len(b.queries):][:1])
					mu.Lock()
					if all, failed = append(all, t), errors.Join(failed, err); failed != nil {
						mu.Unlock()
						return
					}
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		if failed != nil {
			return out, failed
		}
		rate := float64(len(all)) / time.Since(start).Seconds()
		out = append(out, Result{Work: fmt.Sprintf("%d clients: a search, median", clients), Unit: "ms", Ours: []float64{1000 * Median(all)},
			Note: fmt.Sprintf("p95 %s, p99 %s; %s searches/s", number(1000*Quantile(all, 0.95)), number(1000*Quantile(all, 0.99)), number(rate))})
	}
	return out, nil
}

// peers times faiss and onnxruntime, each in a process of its own that has the
// memory to itself. Ours are the times of scans, from before.
func (b *lookup) peers(ctx context.Context) ([]Result, error) {
	python := filepath.Join(filepath.Dir(b.e.llama), "faiss", "bin", "python")
	if _, err := os.Stat(python); err != nil {
		return []Result{{Work: "faiss and onnxruntime", Note: "missing: scripts/peers.sh faiss"}}, nil
	}
	var out []Result
	for _, threads := range b.e.threads {
		for _, p := range []struct {
			engine     string
			one, sixth string // what is wanted of a query, and of sixteen
			rows       int
		}{{"sq8", "≥ 3", "", b.e.features}, {"flat", "≥ 10", "", b.e.features}, {"matmul", "", "≥ 1", b.e.features}, {"hnsw32", "", "", min(b.e.features, 100000)}} {
			say("%s, %d threads", p.engine, threads)
			cmd := exec.CommandContext(ctx, python, "scripts/bench_faiss.py", p.engine, b.features, queriesOf(b.features), strconv.Itoa(threads), strconv.Itoa(b.e.rounds), strconv.Itoa(p.rows))
			cmd.Stderr = os.Stderr
			text, err := cmd.Output()
			if err != nil {
				out = append(out, Result{Work: p.engine, Note: "failed: " + err.Error()})
				continue
			}
			var r struct {
				Peer         string
				Build        float64
				One, Sixteen []float64
				RSS          float64
			}
			if err := json.Unmarshal(text, &r); err != nil {
				return out, err
			}
			note := fmt.Sprintf("built in %.0f s, %.1f GB of memory", r.Build, r.RSS/1e9)
			if p.rows < b.e.features {
				out = append(out, Result{Work: fmt.Sprintf("%s, %d rows: one query", p.engine, p.rows), Threads: threads, Unit: "ms", Theirs: millis(r.One), Peer: r.Peer, Note: note})
				continue
			}
			out = append(out,
				Result{Work: "one query, beside " + p.engine, Threads: threads, Unit: "ms", Lower: true, Ours: millis(b.one[threads]), Theirs: millis(r.One), Peer: r.Peer, Want: p.one, Note: note},
				Result{Work: "sixteen at once, beside " + p.engine, Threads: threads, Unit: "ms", Lower: true, Ours: millis(b.sixteen[threads]), Theirs: millis(r.Sixteen), Peer: r.Peer, Want: p.sixth})
		}
	}
	return out, nil
}
