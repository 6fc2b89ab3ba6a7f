package soak

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// A Sample is the server's state at one time.
type Sample struct {
	At         time.Duration // since the clients began
	Memory     float64       // resident, MiB
	Own        float64       // of it what is no file's, MiB
	Goroutines int
	Files      int // open, sockets included
}

func (v Sample) String() string {
	return fmt.Sprintf("%.1f MiB resident (%.1f its own), %d goroutines, %d open files", v.Memory, v.Own, v.Goroutines, v.Files)
}

// sample looks at the server.
func (s *soak) sample(ctx context.Context) (v Sample, err error) {
	proc := fmt.Sprintf("/proc/%d/", s.PID)
	status, err := os.ReadFile(proc + "status")
	if err != nil {
		return v, err
	}
	for _, f := range []struct {
		name string
		to   *float64
	}{{"VmRSS:", &v.Memory}, {"RssAnon:", &v.Own}} {
		_, rest, _ := bytes.Cut(status, []byte("\n"+f.name))
		fields := strings.Fields(string(rest[:min(len(rest), 40)]))
		if len(fields) == 0 {
			return v, fmt.Errorf("%sstatus has no %s", proc, f.name)
		}
		kib, err := strconv.ParseFloat(fields[0], 64)
		if err != nil {
			return v, err
		}
		*f.to = kib / 1024
	}
	files, err := os.ReadDir(proc + "fd")
	if err != nil {
		return v, err
	}
	v.Files = len(files)
	metrics, err := s.client.Get(ctx, "/metrics")
	if err != nil {
		return v, err
	}
	_, rest, _ := bytes.Cut(metrics, []byte("\ngo_goroutines "))
	line, _, _ := bytes.Cut(rest, []byte("\n"))
	v.Goroutines, err = strconv.Atoi(string(line))
	return v, err
}

// settled waits until nobody asks and the server has closed what it will, and
// looks at it then: when goroutines and files no longer get fewer for a while.
func (s *soak) settled(ctx context.Context) (Sample, error) {
	s.client.Close()
	var least Sample
	since := time.Now()
	for begin := since; time.Since(begin) < time.Minute && time.Since(since) < 4*time.Second; {
		v, err := s.sample(ctx)
		if err != nil {
			return v, err
		}
		if least.Files == 0 || v.Goroutines < least.Goroutines || v.Files < least.Files {
			least, since = v, time.Now()
		}
		s.client.Close()
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return least, ctx.Err()
		}
	}
	return least, nil
}

// Bounds of what counts as flat.
const (
	growMiB   = 24   // of memory over the last half of the time,
	growShare = 0.03 // or of its mean, whichever is more
	more      = 4    // goroutines and files than before
)

// verdict says what the server kept. In the first half caches fill up, so
// memory is judged by the line through the last half.
func verdict(samples []Sample, base, end Sample) []string {
	var faults []string
	if half := samples[len(samples)/2:]; len(half) > 3 {
		minutes := (half[len(half)-1].At - half[0].At).Minutes()
		mean := 0.0
		for _, v := range half {
			mean += v.Memory / float64(len(half))
		}
		if grown := slope(half) * minutes; grown > max(growMiB, growShare*mean) {
			faults = append(faults, fmt.Sprintf("memory grew by %.1f MiB in the last %.1f minutes", grown, minutes))
		}
	}
	if end.Goroutines > base.Goroutines+more {
		faults = append(faults, fmt.Sprintf("%d goroutines are left, %d were there before", end.Goroutines, base.Goroutines))
	}
	if end.Files > base.Files+more {
		faults = append(faults, fmt.Sprintf("%d files are left open, %d were before", end.Files, base.Files))
	}
	return faults
}

// slope is that of the line through the samples' memory, MiB a minute.
func slope(v []Sample) float64 {
	var x, y float64
	for _, s := range v {
		x += s.At.Minutes() / float64(len(v))
		y += s.Memory / float64(len(v))
	}
	var xy, xx float64
	for _, s := range v {
		dx := s.At.Minutes() - x
		xy += dx * (s.Memory - y)
		xx += dx * dx
	}
	if xx == 0 {
		return 0
	}
	return xy / xx
}
