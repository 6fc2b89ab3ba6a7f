package verify

import (
	"context"
	"errors"
	"fmt"

	"imagebind-llm/internal/ort"
	"imagebind-llm/runner/bundle"
)

// A Decoder runs a decoder graph on B rows with a cache in place, as the
// contract of bundle.Decoder says. It is for checks: it does what it is told,
// row by row of any length, and schedules nothing.
type Decoder struct {
	cfg      bundle.Decoder
	session  *ort.Session
	arena    *ort.Arena
	past     []int // tokens in each row's cache, [B]
	capacity int
	kv       []ort.Value // key and value of each layer, [B, KH, capacity, Dh]
}

// OpenDecoder opens the graph at path for rows rows of at most capacity tokens.
func OpenDecoder(path string, cfg bundle.Decoder, rows, capacity int, o ort.Options) (*Decoder, error) {
	if capacity > cfg.Context {
		return nil, fmt.Errorf("%d tokens: the decoder has %d positions", capacity, cfg.Context)
	}
	s, err := ort.Open(path, o)
	if err != nil {
		return nil, err
	}
	d := &Decoder{cfg: cfg, session: s, past: make([]int, rows), capacity: capacity}
	elem := 4
	if cfg.KVType == "float16" {
		elem = 2
	}
	size := rows * cfg.KVHeads * capacity * cfg.HeadDim * elem
	if d.arena, err = s.NewArena(2 * cfg.Layers * size); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	for i := range 2 * cfg.Layers {
		v, err := d.arena.View(i*size, cfg.KVType, rows, cfg.KVHeads, capacity, cfg.HeadDim)
		if err != nil {
			return nil, errors.Join(err, d.Close())
		}
		d.kv = append(d.kv, v)
	}
	return d, nil
}

// Reset empties the caches.
func (d *Decoder) Reset() { clear(d.past) }

// Run appends ids to each row and returns the logits [B][V] after the last id
// of each. Rows may differ in length in the first run; later ones have one id a
// row, or there is one row (the CPU kernel takes no more). injection is
// [B, La, D]; nil is zeros.
func (d *Decoder) Run(ctx context.Context, ids [][]int, injection []float32) (logits [][]float32, err error) {
	rows, c := len(d.past), d.cfg
	longest, total := 0, 0
	for i, row := range ids {
		if len(row) == 0 || d.past[i]+len(row) > d.capacity {
			return nil, fmt.Errorf("row %d: %d tokens after %d do not fit %d", i, len(row), d.past[i], d.capacity)
		}
		longest, total = max(longest, len(row)), max(total, d.past[i]+len(row))
	}
	if len(ids) != rows {
		panic(fmt.Sprintf("verify: %d rows of ids for %d caches", len(ids), rows))
	}
	if injection == nil {
		injection = make([]float32, rows*c.AdaptedLayers*c.Width)
	}
	flat, seqlens, index := make([]int64, rows*longest), make([]int32, rows), make([]int64, rows)
	for i, row := range ids {
		for j, id := range row {
			flat[i*longest+j] = int64(id)
		}
		seqlens[i], index[i] = int32(d.past[i]+len(row)-1), int64(len(row)-1)
	}
	out := make([]float32, rows*c.Vocab)

	var made []ort.Value
	defer func() { ort.Destroy(made...) }()
	ins, outs := make([]ort.Value, len(d.session.Inputs)), make([]ort.Value, len(d.session.Outputs))
	put := func(list []ort.Value, at int, name string, v ort.Value, e error) {
		if e == nil && at < 0 {
			e = fmt.Errorf("the graph has no %s", name)
		}
		err = errors.Join(err, e)
		if e == nil {
			list[at] = v
		}
	}
	input := func(name string, v ort.Value, e error) {
		if e == nil {
			made = append(made, v)
		}
		put(ins, d.session.Input(name), name, v, e)
	}
	v, e := ort.Int64s(flat, rows, longest)
	input("input_ids", v, e)
	v, e = ort.Int32s(seqlens, rows)
	input("seqlens_k", v, e)
	scalar, e := ort.NewScalar()
	if e == nil {
		scalar.Set(int32(total))
	}
	input("total_sequence_length", scalar.Value, e)
	v, e = ort.Int64s(index, rows)
	input("logit_index", v, e)
	if c.AdaptedLayers > 0 {
		v, e = ort.Floats(injection, rows, c.AdaptedLayers, c.Width)
		input("injection", v, e)
	}
	for i := range c.Layers {
		for j, kind := range []string{"key", "value"} {
			past, present := fmt.Sprintf("past_key_values.%d.%s", i, kind), fmt.Sprintf("present.%d.%s", i, kind)
			put(ins, d.session.Input(past), past, d.kv[2*i+j], nil)
			put(outs, d.session.Output(present), present, d.kv[2*i+j], nil)
		}
	}
	v, e = ort.Floats(out, rows, c.Vocab)
	if e == nil {
		made = append(made, v)
	}
	put(outs, d.session.Output("logits"), "logits", v, e)
	if err != nil {
		return nil, err
	}
	if err := d.session.Run(ctx, ins, outs); err != nil {
		return nil, fmt.Errorf("decoder: %w", err)
	}
	for i, row := range ids {
		d.past[i] += len(row)
		logits = append(logits, out[i*c.Vocab:(i+1)*c.Vocab:(i+1)*c.Vocab])
	}
	return logits, nil
}

// Close frees the graph and the cache.
func (d *Decoder) Close() error {
	ort.Destroy(d.kv...)
	err := d.session.Close()
	if d.arena != nil {
		err = errors.Join(err, d.arena.Close())
	}
	return err
}
