package imagebind

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"testing"
)

func TestMix(t *testing.T) {
	a, b := Embedding{1, 0}, Embedding{0, 1}
	got, err := Mix([]Weighted{{a, 3}, {b, 1}})
	if err != nil {
		t.Fatal(err)
	}
	if math.Abs(float64(got[0])-0.75) > 1e-6 || math.Abs(float64(got[1])-0.25) > 1e-6 {
		t.Errorf("got %v", got)
	}
	// One input alone comes out a little shorter than 1, as in the reference.
	one, err := Mix([]Weighted{{a, 1}})
	if err != nil || one[0] >= 1 || one[0] < 0.999998 {
		t.Errorf("one input: %v, %v", one, err)
	}
}

func TestMixRefuses(t *testing.T) {
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	for _, tt := range []struct {
		name  string
		parts []Weighted
	}{
		{"nothing", nil},
		{"zero weight", []Weighted{{Embedding{1}, 0}}},
		{"negative weight", []Weighted{{Embedding{1}, -1}}},
		{"NaN", []Weighted{{Embedding{1}, nan}}},
		{"infinite", []Weighted{{Embedding{1}, inf}}},
		{"two lengths", []Weighted{{Embedding{1}, 1}, {Embedding{1, 2}, 1}}},
	} {
		if _, err := Mix(tt.parts); KindOf(err) != Invalid || err == nil {
			t.Errorf("%s: got %v", tt.name, err)
		}
	}
}

func TestErrorf(t *testing.T) {
	err := fmt.Errorf("outer: %w", Errorf(NotFound, "no such thing: %w", io.EOF))
	if KindOf(err) != NotFound || !errors.Is(err, io.EOF) {
		t.Errorf("kind %v of %v", KindOf(err), err)
	}
	if got := err.Error(); got != "outer: no such thing: EOF" {
		t.Errorf("Error() = %q", got)
	}
	if got := MessageOf(err); got != "no such thing: EOF" {
		t.Errorf("MessageOf = %q", got)
	}
	if got := ParamOf(WithParam(err, "k")); got != "k" {
		t.Errorf("ParamOf = %q", got)
	}
	if got := MessageOf(errors.New("a secret path")); got != "internal error" {
		t.Errorf("MessageOf of a plain error = %q", got)
	}
	if KindOf(fmt.Errorf("x: %w", context.DeadlineExceeded)) != Timeout || KindOf(context.Canceled) != Canceled {
		t.Error("context errors have kinds of their own")
	}
}

func TestEnhanceParams(t *testing.T) {
	if err := DefaultEnhance().Validate(); err != nil {
		t.Error(err)
	}
	for _, p := range []EnhanceParams{{0, 20, 0.5}, {1001, 20, 0.5}, {10, -1, 0.5}, {10, 20, 1.5}, {10, float32(math.NaN()), 0.5}, {10, 20, float32(math.NaN())}} {
		if err := p.Validate(); KindOf(err) != Invalid || err == nil {
			t.Errorf("%+v: %v", p, err)
		}
	}
}
