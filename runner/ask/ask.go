// Package ask is `runner ask`: a question put together from flags, sent to a
// runner, and its answer written as it comes.
package ask

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/pflag"

	imagebind "imagebind-llm"
	"imagebind-llm/runner/modality"
	"imagebind-llm/runner/prompt"
	"imagebind-llm/runner/runnerapi"
)

// A Question is what the flags and the prompt say.
type Question struct {
	inputs  []input // in the order of the flags
	weights []string
	params  []string
	request runnerapi.ChatRequest

	flags             *pflag.FlagSet
	temperature, topP float64
	topK              int
	minP, repetition  float64
	frequency         float64
	presence          float64
	maxTokens, n, k   int
	seed              int64
	cacheTemperature  float32
	cacheWeight       float32
	collection        string
	stop, choices     []string
	object            bool
	schema            string // a file
	system            string
	noCache           bool
	neighbours, json  bool
}

// An input is a file, or the text of a condition.
type input struct {
	spec  modality.Spec
	value string
}

// Read makes the request of the flags, the files they name, and the prompt:
// args, or in where they are "-". Its errors are of usage.
func (q *Question) Read(args []string, in io.Reader) error {
	text := strings.Join(args, " ")
	if text == "-" {
		b, err := io.ReadAll(in)
		if err != nil {
			return fmt.Errorf("the prompt: %w", err)
		}
		text = strings.TrimSpace(string(b))
	}
	if text == "" {
		return fmt.Errorf("the prompt is empty")
	}
	parts, err := q.parts()
	if err != nil {
		return err
	}
	content := runnerapi.Content{Text: text}
	if len(parts) > 0 {
		content = runnerapi.Content{Parts: append(parts, runnerapi.Text(text))}
	}
	r := &q.request
	if q.system != "" {
		r.Messages = append(r.Messages, runnerapi.Message{Role: prompt.System, Content: runnerapi.Content{Text: q.system}})
	}
	r.Messages = append(r.Messages, runnerapi.Message{Role: prompt.User, Content: content})
	r.Stop = q.stop
	if err := q.format(); err != nil {
		return err
	}
	given := q.flags.Changed
	r.Temperature = when(given("temperature"), &q.temperature)
	r.TopP = when(given("top-p"), &q.topP)
	r.TopK = when(given("top-k"), &q.topK)
	r.MinP = when(given("min-p"), &q.minP)
	r.RepetitionPenalty = when(given("repetition-penalty"), &q.repetition)
	r.FrequencyPenalty = when(given("frequency-penalty"), &q.frequency)
	r.PresencePenalty = when(given("presence-penalty"), &q.presence)
	r.MaxTokens = when(given("max-tokens"), &q.maxTokens)
	r.Seed = when(given("seed"), &q.seed)
	r.N = when(given("n"), &q.n)
	cache := runnerapi.Cache{Collection: q.collection, K: when(given("k"), &q.k),
		Temperature: when(given("cache-temperature"), &q.cacheTemperature), Weight: when(given("cache-weight"), &q.cacheWeight)}
	if off := false; q.noCache {
		cache.Enabled = &off
	}
	r.Cache = when(q.noCache || q.collection != "" || given("k") || given("cache-temperature") || given("cache-weight"), &cache)
	if q.neighbours || q.json {
		r.Include = append(r.Include, runnerapi.IncludeNeighbours)
	}
	if q.json {
		r.Include = append(r.Include, runnerapi.IncludeTimings)
	}
	return nil
}

// format makes the request's of --choice, --json-object and --json-schema.
func (q *Question) format() error {
	r, n := &q.request, 0
	if len(q.choices) > 0 {
		r.Choices = q.choices
		n++
	}
	if q.object {
		r.ResponseFormat = &runnerapi.Format{Type: runnerapi.FormatObject}
		n++
	}
	if q.schema != "" {
		b, err := os.ReadFile(q.schema)
		if err != nil {
			return fmt.Errorf("--json-schema: %w", err)
		}
		if !json.Valid(b) {
			return fmt.Errorf("--json-schema %s: it is no JSON", q.schema)
		}
		r.ResponseFormat = &runnerapi.Format{Type: runnerapi.FormatSchema, JSONSchema: &runnerapi.JSONSchema{Name: "answer", Schema: b}}
		n++
	}
	if n > 1 {
		return fmt.Errorf("--choice, --json-object and --json-schema are three formats; give one")
	}
	return nil
}

func when[T any](given bool, v *T) *T {
	if given {
		return v
	}
	return nil
}

// parts reads the files and gives out the weights.
func (q *Question) parts() ([]runnerapi.Part, error) {
	weights := map[string][]float64{}
	for _, s := range q.weights {
		name, value, _ := strings.Cut(s, "=")
		w, err := strconv.ParseFloat(value, 64)
		if err != nil || !(w > 0) {
			return nil, fmt.Errorf("--weight %s: it looks like image=0.7, a positive number", s)
		}
		name = strings.ReplaceAll(name, "_", "-")
		weights[name] = append(weights[name], w)
	}
	said, err := q.said()
	if err != nil {
		return nil, err
	}
	var parts []runnerapi.Part
	for _, in := range q.inputs {
		p, err := in.part()
		if err != nil {
			return nil, err
		}
		p.Params = said[flagOf(in.spec)]
		if flag := flagOf(in.spec); len(weights[flag]) > 0 {
			p = p.Weighted(weights[flag][0])
			weights[flag] = weights[flag][1:]
		}
		parts = append(parts, p)
	}
	for name, rest := range weights {
		if len(rest) > 0 {
			return nil, fmt.Errorf("--weight %s=%v: there is no --%s for it", name, rest[0], name)
		}
	}
	return parts, nil
}

// said reads --param: by flag, then by name.
func (q *Question) said() (map[string]runnerapi.Params, error) {
	out := map[string]runnerapi.Params{}
	for _, s := range q.params {
		name, value, _ := strings.Cut(s, "=")
		flag, name, ok := strings.Cut(name, ".")
		flag = strings.ReplaceAll(flag, "_", "-")
		var v any
		if err := json.Unmarshal([]byte(value), &v); err != nil || !ok {
			return nil, fmt.Errorf("--param %s: it looks like imu.rate=200, a number, true or false", s)
		}
		i := slices.IndexFunc(q.inputs, func(in input) bool { return flagOf(in.spec) == flag })
		if i < 0 {
			return nil, fmt.Errorf("--param %s: there is no --%s for it", s, flag)
		}
		if spec := q.inputs[i].spec; !spec.Has(name) {
			return nil, fmt.Errorf("--param %s: of --%s nothing of that name can be said; there are\n%s", s, flag, params())
		}
		if out[flag] == nil {
			out[flag] = runnerapi.Params{}
		}
		out[flag][name] = v
	}
	return out, nil
}

// part is the content part: a text, a URL as it is, or a file's content.
func (in input) part() (runnerapi.Part, error) {
	if isText(in.spec) {
		return runnerapi.BindText(in.value), nil
	}
	for _, scheme := range []string{"http://", "https://", "file:", "data:"} {
		if strings.HasPrefix(in.value, scheme) {
			return runnerapi.Media(in.spec.Part, in.value), nil
		}
	}
	data, err := os.ReadFile(in.value)
	if err != nil {
		return runnerapi.Part{}, fmt.Errorf("--%s: %w", flagOf(in.spec), err)
	}
	return runnerapi.Media(in.spec.Part, "data:"+modality.Sniff(data)+";base64,"+base64.StdEncoding.EncodeToString(data)), nil
}

// Ask sends the question and writes the answer to out as it comes, several
// one after another; what else there is to say goes to warn.
func (q *Question) Ask(ctx context.Context, c *runnerapi.Client, out, warn io.Writer) error {
	if q.json {
		a, err := c.Chat(ctx, q.request)
		if err != nil {
			return said(err)
		}
		e := json.NewEncoder(out)
		e.SetIndent("", "  ")
		e.SetEscapeHTML(false)
		return e.Encode(a)
	}
	var bind *runnerapi.Bind
	if q.n > 1 {
		a, err := c.Chat(ctx, q.request)
		if err != nil {
			return said(err)
		}
		for i, choice := range a.Choices {
			fmt.Fprintf(out, "%d. %s\n", i+1, choice.Message.Content)
		}
		bind = a.Bind
	} else {
		wrote := false
		err := c.Stream(ctx, q.request, func(e runnerapi.ChatChunk) error {
			if e.Bind != nil {
				bind = e.Bind
			}
			for _, choice := range e.Choices {
				if choice.Delta.Content == nil {
					continue
				}
				wrote = true
				if _, err := io.WriteString(out, *choice.Delta.Content); err != nil {
					return err
				}
			}
			return nil
		})
		if wrote || err == nil {
			fmt.Fprintln(out)
		}
		if err != nil {
			return said(err)
		}
	}
	if bind == nil {
		return nil
	}
	if bind.Cache.Degraded {
		fmt.Fprintln(warn, "note: answered without the feature cache:", bind.Cache.Reason)
	}
	if q.neighbours {
		return table(out, bind.Neighbours)
	}
	return nil
}

// said adds the field at fault, which the flags have other names for.
func said(err error) error {
	if p := imagebind.ParamOf(err); p != "" {
		return fmt.Errorf("%w (%s)", err, p)
	}
	return err
}

func table(out io.Writer, neighbours []runnerapi.Neighbour) error {
	if len(neighbours) == 0 {
		_, err := fmt.Fprintln(out, "no neighbours were used")
		return err
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "neighbour\tscore\tweight\tcaption")
	for _, n := range neighbours {
		fmt.Fprintf(w, "%s\t%.4f\t%.4f\t%s\n", line(n.ID), n.Score, n.Weight, line(n.Caption))
	}
	return w.Flush()
}

// line keeps a stored text on its line, and control characters out of the terminal.
func line(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return ' '
		}
		return r
	}, s)
}
