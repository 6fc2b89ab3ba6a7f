package progress

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

// Without a terminal a bar is lines, not more often than every few seconds.
func TestLines(t *testing.T) {
	var out bytes.Buffer
	p := New(&out)
	now := time.Unix(0, 0)
	p.now = func() time.Time { return now }
	b := p.Start("decoder", 4000, Bytes)
	for range 4 {
		now = now.Add(2500 * time.Millisecond)
		b.Add(1000)
	}
	b.Finish()
	want := "decoder: 2.0 kB of 4.0 kB (50 %), 400 B/s, 5s left\n" +
		"decoder: 4.0 kB of 4.0 kB (100 %), 400 B/s\n" +
		"decoder: 4.0 kB in 10s, 400 B/s\n"
	if out.String() != want {
		t.Errorf("got\n%swant\n%s", out.String(), want)
	}
}

// A total that turns out late, and a change of phase, are shown.
func TestUnknownTotal(t *testing.T) {
	var out bytes.Buffer
	p := New(&out)
	p.every = 0
	b := p.Start("open", 0, Rows)
	b.Set(0, 0)
	b.Describe("copy")
	b.Set(5, 10)
	if s := out.String(); !strings.HasPrefix(s, "open: 0 rows") || !strings.Contains(s, "copy: 5 rows of 10 rows (50 %)") {
		t.Errorf("got %q", s)
	}
}

// What takes seconds a piece is not shown as none a second.
func TestSlow(t *testing.T) {
	var out bytes.Buffer
	p := New(&out)
	now := time.Unix(0, 0)
	p.now = func() time.Time { return now }
	b := p.Start("pets, embed", 8, Media)
	now = now.Add(10 * time.Second)
	b.Set(4, 8)
	if want := "pets, embed: 4 media of 8 media (50 %), 0.4 media/s, 10s left\n"; out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
}

// A bar on a terminal draws itself over and ends in a line.
func TestBar(t *testing.T) {
	var out bytes.Buffer
	p := New(&out)
	p.terminal = true
	b := p.Start("vision", 2_000_000, Bytes)
	b.Add(1_000_000)
	b.Set(2_000_000, 2_000_000)
	b.Finish()
	s := out.String()
	if !strings.Contains(s, "\r") || !strings.Contains(s, "vision: 2.0 MB in ") || !strings.HasSuffix(s, "\n") {
		t.Errorf("got %q", s)
	}
}
