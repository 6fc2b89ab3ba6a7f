package modality

import (
	"archive/zip"
	"bytes"
	"testing"
)

func TestAlsoIs(t *testing.T) {
	var archive bytes.Buffer
	z := zip.NewWriter(&archive)
	w, err := z.Create("a.txt")
	if err != nil {
		t.Fatal(err)
	}
	_, _ = w.Write([]byte("hello"))
	if err := z.SetComment("a comment"); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	const png, wav = "\x89PNG\r\n\x1a\n0000", "RIFF\x00\x00\x00\x00WAVEfmt "
	for _, tt := range []struct{ name, data, want string }{
		{"picture", png, ""},
		{"picture and archive", png + archive.String(), "application/zip"},
		{"sound and archive", wav + archive.String(), "application/zip"},
		{"picture and PDF", png + "%PDF-1.7", "application/pdf"},
		{"PDF far behind", png + string(make([]byte, 2000)) + "%PDF-1.7", ""},
		{"archive", archive.String(), ""},
		{"archive that is cut", png + archive.String()[:archive.Len()-1], ""},
		{"photo with its video", "\xff\xd8\xff\xe0" + "\x00\x00\x00\x20ftypisom", ""},
		{"text about archives", "PK\x05\x06", ""},
		{"nothing", "", ""},
	} {
		if got := AlsoIs([]byte(tt.data)); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}
