package flat

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"

	imagebind "imagebind-llm"
	"imagebind-llm/retriever/store"
)

// The log's sizes (see the package comment for the drawing). Numbers are
// little-endian.
const (
	logMagic    = "IBROWS2\n" // the format's version is in it
	headerBytes = 24          // magic, u32 dim, u32 bytes of a value, u32 salt, u32 checksum of these
	groupMagic  = "ROWS"
	groupHeader = 16       // magic, u32 bytes of records, u32 number of records, u32 checksum of the salt, those and the records
	maxGroup    = 16 << 20 // a group is closed behind the record that reaches this

	// u8 kind, u32 checksum of the row, f32 its length, u32 checksum of its
	// codes, f32 their scale, f32 their loss, u16 bytes of id, caption, URI, metadata
	putHeader    = 29
	deleteHeader = 3 // u8 kind, u16 bytes of id

	kindPut    = 1
	kindDelete = 2

	maxID       = 256 // bytes; as everywhere in the retriever
	maxText     = 8192
	maxMetadata = 65535
	maxRecord   = putHeader + maxID + 2*maxText + maxMetadata
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// A record is a row without its vector, or the deletion of one. Its byte slices
// point into the buffer that it was read from.
type record struct {
	kind byte
	vectorNote
	id       []byte
	caption  []byte
	uri      []byte
	metadata []byte // JSON object, or empty
}

// A vectorNote is what a record says of its row's vector.
type vectorNote struct {
	sum      uint32  // checksum of the row's bytes, as stored
	norm     float32 // the vector's length, not less
	codesSum uint32  // checksum of its codes
	scale    float32 // of the codes: the vector is about scale·codes
	loss     float32 // how far it is from that, not less
}

// header is the start of a log. The salt, random, is part of all its checksums:
// no caption can be made to look like a group.
func header(dim int, half bool, salt uint32) []byte {
	size := uint32(4)
	if half {
		size = 2
	}
	b := binary.LittleEndian.AppendUint32([]byte(logMagic), uint32(dim))
	b = binary.LittleEndian.AppendUint32(b, size)
	b = binary.LittleEndian.AppendUint32(b, salt)
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// readHeader returns the salt of a log of rows of a dim, and the header.
func readHeader(r io.ReaderAt, dim int, half bool) (salt uint32, head []byte, err error) {
	b := make([]byte, headerBytes)
	if _, err := r.ReadAt(b, 0); err != nil && !errors.Is(err, io.EOF) {
		return 0, nil, err
	}
	salt = binary.LittleEndian.Uint32(b[len(logMagic)+8:])
	if string(b) != string(header(dim, half, salt)) {
		return 0, nil, imagebind.Errorf(imagebind.Invalid, "it does not begin as a log of rows of dim %d", dim)
	}
	return salt, b, nil
}

// appendPut appends the record of a checked row.
func appendPut(b []byte, r store.Row, metadata []byte, v vectorNote) []byte {
	b = append(b, kindPut)
	for _, x := range []uint32{v.sum, math.Float32bits(v.norm), v.codesSum, math.Float32bits(v.scale), math.Float32bits(v.loss)} {
		b = binary.LittleEndian.AppendUint32(b, x)
	}
	for _, n := range []int{len(r.ID), len(r.Caption), len(r.URI), len(metadata)} {
		b = binary.LittleEndian.AppendUint16(b, uint16(n))
	}
	b = append(append(append(b, r.ID...), r.Caption...), r.URI...)
	return append(b, metadata...)
}

func appendDelete(b []byte, id string) []byte {
	b = binary.LittleEndian.AppendUint16(append(b, kindDelete), uint16(len(id)))
	return append(b, id...)
}

var errRecord = errors.New("a record that is none")

// readRecord reads the record at the start of b and returns its length.
func readRecord(b []byte) (r record, n int, err error) {
	le := binary.LittleEndian
	switch {
	case len(b) >= deleteHeader && b[0] == kindDelete:
		n = deleteHeader + int(le.Uint16(b[1:]))
		if n > len(b) || n == deleteHeader {
			return r, 0, errRecord
		}
		return record{kind: kindDelete, id: b[deleteHeader:n]}, n, nil
	case len(b) < putHeader || b[0] != kindPut:
		return r, 0, errRecord
	}
	id, caption, uri, metadata := int(le.Uint16(b[21:])), int(le.Uint16(b[23:])), int(le.Uint16(b[25:])), int(le.Uint16(b[27:]))
	n = putHeader + id + caption + uri + metadata
	if n > len(b) || id == 0 {
		return r, 0, errRecord
	}
	float := func(at int) float32 { return math.Float32frombits(le.Uint32(b[at:])) }
	r = record{kind: kindPut, vectorNote: vectorNote{sum: le.Uint32(b[1:]), norm: float(5), codesSum: le.Uint32(b[9:]), scale: float(13), loss: float(17)}}
	b = b[putHeader:]
	r.id, b = b[:id], b[id:]
	r.caption, b = b[:caption], b[caption:]
	r.uri, b = b[:uri], b[uri:]
	r.metadata = b[:metadata]
	return r, n, nil
}

// A group is what a log grows by, at once or not at all.
type group struct {
	b []byte // room for the header, then records
	n int    // of records
}

func (g *group) reset() { g.b, g.n = append(g.b[:0], make([]byte, groupHeader)...), 0 }

func (g *group) add(record []byte) {
	if g.n == 0 {
		g.reset()
	}
	g.b = append(g.b, record...)
	g.n++
}

func (g *group) full() bool { return len(g.b) >= maxGroup }

// seal fills in the header and returns the group's bytes.
func (g *group) seal(salt uint32) []byte {
	le := binary.LittleEndian
	copy(g.b, groupMagic)
	le.PutUint32(g.b[4:], uint32(len(g.b)-groupHeader))
	le.PutUint32(g.b[8:], uint32(g.n))
	le.PutUint32(g.b[12:], groupSum(g.b, salt))
	return g.b
}

func groupSum(b []byte, salt uint32) uint32 {
	sum := crc32.Checksum(binary.LittleEndian.AppendUint32(nil, salt), castagnoli)
	return crc32.Update(crc32.Update(sum, castagnoli, b[4:12]), castagnoli, b[groupHeader:])
}

// An apply takes over a record of n bytes at a place of the log.
type apply func(r record, at int64, n int) error

// A read reads the record at the start of b and returns its length; formats
// differ in it.
type read func(b []byte) (r record, n int, err error)

// readLog reads a log of size bytes from a place between groups on, and hands
// every record of its whole groups to do, and then each group, with the place
// where it ends, to whole, which may be nil. It returns where the last whole
// group ends: what follows is a group that was being written when the process
// or the machine died, which nobody was told of.
//
// A group is written only after all before it are durable. So one that is
// broken with a whole one behind it was whole once: that is damage, and an
// error.
func readLog(r io.ReaderAt, size, from int64, salt uint32, read read, do apply, whole func(group []byte, end int64) error) (end int64, err error) {
	var buf []byte
	for at := from; at < size; {
		var b []byte
		if b, buf, err = readGroup(r, size, at, salt, buf); err != nil {
			return 0, err
		}
		if b == nil {
			next, err := findGroup(r, size, at+1, salt, buf)
			if err != nil {
				return 0, err
			}
			if next >= 0 {
				return 0, imagebind.Errorf(imagebind.Invalid, "it is damaged at byte %d: whole records follow at byte %d", at, next)
			}
			return at, nil
		}
		if err := eachRecord(b, at, read, do); err != nil {
			return 0, err
		}
		at += int64(len(b))
		if whole != nil {
			if err := whole(b, at); err != nil {
				return 0, err
			}
		}
	}
	return size, nil
}

// eachRecord hands the records of whole groups, which begin at a place of the
// log, to do.
func eachRecord(b []byte, at int64, read read, do apply) error {
	for len(b) > 0 {
		size := groupHeader + int(binary.LittleEndian.Uint32(b[4:]))
		count, pos := binary.LittleEndian.Uint32(b[8:]), groupHeader
		for ; count > 0 && pos < size; count-- {
			rec, n, err := read(b[pos:size])
			if err == nil {
				err = do(rec, at+int64(pos), n)
			}
			if err != nil {
				return imagebind.Errorf(imagebind.Invalid, "the record at byte %d: %w", at+int64(pos), err)
			}
			pos += n
		}
		if count != 0 || pos != size {
			return imagebind.Errorf(imagebind.Invalid, "the group at byte %d does not hold the records it counts", at)
		}
		b, at = b[size:], at+int64(size)
	}
	return nil
}

// readGroup reads the group at a place; nil for none that is whole. It reads
// no more memory than the file has bytes. buf is used again.
func readGroup(r io.ReaderAt, size, at int64, salt uint32, buf []byte) (b, next []byte, err error) {
	if size-at < groupHeader {
		return nil, buf, nil
	}
	var head [groupHeader]byte
	if _, err := r.ReadAt(head[:], at); err != nil {
		return nil, buf, fmt.Errorf("read at byte %d: %w", at, err)
	}
	n := int64(binary.LittleEndian.Uint32(head[4:])) + groupHeader
	if string(head[:4]) != groupMagic || n > maxGroup+maxRecord || n > size-at {
		return nil, buf, nil
	}
	if int64(cap(buf)) < n {
		buf = make([]byte, n)
	}
	b = buf[:n]
	if _, err := r.ReadAt(b, at); err != nil {
		return nil, buf, fmt.Errorf("read at byte %d: %w", at, err)
	}
	if groupSum(b, salt) != binary.LittleEndian.Uint32(b[12:]) {
		return nil, buf, nil
	}
	return b, buf, nil
}

// findGroup looks for a whole group at or behind a place; -1 for none.
func findGroup(r io.ReaderAt, size, at int64, salt uint32, buf []byte) (int64, error) {
	window := make([]byte, 64<<10)
	for at+groupHeader <= size {
		n, err := r.ReadAt(window[:min(int64(len(window)), size-at)], at)
		if err != nil && !errors.Is(err, io.EOF) {
			return -1, fmt.Errorf("read at byte %d: %w", at, err)
		}
		if n < len(groupMagic) {
			break
		}
		for i := 0; i+len(groupMagic) <= n; i++ {
			if string(window[i:i+len(groupMagic)]) != groupMagic {
				continue
			}
			b, next, err := readGroup(r, size, at+int64(i), salt, buf)
			if err != nil {
				return -1, err
			}
			if buf = next; b != nil {
				return at + int64(i), nil
			}
		}
		at += int64(n - len(groupMagic) + 1)
	}
	return -1, nil
}
