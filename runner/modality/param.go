package modality

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	imagebind "imagebind-llm"
)

// A Param is something that a file does not say and its sender may: the
// sampling rate of an IMU trace, the number of clips of a video. The API has it
// beside the url, a form as depth_baseline, the shell as --param depth.baseline=0.1:
// all three from this description.
type Param struct {
	Name     string  `json:"name"` // lower case, as in baseline; not url, weight or type
	Doc      string  `json:"doc"`  // one line, with the unit
	Default  float64 `json:"default"`
	Min      float64 `json:"min"` // both included
	Max      float64 `json:"max"`
	Integer  bool    `json:"integer,omitempty"`
	IsSwitch bool    `json:"switch,omitempty"` // true or false on the wire, 1 or 0 here
}

// Params are a sender's values by name.
type Params map[string]float64

// Value returns what the sender said of p, or its default.
func (o Options) Value(p Param) float64 {
	if v, ok := o.Params[p.Name]; ok {
		return v
	}
	return p.Default
}

// On is Value of a switch.
func (o Options) On(p Param) bool { return o.Value(p) != 0 }

// Check holds what a sender said against the Spec's Params. Errors are Invalid.
func (s Spec) Check(given Params) error {
	for name, v := range given {
		p, ok := s.param(name)
		if !ok {
			return imagebind.Errorf(imagebind.Invalid, "%s has no %q; %s", s.Name, name, s.has())
		}
		if err := p.check(v); err != nil {
			return err
		}
	}
	return nil
}

// Has reports whether senders may say name of the Spec's files.
func (s Spec) Has(name string) bool { _, ok := s.param(name); return ok }

func (s Spec) param(name string) (Param, bool) {
	for _, p := range s.Params {
		if p.Name == name {
			return p, true
		}
	}
	return Param{}, false
}

// has lists the Params, for people.
func (s Spec) has() string {
	if len(s.Params) == 0 {
		return "nothing can be set there"
	}
	var names []string
	for _, p := range s.Params {
		names = append(names, p.Name)
	}
	return "it has " + strings.Join(names, ", ")
}

func (p Param) check(v float64) error {
	switch {
	case p.IsSwitch && v != 0 && v != 1:
		return imagebind.Errorf(imagebind.Invalid, "%s is %v; it is true or false", p.Name, v)
	case !(v >= p.Min && v <= p.Max) && !p.IsSwitch:
		return imagebind.Errorf(imagebind.Invalid, "%s is %v; it is %v to %v", p.Name, v, p.Min, p.Max)
	case p.Integer && v != math.Trunc(v):
		return imagebind.Errorf(imagebind.Invalid, "%s is %v; it is a whole number", p.Name, v)
	}
	return nil
}

// Type is number, integer or boolean.
func (p Param) Type() string {
	switch {
	case p.IsSwitch:
		return "boolean"
	case p.Integer:
		return "integer"
	}
	return "number"
}

// String is as in "clips (1 to 20, default 5): clips spread over the video".
func (p Param) String() string {
	if p.IsSwitch {
		return fmt.Sprintf("%s (true or false, default %v): %s", p.Name, p.Default != 0, p.Doc)
	}
	number := func(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }
	return fmt.Sprintf("%s (%s to %s, default %s): %s", p.Name, number(p.Min), number(p.Max), number(p.Default), p.Doc)
}
