package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/gin-gonic/gin"

	imagebind "imagebind-llm"
	"imagebind-llm/runner/modality"
	"imagebind-llm/runner/modality/all"
	"imagebind-llm/runner/pipeline"
	"imagebind-llm/runner/prompt"
	"imagebind-llm/runner/runnerapi"
)

// maxField bounds a form's field that is no file, bytes.
const maxField = 1 << 20

// maxFields bounds the fields of a form that are no media.
const maxFields = 256

func (s *Server) ask(c *gin.Context) {
	f := form{s: s, weights: map[string][]float32{}, params: map[string]map[string][]float64{}}
	if err := f.read(c.Request); err != nil {
		writeError(c, err)
		return
	}
	q, inc, err := s.settings(f.r)
	if err != nil {
		writeError(c, err)
		return
	}
	if q.Parts, err = f.parts(); err != nil {
		writeError(c, err)
		return
	}
	if f.system != "" {
		q.Messages = append(q.Messages, prompt.Message{Role: prompt.System, Content: f.system})
	}
	if f.prompt == "" {
		writeError(c, imagebind.WithParam(imagebind.Errorf(imagebind.Invalid, "the form has no prompt: -F prompt='What is this?'"), "prompt"))
		return
	}
	q.Messages = append(q.Messages, prompt.Message{Role: prompt.User, Content: f.prompt})
	s.respond(c, reply{r: f.r, q: q, inc: inc})
}

// A form is a multipart/form-data request, read as it comes.
type form struct {
	s              *Server
	r              runnerapi.ChatRequest // all but the messages
	prompt, system string
	files          []file
	weights        map[string][]float32            // by the name of the file field
	params         map[string]map[string][]float64 // by the name of the file field, then the parameter's
	others         int                             // fields that are no media
}

type file struct {
	field string // image, bind_text, …
	part  pipeline.Part
}

func (f *form) read(r *http.Request) error {
	reader, err := r.MultipartReader()
	if err != nil {
		return imagebind.Errorf(imagebind.Invalid, "the body is no multipart/form-data, as curl -F prompt=… -F image=@dog.jpg sends it: %w", err)
	}
	for {
		p, err := reader.NextPart()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return bodyError(err)
		}
		name := p.FormName()
		if err := f.field(name, p); err != nil {
			return imagebind.WithParam(err, short(name))
		}
	}
	if _, err := io.Copy(io.Discard, r.Body); err != nil { // to its end, after which a client that leaves is noticed
		return bodyError(err)
	}
	return nil
}

// fieldOf returns the form's field of a part type: image for image_url.
func fieldOf(part string) string { return strings.TrimSuffix(part, "_url") }

// mediaPart returns the part type that a form's field stands for.
func mediaPart(field string) (string, bool) {
	if field == fieldOf(runnerapi.PartMedia) {
		return runnerapi.PartMedia, true
	}
	for _, s := range all.Specs {
		if fieldOf(s.Part) == field {
			return s.Part, true
		}
	}
	return "", false
}

func (f *form) field(name string, p *multipart.Part) error {
	if part, ok := mediaPart(name); ok || p.FileName() != "" {
		if !ok {
			part = name + "_url" // no such modality yet, which spec says
		}
		return f.file(name, part, p)
	}
	if f.others++; f.others > maxFields {
		return imagebind.Errorf(imagebind.TooLarge, "the form has more than %d fields", maxFields)
	}
	raw, err := limited(p, maxField)
	if err != nil {
		return err
	}
	return f.value(name, strings.TrimSpace(string(raw)), string(raw))
}

// limited reads a field of at most n bytes.
func limited(p *multipart.Part, n int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(p, n+1))
	switch {
	case err != nil:
		return nil, bodyError(err)
	case int64(len(b)) > n:
		return nil, imagebind.Errorf(imagebind.TooLarge, "it has more than %d bytes, which is the limit", n)
	}
	return b, nil
}

// file takes a media field.
func (f *form) file(name, part string, p *multipart.Part) error {
	spec, err := f.s.spec(part)
	if err != nil {
		return err
	}
	data, err := limited(p, f.s.o.MaxFile)
	if err != nil {
		return err
	}
	if p.FileName() == "" && part != runnerapi.PartBindText {
		switch {
		case len(data) == 0: // a browser's input without a file
			return nil
		case p.Header.Get("Content-Type") == "":
			return imagebind.Errorf(imagebind.Invalid, "%s is no file but a text; with curl: -F %s=@FILE", name, name)
		}
	}
	if len(f.files) == f.s.o.MaxParts {
		return imagebind.Errorf(imagebind.TooLarge, "the form has more than %d media, which is the limit", f.s.o.MaxParts)
	}
	f.files = append(f.files, file{name, pipeline.Part{Modality: spec.Name, Data: data, Weight: 1, Param: name}})
	return nil
}

// value takes any other field; raw is with the spaces around it.
func (f *form) value(name, v, raw string) (err error) {
	r := &f.r
	switch name {
	case "prompt":
		f.prompt = raw
	case "system":
		f.system = raw
	case "model":
		r.Model = v
	case "user":
		r.User = v
	case "temperature":
		r.Temperature, err = number(v)
	case "top_p":
		r.TopP, err = number(v)
	case "top_k":
		r.TopK, err = integer(v)
	case "min_p":
		r.MinP, err = number(v)
	case "repetition_penalty":
		r.RepetitionPenalty, err = number(v)
	case "frequency_penalty":
		r.FrequencyPenalty, err = number(v)
	case "presence_penalty":
		r.PresencePenalty, err = number(v)
	case "max_tokens":
		r.MaxTokens, err = integer(v)
	case "max_completion_tokens":
		r.MaxCompletionTokens, err = integer(v)
	case "n":
		r.N, err = integer(v)
	case "top_logprobs":
		r.TopLogprobs, err = integer(v)
	case "seed":
		var seed int64
		if seed, err = strconv.ParseInt(v, 10, 64); err != nil {
			err = imagebind.Errorf(imagebind.Invalid, "%q is no integer", short(v))
		}
		r.Seed = &seed
	case "stop":
		r.Stop = append(r.Stop, raw)
	case "choices":
		r.Choices = append(r.Choices, v)
	case "response_format":
		r.ResponseFormat = &runnerapi.Format{}
		err = object(v, r.ResponseFormat)
	case "stream":
		r.Stream, err = boolean(v)
	case "logprobs":
		r.Logprobs, err = boolean(v)
	case "include":
		for n := range strings.SplitSeq(v, ",") {
			if n = strings.TrimSpace(n); n != "" {
				r.Include = append(r.Include, n)
			}
		}
	case "cache":
		r.Cache = &runnerapi.Cache{}
		err = object(v, r.Cache)
	case "stream_options":
		r.StreamOptions = &runnerapi.StreamOptions{}
		err = object(v, r.StreamOptions)
	default:
		if media, ok := strings.CutSuffix(name, "_weight"); ok {
			if _, ok := mediaPart(media); ok {
				return f.weight(media, v)
			}
		}
		for _, s := range all.Specs {
			field := fieldOf(s.Part)
			if param, ok := strings.CutPrefix(name, field+"_"); ok && s.Has(param) {
				return f.param(field, param, v)
			}
		}
		return imagebind.Errorf(imagebind.Invalid, "unknown field %q; a form has %s", short(name), strings.Join(formFields(), ", "))
	}
	return err
}

// formFields lists what a form may have, for people.
func formFields() []string {
	fields := []string{"prompt", "system"}
	for _, s := range all.Specs {
		name := fieldOf(s.Part)
		fields = append(fields, name, name+"_weight")
		for _, p := range s.Params {
			fields = append(fields, name+"_"+p.Name)
		}
	}
	return append(fields, "cache", "include", "stream", "stream_options", "temperature", "top_p", "top_k", "min_p",
		"repetition_penalty", "frequency_penalty", "presence_penalty", "max_tokens", "seed", "stop", "choices", "response_format", "n", "logprobs", "top_logprobs", "model", "user")
}

func number(v string) (*float64, error) {
	x, err := strconv.ParseFloat(v, 64)
	if err != nil {
		return nil, imagebind.Errorf(imagebind.Invalid, "%q is no number", short(v))
	}
	return &x, nil
}

func integer(v string) (*int, error) {
	x, err := strconv.Atoi(v)
	if err != nil {
		return nil, imagebind.Errorf(imagebind.Invalid, "%q is no integer", short(v))
	}
	return &x, nil
}

func boolean(v string) (bool, error) {
	if slices.Contains([]string{"on", "yes"}, v) { // a browser's checkbox
		return true, nil
	}
	x, err := strconv.ParseBool(v)
	if err != nil {
		return false, imagebind.Errorf(imagebind.Invalid, "%q is neither true nor false", short(v))
	}
	return x, nil
}

func object(v string, out any) error {
	if !json.Valid([]byte(v)) {
		return imagebind.Errorf(imagebind.Invalid, "%q is no JSON object", short(v))
	}
	return runnerapi.Decode([]byte(v), out)
}

func (f *form) weight(media, v string) error {
	x, err := number(v)
	if err != nil {
		return err
	}
	w, err := weight(*x)
	f.weights[media] = append(f.weights[media], w)
	return err
}

func (f *form) param(field, name, v string) error {
	x, err := strconv.ParseFloat(v, 64)
	if err != nil {
		on, err := boolean(v)
		if err != nil {
			return imagebind.Errorf(imagebind.Invalid, "%q is neither a number nor true or false", short(v))
		}
		if x = 0; on {
			x = 1
		}
	}
	if f.params[field] == nil {
		f.params[field] = map[string][]float64{}
	}
	f.params[field][name] = append(f.params[field][name], x)
	return nil
}

// paramsOf returns those of the n-th file of a field: there is one value for
// all of them, or one for each, in order.
func (f *form) paramsOf(field string, n, files int) (modality.Params, error) {
	if f.params[field] == nil {
		return nil, nil
	}
	params := modality.Params{}
	for name, values := range f.params[field] {
		if len(values) > 1 && len(values) != files {
			return nil, imagebind.WithParam(imagebind.Errorf(imagebind.Invalid, "%d of %s, but %d of %s: send one for all, or one for each, in order", files, field, len(values), field+"_"+name), field+"_"+name)
		}
		params[name] = values[min(n, len(values)-1)]
	}
	return params, nil
}

// parts returns the media with their weights and parameters: no weights are 1,
// else there is one for each file of that field, in order.
func (f *form) parts() ([]pipeline.Part, error) {
	seen, files := map[string]int{}, map[string]int{}
	for _, file := range f.files {
		files[file.field]++
	}
	parts := make([]pipeline.Part, len(f.files))
	for i, file := range f.files {
		parts[i] = file.part
		if w := f.weights[file.field]; seen[file.field] < len(w) {
			parts[i].Weight = w[seen[file.field]]
		}
		p, err := f.paramsOf(file.field, seen[file.field], files[file.field])
		if err == nil {
			spec, _ := all.ByName(file.part.Modality)
			err = imagebind.WithParam(spec.Check(p), file.field)
		}
		if err != nil {
			return nil, err
		}
		parts[i].Params = p
		seen[file.field]++
	}
	for field := range f.params {
		if files[field] == 0 {
			return nil, imagebind.WithParam(imagebind.Errorf(imagebind.Invalid, "the form says more of %s, and has none", field), field)
		}
	}
	for field, w := range f.weights {
		if n := seen[field]; n != len(w) {
			return nil, imagebind.WithParam(imagebind.Errorf(imagebind.Invalid, "%d of %s, but %d of %s: send one for each, in order, or none", n, field, len(w), field+"_weight"), fmt.Sprint(field, "_weight"))
		}
	}
	return parts, nil
}
