//go:build cgo

package flat

import (
	"context"
	"testing"

	"imagebind-llm/internal/golden"
	"imagebind-llm/internal/ort"
	"imagebind-llm/retriever/device"
)

func TestStoreDevice(t *testing.T) {
	if _, err := ort.Load(""); err != nil {
		golden.Need(t, "ort", "wants onnxruntime: "+err.Error())
	}
	d, err := device.Open(device.Options{Provider: "cpu"})
	if err != nil {
		t.Fatal(err)
	}
	suite(t, func(ctx context.Context, n, dim int, read func(int, []uint16) error) (Matrix, error) {
		return d.Load(ctx, n, dim, read)
	})
}
