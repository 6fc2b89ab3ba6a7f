// Package device keeps rows in half precision where products are fast, a GPU's
// memory, and finds candidates for nearest neighbours there: a product and the
// largest of its results, one ONNX graph that onnxruntime runs. Of a search only
// the queries go up and the candidates come down.
//
// Scores are rounded to half precision, so they say which rows may be the best
// and not which are: the caller scores the candidates from the rows themselves
// and looks elsewhere where it cannot be sure (package flat does).
//
// The provider "cpu" runs the same graph in the host's memory. It is there for
// tests: the embedded store's own scan is faster on a CPU.
package device

import (
	"fmt"
	"strconv"
	"strings"
)

//go:generate go run ../../exporter/nearest -out nearest.onnx

// Options say where a matrix is kept.
type Options struct {
	Library  string // the onnxruntime library; empty: where package ort looks
	Provider string // cpu or cuda
	Device   int    // which CUDA device
	// ChunkBytes of rows are multiplied at a time, each by one run of the graph;
	// 0 is 1 GiB on CUDA, and 64 MiB on the CPU, where onnxruntime makes float32
	// of them in every run.
	ChunkBytes int
}

// Parse reads where a matrix is to be kept: "cpu", "cuda" or "cuda:1".
func Parse(s string) (Options, error) {
	name, number, numbered := strings.Cut(s, ":")
	o := Options{Provider: name}
	var err error
	if numbered {
		o.Device, err = strconv.Atoi(number)
	}
	if err != nil || o.Device < 0 || name != "cuda" && (name != "cpu" || numbered) {
		return Options{}, fmt.Errorf("device %q: it is cpu, cuda or cuda:N", s)
	}
	return o, nil
}
