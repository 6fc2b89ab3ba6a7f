package bundle

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func manifest() *Manifest {
	return &Manifest{Name: "test",
		Encoders: []Encoder{{Name: "vision", Modalities: []string{"image"}, Graph: "vision.onnx", Input: []int{3, 2, 224, 224}, Embed: 8}},
		Bridge:   &Bridge{Graph: "bridge.onnx", Embed: 8, Width: 16, Layers: 2},
		Decoder: &Decoder{Graph: "decoder.onnx", Width: 16, Layers: 3, Heads: 4, KVHeads: 2, HeadDim: 4, Vocab: 10, Context: 32, AdaptedLayers: 2,
			Tokenizer: "tokenizer.model", KVType: "float32"},
		Sampling: DefaultSampling(), Cache: DefaultCache()}
}

// write makes a bundle at out.
func write(t *testing.T, out string, m *Manifest) {
	t.Helper()
	w, err := Create(out)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	for _, f := range []string{"vision.onnx", "bridge.onnx", "decoder.onnx", "tokenizer.model"} {
		if err := os.WriteFile(w.Path(f), []byte("content of "+f), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Commit(m); err != nil {
		t.Fatal(err)
	}
}

func TestRoundTrip(t *testing.T) {
	parent := t.TempDir()
	out := filepath.Join(parent, "bundle")
	m := manifest()
	write(t, out, m)
	write(t, out, m) // a second export replaces the first
	moved := filepath.Join(t.TempDir(), "elsewhere")
	if err := os.Rename(out, moved); err != nil {
		t.Fatal(err)
	}
	b, err := Open(moved)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(b.Manifest, *m) {
		t.Errorf("got %+v, want %+v", b.Manifest, *m)
	}
	if err := b.Verify(nil); err != nil {
		t.Error(err)
	}
	if left, _ := os.ReadDir(parent); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestAbortLeavesTheOldBundle(t *testing.T) {
	out := filepath.Join(t.TempDir(), "bundle")
	write(t, out, manifest())
	w, err := Create(out)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(w.Path("half"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	w.Abort()
	if _, err := Open(out); err != nil {
		t.Error(err)
	}
}

func TestRefuses(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(t *testing.T, dir string, m map[string]any)
		want   string
	}{
		{"newer version", func(_ *testing.T, _ string, m map[string]any) { m["format_version"] = Version + 1 }, "format version"},
		{"missing file", func(t *testing.T, dir string, _ map[string]any) {
			if err := os.Remove(filepath.Join(dir, "bridge.onnx")); err != nil {
				t.Fatal(err)
			}
		}, "bridge.onnx"},
		{"cut file", func(t *testing.T, dir string, _ map[string]any) {
			if err := os.Truncate(filepath.Join(dir, "decoder.onnx"), 3); err != nil {
				t.Fatal(err)
			}
		}, "decoder.onnx"},
		{"dims", func(_ *testing.T, _ string, m map[string]any) {
			m["bridge"].(map[string]any)["width"] = 17
		}, "does not fit the decoder"},
		{"escape", func(_ *testing.T, _ string, m map[string]any) {
			m["files"].(map[string]any)["../x"] = map[string]any{"bytes": 1}
		}, "leaves the folder"},
		{"unlisted graph", func(_ *testing.T, _ string, m map[string]any) {
			m["decoder"].(map[string]any)["graph"] = "other.onnx"
		}, "other.onnx"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			out := filepath.Join(t.TempDir(), "bundle")
			write(t, out, manifest())
			path := filepath.Join(out, ManifestName)
			raw, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			var m map[string]any
			if err := json.Unmarshal(raw, &m); err != nil {
				t.Fatal(err)
			}
			tt.change(t, out, m)
			if raw, err = json.Marshal(m); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, raw, 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := Open(out); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q in it", err, tt.want)
			}
		})
	}
}

func TestVerifyFindsChangedBytes(t *testing.T) {
	out := filepath.Join(t.TempDir(), "bundle")
	write(t, out, manifest())
	path := filepath.Join(out, "decoder.onnx")
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	raw[0] ^= 1
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	b, err := Open(out)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Verify(nil); err == nil || !strings.Contains(err.Error(), "decoder.onnx") {
		t.Errorf("got %v", err)
	}
}

func TestCreateRefusesOtherFolders(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "precious"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Create(dir); err == nil {
		t.Error("a folder of something else would be replaced")
	}
}

func TestOpenNoBundle(t *testing.T) {
	if _, err := Open(t.TempDir()); err == nil || !strings.Contains(err.Error(), "exporter model") {
		t.Errorf("got %v", err)
	}
}

// A fingerprint follows what the encoders are, and nothing else.
func TestFingerprint(t *testing.T) {
	of := func(change func(m *Manifest)) string {
		m := &Manifest{Encoders: []Encoder{{Graph: "vision.onnx"}, {Graph: "text.onnx"}}, Files: map[string]File{}}
		for _, name := range []string{"vision.onnx", "vision.onnx.data", "text.onnx", "decoder.onnx", "decoder.onnx.data"} {
			m.Files[name] = File{SHA256: "of " + name}
		}
		change(m)
		return m.Fingerprint()
	}
	first := of(func(*Manifest) {})
	for name, same := range map[string]bool{"vision.onnx": false, "vision.onnx.data": false, "text.onnx": false, "decoder.onnx.data": true} {
		if got := of(func(m *Manifest) { m.Files[name] = File{SHA256: "another"} }); (got == first) != same || len(got) != 32 {
			t.Errorf("with another %s: %q, at first %q", name, got, first)
		}
	}
	if got := of(func(m *Manifest) { m.Encoders = nil }); got != "" {
		t.Errorf("without encoders: %q", got)
	}
}
