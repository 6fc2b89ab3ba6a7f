// Package ort runs ONNX graphs: it finds and loads the onnxruntime library,
// opens sessions on the CPU or a CUDA device, and runs them with buffers that
// the caller owns. It is the only home of onnxruntime_go and knows nothing of
// what the graphs compute.
package ort

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"

	onnx "github.com/yalue/onnxruntime_go"
)

// LibraryEnv is the environment variable that names the library's file.
const LibraryEnv = "ORT_LIB"

// ErrNoLibrary is wrapped by Load's error when no library was found.
var ErrNoLibrary = errors.New("onnxruntime is not installed")

var load struct {
	sync.Mutex
	path   string
	memory atomic.Uintptr // the host's, by onnxruntime's description; 0 until the library is loaded
}

// Load loads the onnxruntime library, once a process: from path, or where that
// is empty from $ORT_LIB, beside the program, in .cache/ort of the working
// folder or one above (where `make ort` puts it), or where the system's loader
// looks. It returns the version.
func Load(path string) (string, error) {
	load.Lock()
	defer load.Unlock()
	if load.path != "" {
		if path != "" && path != load.path {
			return "", fmt.Errorf("onnxruntime is loaded from %s already", load.path)
		}
		return onnx.GetVersion(), nil
	}
	found, err := find(path)
	if err != nil {
		return "", err
	}
	onnx.SetSharedLibraryPath(found)
	if err := onnx.InitializeEnvironment(); err != nil {
		if strings.Contains(err.Error(), "API base") {
			return "", fmt.Errorf("the onnxruntime library %s is too old: version 1.27 or newer is needed; install one with `make ort`, or name one with %s", found, LibraryEnv)
		}
		return "", fmt.Errorf("the onnxruntime library %s does not load (install one with `make ort`, or name one with %s): %w", found, LibraryEnv, err)
	}
	if err := shim(found); err != nil {
		return "", err
	}
	memory, err := describeMemory("Cpu", 0)
	if err != nil {
		return "", err
	}
	load.path = found
	load.memory.Store(uintptr(memory))
	return onnx.GetVersion(), nil
}

// hostMemory returns onnxruntime's description of the host's memory, and loads
// the library where nobody has.
func hostMemory() (handle, error) {
	m := load.memory.Load()
	if m == 0 {
		if _, err := Load(""); err != nil {
			return 0, err
		}
		m = load.memory.Load()
	}
	return handle(m), nil
}

func find(path string) (string, error) {
	for _, named := range []string{path, os.Getenv(LibraryEnv)} {
		if named == "" {
			continue
		}
		if _, err := os.Stat(named); err != nil {
			return "", fmt.Errorf("the onnxruntime library: %w", err)
		}
		return named, nil
	}
	name := "libonnxruntime.so"
	if runtime.GOOS == "darwin" {
		name = "libonnxruntime.dylib"
	}
	var tried []string
	for _, dir := range folders() {
		p := filepath.Join(dir, name)
		if _, err := os.Stat(p); err == nil {
			return p, nil
		}
		tried = append(tried, dir)
	}
	return "", fmt.Errorf("%w: no %s in %s; install it with `make ort`, or name it with %s or --ort-lib", ErrNoLibrary, name, strings.Join(tried, ", "), LibraryEnv)
}

func folders() []string {
	var dirs []string
	if exe, err := os.Executable(); err == nil {
		dirs = append(dirs, filepath.Dir(exe), filepath.Join(filepath.Dir(exe), "..", "lib"))
	}
	if wd, err := os.Getwd(); err == nil {
		for ; ; wd = filepath.Dir(wd) {
			dirs = append(dirs, filepath.Join(wd, ".cache", "ort"))
			if wd == filepath.Dir(wd) {
				break
			}
		}
	}
	return append(dirs, "/usr/local/lib", "/usr/lib", "/usr/lib/"+runtime.GOARCH+"-linux-gnu", "/usr/lib/x86_64-linux-gnu")
}
