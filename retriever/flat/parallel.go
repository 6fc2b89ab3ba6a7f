package flat

import (
	"context"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"

	imagebind "imagebind-llm"
)

// workers is how many goroutines go over n items, unit at a time.
func workers(n, unit int) int { return max(1, min(runtime.GOMAXPROCS(0), (n+unit-1)/unit)) }

// guard calls do. Mapped memory that cannot be read (a file cut short, a broken
// disk) is an error and not the end of the process.
func guard(do func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		switch r := recover().(type) {
		case nil:
		case interface {
			runtime.Error
			Addr() uintptr
		}:
			err = imagebind.Errorf(imagebind.Internal, "the rows cannot be read: %w", r)
		default:
			panic(r)
		}
	}()
	return do()
}

// parallel calls do for [from, to) ranges that cover n items, each at most unit
// long, from workers(n, unit) goroutines, and returns the first error.
func parallel(ctx context.Context, n, unit int, do func(worker, from, to int) error) error {
	var next atomic.Int64
	work := func(worker int) error {
		for {
			from := int(next.Add(int64(unit))) - unit
			if from >= n {
				return nil
			}
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := do(worker, from, min(from+unit, n)); err != nil {
				next.Store(int64(n)) // the others need not go on
				return err
			}
		}
	}
	count := workers(n, unit)
	errs := make([]error, count)
	var wg sync.WaitGroup
	for w := 1; w < count; w++ {
		wg.Go(func() { errs[w] = guard(func() error { return work(w) }) })
	}
	errs[0] = guard(func() error { return work(0) })
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
