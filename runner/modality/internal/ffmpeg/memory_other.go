//go:build !linux

package ffmpeg

// limitMemory does nothing: only Linux limits another process. -max_alloc holds.
func limitMemory(int) { _ = memory }
