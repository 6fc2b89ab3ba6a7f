package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// TestKept: what the retriever embeds is what this program writes.
func TestKept(t *testing.T) {
	g, err := nearest()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "nearest.onnx")
	if err := g.Save(path, nil); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	kept, err := os.ReadFile("../../retriever/device/nearest.onnx")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, kept) {
		t.Error("retriever/device/nearest.onnx is another graph; write it anew with go generate ./retriever/device")
	}
}
