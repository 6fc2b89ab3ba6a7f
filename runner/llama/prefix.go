package llama

import "slices"

// Reuse of what the rows hold. Keys and values at a position depend on the ids
// up to it and on the injection, so a row serves another sequence as far as both
// agree. The prompt's last two tokens are always read: the last for its logits,
// and not alone (see part). An exact sequence uses nothing that a step wrote,
// whose roundings differ from those of a prompt that is read.

// bestFree returns the free row for w: the one whose cache the prompt can use
// most of, else one that holds nothing, else the one that was used longest ago.
// It is nil where none is free. d.mu is held.
func (d *Decoder) bestFree(w Want) *row {
	var best *row
	most := -1
	for _, r := range d.rows {
		if r.owner != nil {
			continue
		}
		n := d.shared(r, w.IDs, w.Injection, w.Exact)
		switch {
		case best == nil, n > most, n == most && r.used < best.used:
			best, most = r, n
		}
	}
	return best
}

// shared returns how many tokens of a prompt r holds already.
func (d *Decoder) shared(r *row, ids []int, injection []float32, exact bool) int {
	most := min(len(r.ids), len(ids)-2)
	if exact {
		most = min(most, r.read)
	}
	n := 0
	for n < most && r.ids[n] == ids[n] {
		n++
	}
	if n > 0 && !d.buffers.same(r.n, injection) {
		return 0
	}
	return n
}

// reuse makes r hold as much of a prompt as any row does, and returns how much
// that is. It copies what another row has and r has not. The schedule calls it,
// with d.mu held: no run is under way.
func (d *Decoder) reuse(r *row, ids []int, injection []float32, exact bool) (int, error) {
	own := d.shared(r, ids, injection, exact)
	best, most := r, own
	for _, o := range d.rows {
		if n := d.shared(o, ids, injection, exact); n > most {
			best, most = o, n
		}
	}
	r.keep(own)
	d.buffers.inject(r.n, injection)
	if best != r {
		if err := d.cache.copy(r.n, best.n, own, most); err != nil {
			return 0, err
		}
		r.ids = append(r.ids, ids[own:most]...)
		if r.read == own {
			r.read = min(best.read, most)
		}
	}
	return most, nil
}

// pack moves sequences that take a step into free rows between them, since a
// step costs for every row from the first to the last. The batch is sorted by
// row. d.mu is held; no run is under way.
func (d *Decoder) pack(batch []*Slot) error {
	for len(batch) > 1 {
		first, last := batch[0].row, batch[len(batch)-1].row
		hole := slices.IndexFunc(d.rows[first.n:last.n], func(r *row) bool { return r.owner == nil })
		if hole < 0 {
			return nil
		}
		to := d.rows[first.n+hole]
		// What the hole holds is lost; what the sequence leaves behind stays a
		// copy of it that others can use.
		if err := d.cache.copy(to.n, last.n, 0, len(last.ids)); err != nil {
			return err
		}
		d.buffers.injectFrom(to.n, last.n)
		to.ids, to.read, to.used = append(to.ids[:0], last.ids...), last.read, last.used
		s := last.owner
		last.owner, to.owner, s.row = nil, s, to
		slices.SortFunc(batch, byRow)
	}
	return nil
}

func byRow(a, b *Slot) int { return a.row.n - b.row.n }
