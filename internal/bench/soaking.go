package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"imagebind-llm/internal/bench/soak"
)

// soakTool starts a runner on a bundle and keeps it busy; it fails where the
// runner did something wrong (package soak).
func soakTool(args []string) error {
	e := &env{}
	o := soak.Options{Root: ".", Body: 8 << 20, Log: os.Stderr}
	fs := flag.NewFlagSet("soak", flag.ContinueOnError)
	fs.StringVar(&e.bin, "bin", ".cache/bench/bin", "folder of our programs")
	fs.StringVar(&e.work, "work", ".cache/bench", "folder of bundles, and of the runner's log")
	bundle := fs.String("bundle", "", "the bundle; empty: the demo's")
	slots := fs.Int("slots", 4, "the runner's slots")
	fs.DurationVar(&o.For, "for", 30*time.Minute, "how long")
	fs.IntVar(&o.Clients, "clients", 12, "clients that ask side by side")
	fs.Uint64Var(&o.Seed, "seed", rand.Uint64(), "of what the clients do")
	if err := fs.Parse(args); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if *bundle == "" {
		dir, err := e.demoBundle(ctx)
		if err != nil {
			return err
		}
		*bundle = dir
	}
	s, err := e.start(ctx, "soak", "/readyz", filepath.Join(e.bin, "runner"), "serve", "--bundle", *bundle, "--listen", "{host}:{port}", "--retriever", "",
		"--slots", fmt.Sprint(*slots), "--limits-body", fmt.Sprint(o.Body))
	if err != nil {
		return err
	}
	defer s.stop()
	o.Base, o.PID = s.Base, s.cmd.Process.Pid
	say("soak: %s on %s for %s, %d clients, seed %d; the runner's log is %s", o.Base, *bundle, o.For, o.Clients, o.Seed, s.log.Name())
	report, err := soak.Run(ctx, o)
	if err != nil {
		return err
	}
	report.Write(os.Stdout)
	if report.Failed() {
		return errors.New("the runner did something wrong")
	}
	return nil
}
