package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	imagebind "imagebind-llm"
	"imagebind-llm/retriever/device"
	"imagebind-llm/retriever/flat"
	"imagebind-llm/retriever/store"
)

// deviceRow measures searches of the embedded store whose candidates -device finds,
// in turns with its own scan, and holds what they find to the scan's. The store
// is opened anew for each turn: one process at a time may have it open.
func (e *env) deviceRow(ctx context.Context) ([]Result, error) {
	features, err := e.featuresFile()
	if err != nil {
		return nil, err
	}
	b := &lookup{e: e, features: features, dir: filepath.Join(e.work, fmt.Sprintf("retrieval-%d", e.features))}
	defer b.close()
	if _, err := b.load(ctx); err != nil {
		return nil, err
	}
	o, err := device.Parse(e.device)
	if err != nil {
		return nil, err
	}
	d, err := device.Open(o)
	if err != nil {
		return nil, err
	}
	plain := flat.Options{Half: e.half}
	fast := plain
	fast.Load = func(ctx context.Context, n, dim int, read func(int, []uint16) error) (flat.Matrix, error) {
		return d.Load(ctx, n, dim, read)
	}
	one := Result{Work: fmt.Sprintf("search, one query, %d rows", e.features), Unit: "ms", Lower: true, Peer: "its scan"}
	sixteen := one
	sixteen.Work = "sixteen at once"
	var found [2][][][]imagebind.Neighbour // by plain and fast: of image queries and others, for each k
	for range e.rounds {
		for i, o := range []flat.Options{plain, fast} {
			if err := b.openFor(ctx, o); err != nil {
				return nil, err
			}
			first, err := b.median(ctx, 1)
			if err != nil {
				return nil, err
			}
			many, err := b.median(ctx, 16)
			if err != nil {
				return nil, err
			}
			if i == 0 {
				one.Theirs, sixteen.Theirs = append(one.Theirs, first), append(sixteen.Theirs, many)
			} else {
				one.Ours, sixteen.Ours = append(one.Ours, first), append(sixteen.Ours, many)
			}
			if found[i] == nil {
				if found[i], one.Note, err = b.kinds(ctx); err != nil {
					return nil, err
				}
			}
			err = b.st.Close()
			b.st = nil
			if err != nil {
				return nil, err
			}
		}
	}
	if !reflect.DeepEqual(found[0], found[1]) {
		return nil, errors.New("the device's neighbours are not the scan's")
	}
	return []Result{one, sixteen}, nil
}

// openFor opens the store, imports the rows where they are not there and waits
// until they are on the device.
func (b *lookup) openFor(ctx context.Context, o flat.Options) (err error) {
	if b.st, err = flat.Open(filepath.Join(b.dir, "store"), o); err != nil {
		return err
	}
	if i, err := b.st.Info(ctx, retrievalName); err != nil || i.Count != b.e.features {
		say("import of %d rows", b.e.features)
		if _, err := b.rebuild(ctx); err != nil {
			return err
		}
	}
	if _, err := b.st.Search(ctx, retrievalName, store.Query{Vectors: b.queries[:1], K: 10}); err != nil || o.Load == nil {
		return err
	}
	start := time.Now()
	for {
		if i, err := b.st.Info(ctx, retrievalName); err != nil || i.Device.Rows == b.e.features {
			say("on the device within %.1f s", time.Since(start).Seconds())
			return err
		}
		if time.Since(start) > 5*time.Minute {
			return errors.New("the rows do not come to the device; its log says why")
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// median of a search's milliseconds.
func (b *lookup) median(ctx context.Context, queries int) (float64, error) {
	var ms []float64
	for i := range 10 {
		start := time.Now()
		if _, err := b.st.Search(ctx, retrievalName, store.Query{Vectors: b.queries[i*16:][:queries], K: 10}); err != nil {
			return 0, err
		}
		ms = append(ms, time.Since(start).Seconds()*1000)
	}
	return Median(ms), nil
}

// kinds searches with queries of either kind for few and many, and notes how many
// the device left to a scan.
func (b *lookup) kinds(ctx context.Context) (found [][][]imagebind.Neighbour, note string, err error) {
	for i, kind := range []string{"images", "others"} {
		for _, k := range []int{1, 10, 100} {
			before, err := b.st.Info(ctx, retrievalName)
			if err != nil {
				return nil, "", err
			}
			for part := range slices.Chunk(b.queries[i*eachQuery:][:128], 32) {
				got, err := b.st.Search(ctx, retrievalName, store.Query{Vectors: part, K: k})
				if err != nil {
					return nil, "", err
				}
				found = append(found, got)
			}
			after, err := b.st.Info(ctx, retrievalName)
			if err != nil {
				return nil, "", err
			}
			note += fmt.Sprintf("; %s, k=%d: %d of %d scanned", kind, k, after.Device.Scanned-before.Device.Scanned, after.Device.Queries-before.Device.Queries)
		}
	}
	return found, strings.TrimPrefix(note, "; "), nil
}
