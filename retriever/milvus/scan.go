package milvus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/milvus-io/milvus-sdk-go/v2/client"
	"github.com/milvus-io/milvus-sdk-go/v2/entity"

	imagebind "imagebind-llm"
	"imagebind-llm/retriever/store"
)

// Rows of a page: whole ones, and ids alone.
const scanRows, scanIDs = 2000, 16000

// literal writes a string as Milvus' expressions want it.
func literal(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`, "\r", `\r`, "\t", `\t`).Replace(s) + `"`
}

// page asks for the n rows of the lowest ids after the given one, in the order
// of ids; nil when there are none. It is the SDK's iterator stopped after its
// first page: going on, it would put ids into its expression unescaped.
func (s *Store) page(ctx context.Context, c client.Client, physical, after string, n int, fields []string) (client.ResultSet, error) {
	try, cancel := s.call(ctx)
	defer cancel()
	o := client.NewQueryIteratorOption(physical).WithBatchSize(n).WithOutputFields(fields...)
	if after != "" {
		o = o.WithExpr(fieldID + " > " + literal(after))
	}
	it, err := c.QueryIterator(try, o)
	if err != nil {
		return nil, err
	}
	rs, err := it.Next(try)
	if errors.Is(err, io.EOF) {
		return nil, nil
	}
	return rs, err
}

// Scan hands the rows that serve to do, by id. Each of them is seen that was
// there when it began and was not deleted meanwhile.
func (s *Store) Scan(ctx context.Context, name string, do func([]store.Row) error) error {
	c, g, done, err := s.use(ctx, name)
	if err != nil {
		return err
	}
	defer done()
	// Pages are read at the collection's own level, which does not wait; a
	// Strong count has the node see everything first.
	if _, err := s.count(ctx, c, g.physical(), entity.ClStrong); err != nil {
		return s.fail(ctx, "count "+g.physical(), err)
	}
	size := max(1, min(scanRows, maxAnswer/(4*g.Dim+2048)))
	for after := ""; ; {
		rs, err := s.page(ctx, c, g.physical(), after, size, append([]string{fieldID}, outputs...))
		if err != nil && tooLarge(err) && size > 1 { // long captions or metadata
			size /= 4
			continue
		}
		if err != nil {
			return s.fail(ctx, "read "+g.physical(), err)
		}
		rows, err := readRows(rs, g.Dim)
		if err != nil {
			return s.fail(ctx, "read "+g.physical(), err)
		}
		if len(rows) == 0 {
			return ctx.Err()
		}
		after = rows[len(rows)-1].ID
		if err := do(rows); err != nil {
			return err
		}
	}
}

// tooLarge reports whether err says that an answer did not fit in a message.
func tooLarge(err error) bool { return strings.Contains(err.Error(), "larger than max") }

// readRows reads the columns of a query's answer.
func readRows(rs client.ResultSet, dim int) ([]store.Row, error) {
	if rs == nil || rs.Len() == 0 {
		return nil, nil
	}
	ids, ok := rs.GetColumn(fieldID).(*entity.ColumnVarChar)
	if !ok {
		return nil, errColumns
	}
	f, err := readFields(rs, ids.Len(), dim)
	if err != nil {
		return nil, err
	}
	rows := make([]store.Row, ids.Len())
	for i, id := range ids.Data() {
		m, err := readMetadata(f.metadata[i])
		if err != nil {
			return nil, fmt.Errorf("metadata of %s: %w", id, err)
		}
		rows[i] = store.Row{ID: id, Vector: f.vectors[i], Caption: f.captions[i], URI: f.uris[i], Metadata: m}
	}
	return rows, nil
}

var errColumns = errors.New("its columns are not those of this schema")

// fields are the columns of n rows, without their ids.
type fields struct {
	vectors        []imagebind.Embedding
	captions, uris []string
	metadata       [][]byte
}

func readFields(rs client.ResultSet, n, dim int) (fields, error) {
	vectors, err := readVectors(rs.GetColumn(fieldVector), dim)
	if err != nil {
		return fields{}, err
	}
	captions, ok := rs.GetColumn(fieldCaption).(*entity.ColumnVarChar)
	uris, ok2 := rs.GetColumn(fieldURI).(*entity.ColumnVarChar)
	metadata, ok3 := rs.GetColumn(fieldMetadata).(*entity.ColumnJSONBytes)
	if !ok || !ok2 || !ok3 || len(vectors) != n || captions.Len() != n || uris.Len() != n || metadata.Len() != n {
		return fields{}, errColumns
	}
	return fields{vectors, captions.Data(), uris.Data(), metadata.Data()}, nil
}

// readMetadata reads a row's metadata; nil for none.
func readMetadata(b []byte) (map[string]any, error) {
	if string(b) == "{}" {
		return nil, nil
	}
	var m map[string]any
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, err
	}
	if len(m) == 0 {
		return nil, nil
	}
	return m, nil
}
