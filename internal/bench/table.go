package main

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
)

// A Result is a line of the table: the same work, done by us and by a peer in
// turns.
type Result struct {
	Work    string
	Threads int    // of either side; 0 where that is no part of it
	Unit    string // of the values, as in tokens/s
	Lower   bool   // less is better: ratios are theirs over ours
	// Ours and Theirs hold a value a round. Value i of both was taken one after
	// the other, so that the machine's other load meets them alike.
	Ours, Theirs []float64
	Peer         string // whom Theirs is of
	Want         string // as in "≥ 1.0"
	Note         string // what to know of it, or why there is no peer and how to get one
}

// Ratios are better than 1 where we are better, a value a round.
func (r Result) Ratios() []float64 {
	var out []float64
	for i := range min(len(r.Ours), len(r.Theirs)) {
		if r.Lower {
			out = append(out, r.Theirs[i]/r.Ours[i])
		} else {
			out = append(out, r.Ours[i]/r.Theirs[i])
		}
	}
	return out
}

// Quantile returns the value below which the share q of v lies, between two by
// interpolation; NaN for none.
func Quantile(v []float64, q float64) float64 {
	if len(v) == 0 {
		return math.NaN()
	}
	s := slices.Sorted(slices.Values(v))
	at := q * float64(len(s)-1)
	i := int(at)
	if i+1 >= len(s) {
		return s[len(s)-1]
	}
	return s[i] + (at-float64(i))*(s[i+1]-s[i])
}

// Median of v; NaN for none.
func Median(v []float64) float64 { return Quantile(v, 0.5) }

// number writes x with three digits that count.
func number(x float64) string {
	switch a := math.Abs(x); {
	case math.IsNaN(x):
		return "–"
	case a >= 99.95:
		return fmt.Sprintf("%.0f", x)
	case a >= 9.995:
		return fmt.Sprintf("%.1f", x)
	case a >= 0.9995:
		return fmt.Sprintf("%.2f", x)
	}
	return fmt.Sprintf("%.3f", x)
}

// writeTable writes the results as a markdown table: medians of the rounds, and
// the median of the rounds' ratios with their spread.
func writeTable(w io.Writer, results []Result) {
	fmt.Fprintln(w, "| work | threads | ours | peer | ratio | wanted | |")
	fmt.Fprintln(w, "|---|---|---|---|---|---|---|")
	for _, r := range results {
		threads, ours, theirs, ratio := "", "–", "–", "–"
		if r.Threads > 0 {
			threads = fmt.Sprint(r.Threads)
		}
		if len(r.Ours) > 0 {
			ours = number(Median(r.Ours)) + " " + r.Unit
		}
		if len(r.Theirs) > 0 {
			theirs = strings.TrimSpace(number(Median(r.Theirs)) + " " + r.Unit + " " + r.Peer)
		}
		if v := r.Ratios(); len(v) > 0 {
			ratio = "**" + number(Median(v)) + "**"
			if len(v) > 1 {
				ratio += fmt.Sprintf(" [%s–%s]", number(slices.Min(v)), number(slices.Max(v)))
			}
		}
		cells := []string{r.Work, threads, ours, theirs, ratio, r.Want, r.Note}
		for i, c := range cells {
			cells[i] = strings.ReplaceAll(c, "|", "/")
		}
		fmt.Fprintf(w, "| %s |\n", strings.Join(cells, " | "))
	}
}
