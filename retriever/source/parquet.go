package source

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/klauspost/compress/snappy"
	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/encoding/thrift"
	"github.com/parquet-go/parquet-go/format"

	imagebind "imagebind-llm"
	"imagebind-llm/retriever/retrieverapi"
	"imagebind-llm/retriever/store"
)

// Limits of what a .parquet file may ask for. The library allocates as its
// numbers say, so they are held to these and to the file's size first.
const (
	maxFooter     = 32 << 20  // bytes
	maxPage       = 256 << 20 // bytes of a page, unpacked; writers aim at 1 MiB
	maxPageValues = 1 << 26
	maxPageHead   = 1 << 20 // bytes; it holds the page's least and largest value
	maxColumns    = 1024
)

// A parquetTable reads a .parquet file: a column of lists of floats, named as
// in vectorNames; id (a string or a whole number), caption or text, uri or url;
// metadata, a JSON object as a string; and other columns that are no lists,
// which join the metadata. Only the columns that are used are read.
type parquetTable struct {
	f      *os.File
	file   *parquet.File
	groups []parquet.RowGroup
	starts []int // of each group's rows, and one more: the number of rows
	width  int   // values of the first row that has any

	vector  leaf
	others  []leaf
	mu      sync.Mutex
	at      int // the row where the cursors stand; -1: none are open
	cursors []*cursor
}

// A leaf is a column with the use that is made of it.
type leaf struct {
	parquet.LeafColumn
	name string
	use  use
	// present is the definition level from which on an element of the list exists.
	present int
}

type use int

const (
	asMetadata use = iota
	asVector
	asID
	asCaption
	asURI
	asObject // metadata as JSON
)

// uses are the columns with a meaning. Where two of one use stand in a file, the first here wins.
var uses = []struct {
	name string
	use  use
}{{"id", asID}, {"caption", asCaption}, {"text", asCaption}, {"uri", asURI}, {"url", asURI}, {"metadata", asObject}}

func openParquet(path string) (t table, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
		}
	}()
	p := &parquetTable{f: f, at: -1}
	if err := guard(p.open); err != nil {
		return nil, err
	}
	return p, nil
}

// guard runs f and returns its panics as errors: the library panics over some
// broken pages, such as indexes outside their dictionary.
func guard(f func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = imagebind.Errorf(imagebind.Invalid, "the parquet file is broken: %v", r)
		}
	}()
	return f()
}

func (p *parquetTable) open() error {
	info, err := p.f.Stat()
	if err != nil {
		return err
	}
	if err := checkFooter(p.f, info.Size()); err != nil {
		return err
	}
	p.file, err = parquet.OpenFile(p.f, info.Size(), parquet.SkipPageIndex(true), parquet.SkipBloomFilters(true))
	if err != nil {
		return fmt.Errorf("the parquet file is broken: %w", err)
	}
	if err := p.choose(); err != nil {
		return err
	}
	if err := p.checkChunks(info.Size()); err != nil {
		return err
	}
	p.groups, p.starts = p.file.RowGroups(), []int{0}
	for i, g := range p.groups {
		n := g.NumRows()
		if n < 0 || n > math.MaxInt32 {
			return imagebind.Errorf(imagebind.Invalid, "row group %d has %d rows", i, n)
		}
		p.starts = append(p.starts, p.rows()+int(n))
	}
	return p.findWidth()
}

// checkFooter holds the lengths in the footer, whose own length stands in the
// file's last bytes, to what is there.
func checkFooter(r io.ReaderAt, size int64) error {
	var tail [8]byte
	if size < 12 {
		return imagebind.Errorf(imagebind.Invalid, "no parquet file: %d bytes", size)
	}
	if _, err := r.ReadAt(tail[:], size-8); err != nil {
		return err
	}
	n := int64(binary.LittleEndian.Uint32(tail[:]))
	if string(tail[4:]) != "PAR1" {
		return imagebind.Errorf(imagebind.Invalid, "no parquet file, or an encrypted or unfinished one: it does not end in PAR1")
	}
	if n > size-12 || n > maxFooter {
		return imagebind.Errorf(imagebind.Invalid, "the parquet file is broken: a footer of %d bytes in a file of %d", n, size)
	}
	footer := make([]byte, n)
	if _, err := r.ReadAt(footer, size-8-n); err != nil {
		return err
	}
	if _, err := skimStruct(footer); err != nil {
		return imagebind.Errorf(imagebind.Invalid, "the parquet file's footer: %w", err)
	}
	return nil
}

// choose finds the columns to read.
func (p *parquetTable) choose() error {
	schema := p.file.Schema()
	paths := schema.Columns()
	if len(paths) > maxColumns {
		return imagebind.Errorf(imagebind.Invalid, "%d columns; at most %d are read", len(paths), maxColumns)
	}
	var leaves []leaf
	for _, path := range paths {
		l, ok := schema.Lookup(path...)
		if !ok {
			return imagebind.Errorf(imagebind.Invalid, "the parquet file is broken: no column %s", strings.Join(path, "."))
		}
		l.Path = path // Lookup leaves its last part only
		leaves = append(leaves, leaf{LeafColumn: l, name: strings.Join(path, "."), present: present(schema, path)})
	}
	for _, name := range vectorNames {
		i := slices.IndexFunc(leaves, func(l leaf) bool { return l.Path[0] == name && l.floats() })
		if i >= 0 {
			p.vector = leaves[i]
			p.vector.use = asVector
			leaves = slices.Delete(leaves, i, i+1)
			break
		}
	}
	if p.vector.use != asVector {
		names := make([]string, 0, 20)
		for _, l := range leaves[:min(len(leaves), 20)] {
			names = append(names, l.name)
		}
		return imagebind.Errorf(imagebind.Invalid, "no column of lists of floats named %s; there is %s", strings.Join(vectorNames, ", "), strings.Join(names, ", "))
	}
	taken := map[use]bool{}
	for _, u := range uses {
		i := slices.IndexFunc(leaves, func(l leaf) bool { return l.name == u.name && l.scalar() })
		if i < 0 || taken[u.use] || u.use != asID && leaves[i].kind() != parquet.ByteArray {
			continue
		}
		leaves[i].use = u.use
		taken[u.use] = true
	}
	for _, l := range leaves {
		if l.scalar() && (l.use != asMetadata || l.value(parquet.ZeroValue(l.kind())) != nil) {
			p.others = append(p.others, l)
		}
	}
	return nil
}

// present returns the definition level at which an element of the innermost
// list on the path exists.
func present(schema *parquet.Schema, path []string) int {
	var node parquet.Node = schema
	level, found := 0, 0
	for _, name := range path {
		for _, f := range node.Fields() {
			if f.Name() == name {
				node = f
				break
			}
		}
		if node.Optional() || node.Repeated() {
			level++
		}
		if node.Repeated() {
			found = level
		}
	}
	return found
}

func (l leaf) kind() parquet.Kind { return l.Node.Type().Kind() }

// floats reports whether the column holds one list of floats a row.
func (l leaf) floats() bool {
	return l.MaxRepetitionLevel == 1 && (l.kind() == parquet.Float || l.kind() == parquet.Double)
}

// scalar reports whether the column holds one value a row, of a kind that is read.
func (l leaf) scalar() bool {
	switch l.kind() {
	case parquet.Boolean, parquet.Int32, parquet.Int64, parquet.Float, parquet.Double, parquet.ByteArray:
		return l.MaxRepetitionLevel == 0
	}
	return false
}

// value returns v as a JSON value, or nil for what is none.
func (l leaf) value(v parquet.Value) any {
	if v.IsNull() {
		return nil
	}
	switch l.kind() {
	case parquet.Boolean:
		return v.Boolean()
	case parquet.Int32, parquet.Int64:
		n, _ := strconv.ParseFloat(l.number(v), 64)
		return n
	case parquet.Float, parquet.Double:
		f := float(v)
		if math.IsNaN(f) || math.IsInf(f, 0) {
			return nil
		}
		return f
	case parquet.ByteArray:
		if b := v.ByteArray(); utf8.Valid(b) {
			return string(b)
		}
	}
	return nil
}

func float(v parquet.Value) float64 {
	if v.Kind() == parquet.Float {
		return float64(v.Float())
	}
	return v.Double()
}

// checkChunks walks the pages of the columns that will be read, by their
// headers, and holds sizes and counts to the file and to the limits.
func (p *parquetTable) checkChunks(size int64) error {
	for g, group := range p.file.Metadata().RowGroups {
		for _, l := range append([]leaf{p.vector}, p.others...) {
			if l.ColumnIndex >= len(group.Columns) {
				return imagebind.Errorf(imagebind.Invalid, "the parquet file is broken: row group %d lacks column %s", g, l.name)
			}
			if err := checkPages(p.f, size, &group.Columns[l.ColumnIndex].MetaData); err != nil {
				return imagebind.Errorf(imagebind.Invalid, "the parquet file is broken: row group %d, column %s: %w", g, l.name, err)
			}
		}
	}
	return nil
}

func checkPages(r io.ReaderAt, size int64, m *format.ColumnMetaData) error {
	switch m.Codec {
	case format.Uncompressed, format.Snappy, format.Gzip, format.Zstd:
	default:
		return fmt.Errorf("compressed by %s; none, snappy, gzip and zstd are read", m.Codec)
	}
	at := m.DataPageOffset
	if m.DictionaryPageOffset != 0 {
		at = m.DictionaryPageOffset
	}
	if at < 4 || at > size || m.TotalCompressedSize < 0 || m.TotalCompressedSize > size-at {
		return fmt.Errorf("%d bytes at %d of %d", m.TotalCompressedSize, at, size)
	}
	var protocol thrift.CompactProtocol
	for end := at + m.TotalCompressedSize; at < end; {
		head, err := pageHead(r, at, end)
		if err != nil {
			return err
		}
		var h format.PageHeader
		if err := thrift.Unmarshal(&protocol, head, &h); err != nil {
			return fmt.Errorf("a page header at %d: %w", at, err)
		}
		at += int64(len(head))
		packed, whole := int64(h.CompressedPageSize), int64(h.UncompressedPageSize)
		values := max(h.DataPageHeader.V.NumValues, h.DataPageHeaderV2.V.NumValues, h.DictionaryPageHeader.V.NumValues)
		if packed < 0 || packed > end-at || whole < 0 || whole > maxPage || values > maxPageValues {
			return fmt.Errorf("a page at %d of %d bytes, %d unpacked, %d values", at, packed, whole, values)
		}
		// A page of one repeated value may be tiny, but a snappy block says how
		// large it becomes, apart from the header. What gzip and zstd unpack to
		// is known only by unpacking.
		if levels := h.DataPageHeaderV2.V.RepetitionLevelsByteLength + h.DataPageHeaderV2.V.DefinitionLevelsByteLength; m.Codec == format.Snappy && packed > int64(levels) && levels >= 0 {
			b := make([]byte, min(packed-int64(levels), 8))
			if _, err := r.ReadAt(b, at+int64(levels)); err != nil {
				return err
			}
			if n, err := snappy.DecodedLen(b); (err != nil || int64(n) > whole) && !plainV2(&h) {
				return fmt.Errorf("a page at %d that unpacks to %d bytes, not %d", at, n, whole)
			}
		}
		at += packed
	}
	return nil
}

// plainV2 reports whether the page is of version 2 and not compressed, whatever its column says.
func plainV2(h *format.PageHeader) bool {
	v2 := h.DataPageHeaderV2.V
	return h.Type == format.DataPageV2 && v2.IsCompressed.Valid && !v2.IsCompressed.V
}

// pageHead returns the bytes of the page header at that offset, its lengths checked.
func pageHead(r io.ReaderAt, at, end int64) ([]byte, error) {
	for n := int64(256); ; n *= 8 {
		b := make([]byte, min(n, end-at))
		if _, err := r.ReadAt(b, at); err != nil {
			return nil, err
		}
		length, err := skimStruct(b)
		if err == nil {
			return b[:length], nil
		}
		if n >= maxPageHead || n >= end-at || !errors.Is(err, errThriftShort) {
			return nil, fmt.Errorf("a page header at %d: %w", at, err)
		}
	}
}

// findWidth reads rows until one has a vector; its length is the table's.
func (p *parquetTable) findWidth() error {
	const look = 1000
	for at := 0; at < min(look, p.rows()) && p.width == 0; at++ {
		rows, err := p.read(context.Background(), at, 1)
		if err != nil {
			return err
		}
		p.width = len(rows[0].Vector)
	}
	if p.width == 0 && p.rows() > 0 {
		return imagebind.Errorf(imagebind.Invalid, "column %s has no values in the first %d rows", p.vector.name, min(look, p.rows()))
	}
	return nil
}

func (p *parquetTable) rows() int { return p.starts[len(p.starts)-1] }

func (p *parquetTable) dim() int { return p.width }

func (p *parquetTable) close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	err := guard(func() error { p.drop(); return nil })
	return errors.Join(err, p.f.Close())
}

// drop closes the cursors.
func (p *parquetTable) drop() {
	for _, c := range p.cursors {
		c.close()
	}
	p.cursors, p.at = nil, -1
}

// seek puts a cursor on every column at a row; the vector's is the first.
func (p *parquetTable) seek(at int) error {
	if p.at == at && len(p.cursors) > 0 && !slices.Contains(p.starts, at) {
		return nil
	}
	p.drop()
	i, found := slices.BinarySearch(p.starts, at)
	if !found {
		i--
	}
	for p.starts[i+1] == at { // empty groups
		i++
	}
	chunks := p.groups[i].ColumnChunks()
	for _, l := range append([]leaf{p.vector}, p.others...) {
		c := &cursor{leaf: l, pages: chunks[l.ColumnIndex].Pages()}
		p.cursors = append(p.cursors, c)
		if skip := at - p.starts[i]; skip > 0 {
			if err := c.pages.SeekToRow(int64(skip)); err != nil {
				return fmt.Errorf("column %s: %w", l.name, err)
			}
		}
	}
	p.at = at
	return nil
}

func (p *parquetTable) read(ctx context.Context, at, n int) (rows []store.Row, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	err = guard(func() error {
		for i := range n {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := p.seek(at + i); err != nil {
				return err
			}
			row, err := p.row()
			if err != nil {
				return err
			}
			rows = append(rows, row)
			p.at++
		}
		return nil
	})
	if err != nil {
		p.at = -1
		return nil, err
	}
	return rows, nil
}

// row reads the row under the cursors.
func (p *parquetTable) row() (store.Row, error) {
	var row store.Row
	var err error
	if row.Vector, err = p.cursors[0].vector(); err != nil {
		return row, err
	}
	for _, c := range p.cursors[1:] {
		v, err := c.next()
		if err != nil {
			return row, err
		}
		x := c.value(v)
		text, _ := x.(string)
		switch c.use {
		case asID:
			if row.ID = text; c.kind() != parquet.ByteArray && x != nil {
				row.ID = c.number(v)
			}
		case asCaption:
			row.Caption = text
		case asURI:
			row.URI = text
		case asObject:
			var object map[string]any
			if json.Unmarshal([]byte(text), &object) == nil && object != nil {
				for k, v := range object {
					note(&row, k, v)
				}
			} else if text != "" {
				note(&row, c.name, text)
			}
		default:
			if x != nil {
				note(&row, c.name, x)
			}
		}
	}
	return row, nil
}

// note adds to the row's metadata what is not there yet.
func note(row *store.Row, name string, v any) {
	if row.Metadata == nil {
		row.Metadata = map[string]any{}
	}
	if _, there := row.Metadata[name]; !there {
		row.Metadata[name] = v
	}
}

// number returns a whole number as an id, other values as they print.
func (l leaf) number(v parquet.Value) string {
	unsigned := false
	if t := l.Node.Type().LogicalType(); t != nil {
		n, ok := t.Value.(*format.IntType)
		unsigned = ok && !n.IsSigned
	}
	switch {
	case l.kind() == parquet.Int32 && unsigned:
		return strconv.FormatUint(uint64(v.Uint32()), 10)
	case l.kind() == parquet.Int32:
		return strconv.FormatInt(int64(v.Int32()), 10)
	case l.kind() == parquet.Int64 && unsigned:
		return strconv.FormatUint(v.Uint64(), 10)
	case l.kind() == parquet.Int64:
		return strconv.FormatInt(v.Int64(), 10)
	}
	return v.String()
}

// A cursor reads a column chunk from row to row.
type cursor struct {
	leaf
	pages  parquet.Pages
	page   parquet.Page
	values parquet.ValueReader
	buf    [256]parquet.Value
	have   []parquet.Value // of buf, not used yet
}

func (c *cursor) close() {
	parquet.Release(c.page)
	c.page = nil
	_ = c.pages.Close() // it was only read
}

// peek returns the next value, valid until the one behind it is asked for, or
// io.EOF behind the last.
func (c *cursor) peek() (parquet.Value, error) {
	for len(c.have) == 0 {
		if c.values == nil {
			parquet.Release(c.page)
			var err error
			if c.page, err = c.pages.ReadPage(); err != nil {
				c.page = nil
				if errors.Is(err, io.EOF) {
					return parquet.Value{}, io.EOF
				}
				return parquet.Value{}, fmt.Errorf("column %s: %w", c.name, err)
			}
			c.values = c.page.Values()
		}
		n, err := c.values.ReadValues(c.buf[:])
		c.have = c.buf[:n]
		if errors.Is(err, io.EOF) || err == nil && n == 0 {
			c.values = nil
		} else if err != nil {
			return parquet.Value{}, fmt.Errorf("column %s: %w", c.name, err)
		}
	}
	return c.have[0], nil
}

// next returns the row's first value.
func (c *cursor) next() (parquet.Value, error) {
	v, err := c.peek()
	switch {
	case errors.Is(err, io.EOF):
		return v, imagebind.Errorf(imagebind.Invalid, "column %s ends before the file's last row", c.name)
	case err != nil:
		return v, err
	case v.RepetitionLevel() != 0:
		return v, imagebind.Errorf(imagebind.Invalid, "column %s: a page begins in the middle of a row", c.name)
	}
	c.have = c.have[1:]
	return v, nil
}

// vector reads the row's list. A null element is NaN, and a list of more than
// MaxDim values is cut behind them: both are rows that nobody stores.
func (c *cursor) vector() (imagebind.Embedding, error) {
	v, err := c.next()
	if err != nil || v.DefinitionLevel() < c.present {
		return nil, err
	}
	var e imagebind.Embedding
	for {
		if len(e) <= retrieverapi.MaxDim {
			x := float32(math.NaN())
			if !v.IsNull() {
				x = float32(float(v))
			}
			e = append(e, x)
		}
		v, err = c.peek()
		if errors.Is(err, io.EOF) {
			return e, nil
		}
		if err != nil {
			return nil, err
		}
		if v.RepetitionLevel() == 0 {
			return e, nil
		}
		c.have = c.have[1:]
	}
}
