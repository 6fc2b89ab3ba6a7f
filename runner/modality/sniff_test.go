package modality_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"imagebind-llm/runner/modality"
)

// TestSniffFiles sniffs every file of the modalities' tests.
func TestSniffFiles(t *testing.T) {
	media := map[string]string{
		".png": "image/png", ".jpg": "image/jpeg", ".gif": "image/gif", ".webp": "image/webp", ".bmp": "image/bmp", ".tiff": "image/tiff", ".exr": "image/x-exr", ".pfm": "image/x-portable-floatmap",
		".wav": "audio/wav", ".flac": "audio/flac", ".mp3": "audio/mpeg", ".ogg": "audio/ogg", ".m4a": "audio/mp4", ".mka": "video/x-matroska",
		".gz": "application/gzip", ".obj": "model/obj", ".npy": "application/x-npy", ".json": "text/plain", ".md": "text/plain",
	}
	n := 0
	for _, pattern := range []string{"*/testdata/*", "*/testdata/*/*", "text/*.gz"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			want, ok := media[filepath.Ext(f)]
			if !ok || strings.Contains(f, "/fuzz/") {
				continue
			}
			data, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			if got := modality.Sniff(data); got != want {
				t.Errorf("%s is %s, want %s", f, got, want)
			}
			n++
		}
	}
	if n < 50 {
		t.Errorf("%d files only", n)
	}
}

func TestSniff(t *testing.T) {
	for _, tt := range []struct{ data, want string }{
		{"", "application/octet-stream"},
		{"\x00\x01\x02", "application/octet-stream"},
		{"\xff\xfe\x00", "application/octet-stream"},
		{"Grüße", "text/plain"},
		{strings.Repeat("a", 4095) + "ü and more", "text/plain"}, // a rune across the end of what is looked at
		{"<svg xmlns='http://www.w3.org/2000/svg'/>", "text/plain"},
		{"%PDF-1.7", "application/pdf"},
		{"\x00\x00\x00\x20ftypisom", "video/mp4"},
		{"\x00\x00\x00\x20ftypM4A ", "audio/mp4"},
		{"\x00\x00\x00\x20ftypavif", "image/avif"},
		{"\x1a\x45\xdf\xa3\x01\x00\x00\x00\x00\x00\x00\x1f\x42\x82\x84webm", "video/webm"},
		{"\xff\xfb\x90\x64", "audio/mpeg"},
		{"\xff\xf1\x50\x80\x00\x1f\xfc", "audio/aac"},
		{"ID3\x04\x00\x00\x00\x00\x00\x02..\xff\xfb\x90\x64", "audio/mpeg"},
		{"ID3\x04\x00\x00\x00\x00\x00\x02..fLaC", "audio/flac"},
		{"ID3\x04\x00\x00\x00\x00\x00\x02..nothing", "audio/mpeg"},
		{"RIFF\x00\x00\x00\x00WEBP", "image/webp"},
		{"RIFF\x00\x00\x00\x00AVI LIST", "video/x-msvideo"},
		{"RIFF\x00\x00", "application/octet-stream"},
		{"BM for short", "text/plain"},
		{"MM\x00*", "image/tiff"},
		{"\x76\x2f\x31\x01\x02\x00\x00\x00", "image/x-exr"},
		{"Pf\n2 1\n-1.0\n\x00", "image/x-portable-floatmap"},
		{"ply\nformat ascii 1.0\n", "model/ply"},
		{"ply\r\nformat", "model/ply"},
		{"plywood", "text/plain"},
		{"# .PCD v.7\n", "model/pcd"},
		{"# made by hand\nVERSION .7\nFIELDS x y z\n", "model/pcd"},
		{"VERSION .7\n", "text/plain"},
		{"glTF\x02\x00\x00\x00", "model/gltf-binary"},
		{"solid a\n  facet normal 0 0 1\n", "model/stl"},
		{"solid advice", "text/plain"},
		{"solid" + strings.Repeat("\x00", 75) + "\x01\x00\x00\x00" + strings.Repeat("\x00", 50), "model/stl"},
		{strings.Repeat("\x00", 80) + "\x01\x00\x00\x00" + strings.Repeat("\x00", 49), "application/octet-stream"},
		{"# by hand\nmtllib a.mtl\nv 1 -2e-3 .5\n", "model/obj"},
		{"see v 1 2 3", "text/plain"},
		{"v 1 2", "text/plain"},
		{"1 2 3\n", "text/plain"},
	} {
		if got := modality.Sniff([]byte(tt.data)); got != tt.want {
			t.Errorf("%q is %s, want %s", tt.data[:min(len(tt.data), 20)], got, tt.want)
		}
	}
}

func FuzzSniff(f *testing.F) {
	f.Add([]byte("RIFF\x00\x00\x00\x00WAVE"))
	f.Add([]byte("\xff\xfb\x90\x64"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if modality.Sniff(data) == "" {
			t.Error("no answer")
		}
	})
}
