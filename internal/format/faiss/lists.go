package faiss

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
)

// An inverted is the inverted lists of an index: each holds the codes of the
// vectors nearest to its centroid, and their ids behind them.
type inverted struct {
	in    io.ReaderAt
	size  int64  // bytes of a code
	lists []list // without the empty ones
	total int
	// order is where each row lies, counted through the lists; nil: the rows are
	// in that order.
	order []uint32
}

type list struct {
	number     int // of its centroid
	first, n   int // of its rows, counted through the lists
	codes, ids int64
}

// lists reads an IVF index: its centroids, its codec, its lists.
func (r *reader) lists(kind string, depth int) (index, error) {
	h := r.header()
	nlist := r.i64()
	r.bytes(8) // nprobe
	coarse, err := r.index(r.four(), depth+1)
	if err != nil {
		return index{}, err
	}
	if coarse.total != nlist || coarse.dim != h.dim || coarse.ids != nil {
		return index{}, fmt.Errorf("it has %d centroids of %d values for %d lists over vectors of %d values", coarse.total, coarse.dim, nlist, h.dim)
	}
	r.directMap()
	c, residual := whole(h.dim), false
	switch kind {
	case "IwSq", "IwSQ":
		c = r.scalar(h.dim)
		r.bytes(8) // the size of a code, again
		residual = kind == "IwSQ" || r.bool()
	case "IwPQ":
		residual = r.bool()
		r.bytes(8)
		c = r.product(h.dim)
	case "IwPf":
		residual = r.bool()
		r.bytes(8)
		bbs, m2 := int64(r.i32()), r.i64()
		r.bytes(4 + 8) // implem, qbs2
		c = r.product(h.dim)
		if err := c.fits(bbs, m2); r.err == nil && err != nil {
			return index{}, err
		}
	}
	if r.err != nil {
		return index{}, r.err
	}
	iv := &inverted{in: r.r, size: c.size}
	if err := iv.parse(r, nlist, c.pieces, kind == "IwPf"); err != nil {
		return index{}, err
	}
	if int64(iv.total) != h.total {
		return index{}, fmt.Errorf("it says %d vectors and its lists hold %d", h.total, iv.total)
	}
	rows := codes{codec: c, in: r.r, dim: int(h.dim), at: iv.at}
	if kind == "IwPf" {
		c.kind += "fs"
		rows.in, rows.at = packed{r.r, int(c.pieces), int(c.size), iv.where}, iv.place
	}
	if residual {
		rows.centroid = func(dst []float32, list int) error {
			x := make([]float32, len(dst))
			if err := coarse.read(x, list); err != nil {
				return err
			}
			for i := range dst {
				dst[i] += x[i]
			}
			return nil
		}
	}
	x := index{header: h, kind: fmt.Sprintf("IVF%d,%s", nlist, c.kind), loss: c.loss, read: rows.read}
	if coarse.kind != "Flat" {
		x.kind = fmt.Sprintf("IVF%d(%s),%s", nlist, coarse.kind, c.kind)
	}
	numbered, err := iv.sort()
	if !numbered {
		x.ids = iv.readIDs
	}
	return x, err
}

// directMap skips faiss' own way from an id to its list (write_direct_map).
func (r *reader) directMap() {
	kind := r.bytes(1)[0]
	r.vector(8)
	if kind == 2 { // a hash table
		r.vector(16)
	}
}

// parse reads where the lists are (write_InvertedLists).
func (iv *inverted) parse(r *reader, nlist, pieces int64, packed bool) error {
	switch kind := r.four(); {
	case kind == "ilbl" && packed:
		return iv.blocks(r, nlist, pieces)
	case kind == "ilar" && !packed:
	case kind == "ilod":
		return errors.New("its lists are in another file (OnDiskInvertedLists); read it with faiss and write the vectors out with reconstruct_n as .npy")
	default:
		return cmp.Or(r.err, fmt.Errorf("its lists are of type %q, which is not read; write the vectors out with reconstruct_n as .npy", kind))
	}
	n, size, form := r.i64(), r.i64(), r.four()
	start, words := r.vector(8)
	switch {
	case r.err != nil:
		return r.err
	case n != nlist || size != iv.size:
		return fmt.Errorf("it has %d lists with codes of %d bytes, and there are %d of %d", nlist, iv.size, n, size)
	case form == "full" && words != nlist, form == "sprs" && words%2 != 0, form != "full" && form != "sprs":
		return fmt.Errorf("the %d sizes of its lists are of the form %q", words, form)
	}
	sizes := &reader{r: io.NewSectionReader(r.r, start, 8*words), size: 8 * words}
	for i := int64(0); sizes.at < sizes.size; i++ {
		if form == "sprs" {
			i = sizes.i64()
		}
		n := sizes.i64()
		switch {
		case sizes.err != nil:
			return sizes.err
		case n < 0 || n > (r.size-r.at)/(iv.size+8):
			return fmt.Errorf("it is cut: list %d says %d vectors in the %d bytes that are left", i, n, r.size-r.at)
		case i < 0 || i >= nlist:
			return fmt.Errorf("list %d of %d", i, nlist)
		case n == 0:
			continue
		}
		iv.lists = append(iv.lists, list{int(i), iv.total, int(n), r.at, r.at + n*iv.size})
		iv.total += int(n)
		r.at += n * (iv.size + 8)
	}
	return nil
}

// find returns the list of a place, counted through the lists.
func (iv *inverted) find(place int) list {
	i, found := slices.BinarySearchFunc(iv.lists, place, func(l list, place int) int { return cmp.Compare(l.first, place) })
	if !found {
		i--
	}
	return iv.lists[i]
}

// at is where a row's code lies.
func (iv *inverted) at(row int) (offset int64, list int) {
	if iv.order != nil {
		row = int(iv.order[row])
	}
	l := iv.find(row)
	return l.codes + int64(row-l.first)*iv.size, l.number
}

// place is where a row's code would lie if the codes of all lists were one behind
// another, and where says where it does, for packed.
func (iv *inverted) place(row int) (offset int64, list int) {
	if iv.order != nil {
		row = int(iv.order[row])
	}
	return int64(row) * iv.size, iv.find(row).number
}

func (iv *inverted) where(place int) (start int64, number int) {
	l := iv.find(place)
	return l.codes, place - l.first
}

// readIDs fills dst with the ids of the places from place on.
func (iv *inverted) readIDs(dst []int64, place int) error {
	for len(dst) > 0 {
		l := iv.find(place)
		n := min(len(dst), l.n-(place-l.first))
		if err := readIDs(iv.in, dst[:n], l.ids+8*int64(place-l.first)); err != nil {
			return err
		}
		dst, place = dst[n:], place+n
	}
	return nil
}

// sort finds the order of the rows by their ids, where those are the numbers
// from 0 on, each once; where not it says so, and the rows stay as they are.
func (iv *inverted) sort() (numbered bool, err error) {
	const none = math.MaxUint32
	if iv.total >= none {
		return false, nil
	}
	order := make([]uint32, iv.total)
	for i := range order {
		order[i] = none
	}
	ids := make([]int64, min(iv.total, chunk/8))
	for place := 0; place < iv.total; place += len(ids) {
		ids = ids[:min(len(ids), iv.total-place)]
		if err := iv.readIDs(ids, place); err != nil {
			return false, err
		}
		for i, id := range ids {
			if id < 0 || id >= int64(len(order)) || order[id] != none {
				return false, nil
			}
			order[id] = uint32(place + i)
		}
	}
	iv.order = order
	return true, nil
}
