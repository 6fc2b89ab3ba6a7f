package retrieverapi

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"math"
	"slices"
	"strings"
	"testing"

	imagebind "imagebind-llm"
)

func packed(v ...float32) string {
	var b []byte
	for _, x := range v {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(x))
	}
	return `"` + base64.StdEncoding.EncodeToString(b) + `"`
}

func TestVectorJSON(t *testing.T) {
	inf := float32(math.Inf(1))
	tests := []struct {
		name, json string
		want       []float32 // nil: refused
	}{
		{"array", "[1, -0.5,2e3]", []float32{1, -0.5, 2000}},
		{"base64", packed(1, -0.5, 2000), []float32{1, -0.5, 2000}},
		{"escaped base64", `"\u0041ACAPw=="`, []float32{1}},
		{"largest", "[" + strings.Repeat("1,", MaxDim-1) + "1]", slices.Repeat([]float32{1}, MaxDim)},
		{"too long", "[" + strings.Repeat("1,", MaxDim) + "1]", nil},
		{"empty array", "[]", nil},
		{"empty string", `""`, nil},
		{"null", "null", nil},
		{"object", `{"a":1}`, nil},
		{"nested", "[[1]]", nil},
		{"out of float32", "[1e39]", nil},
		{"NaN in base64", packed(1, float32(math.NaN())), nil},
		{"infinity in base64", packed(inf), nil},
		{"half a value", `"AACAP0A="`, nil},
		{"not base64", `"?"`, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var v Vector
			err := json.Unmarshal([]byte(tt.json), &v)
			if tt.want == nil {
				if imagebind.KindOf(err) != imagebind.Invalid {
					t.Errorf("got %v and %v, want an Invalid error", len(v), err)
				}
				return
			}
			if err != nil || !slices.Equal(v, tt.want) {
				t.Errorf("got %d values, %v", len(v), err)
			}
		})
	}
}

func FuzzVector(f *testing.F) {
	for _, s := range []string{"[1,2]", packed(1, 2), "null", `"AA"`, "[1e40]", "[,]"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var v Vector
		if json.Unmarshal(b, &v) != nil {
			return
		}
		if !imagebind.Embedding(v).Finite() {
			t.Fatalf("%q gave values that are not finite", b)
		}
		out, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		var again Vector
		if err := json.Unmarshal(out, &again); len(v) > 0 && (err != nil || !slices.Equal(v, again)) {
			t.Fatalf("%q read as %v, written as %s, read as %v, %v", b, v, out, again, err)
		}
	})
}
