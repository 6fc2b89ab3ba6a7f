package main

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	imagebind "imagebind-llm"
	"imagebind-llm/internal/format/npy"
	"imagebind-llm/retriever/jobs"
	"imagebind-llm/retriever/milvus"
	"imagebind-llm/retriever/milvus/bare"
	"imagebind-llm/retriever/retrieverapi"
	retriever "imagebind-llm/retriever/server"
	"imagebind-llm/retriever/store"
)

// milvus measures the Milvus store beside the SDK alone, on one server: the
// same rows, index and queries in a collection of either's making.
func (e *env) milvus(ctx context.Context) ([]Result, error) {
	if e.server == "" {
		return []Result{{Work: "Milvus", Note: "no server: -milvus HOST:PORT, as scripts/milvus.sh start DIR prints it"}}, nil
	}
	features, err := e.featuresFile()
	if err != nil {
		return nil, err
	}
	b := &lookup{e: e, features: features}
	if _, err := b.load(ctx); err != nil {
		return nil, err
	}
	if e.filled {
		return e.searchMilvus(ctx, b)
	}
	s, err := milvus.Open(milvus.Options{Address: e.server, Index: e.index, Timeout: time.Minute, Keep: -1})
	if err != nil {
		return nil, err
	}
	defer s.Close()
	ours, err := e.fillOurs(ctx, s, features)
	if err != nil {
		return nil, err
	}
	rows := float64(e.features)
	insert := Result{Work: fmt.Sprintf("Milvus: insert of %d rows", e.features), Unit: "rows/s", Ours: []float64{rows / ours.insert.Seconds()}, Peer: "the SDK alone", Want: "≥ 0.9"}
	index := Result{Work: "Milvus: flush, " + e.index + " and load", Unit: "s", Lower: true, Ours: []float64{ours.index.Seconds()}, Peer: "the SDK alone"}
	if e.features <= 300_000 { // else the server would hold them twice
		theirs, err := e.fillBare(ctx, features)
		if err != nil {
			return nil, err
		}
		insert.Theirs, index.Theirs = []float64{rows / theirs.insert.Seconds()}, []float64{theirs.index.Seconds()}
	}
	index.Note = fmt.Sprintf("cells by the segments beside 1024 of an IVF type; the server then holds %.1f GB of memory", serverMemory())
	out := []Result{insert, index}
	writeTable(os.Stderr, out)
	found, err := e.searchMilvus(ctx, b)
	return append(out, found...), err
}

// times of filling a collection.
type filled struct{ insert, index time.Duration }

const milvusBatch = 4000

// eachBatch reads the rows of features in batches, with ids.
func eachBatch(features string, do func(ids []string, rows [][]float32) error) error {
	f, err := npy.Open(features)
	if err != nil {
		return err
	}
	defer f.Close()
	t := f.Tensors()[0]
	n, dim := t.Shape[0], t.Shape[1]
	for at := 0; at < n; at += milvusBatch {
		count := min(milvusBatch, n-at)
		values := make([]float32, count*dim)
		if err := t.Read(values, at*dim); err != nil {
			return err
		}
		ids, rows := make([]string, count), make([][]float32, count)
		for i := range rows {
			ids[i], rows[i] = strconv.Itoa(at+i), values[i*dim:(i+1)*dim]
		}
		if err := do(ids, rows); err != nil {
			return err
		}
	}
	return nil
}

func (e *env) fillOurs(ctx context.Context, s *milvus.Store, features string) (f filled, err error) {
	if err := s.Drop(ctx, retrievalName); err != nil && imagebind.KindOf(err) != imagebind.NotFound {
		return f, err
	}
	b, err := s.Build(ctx, retrievalName, store.Spec{Dim: 1024}, fmt.Sprint("bench-", time.Now().UnixNano()))
	if err != nil {
		return f, err
	}
	err = eachBatch(features, func(ids []string, rows [][]float32) error {
		batch := make([]store.Row, len(rows))
		for i := range rows {
			batch[i] = store.Row{ID: ids[i], Vector: rows[i]}
		}
		start := time.Now()
		err := b.Append(ctx, batch)
		f.insert += time.Since(start)
		return err
	})
	if err != nil {
		return f, errors.Join(err, b.Abort(ctx))
	}
	say("ours: %d rows in %.1f s", e.features, f.insert.Seconds())
	start := time.Now()
	_, err = b.Commit(ctx)
	f.index = time.Since(start)
	say("ours: index in %.1f s", f.index.Seconds())
	return f, err
}

func (e *env) fillBare(ctx context.Context, features string) (f filled, err error) {
	type batch struct {
		ids  []string
		rows [][]float32
	}
	batches := make(chan batch)
	failed := make(chan error, 1)
	read, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		defer close(batches)
		failed <- eachBatch(features, func(ids []string, rows [][]float32) error {
			select {
			case batches <- batch{ids, rows}:
				return nil
			case <-read.Done():
				return read.Err()
			}
		})
	}()
	_, f.insert, err = bare.Insert(ctx, e.server, "bare", 1024, milvusBatch, func() ([]string, [][]float32) {
		b := <-batches
		return b.ids, b.rows
	})
	stop()
	if err = errors.Join(err, <-failed); err != nil {
		return f, err
	}
	say("the SDK alone: %d rows in %.1f s", e.features, f.insert.Seconds())
	params := map[string]string{}
	switch e.index {
	case "IVF_FLAT":
		params["nlist"] = "1024"
	case "HNSW":
		params["M"], params["efConstruction"] = "16", "200"
	}
	f.index, err = bare.Index(ctx, e.server, "bare", e.index, params)
	say("the SDK alone: index in %.1f s", f.index.Seconds())
	return f, err
}

// serverMemory is what the processes named milvus hold, in GB.
func serverMemory() (gb float64) {
	stats, _ := filepath.Glob("/proc/[0-9]*/status")
	for _, path := range stats {
		b, err := os.ReadFile(path)
		if err != nil || !strings.HasPrefix(string(b), "Name:\tmilvus\n") {
			continue
		}
		for line := range strings.Lines(string(b)) {
			if v, ok := strings.CutPrefix(line, "VmRSS:"); ok {
				kb, _ := strconv.ParseFloat(strings.Fields(v)[0], 64)
				gb += kb / 1e6
			}
		}
	}
	return gb
}

// searchMilvus measures searches with each effort, of ours beside the SDK alone
// in the same collection.
func (e *env) searchMilvus(ctx context.Context, b *lookup) ([]Result, error) {
	var sample []imagebind.Embedding
	for i := range 32 {
		sample = append(sample, b.queries[i*31], b.queries[eachQuery+i*31])
	}
	say("brute force for %d queries", len(sample))
	exact, err := b.brute(sample)
	if err != nil {
		return nil, err
	}
	var out []Result
	for _, effort := range efforts[e.index] {
		found, err := e.searchAt(ctx, b, effort, sample, exact)
		out = append(out, found...)
		if err != nil {
			return out, err
		}
	}
	return out, nil
}

// efforts are cells searched of the IVF types, candidates of HNSW; the last is measured
// with many clients as well.
var efforts = map[string][]int{"FLAT": {0}, "IVF_FLAT": {32, 64, 128}, "HNSW": {64, 128, 256}}

func (e *env) searchAt(ctx context.Context, b *lookup, effort int, sample []imagebind.Embedding, exact [][]imagebind.Neighbour) ([]Result, error) {
	s, err := milvus.Open(milvus.Options{Address: e.server, NProbe: effort, Ef: effort, Timeout: time.Minute})
	if err != nil {
		return nil, err
	}
	defer s.Close()
	what, params := "Milvus "+e.index, bare.Params{Output: []string{"vector"}, Index: map[string]int{}}
	switch e.index {
	case "IVF_FLAT":
		params.Index["nprobe"] = effort
		what += fmt.Sprintf(" nprobe %d", effort)
	case "HNSW":
		params.Index["ef"] = effort
		what += fmt.Sprintf(" ef %d", effort)
	}
	got, err := s.Search(ctx, retrievalName, store.Query{Vectors: sample, K: 10})
	if err != nil {
		return nil, err
	}
	out := []Result{quality(what+": recall@10", sample, got, exact, "≥ 0.95")}
	info, err := s.Info(ctx, retrievalName)
	if err != nil {
		return out, err
	}
	peer, err := bare.Open(ctx, e.server, fmt.Sprintf("%s_g%d", retrievalName, info.Generation), 10, params)
	if err != nil {
		return out, err
	}
	defer peer.Close()
	mine := func(q imagebind.Embedding) error {
		_, err := s.Search(ctx, retrievalName, store.Query{Vectors: []imagebind.Embedding{q}, K: 10})
		return err
	}
	theirs := func(q imagebind.Embedding) error { return peer.Search(ctx, q) }
	over, err := e.pairs(b, mine, theirs)
	if err != nil {
		return out, err
	}
	over.Work = what + ": search with vectors, one client, median"
	out = append(out, over)
	if effort != efforts[e.index][len(efforts[e.index])-1] {
		return out, nil
	}
	overHTTP, stop, err := e.overHTTP(s)
	if err != nil {
		return out, err
	}
	defer stop()
	over, err = e.pairs(b, func(q imagebind.Embedding) error { return overHTTP(ctx, q) }, theirs)
	if err != nil {
		return out, err
	}
	over.Work = what + ": enhancement over HTTP, one client, median"
	out = append(out, over)
	for _, clients := range []int{8, 32} {
		queries := make([]imagebind.Embedding, 200)
		var ours, others []float64
		var last, first bare.Times
		for round := range e.rounds + 1 {
			for i := range queries {
				queries[i] = b.queries[(round*311+i*7)%len(b.queries)]
			}
			t, err := bare.Each(len(queries), clients, func(i int) error { return mine(queries[i]) })
			if err != nil {
				return out, err
			}
			u, err := bare.Each(len(queries), clients, func(i int) error { return theirs(queries[i]) })
			if err != nil {
				return out, err
			}
			if round > 0 {
				ours, others = append(ours, ms(t.P50)), append(others, ms(u.P50))
				last, first = t, u
			}
		}
		out = append(out, Result{Work: fmt.Sprintf("%s: search with vectors, %d clients, median", what, clients), Unit: "ms", Lower: true, Ours: ours, Theirs: others, Peer: "the SDK alone",
			Note: fmt.Sprintf("p95 %s and %s, p99 %s and %s; %.0f and %.0f searches/s", number(ms(last.P95)), number(ms(first.P95)), number(ms(last.P99)), number(ms(first.P99)), last.PerSecond, first.PerSecond)})
	}
	return out, nil
}

// overHTTP serves s as the retriever does, without its memory of answers, and
// returns a question to it.
func (e *env) overHTTP(s store.Store) (ask func(context.Context, imagebind.Embedding) error, stop func(), err error) {
	dir, err := os.MkdirTemp(e.work, "jobs-")
	if err != nil {
		return nil, nil, err
	}
	m, err := jobs.Open(jobs.Options{Dir: dir, Store: s})
	if err != nil {
		return nil, nil, errors.Join(err, os.RemoveAll(dir))
	}
	srv := httptest.NewServer(retriever.New(retriever.Options{Store: s, Jobs: m}))
	stop = func() {
		srv.Close()
		_ = os.RemoveAll(dir)
	}
	c, err := retrieverapi.NewClient(srv.URL, retrieverapi.Options{})
	if err != nil {
		stop()
		return nil, nil, err
	}
	return func(ctx context.Context, q imagebind.Embedding) error {
		_, _, err := c.Enhance(ctx, retrievalName, []imagebind.Embedding{q}, imagebind.DefaultEnhance(), nil)
		return err
	}, stop, nil
}

// pairs times each query with ours and theirs right after one another, in turns
// which comes first, so that what else the machine does meets both. A round is 100 queries.
func (e *env) pairs(b *lookup, ours, theirs func(imagebind.Embedding) error) (Result, error) {
	r := Result{Unit: "ms", Lower: true, Peer: "the SDK alone", Want: "1 ms over"}
	var mine, peer, more []float64
	for round := range e.rounds + 1 {
		var took [2][]float64
		for i := range 100 {
			q := b.queries[(round*311+i*7)%len(b.queries)]
			for turn := range 2 {
				who := (i + turn) % 2
				start := time.Now()
				if err := []func(imagebind.Embedding) error{ours, theirs}[who](q); err != nil {
					return r, err
				}
				took[who] = append(took[who], ms(time.Since(start)))
			}
			if round > 0 {
				more = append(more, took[0][i]-took[1][i])
			}
		}
		if round > 0 {
			mine, peer = append(mine, took[0]...), append(peer, took[1]...)
			r.Ours, r.Theirs = append(r.Ours, Quantile(took[0], 0.5)), append(r.Theirs, Quantile(took[1], 0.5))
		}
	}
	r.Note = fmt.Sprintf("query by query, ours takes %.2f ms more in the median; p95 %s and %s, p99 %s and %s", Quantile(more, 0.5),
		number(Quantile(mine, 0.95)), number(Quantile(peer, 0.95)), number(Quantile(mine, 0.99)), number(Quantile(peer, 0.99)))
	return r, nil
}
