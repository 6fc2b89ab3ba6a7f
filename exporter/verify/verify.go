// Package verify holds a bundle's graphs against tensors of the reference code,
// part by part, and writes a table. It knows the layout of the goldens
// (testdata/golden, and their README there), and it runs graphs; what they
// should compute it does not know otherwise.
package verify

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	imagebind "imagebind-llm"
	"imagebind-llm/internal/format/safetensors"
	"imagebind-llm/internal/ort"
	"imagebind-llm/runner/bundle"
	"imagebind-llm/runner/modality/point"
)

// Tolerances: largest absolute differences that are allowed.
//
// fp32: prenorm is about four times the reference's own fp32 noise, and a
// quarter of what a wrong epsilon moves; an embedding's is scaled as it is
// itself. The others lose what their rounding loses; these bounds are some twice
// what the tiny models show (docs/numerics.md), and catch a wrong graph, not a
// slightly worse one.
var (
	bridgeTolerance  = map[string]float64{"": 1e-5, "fp32": 1e-5, "fp16": 2e-2, "mixed": 1.5e-1, "int8": 5e-1}
	encoderTolerance = map[string]float64{"fp32": 1e-5, "fp16": 2e-2, "int8": 2e-1}
	decoderTolerance = map[string]float64{"fp32": 1e-4, "fp16": 2e-1}
	// Random weights of a model this small bear quantising badly: single logits
	// move by more than their deviation. So quantised decoders are held to how
	// well all logits at a position correlate with the reference's. What is
	// wrong correlates by 0.1 or so.
	decoderCorrelation = map[string]float64{"int8": 0.98, "int4": 0.5, "int4a": 0.5}
)

// A row is one line of the report.
type row struct {
	part, name string
	diff, tol  float64
	exact      bool    // it is no number: diff and tol say nothing
	least      float64 // where set, what correlation must reach, instead of tol
	note       string
	ok         bool
}

// Run prints the report: the files' checksums and, where goldens names a
// folder, each part against the goldens that are of its checkpoints. The error
// names the parts that failed, or says that no golden fits the bundle.
func Run(ctx context.Context, dir, goldens string, o ort.Options, out io.Writer) error {
	b, err := bundle.Open(dir)
	if err != nil {
		return err
	}
	v := &verifier{b: b, o: o}
	if err := v.files(ctx); err != nil {
		return err
	}
	sums := len(v.rows)
	if goldens == "" {
		return v.report(out)
	}
	if _, err := os.Stat(goldens); err != nil {
		return fmt.Errorf("goldens: %w", err)
	}
	tiny := find(goldens, "imagebind-tiny", "from_files.safetensors")
	if g := find(goldens, "imagebind-tiny", "goldens.safetensors"); g != "" {
		if err := v.encoders(ctx, g); err != nil {
			return err
		}
	}
	if e, ok := b.EncoderOf(point.Spec.Name); ok {
		if g := find(goldens, "pointbind-tiny", "goldens.safetensors"); g != "" {
			if err := v.points(ctx, g, []bundle.Encoder{e}); err != nil {
				return err
			}
		}
	}
	if g := find(goldens, "clip-bpe", "clip_bpe.json"); g != "" {
		if err := v.clip(g); err != nil {
			return fmt.Errorf("text encoder's vocabulary: %w", err)
		}
	}
	if g := find(goldens, "llama-adapter-tiny", "bind_network.safetensors"); g != "" {
		if err := v.llama(ctx, g, tiny); err != nil {
			return err
		}
	}
	if len(v.rows) == sums {
		return errors.Join(v.report(out), fmt.Errorf("no golden in %s fits the bundle %s: they are of the tiny checkpoints beside them; export those first", goldens, b.Name))
	}
	return v.report(out)
}

// find returns the folder of a layout: dir/name, or dir itself.
func find(dir, name, mark string) string {
	for _, d := range []string{filepath.Join(dir, name), dir} {
		if _, err := os.Stat(filepath.Join(d, mark)); err == nil {
			return d
		}
	}
	return ""
}

type verifier struct {
	b     *bundle.Bundle
	o     ort.Options
	rows  []row
	notes []string // what was not checked, and why
}

func (v *verifier) add(part, name string, diff, tol float64, note string) {
	v.rows = append(v.rows, row{part: part, name: name, diff: diff, tol: tol, note: note, ok: diff <= tol})
}

// same adds a line about something that is right or wrong; note says what is wrong.
func (v *verifier) same(part, name, note string) {
	v.rows = append(v.rows, row{part: part, name: name, exact: true, note: note, ok: note == ""})
}

func (v *verifier) skip(format string, args ...any) {
	v.notes = append(v.notes, fmt.Sprintf(format, args...))
}

func (v *verifier) report(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	failed, parts := 0, []string(nil)
	fmt.Fprintln(w, "part\tcase\tmax abs diff\ttolerance\tok\t")
	for _, r := range v.rows {
		ok, diff, tol := "yes", fmt.Sprintf("%.2g", r.diff), fmt.Sprintf("%.2g", r.tol)
		switch {
		case r.exact:
			diff, tol = "-", "exact"
		case r.least > 0:
			tol = fmt.Sprintf("corr. %.2g", r.least)
		}
		if !r.ok {
			ok = "NO"
			if failed++; !slices.Contains(parts, r.part) {
				parts = append(parts, r.part)
			}
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", r.part, r.name, diff, tol, ok, r.note)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, n := range v.notes {
		fmt.Fprintln(out, "not checked:", n)
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d checks failed: %s", failed, len(v.rows), strings.Join(parts, ", "))
	}
	_, err := fmt.Fprintf(out, "all %d checks passed\n", len(v.rows))
	return err
}

// files holds the files against their checksums.
func (v *verifier) files(ctx context.Context) error {
	err := v.b.Verify(nil)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	note := ""
	if err != nil {
		note = strings.ReplaceAll(err.Error(), "\n", "; ")
	}
	v.same("files", fmt.Sprintf("sha256 of %d", len(v.b.Files)), note)
	return nil
}

func norm(x []float32) float64 { return imagebind.Embedding(x).Norm() }

// diff returns the largest absolute difference; infinity when lengths differ or
// a value is not a number.
func diff(got, want []float32) float64 {
	if len(got) != len(want) {
		return math.Inf(1)
	}
	worst := 0.0
	for i := range got {
		d := math.Abs(float64(got[i]) - float64(want[i]))
		if math.IsNaN(d) {
			return math.Inf(1)
		}
		worst = max(worst, d)
	}
	return worst
}

func floats(f *safetensors.File, name string) ([]float32, error) {
	t, ok := f.Tensor(name)
	if !ok {
		return nil, fmt.Errorf("golden tensor %s is missing", name)
	}
	return t.Floats()
}

func ids(f *safetensors.File, name string) ([]int, error) {
	x, err := floats(f, name)
	out := make([]int, len(x))
	for i, v := range x {
		out[i] = int(v)
	}
	return out, err
}
