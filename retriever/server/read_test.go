package server

import (
	"bytes"
	"net/http/httptest"
	"testing"

	imagebind "imagebind-llm"
)

// Whatever a body holds, reading it gives rows that may be stored, or an error
// that is the sender's.
func FuzzReadItems(f *testing.F) {
	for _, s := range []string{`{"items":[{"id":"a","vector":[1,2],"metadata":{"x":1}}]}`, `{"items":[{"vector":"AACAPw=="}]}`, `{"items":[]}`, `{"items":[{"vector":[0]}]}`, `{`, `[]`, `null`, ``} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		rows, err := readItems(httptest.NewRequest("POST", "/", bytes.NewReader(b)))
		if err != nil {
			if imagebind.KindOf(err) != imagebind.Invalid {
				t.Fatalf("%v", err)
			}
			return
		}
		for _, r := range rows {
			if !r.Vector.Finite() || r.Vector.Norm() == 0 || len(r.ID) > 256 {
				t.Fatalf("%+v", r)
			}
		}
	})
}

func FuzzReadRows(f *testing.F) {
	f.Add([]byte{0, 0, 128, 63, 0, 0, 0, 64}, "p", uint8(2))
	f.Add([]byte{0, 0, 192, 127}, "", uint8(1))
	f.Add([]byte{1, 2, 3}, "x", uint8(1))
	f.Fuzz(func(t *testing.T, b []byte, prefix string, dim uint8) {
		r := httptest.NewRequest("POST", "/", bytes.NewReader(b))
		r.Header.Set("X-Id-Prefix", prefix)
		rows, err := readRows(r, int(dim)+1)
		if err != nil {
			if imagebind.KindOf(err) != imagebind.Invalid {
				t.Fatalf("%v", err)
			}
			return
		}
		if len(rows) != len(b)/4/(int(dim)+1) {
			t.Fatalf("%d rows of %d bytes", len(rows), len(b))
		}
	})
}
