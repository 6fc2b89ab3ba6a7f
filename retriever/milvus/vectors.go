package milvus

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/milvus-io/milvus-sdk-go/v2/entity"

	imagebind "imagebind-llm"
	"imagebind-llm/retriever/kernel"
)

// rowBytes is what a vector takes in the server.
func (r record) rowBytes() int {
	if r.Half {
		return 2 * r.Dim
	}
	return 4 * r.Dim
}

// toHalf writes v as little-endian binary16.
func toHalf(v imagebind.Embedding) []byte {
	half := make([]uint16, len(v))
	kernel.ToHalf(half, v)
	b := make([]byte, 0, 2*len(v))
	for _, h := range half {
		b = binary.LittleEndian.AppendUint16(b, h)
	}
	return b
}

// vectorColumn is the column of vectors [n, dim] as rows are stored.
func vectorColumn(vectors []imagebind.Embedding, dim int, half bool) entity.Column {
	if half {
		data := make([][]byte, len(vectors))
		for i, v := range vectors {
			data[i] = toHalf(v)
		}
		return entity.NewColumnFloat16Vector(fieldVector, dim, data)
	}
	data := make([][]float32, len(vectors))
	for i, v := range vectors {
		data[i] = v
	}
	return entity.NewColumnFloatVector(fieldVector, dim, data)
}

// queryVector is q as the server compares it to rows. In half precision it is
// made of length 1, which changes no order, and finds candidates only:
// similarities are computed from q itself.
func queryVector(q imagebind.Embedding, half bool) entity.Vector {
	if half {
		q = slices.Clone(q)
		q.Normalize()
		return entity.Float16Vector(toHalf(q))
	}
	return entity.FloatVector(q)
}

// readVectors reads a column of vectors of either kind.
func readVectors(c entity.Column, dim int) ([]imagebind.Embedding, error) {
	wrong := func(n int) error { return fmt.Errorf("a vector of %d values, not %d", n, dim) }
	var out []imagebind.Embedding
	switch c := c.(type) {
	case *entity.ColumnFloatVector:
		for _, v := range c.Data() {
			if len(v) != dim {
				return nil, wrong(len(v))
			}
			out = append(out, v)
		}
	case *entity.ColumnFloat16Vector:
		half := make([]uint16, dim)
		for _, b := range c.Data() {
			if len(b) != 2*dim {
				return nil, wrong(len(b) / 2)
			}
			for i := range half {
				half[i] = binary.LittleEndian.Uint16(b[2*i:])
			}
			v := make(imagebind.Embedding, dim)
			kernel.FromHalf(v, half)
			out = append(out, v)
		}
	default:
		return nil, errColumns
	}
	return out, nil
}
