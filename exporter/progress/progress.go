// Package progress shows how far a long piece of work is: a bar with rate and
// time left on a terminal, and plain lines elsewhere, for logs.
package progress

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// A Unit is what is counted.
type Unit int

// Bytes are shown as kB to GB, rows and media as they are.
const (
	Bytes Unit = iota
	Rows
	Media
)

// words are the units that are counted one by one.
var words = map[Unit]string{Rows: "rows", Media: "media"}

// A Printer makes bars on one output.
type Printer struct {
	out      io.Writer
	terminal bool
	every    time.Duration // between two lines, where there is no terminal
	now      func() time.Time
}

// New returns a printer on out; only a terminal is shown a moving bar.
func New(out io.Writer) *Printer {
	f, ok := out.(*os.File)
	return &Printer{out: out, terminal: ok && term.IsTerminal(int(f.Fd())), every: 5 * time.Second, now: time.Now}
}

// A Bar is one piece of work. It is for one goroutine.
type Bar struct {
	p           *Printer
	title       string
	unit        Unit
	done, total int64
	start, last time.Time
	bar         *progressbar.ProgressBar
}

// Start begins a piece of work of total units; 0 is an unknown number.
func (p *Printer) Start(title string, total int64, unit Unit) *Bar {
	b := &Bar{p: p, title: title, unit: unit, total: total, start: p.now(), last: p.now()}
	if p.terminal {
		b.bar = progressbar.NewOptions64(max(total, 1), progressbar.OptionSetWriter(p.out), progressbar.OptionSetDescription(title),
			progressbar.OptionShowBytes(unit == Bytes), progressbar.OptionShowCount(), progressbar.OptionShowIts(), progressbar.OptionSetItsString(words[unit]),
			progressbar.OptionSetPredictTime(true), progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionSetWidth(24),
			progressbar.OptionClearOnFinish())
	}
	return b
}

// Add counts n more units.
func (b *Bar) Add(n int64) { b.Set(b.done+n, b.total) }

// Set says that done of total units are done; the total may turn out along the way.
func (b *Bar) Set(done, total int64) {
	if b.bar != nil {
		if total != b.total && total > 0 {
			b.bar.ChangeMax64(total)
		}
		if total > 0 {
			_ = b.bar.Set64(min(done, total))
		}
	}
	b.done, b.total = done, total
	if b.bar == nil && b.p.now().Sub(b.last) >= b.p.every {
		b.last = b.p.now()
		fmt.Fprintln(b.p.out, b.line())
	}
}

// Describe changes the title, as a phase of the work follows another.
func (b *Bar) Describe(title string) {
	b.title = title
	if b.bar != nil {
		b.bar.Describe(title)
	}
}

// Finish ends the bar with a line that stays: what was done, and how fast.
func (b *Bar) Finish() {
	if b.bar != nil {
		_ = b.bar.Clear()
	}
	took := b.p.now().Sub(b.start)
	fmt.Fprintf(b.p.out, "%s: %s in %s%s\n", b.title, b.amount(b.done), round(took), b.rate(took))
}

// line says in words how far the work is.
func (b *Bar) line() string {
	took := b.p.now().Sub(b.start)
	s := fmt.Sprintf("%s: %s", b.title, b.amount(b.done))
	if b.total > 0 {
		s += fmt.Sprintf(" of %s (%d %%)", b.amount(b.total), 100*b.done/b.total)
	}
	s += b.rate(took)
	if b.done > 0 && b.total > b.done {
		s += fmt.Sprintf(", %s left", round(time.Duration(float64(took)*float64(b.total-b.done)/float64(b.done))))
	}
	return s
}

func (b *Bar) rate(took time.Duration) string {
	if took < time.Millisecond {
		return ""
	}
	rate := float64(b.done) / took.Seconds()
	if w, ok := words[b.unit]; ok && rate < 10 {
		return fmt.Sprintf(", %.1f %s/s", rate, w)
	}
	return fmt.Sprintf(", %s/s", b.amount(int64(rate)))
}

func (b *Bar) amount(n int64) string {
	if w, ok := words[b.unit]; ok {
		return fmt.Sprintf("%d %s", n, w)
	}
	return Size(n)
}

// Size writes a number of bytes in units of 1000, as disks are sold.
func Size(n int64) string {
	v, unit := float64(n), "B"
	for _, u := range []string{"kB", "MB", "GB", "TB"} {
		if v < 1000 {
			break
		}
		v, unit = v/1000, u
	}
	if unit == "B" {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", v, unit)
}

// round drops digits that nobody reads.
func round(d time.Duration) time.Duration {
	if d < time.Second {
		return d.Round(time.Millisecond)
	}
	return d.Round(100 * time.Millisecond)
}
