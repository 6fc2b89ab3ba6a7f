package llama

import (
	"fmt"

	"imagebind-llm/internal/ort"
	"imagebind-llm/runner/bundle"
)

// A cache is the keys and values of all rows: for each layer and kind
// [Slots, KH, Context, Dh], one after the other.
type cache struct {
	arena          *ort.Arena
	cfg            bundle.Decoder
	slots, context int
	token          int // bytes of one position of one head: Dh values
}

func newCache(s *ort.Session, cfg bundle.Decoder, slots, context int) (cache, error) {
	c := cache{cfg: cfg, slots: slots, context: context, token: 4 * cfg.HeadDim}
	if cfg.KVType == "float16" {
		c.token = 2 * cfg.HeadDim
	}
	var err error
	if c.arena, err = s.NewArena(c.bytes()); err != nil {
		return c, fmt.Errorf("KV cache (fewer slots or a smaller context take less): %w", err)
	}
	return c, nil
}

// row returns the bytes of a row in one layer's keys.
func (c *cache) row() int { return c.cfg.KVHeads * c.context * c.token }

func (c *cache) bytes() int { return 2 * c.cfg.Layers * c.slots * c.row() }

// view returns n rows from row on, of a layer and kind: [n, KH, Context, Dh].
func (c *cache) view(layer, kind, row, n int) (ort.Value, error) {
	return c.arena.View(((2*layer+kind)*c.slots+row)*c.row(), c.cfg.KVType, n, c.cfg.KVHeads, c.context, c.cfg.HeadDim)
}

// copy makes row dst hold the tokens from, …, to-1 of row src; those before are
// the same in both. On a device a copy costs more than its bytes, and the row
// goes over whole.
func (c *cache) copy(dst, src, from, to int) error {
	if from >= to {
		return nil
	}
	for part := range 2 * c.cfg.Layers {
		if c.arena.Device() {
			if err := c.arena.Copy((part*c.slots+dst)*c.row(), (part*c.slots+src)*c.row(), c.row()); err != nil {
				return fmt.Errorf("KV cache: %w", err)
			}
			continue
		}
		for head := range c.cfg.KVHeads {
			at := head*c.context + from
			d := (part*c.slots+dst)*c.row() + at*c.token
			s := (part*c.slots+src)*c.row() + at*c.token
			if err := c.arena.Copy(d, s, (to-from)*c.token); err != nil {
				return fmt.Errorf("KV cache: %w", err)
			}
		}
	}
	return nil
}

func (c *cache) close() error {
	if c.arena == nil {
		return nil
	}
	return c.arena.Close()
}
