// Package all lists the kinds of input: a new modality is its folder and one
// line here. What the API, the exporter and the page offer comes from this list.
package all

import (
	"slices"

	"imagebind-llm/runner/modality"
	"imagebind-llm/runner/modality/audio"
	"imagebind-llm/runner/modality/depth"
	"imagebind-llm/runner/modality/imu"
	"imagebind-llm/runner/modality/point"
	"imagebind-llm/runner/modality/text"
	"imagebind-llm/runner/modality/thermal"
	"imagebind-llm/runner/modality/vision"
)

// Specs are all kinds of input, in the order in which they are shown.
var Specs = []modality.Spec{
	vision.Image,
	vision.Video,
	audio.Spec,
	text.Spec,
	depth.Spec,
	thermal.Spec,
	imu.Spec,
	point.Spec,
}

// ByName returns the Spec with the given name, as in "image".
func ByName(name string) (modality.Spec, bool) {
	return find(func(s modality.Spec) bool { return s.Name == name })
}

// ByPart returns the Spec of a content part's type, as in "image_url".
func ByPart(part string) (modality.Spec, bool) {
	return find(func(s modality.Spec) bool { return s.Part == part })
}

// ByMedia returns the first Spec that reads a media type, as in "image/png":
// one that [modality.Sniff] found. A .npy says nothing of what its numbers are.
func ByMedia(media string) (modality.Spec, bool) {
	if media == "application/x-npy" {
		return modality.Spec{}, false
	}
	return find(func(s modality.Spec) bool { return slices.Contains(s.Media, media) })
}

func find(match func(modality.Spec) bool) (modality.Spec, bool) {
	i := slices.IndexFunc(Specs, match)
	if i < 0 {
		return modality.Spec{}, false
	}
	return Specs[i], true
}
