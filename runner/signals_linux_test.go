package main

import (
	"os/signal"
	"syscall"
	"testing"
	"unsafe"
)

// TestListen: a library that has put handlers of its own in place of Go's, as
// the CUDA provider does, loses them again. Should it not, this program ends here.
func TestListen(t *testing.T) {
	listen()
	defer signal.Reset(syscall.SIGTERM, syscall.SIGINT)
	for _, s := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		var action [4]uint64 // struct sigaction of the kernel's: SIG_DFL, no flags, an empty mask
		if _, _, e := syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, uintptr(s), uintptr(unsafe.Pointer(&action)), 0, 8, 0, 0); e != 0 {
			t.Fatal(e)
		}
	}
	listen()
	for _, s := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		if err := syscall.Kill(syscall.Getpid(), s); err != nil {
			t.Fatal(err)
		}
		if got := <-signals; got != s {
			t.Errorf("heard %v, want %v", got, s)
		}
	}
}
