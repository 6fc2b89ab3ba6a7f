package milvus

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/milvus-io/milvus-sdk-go/v2/client"
	"github.com/milvus-io/milvus-sdk-go/v2/entity"

	imagebind "imagebind-llm"
	conditions "imagebind-llm/retriever/filter"
	"imagebind-llm/retriever/kernel"
	"imagebind-llm/retriever/store"
)

const (
	maxBatchRows  = 4000     // rows of one write; more is not faster
	maxBatchBytes = 16 << 20 // of vectors in one write; messages over 64 MiB are refused, after 22 s of retries
	maxAnswer     = 32 << 20 // bytes of vectors in one answer; Milvus sends at most 64 MiB
	// spare hits over k are asked for and scored here, so that near-ties at the
	// k-th place fall as the exact similarities say; many where these are too few
	// to tell. Each costs 4·dim bytes.
	spare, many = 2, 32
	// rounding of a similarity in the server, of a query of length 1: fp32 sums of
	// some thousand products.
	rounding = 2e-6
)

// check returns an Invalid error for a row that must not reach the server:
// it would take shifted or zero vectors without a word.
func check(rows []store.Row, dim int, half bool) error {
	for i, r := range rows {
		v := r.Vector
		switch {
		case len(r.ID) == 0 || len(r.ID) > maxID:
			return imagebind.Errorf(imagebind.Invalid, "row %d: an id of %d bytes; it has 1 to %d", i, len(r.ID), maxID)
		case len(v) != dim:
			return imagebind.Errorf(imagebind.Invalid, "row %d (%s): a vector of %d values; the collection's dim is %d", i, r.ID, len(v), dim)
		case !v.Finite():
			return imagebind.Errorf(imagebind.Invalid, "row %d (%s): the vector holds NaN or infinity", i, r.ID)
		case half && slices.ContainsFunc(v, func(x float32) bool { return x > kernel.MaxHalf || x < -kernel.MaxHalf }):
			return imagebind.Errorf(imagebind.Invalid, "row %d (%s): a value over %d, which half precision does not have; keep the rows of this cache in float32", i, r.ID, kernel.MaxHalf)
		case v.Norm() == 0:
			return imagebind.Errorf(imagebind.Invalid, "row %d (%s): the vector is zero", i, r.ID)
		case len(r.Caption) > maxText || len(r.URI) > maxText:
			return imagebind.Errorf(imagebind.Invalid, "row %d (%s): caption and uri have at most %d bytes", i, r.ID, maxText)
		}
	}
	return nil
}

// unique returns the rows without those that a later one of the same id
// replaces: Milvus would keep both.
func unique(rows []store.Row) []store.Row {
	last := make(map[string]int, len(rows))
	for i, r := range rows {
		last[r.ID] = i
	}
	if len(last) == len(rows) {
		return rows
	}
	out := make([]store.Row, 0, len(last))
	for i, r := range rows {
		if last[r.ID] == i {
			out = append(out, r)
		}
	}
	return out
}

func columns(rows []store.Row, dim int, half bool) ([]entity.Column, error) {
	n := len(rows)
	ids, captions, uris := make([]string, n), make([]string, n), make([]string, n)
	vectors, metadata := make([]imagebind.Embedding, n), make([][]byte, n)
	for i, r := range rows {
		ids[i], captions[i], uris[i], vectors[i] = r.ID, r.Caption, r.URI, r.Vector
		m := r.Metadata
		if m == nil {
			m = map[string]any{}
		}
		b, err := json.Marshal(m)
		if err != nil {
			return nil, imagebind.Errorf(imagebind.Invalid, "row %s: metadata: %w", r.ID, err)
		}
		if len(b) > maxMetadata {
			return nil, imagebind.Errorf(imagebind.Invalid, "row %s: %d bytes of metadata; at most %d are stored", r.ID, len(b), maxMetadata)
		}
		metadata[i] = b
	}
	return []entity.Column{
		entity.NewColumnVarChar(fieldID, ids), vectorColumn(vectors, dim, half),
		entity.NewColumnVarChar(fieldCaption, captions), entity.NewColumnVarChar(fieldURI, uris),
		entity.NewColumnJSONBytes(fieldMetadata, metadata),
	}, nil
}

// put writes rows in batches, in order. Upsert and not Insert: the SDK repeats
// a call whose answer was lost, and Insert would store the rows twice.
func (s *Store) put(ctx context.Context, c client.Client, g *generation, rows []store.Row) error {
	r := g.record
	if err := check(rows, r.Dim, r.Half); err != nil {
		return err
	}
	size := max(1, min(maxBatchRows, maxBatchBytes/(4*r.Dim)))
	for batch := range slices.Chunk(unique(rows), size) {
		cols, err := columns(batch, r.Dim, r.Half)
		if err != nil {
			return err
		}
		try, cancel := s.call(ctx)
		_, err = c.Upsert(try, r.physical(), "", cols...)
		cancel()
		g.changed()
		if err != nil {
			return s.fail(ctx, "write to "+r.physical(), err)
		}
		g.written()
	}
	return nil
}

// Upsert stores rows, replacing those of the same id. Milvus has them in its
// write-ahead log when it answers; the next Search of this process waits until
// it sees them.
func (s *Store) Upsert(ctx context.Context, name string, rows []store.Row) error {
	c, g, done, err := s.use(ctx, name)
	if err != nil {
		return err
	}
	defer done()
	g.write.Lock()
	defer g.write.Unlock()
	return s.put(ctx, c, g, rows)
}

// Delete removes rows and returns how many there were.
func (s *Store) Delete(ctx context.Context, name string, ids []string) (int, error) {
	c, g, done, err := s.use(ctx, name)
	if err != nil {
		return 0, err
	}
	defer done()
	g.write.Lock()
	defer g.write.Unlock()
	n := 0
	for batch := range slices.Chunk(slices.Compact(slices.Sorted(slices.Values(ids))), maxBatchRows) {
		for _, id := range batch {
			if len(id) == 0 || len(id) > maxID {
				return n, imagebind.Errorf(imagebind.Invalid, "an id of %d bytes; it has 1 to %d", len(id), maxID)
			}
		}
		try, cancel := s.call(ctx)
		rs, err := c.Query(try, g.physical(), nil, among(batch), []string{fieldID}, client.WithSearchQueryConsistencyLevel(g.level()))
		cancel()
		if err != nil {
			return n, s.fail(ctx, "look up ids in "+name, err)
		}
		if rs.Len() == 0 {
			continue
		}
		try, cancel = s.call(ctx)
		err = c.Delete(try, g.physical(), "", among(batch))
		cancel()
		g.changed()
		g.has.forget()
		if err != nil {
			return n, s.fail(ctx, "delete from "+name, err)
		}
		g.written()
		n += rs.Len()
	}
	if n == 0 {
		return 0, nil
	}
	// Milvus 2.3 answers a delete with the time before it, so that a read at
	// Session does not wait for it. A Strong one does.
	if _, err := s.count(ctx, c, g.physical(), entity.ClStrong); err != nil {
		return n, s.fail(ctx, "see the delete from "+name, err)
	}
	return n, nil
}

// among is the expression for rows of these ids. (The SDK's own writes them
// without escapes.)
func among(ids []string) string {
	list := make([]string, len(ids))
	for i, id := range ids {
		list[i] = literal(id)
	}
	return fieldID + " in [" + strings.Join(list, ",") + "]"
}

// filter writes the conditions on metadata as a Milvus expression.
func filter(f map[string]any) (string, error) {
	fields, err := conditions.Parse(f)
	if err != nil {
		return "", err
	}
	var terms []string
	for _, t := range fields {
		if strings.ContainsFunc(t.Field, func(c rune) bool { return c < ' ' || c == '"' || c == '\\' }) || t.Field == "" {
			return "", imagebind.Errorf(imagebind.Invalid, "filter: %q cannot be a key", t.Field)
		}
		at := fmt.Sprintf("%s[\"%s\"]", fieldMetadata, t.Field)
		if t.Op == conditions.Exists {
			term := "(exists " + at + ")" // exists binds looser than && (2.3)
			if t.Values[0] == false {
				term = "not " + term
			}
			terms = append(terms, term)
			continue
		}
		lists := map[string][]string{} // a list of several kinds is none to Milvus
		var either []string
		for _, v := range t.Values {
			kind := fmt.Sprintf("%T", v)
			if t.Op == conditions.In && kind != "bool" {
				lists[kind] = append(lists[kind], valueOf(v))
				continue
			}
			either = append(either, fmt.Sprintf("%s %s %s", at, operators[t.Op], valueOf(v)))
		}
		for _, kind := range slices.Sorted(maps.Keys(lists)) {
			either = append(either, at+" in ["+strings.Join(lists[kind], ", ")+"]")
		}
		term := strings.Join(either, " || ")
		if len(either) > 1 {
			term = "(" + term + ")"
		}
		terms = append(terms, term)
	}
	slices.Sort(terms)
	return strings.Join(terms, " && "), nil
}

var operators = map[conditions.Op]string{conditions.Eq: "==", conditions.Ne: "!=", conditions.In: "==",
	conditions.Gt: ">", conditions.Gte: ">=", conditions.Lt: "<", conditions.Lte: "<="}

// valueOf writes a string, number or boolean.
func valueOf(v any) string {
	switch v := v.(type) {
	case string:
		return literal(v)
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64)
	}
	return fmt.Sprint(v)
}

// Search returns the K rows of the largest inner product for each query.
func (s *Store) Search(ctx context.Context, name string, q store.Query) ([][]imagebind.Neighbour, error) {
	for again := true; ; again = false {
		c, g, done, err := s.use(ctx, name)
		if err != nil {
			return nil, err
		}
		out, err := s.search(ctx, c, g, q, false)
		done()
		if again && (imagebind.KindOf(err) == imagebind.NotFound || notLoaded(err)) && s.moved(ctx, c, name, g, notLoaded(err)) {
			continue
		}
		return out, err
	}
}

// search looks through one generation; all looks at every row where the index
// allows it.
func (s *Store) search(ctx context.Context, c client.Client, g *generation, q store.Query, all bool) ([][]imagebind.Neighbour, error) {
	r := g.record
	if q.K < 1 || q.K > imagebind.MaxNeighbours {
		return nil, imagebind.Errorf(imagebind.Invalid, "k is %d; it is 1 to %d", q.K, imagebind.MaxNeighbours)
	}
	for i, v := range q.Vectors {
		if len(v) != r.Dim {
			return nil, imagebind.Errorf(imagebind.Invalid, "query %d has %d values; the collection's dim is %d", i, len(v), r.Dim)
		}
		if !v.Finite() { // Milvus would answer no rows and no error
			return nil, imagebind.Errorf(imagebind.Invalid, "query %d holds NaN or infinity", i)
		}
	}
	expr, err := filter(q.Filter)
	if err != nil {
		return nil, err
	}
	if q.K*4*r.Dim > maxAnswer {
		return nil, imagebind.Errorf(imagebind.TooLarge, "k = %d vectors of %d values do not fit in one of Milvus' messages; k can be %d at most", q.K, r.Dim, maxAnswer/(4*r.Dim))
	}
	out := make([][]imagebind.Neighbour, len(q.Vectors))
	every := make([]int, len(out))
	for i := range every {
		every[i] = i
	}
	doubtful, err := s.ask(ctx, c, g, q, expr, all, spare, every, out)
	if err == nil && len(doubtful) > 0 {
		_, err = s.ask(ctx, c, g, q, expr, all, many, doubtful, out)
	}
	if err == nil {
		err = s.present(ctx, c, g, q, expr, out)
	}
	return out, err
}

// ask writes the best K of K + extra hits for each of q's vectors in the list to
// out. It returns those where rows that were not among the hits may be as near as the last.
func (s *Store) ask(ctx context.Context, c client.Client, g *generation, q store.Query, expr string, all bool, extra int, list []int, out [][]imagebind.Neighbour) (doubtful []int, err error) {
	size := maxAnswer / ((q.K + extra) * 4 * g.Dim)
	if size == 0 {
		size, extra = 1, 0
	}
	for batch := range slices.Chunk(list, size) {
		vectors := make([]entity.Vector, len(batch))
		for i, at := range batch {
			vectors[i] = queryVector(q.Vectors[at], g.Half)
		}
		sp, err := s.o.searchParam(g.indexed(), q.K+extra, all)
		if err != nil {
			return nil, err
		}
		try, cancel := s.call(ctx)
		res, err := c.Search(try, g.physical(), nil, expr, outputs, vectors, fieldVector, entity.IP, q.K+extra, sp,
			client.WithSearchQueryConsistencyLevel(g.level()))
		cancel()
		if err != nil {
			return nil, s.fail(ctx, "search "+g.physical(), err)
		}
		if len(res) != len(batch) {
			return nil, imagebind.Errorf(imagebind.Unavailable, "milvus answered %d lists for %d queries", len(res), len(batch))
		}
		for i, at := range batch {
			hits, err := readHits(&res[i], q.Vectors[at])
			if err != nil {
				return nil, s.fail(ctx, "read the answer of "+g.physical(), err)
			}
			if len(hits) == q.K+extra && extra > 0 && hits[q.K-1].Similarity-hits[len(hits)-1].Similarity < float32(rounding*max(1, q.Vectors[at].Norm())) {
				doubtful = append(doubtful, at)
			}
			if out[at], err = neighbours(hits[:min(q.K, len(hits))]); err != nil {
				return nil, s.fail(ctx, "read the answer of "+g.physical(), err)
			}
		}
	}
	return doubtful, nil
}

// A hit is a neighbour whose metadata is not read yet.
type hit struct {
	imagebind.Neighbour
	metadata []byte
}

// readHits returns the hits of q [E] in the order of the exact similarities, ties by id.
func readHits(res *client.SearchResult, q imagebind.Embedding) ([]hit, error) {
	n := res.ResultCount
	if n == 0 { // then the SDK misses the output fields, and says so
		return nil, nil
	}
	if res.Err != nil {
		return nil, res.Err
	}
	ids, ok := res.IDs.(*entity.ColumnVarChar)
	if !ok || ids.Len() != n {
		return nil, errColumns
	}
	f, err := readFields(res.Fields, n, len(q))
	if err != nil {
		return nil, err
	}
	hits := make([]hit, n)
	for i, id := range ids.Data() {
		p := f.vectors[i]
		hits[i] = hit{imagebind.Neighbour{ID: id, Similarity: float32(q.Dot(p)), Caption: f.captions[i], URI: f.uris[i], Prototype: p}, f.metadata[i]}
	}
	slices.SortFunc(hits, func(a, b hit) int {
		return cmp.Or(cmp.Compare(b.Similarity, a.Similarity), cmp.Compare(a.ID, b.ID))
	})
	return hits, nil
}

// neighbours reads the metadata of hits.
func neighbours(hits []hit) ([]imagebind.Neighbour, error) {
	list := make([]imagebind.Neighbour, len(hits))
	for i, h := range hits {
		list[i] = h.Neighbour
		var err error
		if list[i].Metadata, err = readMetadata(h.metadata); err != nil {
			return nil, fmt.Errorf("metadata of %s: %w", h.ID, err)
		}
	}
	return list, nil
}
