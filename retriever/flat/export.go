package flat

import (
	"context"

	"imagebind-llm/retriever/store"
)

// scanRows of them are handed over at a time.
const scanRows = 1024

// Scan hands over the rows that serve, in the order of their slots.
func (s *Store) Scan(ctx context.Context, name string, do func([]store.Row) error) error {
	c, err := s.collection(name, false)
	if err != nil {
		return err
	}
	p, _, err := c.use()
	if err != nil {
		return err
	}
	defer p.done()
	v := p.shown.Load()
	rows := make([]store.Row, 0, scanRows)
	stored := make([]byte, p.rows.size)
	for slot := range v.n {
		if v.alive(slot) {
			r, err := p.read(v, slot, stored)
			if err != nil {
				return err
			}
			rows = append(rows, r)
		}
		if len(rows) == scanRows || slot == v.n-1 && len(rows) > 0 {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := do(rows); err != nil {
				return err
			}
			rows = rows[:0]
		}
	}
	return ctx.Err()
}

// read reads all of a slot from the disk. stored is memory for the row.
func (p *part) read(v *view, slot int, stored []byte) (store.Row, error) {
	rec, _, err := p.record(v.places[slot], nil)
	if err != nil {
		return store.Row{}, err
	}
	if err := p.rows.read(stored, slot); err != nil {
		return store.Row{}, err
	}
	r := store.Row{ID: string(rec.id), Caption: string(rec.caption), URI: string(rec.uri)}
	if r.Vector, err = p.whole(stored, slot, rec.sum); err != nil {
		return store.Row{}, err
	}
	r.Metadata, err = rec.fields()
	return r, err
}
