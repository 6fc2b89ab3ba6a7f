package all_test

import (
	"os"
	"slices"
	"strings"
	"testing"

	imagebind "imagebind-llm"
	"imagebind-llm/runner/modality"
	"imagebind-llm/runner/modality/all"
)

// TestSpecs holds every Spec against what the rest of the project relies on:
// names that differ, an input that Read makes, errors of a caller's kind.
func TestSpecs(t *testing.T) {
	names, parts := map[string]bool{}, map[string]bool{}
	for _, s := range all.Specs {
		if s.Name == "" || s.Part == "" || names[s.Name] || parts[s.Part] || len(s.Media) == 0 || s.Encoder.Stem == nil || s.Encoder.Heads < 1 {
			t.Errorf("%s (%s) lacks something, or is twice there", s.Name, s.Part)
		}
		names[s.Name], parts[s.Part] = true, true
		for name, find := range map[string]func(string) (modality.Spec, bool){s.Name: all.ByName, s.Part: all.ByPart} {
			if got, ok := find(name); !ok || got.Name != s.Name {
				t.Errorf("%s is not found as %s", s.Name, name)
			}
		}
		for _, p := range s.Params {
			defaults := modality.Params{p.Name: p.Default}
			if err := s.Check(defaults); err != nil || p.Doc == "" || slices.Contains([]string{"url", "type", "weight"}, p.Name) {
				t.Errorf("%s, %v: %v", s.Name, p, err)
			}
		}
		_, err := s.Read(t.Context(), []byte("\x00\xff no such file"), modality.Options{})
		if k := imagebind.KindOf(err); k != imagebind.Invalid && k != imagebind.Unsupported {
			t.Errorf("%s reads garbage: %v", s.Name, err)
		}
	}
	for media, name := range map[string]string{"image/png": "image", "video/mp4": "video", "audio/mpeg": "audio", "text/plain": "text", "image/x-exr": "depth",
		"model/ply": "point_cloud", "application/x-npy": ""} {
		if s, _ := all.ByMedia(media); s.Name != name {
			t.Errorf("%s is taken for %q, want %q", media, s.Name, name)
		}
	}
	for _, find := range []func(string) (modality.Spec, bool){all.ByName, all.ByPart, all.ByMedia} {
		if s, ok := find("smell"); ok {
			t.Errorf("smell is %s", s.Name)
		}
	}
	text, _ := all.ByName("text")
	got, err := text.Read(t.Context(), []byte("a dog"), modality.Options{})
	if err != nil || !slices.Equal(got.Shape, append([]int{1}, text.Encoder.Input...)) {
		t.Errorf("text has shape %v, %v", got.Shape, err)
	}
}

// TestDocumented: docs/modalities.md says of every kind how it is sent, and of
// every parameter that there is one.
func TestDocumented(t *testing.T) {
	raw, err := os.ReadFile("../../../docs/modalities.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range all.Specs {
		_, section, ok := strings.Cut(string(raw), "\n## "+s.Name+"\n")
		if section, _, _ = strings.Cut(section, "\n## "); !ok || !strings.Contains(section, "curl -F") || !strings.Contains(string(raw), "`"+s.Part+"`") {
			t.Errorf("%s has no section with a curl line", s.Name)
		}
		for _, p := range s.Params {
			if !strings.Contains(section, "`"+p.Name+"`") {
				t.Errorf("the section of %s does not name %s", s.Name, p.Name)
			}
		}
	}
}

// TestMismatch sends each kind's file to another: the error names the content.
func TestMismatch(t *testing.T) {
	image, _ := all.ByName("image")
	audio, _ := all.ByName("audio")
	_, err := image.Read(t.Context(), []byte("RIFF\x24\x00\x00\x00WAVEfmt "), modality.Options{})
	if err == nil || !strings.Contains(err.Error(), "audio/wav") {
		t.Errorf("a sound as a picture: %v", err)
	}
	_, err = audio.Read(t.Context(), []byte("\x89PNG\r\n\x1a\n"), modality.Options{})
	if err == nil || !strings.Contains(err.Error(), "image/png") {
		t.Errorf("a picture as a sound: %v", err)
	}
}
