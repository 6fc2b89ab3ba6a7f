package ort

/*
#include <dlfcn.h>
#include <stddef.h>
#include <stdlib.h>

// device_memory asks the CUDA driver, at library, for the memory of a device: 0,
// or the driver's error (CUresult), or -1 for no driver.
static int device_memory(const char *library, int device, size_t *bytes, size_t *total) {
	void *lib = dlopen(library, RTLD_NOW);
	if (!lib) return -1;
	int (*init)(unsigned) = (int (*)(unsigned))dlsym(lib, "cuInit");
	int (*get)(int *, int) = (int (*)(int *, int))dlsym(lib, "cuDeviceGet");
	int (*retain)(void **, int) = (int (*)(void **, int))dlsym(lib, "cuDevicePrimaryCtxRetain");
	int (*release)(int) = (int (*)(int))dlsym(lib, "cuDevicePrimaryCtxRelease_v2");
	int (*push)(void *) = (int (*)(void *))dlsym(lib, "cuCtxPushCurrent_v2");
	int (*pop)(void **) = (int (*)(void **))dlsym(lib, "cuCtxPopCurrent_v2");
	int (*info)(size_t *, size_t *) = (int (*)(size_t *, size_t *))dlsym(lib, "cuMemGetInfo_v2");
	if (!init || !get || !retain || !release || !push || !pop || !info) return -1;
	int dev, r;
	void *ctx, *old;
	if ((r = init(0)) || (r = get(&dev, device)) || (r = retain(&ctx, dev))) return r;
	if (!(r = push(ctx))) {
		r = info(bytes, total);
		pop(&old);
	}
	release(dev);
	return r;
}
*/
import "C"

import (
	"fmt"
	"strconv"
	"unsafe"

	onnx "github.com/yalue/onnxruntime_go"
)

// cudaOptions are the CUDA provider's (onnxruntime's documentation, "CUDA
// Execution Provider"), where they are not its defaults.
func cudaOptions(o Options) map[string]string {
	set := map[string]string{
		"device_id": strconv.Itoa(o.Device),
		// The arena grows by what is asked for: doubling, the default, would take
		// up to twice the weights.
		"arena_extend_strategy": "kSameAsRequested",
		// The default tries every algorithm anew for each number of clips.
		"cudnn_conv_algo_search": "HEURISTIC",
		"use_tf32":               "0",
	}
	if o.TF32 {
		set["use_tf32"] = "1"
	}
	if o.GPUMemory > 0 {
		set["gpu_mem_limit"] = strconv.Itoa(o.GPUMemory << 20)
	}
	return set
}

func appendCUDA(so *onnx.SessionOptions, o Options) error {
	cuda, err := onnx.NewCUDAProviderOptions()
	if err != nil {
		return err
	}
	defer cuda.Destroy()
	if err := cuda.Update(cudaOptions(o)); err != nil {
		return err
	}
	return so.AppendExecutionProviderCUDA(cuda)
}

// DeviceMemory returns the free and the whole memory of a CUDA device, in bytes.
func DeviceMemory(device int) (free, total int64, err error) {
	return deviceMemory("libcuda.so.1", device)
}

func deviceMemory(library string, device int) (free, total int64, err error) {
	name := C.CString(library)
	defer C.free(unsafe.Pointer(name))
	var f, t C.size_t
	switch r := C.device_memory(name, C.int(device), &f, &t); {
	case r < 0:
		return 0, 0, fmt.Errorf("no CUDA driver (%s): install NVIDIA's, or use --ort-provider cpu", library)
	case r > 0:
		return 0, 0, fmt.Errorf("the CUDA driver does not give device %d (CUresult %d); nvidia-smi lists the devices", device, r)
	}
	return int64(f), int64(t), nil
}
