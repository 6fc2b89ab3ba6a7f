package source

import (
	"encoding/binary"
	"errors"
)

// A parquet file's structures are Thrift, in its compact protocol. The library
// that decodes them allocates what a list's length says before it reads the
// list, so skim first walks them and holds every length to the bytes that are
// there. https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md

// Types of the compact protocol.
const (
	compactStop   = 0
	compactTrue   = 1
	compactFalse  = 2
	compactByte   = 3
	compactI16    = 4
	compactI32    = 5
	compactI64    = 6
	compactDouble = 7
	compactBinary = 8
	compactList   = 9
	compactSet    = 10
	compactMap    = 11
	compactStruct = 12
	compactUUID   = 13
)

const (
	maxThriftDepth   = 32
	maxThriftStructs = 1 << 18 // in lists: column chunks and the like, some 500 bytes each in memory
)

var (
	errThriftShort = errors.New("it ends too early")
	errThrift      = errors.New("it is broken")
	errThriftLarge = errors.New("it lists too much")
)

type skimmer struct {
	b       []byte
	structs int
}

// skimStruct returns the length of the structure that b begins with.
func skimStruct(b []byte) (int, error) {
	s := skimmer{b: b}
	if err := s.value(compactStruct, 0); err != nil {
		return 0, err
	}
	return len(b) - len(s.b), nil
}

func (s *skimmer) skip(n uint64) error {
	if n > uint64(len(s.b)) {
		return errThriftShort
	}
	s.b = s.b[n:]
	return nil
}

func (s *skimmer) byte() (byte, error) {
	if len(s.b) == 0 {
		return 0, errThriftShort
	}
	c := s.b[0]
	s.b = s.b[1:]
	return c, nil
}

func (s *skimmer) varint() (uint64, error) {
	v, n := binary.Uvarint(s.b)
	if n == 0 {
		return 0, errThriftShort
	}
	if n < 0 {
		return 0, errThrift
	}
	s.b = s.b[n:]
	return v, nil
}

func (s *skimmer) value(kind byte, depth int) error {
	if depth > maxThriftDepth {
		return errThriftLarge
	}
	switch kind {
	case compactTrue, compactFalse, compactByte:
		return s.skip(1) // in a list; as a field a truth value has no bytes
	case compactI16, compactI32, compactI64:
		_, err := s.varint()
		return err
	case compactDouble:
		return s.skip(8)
	case compactUUID:
		return s.skip(16)
	case compactBinary:
		n, err := s.varint()
		if err != nil {
			return err
		}
		return s.skip(n)
	case compactList, compactSet:
		return s.list(depth)
	case compactStruct:
		return s.fields(depth)
	}
	return errThrift // maps: the format has none
}

func (s *skimmer) list(depth int) error {
	head, err := s.byte()
	if err != nil {
		return err
	}
	n, kind := uint64(head>>4), head&15
	if n == 15 {
		if n, err = s.varint(); err != nil {
			return err
		}
	}
	if n > uint64(len(s.b)) { // an element has a byte at least
		return errThriftShort
	}
	if kind == compactStruct || kind == compactBinary || kind == compactList {
		if s.structs += int(n); s.structs > maxThriftStructs {
			return errThriftLarge
		}
	}
	for range n {
		if err := s.value(kind, depth+1); err != nil {
			return err
		}
	}
	return nil
}

func (s *skimmer) fields(depth int) error {
	for {
		head, err := s.byte()
		if err != nil {
			return err
		}
		if head == compactStop {
			return nil
		}
		if head>>4 == 0 { // the field's number stands apart
			if _, err := s.varint(); err != nil {
				return err
			}
		}
		switch kind := head & 15; kind {
		case compactTrue, compactFalse:
		default:
			if err := s.value(kind, depth+1); err != nil {
				return err
			}
		}
	}
}
