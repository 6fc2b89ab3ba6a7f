package encoder

import (
	"slices"
	"strings"
	"testing"

	"imagebind-llm/runner/modality/point"
)

func TestConfig(t *testing.T) {
	c, err := ReadConfig("../../testdata/golden/heads.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, enc := range encoders {
		if got := c.Heads(enc.Encoder); got != enc.heads {
			t.Errorf("%s: %d heads, want %d", enc.Name, got, enc.heads)
		}
		released := enc.Encoder
		if enc.Name == "point" {
			released = point.Spec.Encoder
		}
		if got := c.Encoder(released); !slices.Equal(got.Input, enc.Input) {
			t.Errorf("%s: input %v, want %v", enc.Name, got.Input, enc.Input)
		}
	}
	if c, err = ReadConfig(tiny + "config.json"); err != nil {
		t.Fatal(err)
	}
	if got := c.Heads(point.Spec.Encoder); got != 0 {
		t.Errorf("point: %d heads", got)
	}
	own, err := ReadConfig(pointTiny + "config.json")
	if err != nil {
		t.Fatal(err)
	}
	if got := own.Encoder(point.Spec.Encoder).Input; own.Heads(point.Spec.Encoder) != 4 || !slices.Equal(got, []int{64, 17, 3}) {
		t.Errorf("Point-Bind's own: %d heads, input %v", own.Heads(point.Spec.Encoder), got)
	}
	if err := c.Check("audio", Info{Width: 40, Layers: 2, Embed: 64}); err != nil {
		t.Error(err)
	}
	err = c.Check("audio", Info{Width: 768, Layers: 12, Embed: 64})
	if err == nil || !strings.Contains(err.Error(), "audio_embed_dim is 40, the checkpoint has 768") || !strings.Contains(err.Error(), "audio_num_blocks") {
		t.Errorf("error is %v", err)
	}
	for _, bad := range []string{"", "[]", `{"model":{"vision_num_heads":"many"}}`, `{"vision_num_heads":4}`} {
		if c, err := parseConfig("x.json", []byte(bad)); err == nil || !strings.Contains(err.Error(), "x.json") {
			t.Errorf("%q: %v, %v", bad, c, err)
		}
	}
}

func FuzzConfig(f *testing.F) {
	f.Add([]byte(`{"model":{"vision_num_heads":4,"audio_drop_path":0.1}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if c, err := parseConfig("x", raw); err == nil && len(c) == 0 {
			t.Error("an empty config without an error")
		}
	})
}
