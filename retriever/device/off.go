//go:build !cgo

package device

import (
	"context"
	"errors"
)

// A Device is not to be had in this build.
type Device struct{}

// A Matrix is not either.
type Matrix struct{}

// Open says why.
func Open(Options) (*Device, error) {
	return nil, errors.New("this build has no onnxruntime: build with CGO_ENABLED=1")
}

// Load is not called.
func (*Device) Load(context.Context, int, int, func(int, []uint16) error) (*Matrix, error) {
	panic("device: not open")
}

// Search is not called.
func (*Matrix) Search(context.Context, []uint16, int, []uint64) ([][]uint32, [][]float32, []float32, error) {
	panic("device: not open")
}

// Close does nothing.
func (*Matrix) Close() error { return nil }
