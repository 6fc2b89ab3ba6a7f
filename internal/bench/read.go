package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"sync"
	"time"
	"unsafe"
)

// readTool prints the bytes/s at which a loop on each of a number of threads
// reads memory, several times.
func readTool(args []string) error {
	fs := flag.NewFlagSet("read", flag.ContinueOnError)
	threads := fs.Int("threads", 1, "threads that read")
	size := fs.Int("mib", 2048, "memory that is read, MiB: far more than the caches hold")
	if err := fs.Parse(args); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(readMemory(*threads, *size<<20, 3))
}

// readMemory returns the best bytes/s of a number of passes over n bytes.
func readMemory(threads, n, passes int) float64 {
	words := make([]uint64, n/8)
	for i := range words {
		words[i] = uint64(i)
	}
	best := 0.0
	for range passes {
		var wg sync.WaitGroup
		start := time.Now()
		for t := range threads {
			wg.Go(func() { sink[t&7] += sum(words[t*len(words)/threads : (t+1)*len(words)/threads]) })
		}
		wg.Wait()
		best = max(best, float64(n)/time.Since(start).Seconds())
	}
	return best
}

var sink [8]uint64 // so that the sums are made

// sum reads v eight words a turn.
func sum(v []uint64) uint64 {
	var a, b, c, d uint64
	for len(v) >= 8 {
		w := (*[8]uint64)(unsafe.Pointer(&v[0]))
		a += w[0] ^ w[4]
		b += w[1] ^ w[5]
		c += w[2] ^ w[6]
		d += w[3] ^ w[7]
		v = v[8:]
	}
	return a + b + c + d
}

// memory measures the memory's speed, which bounds a decoder whose weights are
// far larger than the caches.
func (e *env) memory(ctx context.Context) ([]Result, error) {
	var out []Result
	for _, t := range e.threads {
		r := Result{Work: "read loop over 2 GiB", Threads: t, Unit: "GB/s"}
		for range e.rounds {
			v, err := e.memorySpeed(ctx, t)
			if err != nil {
				return out, err
			}
			r.Ours = append(r.Ours, v)
		}
		out = append(out, r)
	}
	return out, nil
}

// memorySpeed is GB/s, measured in a process of its own.
func (e *env) memorySpeed(ctx context.Context, threads int) (float64, error) {
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	raw, err := output(ctx, self, "read", "-threads", fmt.Sprint(threads))
	if err != nil {
		return 0, err
	}
	var v float64
	err = json.Unmarshal(raw, &v)
	return v / 1e9, err
}
