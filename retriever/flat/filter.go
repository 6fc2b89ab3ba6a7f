package flat

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"

	imagebind "imagebind-llm"
	conditions "imagebind-llm/retriever/filter"
)

// A filter is conditions on metadata fields, all of which a row meets.
type filter struct {
	terms []conditions.Term
	// signs are bytes that the metadata of a row that passes contains; canonical
	// writes them.
	signs [][]byte
}

func newFilter(fields map[string]any) (*filter, error) {
	terms, err := conditions.Parse(fields)
	if err != nil {
		return nil, err
	}
	f := &filter{terms: terms}
	for _, t := range terms {
		if t.Op == conditions.Ne || t.Op == conditions.Exists && t.Values[0] == false {
			continue
		}
		v := t.Values[0]
		if t.Op != conditions.Eq {
			v = 0.0 // then the sign is that the field is there
		}
		sign, err := canonical(map[string]any{t.Field: v}) // {"k":v}
		if err != nil {
			return nil, imagebind.Errorf(imagebind.Invalid, "filter: %q: %w", t.Field, err)
		}
		sign = sign[1 : len(sign)-1]
		if v == 0.0 { // -0 is as good
			sign = bytes.TrimRight(sign, "-0")
		}
		f.signs = append(f.signs, sign)
	}
	return f, nil
}

func (f *filter) pass(metadata []byte) bool {
	for _, s := range f.signs {
		if !bytes.Contains(metadata, s) {
			return false
		}
	}
	var m map[string]any
	if len(metadata) > 0 && json.Unmarshal(metadata, &m) != nil {
		return false
	}
	for _, t := range f.terms {
		if !t.Pass(m) {
			return false
		}
	}
	return true
}

const filterBytes = 1 << 20 // of the log in one read

// choose returns a bit for each slot of v that lives and passes the filter, and
// how many do. The log is read in order, by all processors.
func (p *part) choose(ctx context.Context, v *view, f *filter) ([]uint64, int, error) {
	const unit = 64 * 32 // slots; whole words of the answer
	chosen := make([]uint64, (v.n+63)/64)
	counts := make([]int, workers(v.n, unit))
	err := parallel(ctx, v.n, unit, func(worker, from, to int) error {
		var buf []byte
		for from < to {
			// Records lie in the order of their slots.
			at, until := v.places[from].at(), from
			for until < to && v.places[until].at()+int64(v.places[until].len())-at <= filterBytes {
				until++
			}
			size := int(v.places[until-1].at()+int64(v.places[until-1].len())) - int(at)
			if cap(buf) < size {
				buf = make([]byte, size)
			}
			buf = buf[:size]
			if _, err := p.log.ReadAt(buf, at); err != nil {
				return fmt.Errorf("%s at byte %d: %w", logFile, at, err)
			}
			for ; from < until; from++ {
				r, _, err := readRecord(buf[v.places[from].at()-at:])
				if err != nil {
					return err
				}
				if v.alive(from) && f.pass(r.metadata) {
					chosen[from>>6] |= 1 << (from & 63)
					counts[worker]++
				}
			}
			if err := ctx.Err(); err != nil {
				return err
			}
		}
		return nil
	})
	n := 0
	for _, c := range counts {
		n += c
	}
	return chosen, n, err
}
