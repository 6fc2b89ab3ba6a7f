package source

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"math"
	"os"

	imagebind "imagebind-llm"
)

// A spool keeps what a runner answered, so that no file is embedded twice: the
// check of a generation reads every row again, and so does a job that goes on.
// It is a file of records of one size, that of row i at i times the size; what
// was not written, or only half when the machine stopped, reads as absent.
//
//	0  crc32 of the rest        4  kind: 1 a vector, 2 a refusal     6  uint16, bytes of its message
//	8  the vector [E], float32, or the message; zeros up to the end
type spool struct {
	f   *os.File
	dim int
}

// Kinds of a record.
const (
	absent = iota
	vector
	refusal
)

const recordHead = 8

func openSpool(path string, dim int) (*spool, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, imagebind.Errorf(imagebind.Unavailable, "the file of embeddings: %w", err)
	}
	return &spool{f, dim}, nil
}

// size of a record: a message has 256 bytes at least.
func (s *spool) size() int { return recordHead + max(4*s.dim, 256) }

// result is what came of a row: its embedding, or why it has none.
type result struct {
	embedding imagebind.Embedding
	why       string
}

func (s *spool) put(row int, r result) error {
	b := make([]byte, s.size())
	if r.why == "" {
		b[4] = vector
		for i, v := range r.embedding {
			binary.LittleEndian.PutUint32(b[recordHead+4*i:], math.Float32bits(v))
		}
	} else {
		n := copy(b[recordHead:], r.why)
		b[4] = refusal
		binary.LittleEndian.PutUint16(b[6:], uint16(min(n, math.MaxUint16)))
	}
	binary.LittleEndian.PutUint32(b, crc32.ChecksumIEEE(b[4:]))
	if _, err := s.f.WriteAt(b, int64(row)*int64(len(b))); err != nil {
		return imagebind.Errorf(imagebind.Unavailable, "keep an embedding: %w", err)
	}
	return nil
}

// get returns the record of a row, and whether there is one.
func (s *spool) get(row int) (result, bool, error) {
	b := make([]byte, s.size())
	if _, err := s.f.ReadAt(b, int64(row)*int64(len(b))); errors.Is(err, io.EOF) {
		return result{}, false, nil
	} else if err != nil {
		return result{}, false, imagebind.Errorf(imagebind.Unavailable, "read an embedding again: %w", err)
	}
	n := int(binary.LittleEndian.Uint16(b[6:]))
	switch {
	case binary.LittleEndian.Uint32(b) != crc32.ChecksumIEEE(b[4:]):
		return result{}, false, nil
	case b[4] == vector:
		r := result{embedding: make(imagebind.Embedding, s.dim)}
		for i := range r.embedding {
			r.embedding[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[recordHead+4*i:]))
		}
		return r, true, nil
	case b[4] == refusal && n > 0 && n <= len(b)-recordHead:
		return result{why: cut(string(b[recordHead : recordHead+n]))}, true, nil
	}
	return result{}, false, nil
}

func (s *spool) close() error { return s.f.Close() }
