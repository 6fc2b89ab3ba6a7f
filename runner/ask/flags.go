package ask

import (
	"fmt"
	"strings"

	"github.com/spf13/pflag"

	"imagebind-llm/runner/modality"
	"imagebind-llm/runner/modality/all"
	"imagebind-llm/runner/runnerapi"
)

// flagOf is a modality's flag: image, audio, bind-text.
func flagOf(s modality.Spec) string {
	return strings.ReplaceAll(strings.TrimSuffix(s.Part, "_url"), "_", "-")
}

// anything is a file of any kind.
var anything = modality.Spec{Name: "media", Part: runnerapi.PartMedia}

// params lists what --param may name, a line each.
func params() string {
	var lines []string
	for _, s := range all.Specs {
		for _, p := range s.Params {
			lines = append(lines, flagOf(s)+"."+p.String())
		}
	}
	return strings.Join(lines, "\n")
}

// isText says that a modality's flag holds a text and not a file's name.
func isText(s modality.Spec) bool { return s.Part == runnerapi.PartBindText }

// An inputFlag appends to the inputs, so that their order is the command line's.
type inputFlag struct {
	q    *Question
	spec modality.Spec
}

// String is the default: none.
func (f inputFlag) String() string { return "" }

// Type is shown in the help.
func (f inputFlag) Type() string {
	if isText(f.spec) {
		return "text"
	}
	return "file"
}

// Set adds an input.
func (f inputFlag) Set(s string) error {
	if s == "" {
		return fmt.Errorf("a %s is wanted", f.Type())
	}
	f.q.inputs = append(f.q.inputs, input{f.spec, s})
	return nil
}

// Flags adds the question's flags.
func (q *Question) Flags(fs *pflag.FlagSet) {
	q.flags = fs
	for _, s := range all.Specs {
		what := "a file to ask about (" + strings.Join(s.Media, ", ") + ")"
		if isText(s) {
			what = "a text to ask about, through ImageBind's text encoder"
		}
		fs.Var(inputFlag{q, s}, flagOf(s), what+"; repeatable")
	}
	fs.Var(inputFlag{q, anything}, flagOf(anything), "a file to ask about, whose content says what it is; repeatable")
	fs.StringArrayVar(&q.params, "param", nil, "as in imu.rate=200: what the --imu files do not say; repeatable. There are\n"+params())
	fs.StringArrayVar(&q.weights, "weight", nil, "as in image=0.7: the share of the first --image that has none yet; default 1; repeatable")
	fs.Float64Var(&q.temperature, "temperature", 0, "0 takes the likeliest token, up to 2; default the bundle's")
	fs.Float64Var(&q.topP, "top-p", 0, "share of the likeliest tokens, 0 to 1; default the bundle's")
	fs.IntVar(&q.topK, "top-k", 0, "draw from that many of the likeliest tokens; 0: from all")
	fs.Float64Var(&q.minP, "min-p", 0, "drop tokens less likely than this share of the likeliest, 0 to 1")
	fs.Float64Var(&q.repetition, "repetition-penalty", 1, "above 1 makes tokens of prompt and answer less likely")
	fs.Float64Var(&q.frequency, "frequency-penalty", 0, "taken off for each time a token is in the answer, -2 to 2")
	fs.Float64Var(&q.presence, "presence-penalty", 0, "taken off once if a token is in the answer, -2 to 2")
	fs.IntVar(&q.maxTokens, "max-tokens", 0, "of the answer; default the bundle's")
	fs.Int64Var(&q.seed, "seed", 0, "the same seed draws the same answer; default another each time")
	fs.IntVar(&q.n, "n", 1, "answers")
	fs.StringArrayVar(&q.stop, "stop", nil, "a text that ends the answer; repeatable")
	fs.StringArrayVar(&q.choices, "choice", nil, "the answer is exactly one of these; repeatable")
	fs.BoolVar(&q.object, "json-object", false, "the answer is a JSON object")
	fs.StringVar(&q.schema, "json-schema", "", "a file with a JSON schema that the answer keeps to")
	fs.StringVar(&q.system, "system", "", "a system message")
	fs.BoolVar(&q.noCache, "no-cache", false, "ask without the feature cache")
	fs.StringVar(&q.collection, "collection", "", "which feature cache; default the server's")
	fs.IntVar(&q.k, "k", 0, "neighbours; default the server's")
	fs.Float32Var(&q.cacheTemperature, "cache-temperature", 0, "of the softmax over similarities; default the server's")
	fs.Float32Var(&q.cacheWeight, "cache-weight", 0, "share of the neighbours, 0 to 1; default the server's")
	fs.BoolVar(&q.neighbours, "neighbours", false, "print the neighbours that the cache used")
	fs.BoolVar(&q.json, "json", false, "print the whole answer as JSON, with neighbours and timings")
}
