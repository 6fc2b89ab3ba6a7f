package modality

import (
	"math"
	"strings"
	"testing"

	imagebind "imagebind-llm"
)

func TestParams(t *testing.T) {
	spec := Spec{Name: "smell", Params: []Param{
		{Name: "rate", Default: 2, Min: 1, Max: 1e9}, {Name: "clips", Default: 5, Min: 1, Max: 9, Integer: true}, {Name: "warm", IsSwitch: true, Default: 1},
	}}
	for _, tt := range []struct {
		given Params
		says  string // of the error; "" for none
	}{
		{nil, ""},
		{Params{"rate": 1, "clips": 9, "warm": 0}, ""},
		{Params{"rate": 0.5}, "rate is 0.5; it is 1 to 1e+09"},
		{Params{"rate": math.NaN()}, "rate is NaN"},
		{Params{"clips": math.Inf(1)}, "clips is +Inf"},
		{Params{"clips": 2.5}, "whole number"},
		{Params{"warm": 0.5}, "true or false"},
		{Params{"warm": math.NaN()}, "true or false"},
		{Params{"cold": 1}, `smell has no "cold"; it has rate, clips, warm`},
	} {
		switch err := spec.Check(tt.given); {
		case tt.says == "" && err != nil:
			t.Errorf("%v: %v", tt.given, err)
		case tt.says != "" && (imagebind.KindOf(err) != imagebind.Invalid || !strings.Contains(err.Error(), tt.says)):
			t.Errorf("%v: %v, want %q", tt.given, err, tt.says)
		}
	}
	if err := (Spec{Name: "image"}).Check(Params{"rate": 1}); err == nil || !strings.Contains(err.Error(), "nothing can be set") {
		t.Error(err)
	}
	o := Options{Params: Params{"rate": 7, "warm": 0}}
	if o.Value(spec.Params[0]) != 7 || o.Value(spec.Params[1]) != 5 || o.On(spec.Params[2]) || !(Options{}).On(spec.Params[2]) {
		t.Error("values and defaults")
	}
	for i, want := range []string{"rate (1 to 1000000000, default 2): ", "clips (1 to 9, default 5): ", "warm (true or false, default true): "} {
		if got := spec.Params[i].String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestLimits(t *testing.T) {
	d := DefaultLimits()
	if (Limits{}).OrDefault() != d || d.OrDefault() != d {
		t.Error("the defaults are not their own")
	}
	l := Limits{Pixels: 1, Side: 2, Smallest: 3, Seconds: 4, Frames: 5, Points: 6, Ratio: 7, Decode: 8}
	if l.OrDefault() != l {
		t.Errorf("%+v", l.OrDefault())
	}
}
