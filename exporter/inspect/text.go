package inspect

import (
	"fmt"
	"io"
	"maps"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"unicode"

	"imagebind-llm/exporter/progress"
	"imagebind-llm/runner/bundle"
)

// Text writes the report for people.
func (r *Report) Text(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "%s: %s\n", plain(r.Path), r.Kind)
	if r.Bundle != nil {
		manifest(w, r.Bundle)
	}
	var all counts
	for _, f := range r.Files {
		fmt.Fprintf(w, "\n%s: %s, %s\n", plain(f.Name), f.Kind, progress.Size(f.Bytes))
		if f.SHA256 != "" {
			fmt.Fprintf(w, "  sha256 %s\n", f.SHA256)
		}
		for _, k := range slices.Sorted(maps.Keys(f.Metadata)) {
			fmt.Fprintf(w, "  %s = %s\n", plain(k), plain(inWords(f.Metadata[k])))
		}
		if len(f.Tensors) == 0 {
			continue
		}
		fmt.Fprint(w, "  name\tdtype\tshape\t")
		if r.Hashed {
			fmt.Fprint(w, "sha256\t")
		}
		fmt.Fprintln(w)
		var c counts
		for _, t := range f.Tensors {
			c.add(t)
			name := t.Name
			if name == "" {
				name = "(no name)"
			}
			fmt.Fprintf(w, "  %s\t%s\t%s\t%s\n", plain(name), t.DType, shape(t.Shape), t.SHA256)
		}
		fmt.Fprintf(w, "  %s\n", c)
		all.tensors, all.values = all.tensors+c.tensors, all.values+c.values
	}
	if len(r.Files) > 1 {
		fmt.Fprintf(w, "\n%d files, %s\n", len(r.Files), all)
	}
	return w.Flush()
}

// inWords writes a value of metadata: lists and maps with commas.
func inWords(v any) string {
	r := reflect.ValueOf(v)
	var parts []string
	switch r.Kind() {
	case reflect.Slice:
		for i := range r.Len() {
			parts = append(parts, inWords(r.Index(i).Interface()))
		}
	case reflect.Map:
		for _, k := range r.MapKeys() {
			parts = append(parts, fmt.Sprintf("%v: %s", k, inWords(r.MapIndex(k).Interface())))
		}
		slices.Sort(parts)
	default:
		return fmt.Sprint(v)
	}
	return strings.Join(parts, ", ")
}

// counts are totals.
type counts struct{ tensors, values int }

func (c *counts) add(t Tensor) {
	n := 1
	for _, d := range t.Shape {
		n *= d
	}
	c.tensors++
	c.values += n
}

// String returns the totals in words.
func (c counts) String() string { return fmt.Sprintf("%d tensors, %d values", c.tensors, c.values) }

func manifest(w io.Writer, m *bundle.Manifest) {
	fmt.Fprintf(w, "name %s, format version %d, made by exporter %s\n", plain(m.Name), m.Version, plain(m.Exporter))
	for _, e := range m.Encoders {
		fmt.Fprintf(w, "encoder %s (%s): input %s, %d wide, %d layers, %d heads, embedding %d, %s\n", plain(e.Name),
			plain(strings.Join(e.Modalities, ", ")), shape(e.Input), e.Width, e.Layers, e.Heads, e.Embed, plain(e.Precision))
	}
	if b := m.Bridge; b != nil {
		fmt.Fprintf(w, "bridge (%s): embedding %d to %d, for %d layers\n", plain(b.Variant), b.Embed, b.Width, b.Layers)
	}
	if d := m.Decoder; d != nil {
		fmt.Fprintf(w, "decoder: %d wide, %d layers (%d adapted), %d heads, %d of keys, hidden %d, vocabulary %d, context %d, %s, KV cache %s\n",
			d.Width, d.Layers, d.AdaptedLayers, d.Heads, d.KVHeads, d.Hidden, d.Vocab, d.Context, plain(d.Precision), plain(d.KVType))
		template := d.Template
		if strings.Contains(template, "{{") {
			template = "its own"
		}
		fmt.Fprintf(w, "prompt: %s, template %s, begins with %d, ends at %v\n", plain(d.Tokenizer), plain(template), d.BOS, d.Stop)
	}
	for _, l := range m.Licences {
		fmt.Fprintf(w, "licence of %s: %s\n", plain(l.Part), plain(l.Name))
	}
}

func shape(dims []int) string {
	s := make([]string, len(dims))
	for i, d := range dims {
		s[i] = strconv.Itoa(d)
	}
	return "[" + strings.Join(s, ", ") + "]"
}

// plain quotes what a terminal would act upon, and tabs, which end a column.
func plain(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return strconv.Quote(s)
	}
	return s
}

const (
	maxItems = 8   // of a list in metadata
	maxText  = 400 // bytes of a text there
)

// short returns metadata with long lists and texts cut: a vocabulary is no
// reading matter.
func short(meta map[string]any) map[string]any {
	if len(meta) == 0 {
		return nil
	}
	out := make(map[string]any, len(meta))
	for k, v := range meta {
		out[k] = shorten(v)
	}
	return out
}

func shorten(v any) any {
	if s, ok := v.(string); ok && len(s) > maxText {
		return strings.ToValidUTF8(s[:maxText], "") + fmt.Sprintf("… (%d bytes)", len(s))
	}
	r := reflect.ValueOf(v)
	if r.IsValid() && r.CanFloat() && (math.IsNaN(r.Float()) || math.IsInf(r.Float(), 0)) {
		return fmt.Sprint(v) // JSON has no such number
	}
	if r.Kind() != reflect.Slice {
		return v
	}
	list := make([]any, 0, min(r.Len(), maxItems))
	for i := range min(r.Len(), maxItems) {
		list = append(list, shorten(r.Index(i).Interface()))
	}
	if r.Len() > maxItems {
		list = append(list, fmt.Sprintf("… %d in all", r.Len()))
	}
	return list
}
