package flat

import (
	"errors"
	"hash/crc32"
	"log/slog"

	"imagebind-llm/retriever/kernel"
)

// scrub holds the codes of rows that were opened to their checksums, in the
// background. Damaged ones would only make searches miss rows, which nobody
// would see; they are made anew from the row. It also brings the codes into
// memory before the first search wants them.
func (c *collection) scrub(p *part) {
	if c.s.begin() != nil {
		return
	}
	if !p.use() {
		c.s.work.Done()
		return
	}
	v := *p.shown.Load()
	go func() {
		defer c.s.work.Done()
		defer p.done()
		mended, err := c.s.scrub(p, &v)
		if err != nil && !errors.Is(err, c.s.ctx.Err()) {
			slog.Error("flat: codes could not be checked; rebuild the collection", "collection", c.name, "folder", p.dir, "err", err)
		}
		if mended > 0 {
			slog.Warn("flat: damaged codes were made anew; the disk may be ill", "collection", c.name, "folder", p.dir, "rows", mended)
		}
	}()
}

// scrub returns how many slots of v had damaged codes.
func (s *Store) scrub(p *part, v *view) (mended int, err error) {
	slot := 0
	codes, stored := make([]int8, p.stride), make([]byte, p.rows.size)
	_, err = readLog(p.log, v.end, headerBytes, p.salt, readRecord, func(r record, _ int64, _ int) error {
		if r.kind != kindPut {
			return nil
		}
		slot++
		if err := s.ctx.Err(); err != nil || !v.alive(slot-1) {
			return err
		}
		if err := p.codes.read(bytesOf(codes), slot-1); err != nil {
			return err
		}
		if crc32.Checksum(bytesOf(codes), castagnoli) == r.codesSum {
			return nil
		}
		if err := p.rows.read(stored, slot-1); err != nil {
			return err
		}
		row, err := p.whole(stored, slot-1, r.sum)
		if err != nil {
			return err
		}
		kernel.Quantise(codes, row)
		mended++
		return p.codes.write(bytesOf(codes), slot-1)
	}, nil)
	return mended, err
}
