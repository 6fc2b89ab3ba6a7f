package faiss

import (
	"errors"
	"fmt"
	"io"
)

// Fast-scan indexes hold 4-bit product codes in blocks of 32 vectors, laid out
// for the processor's registers (faiss, impl/fast_scan/fast_scan.cpp,
// pq4_pack_codes): two pieces of all 32 vectors take 32 bytes, 16 each; in a
// byte are vector v, in the low bits, and v+16, and v goes 0, 8, 1, 9, …

const perBlock = 32 // vectors; faiss can be told 64 and more

// blockSize is the bytes of a block of codes of m pieces, m rounded up to even.
func blockSize(m int64) int64 { return (m + 1) / 2 * perBlock }

// A packed reads codes out of blocks as if they lay one behind another.
type packed struct {
	in   io.ReaderAt
	m    int // pieces of a code
	size int // bytes of one, (m+1)/2
	// where says where the blocks begin that a place is in, and its number there.
	where func(place int) (start int64, number int)
}

// ReadAt reads whole codes, from the one at place off/size on.
func (p packed) ReadAt(b []byte, off int64) (int, error) {
	block := make([]byte, blockSize(int64(p.m)))
	at := int64(-1) // of the block that was read
	for n := 0; n < len(b); n += p.size {
		start, number := p.where((int(off) + n) / p.size)
		v := number % perBlock
		if from := start + int64(number/perBlock)*int64(len(block)); from != at {
			if _, err := p.in.ReadAt(block, from); err != nil && !errors.Is(err, io.EOF) {
				return n, err
			}
			at = from
		}
		column := v % 16 * 2
		if column > 15 {
			column -= 15
		}
		code := b[n : n+p.size]
		for i := range code {
			low, high := block[i*perBlock+column], block[i*perBlock+16+column]
			if v < 16 {
				code[i] = low&15 | high<<4
			} else {
				code[i] = low>>4 | high&0xf0
			}
		}
	}
	return len(b), nil
}

// fits returns an error unless a fast-scan index packs codes as it is read here.
func (c codec) fits(bbs, m2 int64) error {
	if c.bits != 4 || bbs != perBlock || m2 != (c.pieces+1)/2*2 {
		return fmt.Errorf("a fast-scan index of %d-bit codes in blocks of %d, of %d pieces for %d; 4 bits in blocks of %d are read: write the vectors out with reconstruct_n as .npy", c.bits, bbs, m2, c.pieces, perBlock)
	}
	return nil
}

// fastScan reads an IndexPQFastScan.
func (r *reader) fastScan() (index, error) {
	h := r.header()
	c := r.product(h.dim)
	r.bytes(4) // implem
	bbs := int64(r.i32())
	r.bytes(4) // qbs
	padded, m2 := r.i64(), r.i64()
	start, bytes := r.vector(1)
	if r.err != nil {
		return index{}, r.err
	}
	if err := c.fits(bbs, m2); err != nil {
		return index{}, err
	}
	blocks := (h.total + perBlock - 1) / perBlock
	if bytes/blockSize(c.pieces) < blocks {
		return index{}, fmt.Errorf("it says %d vectors, padded to %d, in blocks of %d bytes and holds %d bytes", h.total, padded, blockSize(c.pieces), bytes)
	}
	in := packed{r.r, int(c.pieces), int(c.size), func(place int) (int64, int) { return start, place }}
	rows := codes{codec: c, in: in, dim: int(h.dim), at: func(row int) (int64, int) { return int64(row) * c.size, 0 }}
	return index{header: h, kind: c.kind + "fs", loss: c.loss, read: rows.read}, nil
}

// blocks reads lists of packed codes (BlockInvertedLists).
func (iv *inverted) blocks(r *reader, nlist, pieces int64) error {
	n, _, each, size := r.i64(), r.i64(), r.i64(), r.i64()
	if r.err == nil && (n != nlist || each != perBlock || size != blockSize(pieces)) {
		return fmt.Errorf("it has %d lists in blocks of %d bytes, and there are %d of %d, of %d vectors", nlist, blockSize(pieces), n, size, each)
	}
	for i := range n {
		ids, n := r.vector(8)
		codes, bytes := r.vector(1)
		if r.err != nil {
			return r.err
		}
		if (n+perBlock-1)/perBlock*size != bytes {
			return fmt.Errorf("list %d of %d vectors has %d bytes of codes", i, n, bytes)
		}
		if n > 0 {
			iv.lists = append(iv.lists, list{int(i), iv.total, int(n), codes, ids})
			iv.total += int(n)
		}
	}
	return r.err
}
