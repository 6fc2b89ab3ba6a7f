package source

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/parquet-go/parquet-go"

	imagebind "imagebind-llm"
	"imagebind-llm/retriever/store"
)

const (
	groupBytes = 64 << 20 // of a row group's vectors: what the writer holds in memory
	groupRows  = 64 << 10 // of a row group, however short its vectors are
)

// A written is a row of the file. Metadata is a JSON object, or "" for none.
type written struct {
	ID       string    `parquet:"id"`
	Vector   []float32 `parquet:"vector,list"`
	Caption  string    `parquet:"caption,snappy"`
	URI      string    `parquet:"uri,snappy"`
	Metadata string    `parquet:"metadata,snappy"`
}

// WriteParquet writes the rows of scan, each with a vector [dim], as a .parquet
// file that [Open] reads back: columns id, vector (a list of float), caption,
// uri and metadata (JSON). It holds one row group in memory, at most 64 MiB of
// vectors, and ends with the first error of scan or of w; then the file has no
// footer, so that no reader takes it for a whole one.
func WriteParquet(w io.Writer, dim int, scan func(do func([]store.Row) error) error) error {
	if dim < 1 {
		return imagebind.Errorf(imagebind.Invalid, "a file of vectors of %d values; they have at least one", dim)
	}
	group := int64(max(1, min(groupRows, groupBytes/(4*dim))))
	out := parquet.NewGenericWriter[written](w, parquet.MaxRowsPerRowGroup(group),
		parquet.SkipPageBounds("vector", "list", "element")) // the least and the largest value say nothing of a vector
	var buf []written
	err := scan(func(rows []store.Row) error {
		buf = buf[:0]
		for i := range rows {
			r := &rows[i]
			if len(r.Vector) != dim {
				return imagebind.Errorf(imagebind.Internal, "row %q has %d values, not %d", r.ID, len(r.Vector), dim)
			}
			row := written{ID: r.ID, Vector: r.Vector, Caption: r.Caption, URI: r.URI}
			if len(r.Metadata) > 0 {
				b, err := json.Marshal(r.Metadata)
				if err != nil {
					return fmt.Errorf("metadata of row %q: %w", r.ID, err)
				}
				row.Metadata = string(b)
			}
			buf = append(buf, row)
		}
		if _, err := out.Write(buf); err != nil {
			return fmt.Errorf("write .parquet: %w", err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := out.Close(); err != nil {
		return fmt.Errorf("write .parquet: %w", err)
	}
	return nil
}
