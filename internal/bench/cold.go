package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// cold measures the start of a bundle that no page cache holds, until the
// server is ready, beside reading its files once, likewise from the disk.
func (e *env) cold(ctx context.Context) ([]Result, error) {
	dir, _, err := e.wideFiles(ctx, precisions[0])
	if err != nil {
		return nil, err
	}
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		return nil, err
	}
	out := []Result{
		{Work: fmt.Sprintf("7B-shaped int4, %d layers, cold: start to ready", e.layers), Unit: "s", Lower: true, Peer: "a plain read"},
		{Work: "the same, bytes of the bundle", Unit: "GB/s", Peer: "a plain read"},
		{Work: "the same, warm", Unit: "s", Lower: true, Peer: "a plain read"},
	}
	start := func() (float64, error) {
		begin := time.Now()
		s, err := e.runner(ctx, "cold", dir, e.threads[len(e.threads)-1], 1, 512)
		if err != nil {
			return 0, err
		}
		defer s.stop()
		return time.Since(begin).Seconds(), nil
	}
	for round := range min(e.rounds, 3) {
		if err := forget(files); err != nil {
			return out, err
		}
		ours, err := start()
		if err != nil {
			return out, err
		}
		warm, err := start()
		if err != nil {
			return out, err
		}
		if err := forget(files); err != nil {
			return out, err
		}
		n, theirs, err := readAll(files)
		if err != nil {
			return out, err
		}
		_, theirsWarm, err := readAll(files)
		if err != nil {
			return out, err
		}
		gigabytes := float64(n) / 1e9
		out[0].Ours, out[0].Theirs = append(out[0].Ours, ours), append(out[0].Theirs, theirs)
		out[1].Ours, out[1].Theirs = append(out[1].Ours, gigabytes/ours), append(out[1].Theirs, gigabytes/theirs)
		out[2].Ours, out[2].Theirs = append(out[2].Ours, warm), append(out[2].Theirs, theirsWarm)
		say("cold, round %d: ready after %.3g s, warm %.3g s; %.3g GB read in %.3g s, warm %.3g s", round+1, ours, warm, gigabytes, theirs, theirsWarm)
	}
	return out, nil
}

// readAll reads the files once and returns their bytes and the seconds.
func readAll(files []string) (int64, float64, error) {
	start := time.Now()
	var total int64
	buf := make([]byte, 1<<20)
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			return 0, 0, err
		}
		n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{f}, buf)
		total += n
		if err := errors.Join(err, f.Close()); err != nil {
			return 0, 0, err
		}
	}
	return total, time.Since(start).Seconds(), nil
}

// forget has the page cache drop the files.
func forget(files []string) error {
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		err = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
		if err := errors.Join(err, f.Close()); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}
