package encoder

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"

	imagebind "imagebind-llm"
	"imagebind-llm/runner/modality"
)

// A Config holds the arguments of the reference's constructor (ImageBindModel)
// by their names there: vision_num_heads, text_num_blocks, out_embed_dim, …
type Config map[string]float64

// ReadConfig reads the "model" object of a JSON file (--heads-config).
func ReadConfig(path string) (Config, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return parseConfig(path, raw)
}

func parseConfig(path string, raw []byte) (Config, error) {
	var file struct{ Model Config }
	if err := json.Unmarshal(raw, &file); err != nil {
		return nil, imagebind.Errorf(imagebind.Invalid, `%s: want {"model": {"vision_num_heads": 16, …}}, numbers only: %w`, path, err)
	}
	if len(file.Model) == 0 {
		return nil, imagebind.Errorf(imagebind.Invalid, `%s names nothing under "model", as in {"model": {"vision_num_heads": 16}}`, path)
	}
	return file.Model, nil
}

// Heads returns <encoder>_num_heads, or 0.
func (c Config) Heads(e modality.Encoder) int { return c.of(e, "num_heads") }

// of returns <encoder>_key; that of a point encoder may stand there as in
// Point-Bind's own configuration, without a prefix.
func (c Config) of(e modality.Encoder, key string) int {
	if v, ok := c[e.Name+"_"+key]; ok {
		return int(v)
	}
	if _, ok := e.Stem.(modality.Groups); ok {
		return int(c[key])
	}
	return 0
}

// Encoder returns e with the groups of its input as <encoder>_num_group and
// <encoder>_group_size have them, for a point encoder of other ones than the
// released.
func (c Config) Encoder(e modality.Encoder) modality.Encoder {
	if _, ok := e.Stem.(modality.Groups); !ok {
		return e
	}
	e.Input = slices.Clone(e.Input)
	if n := c.of(e, "num_group"); n > 0 {
		e.Input[0] = n
	}
	if n := c.of(e, "group_size"); n > 0 {
		e.Input[1] = n + 1
	}
	return e
}

// Check holds what the file says of an encoder against the checkpoint's shapes.
func (c Config) Check(encoder string, info Info) error {
	var errs []error
	for _, x := range []struct {
		key string
		got int
	}{
		{encoder + "_embed_dim", info.Width}, {encoder + "_num_blocks", info.Layers}, {"out_embed_dim", info.Embed},
	} {
		if want, ok := c[x.key]; ok && int(want) != x.got {
			errs = append(errs, fmt.Errorf("%s is %v, the checkpoint has %d", x.key, want, x.got))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return imagebind.Errorf(imagebind.Invalid, "encoder %s: the --heads-config is of another model: %w", encoder, err)
	}
	return nil
}
