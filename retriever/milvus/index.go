package milvus

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/milvus-io/milvus-sdk-go/v2/client"
	"github.com/milvus-io/milvus-sdk-go/v2/entity"

	imagebind "imagebind-llm"
)

// autoIndex is chosen by the number of rows when the index is built.
const autoIndex = "AUTO"

var (
	indexTypes = []string{"FLAT", "IVF_FLAT", "IVF_SQ8", "SCANN", "HNSW", "DISKANN", autoIndex}
	// rawless keep no vectors of their own, so that those a search returns are read
	// from the segments' files. Milvus before 2.4 on local storage truncates and
	// removes these files when it does.
	rawless = []string{"IVF_SQ8", "DISKANN"}
)

func indexType(name, def string) (string, error) {
	t := strings.ToUpper(name)
	if t == "" {
		return def, nil
	}
	if !slices.Contains(indexTypes, t) {
		return "", imagebind.Errorf(imagebind.Invalid, "index %q: with Milvus it is one of %s", name, strings.Join(indexTypes, ", "))
	}
	return t, nil
}

// allowed refuses what the server does not have, or would lose data with.
func (s *Store) allowed(ctx context.Context, c client.Client, r record) error {
	unsafe := slices.Contains(rawless, r.Index) && !s.o.ObjectStorage
	if !unsafe && !r.Half {
		return nil
	}
	try, cancel := s.call(ctx)
	defer cancel()
	v, err := c.GetVersion(try)
	if err != nil {
		return s.fail(ctx, "ask for the version", err)
	}
	switch {
	case atLeast24(v):
		return nil
	case r.Half:
		return imagebind.Errorf(imagebind.Invalid, "values in float16: Milvus %s has no half-precision vectors; take a server of 2.4 or later, or float32", v)
	}
	return imagebind.Errorf(imagebind.Invalid, "index %s: Milvus %s may lose the vectors of such an index when a search returns them, if its storage is local; "+
		"take IVF_FLAT or HNSW, a server of 2.4 or later, or say --milvus-object-storage if it keeps its data in object storage", r.Index, v)
}

// atLeast24 reads a server's version, as in v2.3.5 or 2.4.15-gpu. One that it
// cannot read is none.
func atLeast24(version string) bool {
	major, rest, _ := strings.Cut(strings.TrimPrefix(strings.TrimSpace(version), "v"), ".")
	minor, _, _ := strings.Cut(rest, ".")
	a, err := strconv.Atoi(major)
	b, err2 := strconv.Atoi(minor)
	return err == nil && err2 == nil && (a > 2 || a == 2 && b >= 4)
}

// indexProperty of a Milvus collection is the built of its index.
const indexProperty = "imagebind.index"

// A built is an index as it was made.
type built struct {
	Type  string `json:"type"`
	NList int    `json:"nlist,omitempty"` // cells of the IVF types and SCANN
}

// segmentBytes of vectors share an index at most: Milvus builds one a segment, whose
// size is 512 MiB by default (1 GiB from 2.4 on), and a quarter of that when a
// build has just ended. Training takes segment·nlist.
const segmentBytes = 512 << 20

// choose says how n rows are indexed, so many of them in a segment. Sizes are where one type's cost passes the
// other's: 100,000 rows are scanned in some 15 ms; HNSW takes four times as
// long to build as IVF_FLAT, which a cluster with index nodes can afford.
func (o Options) choose(index string, n, segment int) built {
	if index == autoIndex {
		switch {
		case n < 100_000:
			index = "FLAT"
		case n < 10_000_000:
			index = "IVF_FLAT"
		default:
			index = "HNSW"
		}
	}
	b := built{Type: index}
	switch index {
	case "IVF_FLAT", "IVF_SQ8", "SCANN":
		if b.NList = o.NList; b.NList == 0 {
			b.NList = max(64, min(65536, int(4*math.Sqrt(float64(segment)))))
		}
	}
	return b
}

func (o Options) index(b built) (entity.Index, error) {
	switch b.Type {
	case "IVF_FLAT":
		return entity.NewIndexIvfFlat(entity.IP, b.NList)
	case "IVF_SQ8":
		return entity.NewIndexIvfSQ8(entity.IP, b.NList)
	case "SCANN":
		return entity.NewIndexSCANN(entity.IP, b.NList, true)
	case "HNSW":
		return entity.NewIndexHNSW(entity.IP, o.M, o.EfConstruct)
	case "DISKANN":
		return entity.NewIndexDISKANN(entity.IP)
	}
	return entity.NewIndexFlat(entity.IP)
}

// searchParam must be new for each search: the SDK writes to it. all asks for
// as much as the index can do.
func (o Options) searchParam(b built, k int, all bool) (entity.SearchParam, error) {
	probe := o.NProbe
	if probe == 0 { // an eighth of the cells: recall of 0.99 on rows like image features
		probe = max(1, b.NList/8)
	}
	if probe = min(probe, b.NList); all {
		probe = b.NList
	}
	switch b.Type {
	case "IVF_FLAT":
		return entity.NewIndexIvfFlatSearchParam(probe)
	case "IVF_SQ8":
		return entity.NewIndexIvfSQ8SearchParam(probe)
	case "SCANN":
		return entity.NewIndexSCANNSearchParam(probe, max(64, 4*k))
	case "HNSW":
		return entity.NewIndexHNSWSearchParam(max(o.Ef, k))
	case "DISKANN":
		return entity.NewIndexDISKANNSearchParam(max(100, 2*k))
	}
	return entity.NewIndexFlatSearchParam()
}

// indexed is how g is indexed. Collections of versions that did not write it
// down have the type that was asked for, and had 1024 cells.
func (g *generation) indexed() built {
	if b := g.idx.Load(); b != nil {
		return *b
	}
	return built{Type: g.Index, NList: 1024}
}

// sealFrom rows on, a flush is worth its three seconds to brute force as well:
// Milvus searches sealed segments in two thirds of the time of growing ones.
const sealFrom = 10_000

// index builds g's index over all of its rows, about so many, and makes the collection searchable. How
// it is built is written down first, as Milvus takes no second kind.
func (s *Store) index(ctx context.Context, c client.Client, g *generation, rows int) error {
	ctx, cancel := context.WithTimeout(ctx, s.o.BuildTimeout)
	defer cancel()
	name := g.physical()
	if g.Index != "FLAT" || rows >= sealFrom {
		if err := c.Flush(ctx, name, false); err != nil {
			return err
		}
	}
	b := g.idx.Load()
	if b == nil {
		stats, err := c.GetCollectionStatistics(ctx, name)
		if err != nil {
			return err
		}
		n, _ := strconv.Atoi(stats["row_count"])
		segment := min(n, segmentBytes/g.rowBytes())
		if list, err := c.GetPersistentSegmentInfo(ctx, name); err == nil && len(list) > 0 { // Milvus seals them early
			segment = min(segment, (n+len(list)-1)/len(list))
		}
		chosen := s.o.choose(g.Index, n, segment)
		text, err := json.Marshal(chosen)
		if err != nil {
			return err
		}
		if err := c.AlterCollection(ctx, name, property{indexProperty, string(text)}); err != nil {
			return err
		}
		b = &chosen
		g.idx.Store(b)
	}
	idx, err := s.o.index(*b)
	if err != nil {
		return err
	}
	if err := c.CreateIndex(ctx, name, fieldVector, idx, true); err != nil {
		return err
	}
	tick := time.NewTicker(100 * time.Millisecond) // the SDK's own wait does not look at ctx
	defer tick.Stop()
	for {
		state, err := c.GetIndexState(ctx, name, fieldVector)
		if err != nil {
			return err
		}
		if state == entity.IndexState(3) { // IndexState_Finished of milvus-proto
			break
		}
		if state == entity.IndexState(4) {
			return errors.New("the index build failed")
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
	return s.load(ctx, c, name)
}
