package flat

import "hash/maphash"

// An ids finds the slot of an id. It keeps 32 bits of each id's hash and not
// the id, which is in the log: an entry is 8 bytes, and at most three quarters
// of them are taken. Only the writer uses it.
type ids struct {
	seed  maphash.Seed
	table []entry // a power of two, or none
	n     int     // taken
}

// An entry is free when slot is 0: slots count from 1 here.
type entry struct{ hash, slot uint32 }

func newIDs() *ids { return &ids{seed: maphash.MakeSeed()} }

// find returns the entry of id, or the free one that id may take; it holds
// until the next find. same says whether a slot's id is id.
func (t *ids) find(id []byte, same func(slot int) (bool, error)) (*entry, error) {
	if 4*(t.n+1) > 3*len(t.table) {
		t.grow()
	}
	hash := uint32(maphash.Bytes(t.seed, id))
	for i := int(hash) & (len(t.table) - 1); ; i = (i + 1) & (len(t.table) - 1) {
		e := &t.table[i]
		if e.slot == 0 {
			e.hash = hash
			return e, nil
		}
		if e.hash != hash {
			continue
		}
		if ok, err := same(int(e.slot - 1)); err != nil || ok {
			return e, err
		}
	}
}

// put gives e, which find returned, a slot.
func (t *ids) put(e *entry, slot int) {
	if e.slot == 0 {
		t.n++
	}
	e.slot = uint32(slot + 1)
}

func (t *ids) grow() {
	old := t.table
	t.table = make([]entry, max(64, 2*len(old)))
	for _, e := range old {
		if e.slot == 0 {
			continue
		}
		i := int(e.hash) & (len(t.table) - 1)
		for t.table[i].slot != 0 {
			i = (i + 1) & (len(t.table) - 1)
		}
		t.table[i] = e
	}
}
