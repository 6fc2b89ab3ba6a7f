package milvus

import (
	"testing"
	"time"

	imagebind "imagebind-llm"
)

// Rows that vanish are missed for a minute; rows that were deleted, or never
// there, are not.
func TestPresence(t *testing.T) {
	start := time.Unix(1000, 0)
	tests := []struct {
		name string
		seen []bool // hits or not, ten seconds apart; the last one's error is looked at
		del  int    // rows are deleted before this one; 0: never
		kind imagebind.Kind
	}{
		{"empty from the start", []bool{false, false}, 0, 0},
		{"there", []bool{true, true}, 0, 0},
		{"gone", []bool{true, false}, 0, imagebind.Unavailable},
		{"gone for a minute", []bool{true, false, false, false, false, false, false, false}, 0, imagebind.Unavailable},
		{"gone for longer", []bool{true, false, false, false, false, false, false, false, false}, 0, 0},
		{"back", []bool{true, false, false, true}, 0, 0},
		{"gone twice", []bool{true, false, false, false, false, true, false, false, false, false}, 0, imagebind.Unavailable},
		{"deleted", []bool{true, false}, 1, 0},
		{"deleted and filled", []bool{true, true, false}, 1, imagebind.Unavailable},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var p presence
			var err error
			for i, hits := range tt.seen {
				if tt.del > 0 && i == tt.del {
					p.forget()
				}
				err = p.see(hits, start.Add(time.Duration(i)*10*time.Second))
			}
			if (err == nil) != (tt.kind == 0) || err != nil && imagebind.KindOf(err) != tt.kind {
				t.Errorf("%v; want kind %v", err, tt.kind)
			}
		})
	}
}
