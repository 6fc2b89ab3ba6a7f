package ort

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// driver stands for libcuda.so.1: device 0 has 3 of 8 GiB free, and no other is there.
const driver = `
#include <stddef.h>
static void *current;
int cuInit(unsigned flags) { return flags; }
int cuDeviceGet(int *dev, int ordinal) { *dev = ordinal + 7; return ordinal ? 101 : 0; }
int cuDevicePrimaryCtxRetain(void **ctx, int dev) { *ctx = &current; return dev == 7 ? 0 : 1; }
int cuDevicePrimaryCtxRelease_v2(int dev) { return 0; }
int cuCtxPushCurrent_v2(void *ctx) { current = ctx; return 0; }
int cuCtxPopCurrent_v2(void **ctx) { *ctx = current; current = NULL; return 0; }
int cuMemGetInfo_v2(size_t *free, size_t *total) { *free = 3UL << 30; *total = 8UL << 30; return current ? 0 : 201; }
`

func TestDeviceMemory(t *testing.T) {
	cc, err := exec.Command("go", "env", "CC").Output()
	if err != nil {
		t.Fatal(err)
	}
	lib := filepath.Join(t.TempDir(), "libcuda.so.1")
	cmd := exec.Command(strings.Fields(string(cc))[0], "-shared", "-fPIC", "-x", "c", "-o", lib, "-")
	cmd.Stdin = strings.NewReader(driver)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if free, total, err := deviceMemory(lib, 0); err != nil || free != 3<<30 || total != 8<<30 {
		t.Errorf("got %d, %d, %v", free, total, err)
	}
	if _, _, err := deviceMemory(lib, 1); err == nil || !strings.Contains(err.Error(), "device 1 (CUresult 101)") {
		t.Errorf("a device that is not there: %v", err)
	}
	if _, _, err := deviceMemory(filepath.Join(t.TempDir(), "none.so"), 0); err == nil || !strings.Contains(err.Error(), "no CUDA driver") {
		t.Errorf("no driver: %v", err)
	}
}

func TestCUDAOptions(t *testing.T) {
	got := cudaOptions(Options{Device: 1, GPUMemory: 3, TF32: true})
	for k, v := range map[string]string{"device_id": "1", "gpu_mem_limit": "3145728", "use_tf32": "1", "arena_extend_strategy": "kSameAsRequested"} {
		if got[k] != v {
			t.Errorf("%s is %q, want %q", k, got[k], v)
		}
	}
	if got := cudaOptions(Options{}); got["use_tf32"] != "0" || got["gpu_mem_limit"] != "" {
		t.Errorf("by default: %v", got)
	}
}

// TestCUDAMissing: the CPU library says how to get the other.
func TestCUDAMissing(t *testing.T) {
	need(t)
	if s, err := Open(model(t), Options{Provider: "cuda"}); err == nil {
		s.Close() // a machine that has it
	} else if !strings.Contains(err.Error(), "ORT_FLAVOUR=cuda make ort") {
		t.Error(err)
	}
}
