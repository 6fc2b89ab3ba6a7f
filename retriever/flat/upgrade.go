package flat

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	"os"
	"path/filepath"

	imagebind "imagebind-llm"
	"imagebind-llm/retriever/store"
)

// Of format 1: the log's header had no size of a value, a put had no codes, and
// rows were padded to 16 values.
const (
	oldMagic       = "IBROWS1\n"
	oldHeaderBytes = 20
	oldPutHeader   = 17
	oldPad         = 16
)

// upgrade rewrites the rows of a collection of format 1, which has the manifest
// m, and makes the new ones serve.
func (c *collection) upgrade(m manifest) error {
	from := c.path(m.Rows)
	slog.Info("flat: a collection of an older format is rewritten", "collection", c.name)
	m.Rows, m.Values, m.Format = c.newFolder(), float32Values, formatVersion
	p, err := createPart(c.path(m.Rows), m.Dim, false)
	if err != nil {
		return err
	}
	if err = readOld(from, p); err == nil {
		m.LogBytes, m.LogSum, m.Count = p.end, p.sum, p.now.count()
		_, err = m.write(c.path(manifestFile))
	}
	if err != nil {
		discard(p)
		return fmt.Errorf("rewrite %s: %w", from, err)
	}
	p.publish()
	c.man, c.live = m, p
	if err := os.RemoveAll(from); err != nil {
		slog.Warn("flat: old rows stay until the next start", "folder", from, "err", err)
	}
	return nil
}

// readOld adds all that a folder of format 1 holds to p.
func readOld(dir string, p *part) (err error) {
	log, err := os.Open(filepath.Join(dir, logFile))
	if err != nil {
		return err
	}
	defer log.Close()
	rows, err := os.Open(filepath.Join(dir, rowsFile))
	if err != nil {
		return err
	}
	defer rows.Close()
	info, err := log.Stat()
	if err != nil {
		return err
	}
	var head [oldHeaderBytes]byte
	if _, err := log.ReadAt(head[:], 0); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	le := binary.LittleEndian
	if string(head[:8]) != oldMagic || le.Uint32(head[8:]) != uint32(p.dim) || le.Uint32(head[16:]) != crc32.Checksum(head[:16], castagnoli) {
		return imagebind.Errorf(imagebind.Invalid, "%s does not begin as a log of rows of dim %d", logFile, p.dim)
	}
	salt, g, slot := le.Uint32(head[12:]), groups{salt: p.salt}, 0
	padded := make([]float32, (p.dim+oldPad-1)/oldPad*oldPad)
	var b batch
	size := 0
	flush := func() error {
		size = 0
		return p.commit(g.take())
	}
	_, err = readLog(log, info.Size(), oldHeaderBytes, salt, readOldRecord, func(r record, _ int64, _ int) error {
		if r.kind == kindDelete {
			g.add(appendDelete(nil, string(r.id)))
			return nil
		}
		if _, err := rows.ReadAt(bytesOf(padded), int64(slot)*int64(4*len(padded))); err != nil {
			return fmt.Errorf("%s, row %d: %w", rowsFile, slot, err)
		}
		if crc32.Checksum(bytesOf(padded), castagnoli) != r.sum {
			return imagebind.Errorf(imagebind.Invalid, "row %d of %s is damaged: it is not what was stored", slot, rowsFile)
		}
		slot++
		row := store.Row{ID: string(r.id), Caption: string(r.caption), URI: string(r.uri), Vector: padded[:p.dim]}
		var err error
		if row.Metadata, err = r.fields(); err != nil {
			return err
		}
		if err := encode(&b, []store.Row{row}, p.dim, false); err != nil {
			return err
		}
		if err := p.add(&b); err != nil {
			return err
		}
		g.addBatch(&b)
		if size += b.size(); size >= maxShared {
			return flush()
		}
		return nil
	}, nil)
	if err != nil {
		return fmt.Errorf("%s: %w", logFile, err)
	}
	return flush()
}

// readOldRecord reads a record of format 1.
func readOldRecord(b []byte) (r record, n int, err error) {
	if len(b) < oldPutHeader || b[0] != kindPut {
		return readRecord(b)
	}
	// What follows the sizes is the same; between them and the length lie codes now.
	now := make([]byte, putHeader, len(b)+putHeader-oldPutHeader)
	copy(now, b[:9])
	copy(now[21:], b[9:oldPutHeader])
	r, n, err = readRecord(append(now, b[oldPutHeader:]...))
	return r, n - (putHeader - oldPutHeader), err
}
