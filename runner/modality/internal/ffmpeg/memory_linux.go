package ffmpeg

import "golang.org/x/sys/unix"

// limitMemory bounds a process that has just started. One that is gone
// already, or a system that refuses, is no error: -max_alloc holds too.
func limitMemory(pid int) {
	_ = unix.Prlimit(pid, unix.RLIMIT_AS, &unix.Rlimit{Cur: memory, Max: memory}, nil)
}
