// Package kernel is operators of our own for onnxruntime on the CPU, where they
// are faster than its own: products with quantised matrices, alone and gated,
// and RMS norms. A graph is written with the standard operators; [Swap] puts
// ours in their places when it is opened, so that the file stays one that every
// runtime reads.
//
// kernel.c computes, op.c tells onnxruntime. On a machine without AVX2 nothing
// is swapped.
package kernel

/*
#cgo CFLAGS: -O3
#cgo LDFLAGS: -lm -lpthread
#include "kernel.h"
#include "op.h"
*/
import "C"

// Domain is that of the operators.
const Domain = "imagebind"

// Supported reports whether this machine runs the kernels.
func Supported() bool { return C.kernel_supported() != 0 }

// Register adds the operators to session options. Both are addresses of
// onnxruntime's: of its function table, and of an OrtSessionOptions. It returns
// 0, or that of an OrtStatus.
func Register(api, options uintptr) (status uintptr) {
	return uintptr(C.op_register(C.uintptr_t(api), C.uintptr_t(options)))
}
