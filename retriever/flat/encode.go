package flat

import (
	"encoding/json"
	"hash/crc32"
	"math"
	"runtime"
	"slices"
	"unicode/utf8"

	"golang.org/x/sync/errgroup"

	imagebind "imagebind-llm"
	"imagebind-llm/retriever/kernel"
	"imagebind-llm/retriever/store"
)

// A batch is rows as they are stored.
type batch struct {
	n      int
	codes  []int8 // [n, stride]
	rows   []byte // [n, dim] float32 or float16
	pieces []piece
}

// A piece is the records of some of a batch's rows, in order.
type piece struct {
	records []byte
	lens    []int
}

// size is about how many bytes it is on the disk.
func (b *batch) size() int {
	n := len(b.codes) + len(b.rows)
	for _, p := range b.pieces {
		n += len(p.records)
	}
	return n
}

// encode checks rows and makes a batch of them, in b where that has room.
func encode(b *batch, rows []store.Row, dim int, half bool) error {
	stride, size := kernel.Pad8(dim), 4*dim
	if half {
		size = 2 * dim
	}
	b.n = len(rows)
	b.codes = slices.Grow(b.codes[:0], b.n*stride)[:b.n*stride]
	b.rows = slices.Grow(b.rows[:0], b.n*size)[:b.n*size]
	const unit = 64 // rows that are worth a goroutine
	workers := max(1, min(runtime.GOMAXPROCS(0), b.n/unit))
	b.pieces = slices.Grow(b.pieces[:0], workers)[:workers]
	var g errgroup.Group
	for w := range workers {
		from, to := b.n*w/workers, b.n*(w+1)/workers
		g.Go(func() error {
			p := &b.pieces[w]
			p.records, p.lens = p.records[:0], p.lens[:0]
			var wide []float32
			if half {
				wide = make([]float32, dim)
			}
			for i := from; i < to; i++ {
				r := rows[i]
				metadata, norm, err := check(i, r, dim, half)
				if err != nil {
					return err
				}
				values, stored := r.Vector, b.rows[i*size:(i+1)*size]
				if half {
					kernel.ToHalf(valuesOf[uint16](stored), r.Vector)
					kernel.FromHalf(wide, valuesOf[uint16](stored))
					values = wide
				} else {
					copy(valuesOf[float32](stored), r.Vector)
				}
				codes := b.codes[i*stride : (i+1)*stride]
				scale, loss := kernel.Quantise(codes, values)
				before := len(p.records)
				p.records = appendPut(p.records, r, metadata, vectorNote{sum: crc32.Checksum(stored, castagnoli), norm: norm,
					codesSum: crc32.Checksum(bytesOf(codes), castagnoli), scale: scale, loss: loss})
				p.lens = append(p.lens, len(p.records)-before)
			}
			return nil
		})
	}
	return g.Wait()
}

// halfSlack is by how much half precision may make a vector longer: each value
// by 2^-11 of itself, and tiny ones by 2^-25.
const halfSlack = 1 + 0x1p-10

// check returns the metadata of a row that may be stored, as JSON, and its
// vector's length, not less.
func check(i int, r store.Row, dim int, half bool) (metadata []byte, norm float32, err error) {
	bad := func(format string, args ...any) ([]byte, float32, error) {
		return nil, 0, imagebind.Errorf(imagebind.Invalid, "row %d (%s): "+format, append([]any{i, r.ID}, args...)...)
	}
	switch {
	case len(r.ID) == 0 || len(r.ID) > maxID:
		return nil, 0, imagebind.Errorf(imagebind.Invalid, "row %d: an id of %d bytes; it has 1 to %d", i, len(r.ID), maxID)
	case len(r.Vector) != dim:
		return bad("a vector of %d values; the collection's dim is %d", len(r.Vector), dim)
	case len(r.Caption) > maxText || len(r.URI) > maxText:
		return bad("caption and uri have at most %d bytes", maxText)
	}
	length := math.Sqrt(kernel.SumSquares(r.Vector))
	switch {
	case math.IsNaN(length) || math.IsInf(length, 0):
		return bad("the vector holds NaN or infinity")
	case length == 0:
		return bad("the vector is zero")
	}
	if half {
		if length > kernel.MaxHalf && slices.ContainsFunc(r.Vector, func(x float32) bool { return math.Abs(float64(x)) > kernel.MaxHalf }) {
			return bad("a value over %d, which half precision does not have; keep the rows of this cache in float32", kernel.MaxHalf)
		}
		length = length*halfSlack + 0x1p-25*math.Sqrt(float64(dim))
	}
	norm = kernel.Up(length)
	if len(r.Metadata) == 0 {
		return nil, norm, nil
	}
	m, err := canonical(r.Metadata)
	if err != nil {
		return bad("metadata: %w", err)
	}
	if len(m) > maxMetadata {
		return bad("%d bytes of metadata; at most %d are stored", len(m), maxMetadata)
	}
	return m, norm, nil
}

// canonical writes metadata so that equal values are equal bytes: as
// encoding/json writes what it reads.
func canonical(m map[string]any) ([]byte, error) {
	b, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	for k, v := range m {
		ok := utf8.ValidString(k)
		switch v := v.(type) {
		case nil, bool, float64, []any, map[string]any:
		case string:
			ok = ok && utf8.ValidString(v)
		default:
			ok = false
		}
		if ok {
			continue
		}
		var again map[string]any
		if err := json.Unmarshal(b, &again); err != nil {
			return nil, err
		}
		return json.Marshal(again)
	}
	return b, nil
}

// A groups collects records into groups.
type groups struct {
	salt   uint32
	sealed []byte
	open   group
}

func (g *groups) add(record []byte) {
	g.open.add(record)
	if g.open.full() {
		g.flush()
	}
}

func (g *groups) flush() {
	if g.open.n > 0 {
		g.sealed = append(g.sealed, g.open.seal(g.salt)...)
		g.open.reset()
	}
}

// addBatch collects a batch's records.
func (g *groups) addBatch(b *batch) {
	for _, p := range b.pieces {
		at := 0
		for _, n := range p.lens {
			g.add(p.records[at : at+n])
			at += n
		}
	}
}

// take returns the groups and starts again.
func (g *groups) take() []byte {
	g.flush()
	b := g.sealed
	g.sealed = nil
	return b
}
