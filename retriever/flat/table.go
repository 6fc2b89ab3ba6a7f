package flat

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"unsafe"

	"golang.org/x/sys/unix"
)

// chunkRows is how many rows are mapped at a time; a multiple of the page
// size whatever the bytes of a row.
const chunkRows = 16384

// A table is a file of rows of one size, mapped for reading.
type table struct {
	f      *os.File
	size   int      // bytes of a row
	chunks [][]byte // [chunkRows·size] each
	advice int      // to the system: how the rows will be read
}

func openTable(dir, name string, size, flag, advice int) (table, error) {
	f, err := os.OpenFile(filepath.Join(dir, name), flag, 0o644)
	return table{f: f, size: size, advice: advice}, err
}

// grow maps the file as far as n rows go. What lies behind the file's end is
// mapped too, and read only after it was written.
func (t *table) grow(n int) error {
	for len(t.chunks)*chunkRows < n {
		size := chunkRows * t.size
		b, err := unix.Mmap(int(t.f.Fd()), int64(len(t.chunks))*int64(size), size, unix.PROT_READ, unix.MAP_SHARED)
		if err != nil {
			return fmt.Errorf("map %s: %w", filepath.Base(t.f.Name()), err)
		}
		_ = unix.Madvise(b, t.advice) // it is only faster with it
		t.chunks = append(t.chunks, b)
	}
	return nil
}

// fetch asks the system for a chunk of rows, or for one row, before it is read.
func fetch(mapped []byte) {
	// It wants whole pages; the address before is in the same mapping.
	p := uintptr(unsafe.Pointer(unsafe.SliceData(mapped)))
	off := p % uintptr(os.Getpagesize())
	start := unsafe.Add(unsafe.Pointer(unsafe.SliceData(mapped)), -int(off))
	_ = unix.Madvise(unsafe.Slice((*byte)(start), len(mapped)+int(off)), unix.MADV_WILLNEED)
}

// write puts whole rows at slot and behind.
func (t *table) write(rows []byte, slot int) error {
	_, err := t.f.WriteAt(rows, int64(slot)*int64(t.size))
	return err
}

// read reads whole rows from slot on, past the mapping.
func (t *table) read(rows []byte, slot int) error {
	if _, err := t.f.ReadAt(rows, int64(slot)*int64(t.size)); err != nil {
		return fmt.Errorf("%s, row %d: %w", filepath.Base(t.f.Name()), slot, err)
	}
	return nil
}

// holds returns an error when the file has fewer than n rows.
func (t *table) holds(n int) error {
	info, err := t.f.Stat()
	if err != nil {
		return err
	}
	if want := int64(n) * int64(t.size); info.Size() < want {
		return fmt.Errorf("%s: %d bytes; the log tells of %d rows, %d bytes", filepath.Base(t.f.Name()), info.Size(), n, want)
	}
	return nil
}

func (t *table) close() error {
	if t.f == nil {
		return nil
	}
	var errs []error
	for _, c := range t.chunks {
		errs = append(errs, unix.Munmap(c))
	}
	t.chunks = nil
	return errors.Join(append(errs, t.f.Close())...)
}

// bytesOf is the memory of v.
func bytesOf[T int8 | uint16 | float32](v []T) []byte {
	var x T
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(v))), len(v)*int(unsafe.Sizeof(x)))
}

// valuesOf is b as values. b lies as they must: at the start of memory that was
// mapped, or of such values, or whole rows behind.
func valuesOf[T int8 | uint16 | float32](b []byte) []T {
	var x T
	return unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(b))), len(b)/int(unsafe.Sizeof(x)))
}
