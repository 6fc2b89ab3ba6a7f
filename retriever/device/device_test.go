package device

import "testing"

func TestParse(t *testing.T) {
	for s, want := range map[string]Options{"cpu": {Provider: "cpu"}, "cuda": {Provider: "cuda"}, "cuda:3": {Provider: "cuda", Device: 3}} {
		if got, err := Parse(s); err != nil || got != want {
			t.Errorf("%q: %+v, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "gpu", "cuda:", "cuda:-1", "cuda:x", "cpu:0", ":1"} {
		if got, err := Parse(s); err == nil {
			t.Errorf("%q: %+v", s, got)
		}
	}
}
