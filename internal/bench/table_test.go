package main

import (
	"math"
	"strings"
	"testing"
)

func TestQuantile(t *testing.T) {
	v := []float64{4, 1, 3, 2}
	for q, want := range map[float64]float64{0: 1, 0.5: 2.5, 1: 4, 1.0 / 3: 2} {
		if got := Quantile(v, q); math.Abs(got-want) > 1e-12 {
			t.Errorf("quantile %g of %v is %g, want %g", q, v, got, want)
		}
	}
	if !math.IsNaN(Median(nil)) || Median([]float64{7}) != 7 || v[0] != 4 {
		t.Error("none is NaN, one is itself, and the values keep their order")
	}
}

// Ratios are of values taken one after the other, above 1 where ours is better.
func TestTable(t *testing.T) {
	var b strings.Builder
	writeTable(&b, []Result{
		{Work: "decode", Threads: 2, Unit: "tokens/s", Ours: []float64{100, 300, 220}, Theirs: []float64{50, 100, 200}, Peer: "llama.cpp", Want: "≥ 1.0"},
		{Work: "wait", Unit: "ms", Lower: true, Ours: []float64{10}, Theirs: []float64{25}},
		{Work: "alone", Unit: "ms", Ours: []float64{0.01234}, Note: "llama.cpp missing | run scripts/peers.sh"},
	})
	for _, line := range []string{
		"| decode | 2 | 220 tokens/s | 100 tokens/s llama.cpp | **2.00** [1.10–3.00] | ≥ 1.0 |  |",
		"| wait |  | 10.0 ms | 25.0 ms | **2.50** |  |  |",
		"| alone |  | 0.012 ms | – | – |  | llama.cpp missing / run scripts/peers.sh |",
	} {
		if !strings.Contains(b.String(), line+"\n") {
			t.Errorf("no line %q in\n%s", line, &b)
		}
	}
}
