// Package runnerapi holds the requests and answers of the runner's HTTP API
// (docs/api.md, "Runner HTTP"), which are OpenAI's with our fields added, and a
// [Client] for them. It is all that the other programs see of the runner.
package runnerapi

import (
	"encoding/json"
	"strings"

	imagebind "imagebind-llm"
	"imagebind-llm/internal/httpapi"
)

// Limits of one request.
const (
	MaxStops       = 16   // stop strings; OpenAI's is 4
	MaxTopLogprobs = 20   // OpenAI's
	MaxInputs      = 2048 // items of an embeddings request; OpenAI's
)

// A ChatRequest asks POST /v1/chat/completions. Absent fields take the bundle's
// defaults. Fields that are not here are ignored, as OpenAI-compatible servers do.
type ChatRequest struct {
	Model               string         `json:"model,omitempty"` // empty: the one that is served
	Messages            Messages       `json:"messages"`
	MaxTokens           *int           `json:"max_tokens,omitempty"`
	MaxCompletionTokens *int           `json:"max_completion_tokens,omitempty"` // goes over MaxTokens
	Temperature         *float64       `json:"temperature,omitempty"`           // 0..2
	TopP                *float64       `json:"top_p,omitempty"`                 // 0..1
	TopK                *int           `json:"top_k,omitempty"`                 // the likeliest; 0 and -1 are all
	MinP                *float64       `json:"min_p,omitempty"`                 // 0..1, relative to the likeliest
	RepetitionPenalty   *float64       `json:"repetition_penalty,omitempty"`    // 0.01..100 over prompt and answer; 1 is none
	FrequencyPenalty    *float64       `json:"frequency_penalty,omitempty"`     // -2..2
	PresencePenalty     *float64       `json:"presence_penalty,omitempty"`      // -2..2
	Seed                *int64         `json:"seed,omitempty"`
	Stop                Stops          `json:"stop,omitempty"`
	Choices             []string       `json:"choices,omitempty"` // the answer is exactly one of them
	ResponseFormat      *Format        `json:"response_format,omitempty"`
	N                   *int           `json:"n,omitempty"`
	Logprobs            bool           `json:"logprobs,omitempty"`
	TopLogprobs         *int           `json:"top_logprobs,omitempty"` // 0..MaxTopLogprobs
	Stream              bool           `json:"stream,omitempty"`
	StreamOptions       *StreamOptions `json:"stream_options,omitempty"`
	User                string         `json:"user,omitempty"` // not used
	Cache               *Cache         `json:"cache,omitempty"`
	Include             []string       `json:"include,omitempty"`
}

// What Include may name.
const (
	IncludeNeighbours = "neighbours"
	IncludeTimings    = "timings"
)

// A Format is what an answer keeps to.
type Format struct {
	Type       string      `json:"type"`                  // FormatText and so on
	JSONSchema *JSONSchema `json:"json_schema,omitempty"` // of FormatSchema
}

// Types of a Format.
const (
	FormatText   = "text"        // any text, the default
	FormatObject = "json_object" // any JSON object
	FormatSchema = "json_schema" // the JSON that a schema describes
)

// A JSONSchema is a schema with its name.
type JSONSchema struct {
	Name        string          `json:"name,omitempty"`        // not used
	Description string          `json:"description,omitempty"` // not used
	Schema      json.RawMessage `json:"schema"`
	Strict      *bool           `json:"strict,omitempty"` // not used: answers always keep to the schema
}

// StreamOptions are of a streamed answer.
type StreamOptions struct {
	IncludeUsage bool `json:"include_usage,omitempty"`
}

// A Cache says whether and how the feature cache is used. Absent fields take
// the runner's defaults.
type Cache struct {
	Enabled     *bool    `json:"enabled,omitempty"`
	Collection  string   `json:"collection,omitempty"`
	K           *int     `json:"k,omitempty"`           // 1..1000
	Temperature *float32 `json:"temperature,omitempty"` // 0..1000
	Weight      *float32 `json:"weight,omitempty"`      // 0..1
	// Filter is conditions on the neighbours' metadata (docs/api.md, "Retriever HTTP").
	Filter map[string]any `json:"filter,omitempty"`
}

// Messages are a conversation, the one to answer last.
type Messages []Message

// A Message is one of a conversation.
type Message struct {
	Role    string  `json:"role"` // system, developer, user, assistant
	Content Content `json:"content"`
}

// Content is a message's text, or parts: media and texts. On the wire a text
// alone is a string.
type Content struct {
	Text  string
	Parts []Part // nil: Text is all there is
}

// A Part is one piece of a message. On the wire the payload stands under the
// type's name, as in {"type": "image_url", "image_url": {"url": "data:…"}}.
type Part struct {
	Type      string
	Text      string      // of text and bind_text
	URL       string      // of all types that end in _url
	Audio     *InputAudio // of input_audio
	Embedding *Embedding  // of embedding
	Params    Params      // of those that end in _url
	Weight    *float64    // its share in the mix, > 0; nil is 1; text has none
}

// Types of a Part that are not media: those end in _url, one a modality.
const (
	PartText       = "text"        // of the prompt
	PartBindText   = "bind_text"   // a text as a condition, through ImageBind's text encoder
	PartInputAudio = "input_audio" // OpenAI's inline sound
	PartEmbedding  = "embedding"
	PartMedia      = "media_url" // a file whose content says what it is
)

// Params are what a file does not say of itself, as the rate of an IMU trace.
// On the wire they stand beside the url: numbers, true and false. Which there
// are, GET /v1/models says; other fields there, as OpenAI's detail, are ignored.
type Params map[string]any

// Media returns the part of a type that ends in _url, as in image_url.
func Media(kind, url string) Part { return Part{Type: kind, URL: url} }

// Text returns a part of the prompt.
func Text(s string) Part { return Part{Type: PartText, Text: s} }

// BindText returns a text as a condition.
func BindText(s string) Part { return Part{Type: PartBindText, Text: s} }

// Weighted returns p with a weight.
func (p Part) Weighted(w float64) Part { p.Weight = &w; return p }

// InputAudio is a sound in the request.
type InputAudio struct {
	Data   string `json:"data"` // base64
	Format string `json:"format,omitempty"`
}

// An Embedding is a ready one of ImageBind.
type Embedding struct {
	Data     Vector `json:"data"`
	Modality string `json:"modality,omitempty"` // what it was made of, for the answer's bind
}

// Stops are texts that end an answer: one string or an array of them.
type Stops []string

// UnmarshalJSON reads a string, an array of strings, or null.
func (s *Stops) UnmarshalJSON(b []byte) error {
	*s = nil
	if kind(b) == '"' {
		*s = Stops{""}
		return decode(b, &(*s)[0], "stop")
	}
	return decode(b, (*[]string)(s), "stop")
}

// UnmarshalJSON reads an array, or null, which is none; an error names the
// message at fault.
func (m *Messages) UnmarshalJSON(b []byte) error {
	*m = nil
	if kind(b) == 'n' {
		return nil
	}
	items, err := elements(b, "an array of messages")
	if err != nil {
		return under(err, "messages")
	}
	*m = make(Messages, len(items))
	for i, item := range items {
		if err := decode(item, &(*m)[i], index("messages", i)); err != nil {
			return err
		}
	}
	return nil
}

// MarshalJSON writes a text alone as a string.
func (c Content) MarshalJSON() ([]byte, error) {
	if c.Parts == nil {
		return json.Marshal(c.Text)
	}
	return json.Marshal(c.Parts)
}

// UnmarshalJSON reads a string, an array of parts, or null, which is no text.
func (c *Content) UnmarshalJSON(b []byte) error {
	*c = Content{}
	switch kind(b) {
	case '"':
		return decode(b, &c.Text, "content")
	case 'n':
		return nil
	}
	items, err := elements(b, "a string or an array of parts")
	if err != nil {
		return under(err, "content")
	}
	c.Parts = make([]Part, len(items))
	for i, item := range items {
		if err := decode(item, &c.Parts[i], index("content", i)); err != nil {
			return err
		}
	}
	return nil
}

// MarshalJSON writes the payload under the type's name.
func (p Part) MarshalJSON() ([]byte, error) {
	m := map[string]any{"type": p.Type}
	switch p.Type {
	case PartText:
		m["text"] = p.Text
	case PartBindText:
		m[p.Type] = map[string]string{"text": p.Text}
	case PartInputAudio:
		m[p.Type] = p.Audio
	case PartEmbedding:
		m[p.Type] = p.Embedding
	default:
		payload := map[string]any{"url": p.URL}
		for name, v := range p.Params {
			payload[name] = v
		}
		m[p.Type] = payload
	}
	if p.Weight != nil {
		m["weight"] = *p.Weight
	}
	return json.Marshal(m)
}

// UnmarshalJSON reads a part and the payload of its type; other fields are
// ignored, an absent payload is an error. A URL may also stand there bare, and
// so may a bind_text's text.
func (p *Part) UnmarshalJSON(b []byte) error {
	*p = Part{}
	fields, err := members(b)
	if err != nil {
		return err
	}
	if err := decode(fields["type"], &p.Type, "type"); err != nil {
		return err
	}
	if p.Type == "" {
		return imagebind.WithParam(imagebind.Errorf(imagebind.Invalid, "a part has no type"), "type")
	}
	if w, ok := fields["weight"]; ok {
		if err := decode(w, &p.Weight, "weight"); err != nil {
			return err
		}
	}
	payload, ok := fields[p.Type]
	if !ok {
		return imagebind.WithParam(imagebind.Errorf(imagebind.Invalid, "a part of type %s has no field %s", p.Type, p.Type), p.Type)
	}
	switch {
	case p.Type == PartText:
		return decode(payload, &p.Text, p.Type)
	case p.Type == PartBindText:
		return inner(payload, "text", &p.Text, p.Type)
	case p.Type == PartInputAudio:
		p.Audio = &InputAudio{}
		return decode(payload, p.Audio, p.Type)
	case p.Type == PartEmbedding:
		p.Embedding = &Embedding{}
		return decode(payload, p.Embedding, p.Type)
	case strings.HasSuffix(p.Type, "_url"):
		return p.location(payload)
	}
	return nil // the server knows the types, and names them in its error
}

// location reads a URL, bare or in an object with the modality's parameters.
func (p *Part) location(b []byte) error {
	if err := inner(b, "url", &p.URL, p.Type); err != nil || kind(b) == '"' {
		return err
	}
	fields, err := members(b)
	if err != nil {
		return under(err, p.Type)
	}
	delete(fields, "url")
	for name, raw := range fields {
		var v any
		if err := decode(raw, &v, join(p.Type, name)); err != nil {
			return err
		}
		if v == nil {
			continue
		}
		if p.Params == nil {
			p.Params = Params{}
		}
		p.Params[name] = v
	}
	return nil
}

// An EmbeddingRequest asks POST /v1/embeddings.
type EmbeddingRequest struct {
	Model          string   `json:"model,omitempty"`
	Input          Inputs   `json:"input"`
	EncodingFormat string   `json:"encoding_format,omitempty"` // float, the default, or base64
	Dimensions     *int     `json:"dimensions,omitempty"`      // the model's or absent
	User           string   `json:"user,omitempty"`            // not used
	Cache          *Cache   `json:"cache,omitempty"`           // given: the enhanced embeddings
	Include        []string `json:"include,omitempty"`         // neighbours
}

// Encoding formats of embeddings.
const (
	FormatFloat  = "float"
	FormatBase64 = "base64"
)

// Inputs are what is to be embedded, an item each. On the wire they are a
// string, an array of strings, or an array of {"content": …}.
type Inputs []Input

// An Input is one item: parts, mixed by weight; a text is its one part.
type Input struct {
	Content Content `json:"content"`
}

// UnmarshalJSON reads all forms of input. An error names the item at fault.
func (in *Inputs) UnmarshalJSON(b []byte) error {
	*in = nil
	switch kind(b) {
	case 'n':
		return nil
	case '"':
		*in = make(Inputs, 1)
		return decode(b, &(*in)[0].Content.Text, "input")
	}
	items, err := elements(b, "a string, an array of strings, or an array of {\"content\": [parts]}")
	if err != nil {
		return under(err, "input")
	}
	if len(items) > MaxInputs {
		return imagebind.WithParam(imagebind.Errorf(imagebind.TooLarge, "%d inputs; a request has at most %d", len(items), MaxInputs), "input")
	}
	*in = make(Inputs, len(items))
	for i, item := range items {
		switch kind(item) {
		case '"':
			err = decode(item, &(*in)[i].Content.Text, index("input", i))
		case '{':
			err = decode(item, &(*in)[i], index("input", i))
		default:
			err = imagebind.WithParam(imagebind.Errorf(imagebind.Invalid, "an input is a string or {\"content\": [parts]}; token ids are not read"), index("input", i))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// An EmbeddingResponse has the unit embeddings, in the order of the inputs.
type EmbeddingResponse struct {
	Object string          `json:"object"` // list
	Data   []EmbeddingData `json:"data"`
	Model  string          `json:"model"`
	Usage  EmbeddingUsage  `json:"usage"` // zeros: the language model reads nothing
}

// EmbeddingData is one item's embedding.
type EmbeddingData struct {
	Object    string `json:"object"` // embedding
	Index     int    `json:"index"`
	Embedding Vector `json:"embedding"`
	Bind      *Bind  `json:"bind,omitempty"` // where cache or include were given
	Base64    bool   `json:"-"`              // how Embedding is written
}

// MarshalJSON writes the embedding as an array, or as base64.
func (d EmbeddingData) MarshalJSON() ([]byte, error) {
	type plain EmbeddingData
	if !d.Base64 {
		return json.Marshal(plain(d))
	}
	return json.Marshal(struct {
		plain
		Embedding string `json:"embedding"`
	}{plain(d), d.Embedding.Base64()})
}

// A ModelList answers GET /v1/models.
type ModelList struct {
	Object string  `json:"object"` // list
	Data   []Model `json:"data"`
}

// A Model is a bundle that is served.
type Model struct {
	ID         string   `json:"id"`
	Object     string   `json:"object"` // model
	Created    int64    `json:"created"`
	OwnedBy    string   `json:"owned_by"`
	Modalities []string `json:"modalities"` // that it embeds
	Inputs     []Kind   `json:"inputs"`     // how each is sent
	Dimensions int      `json:"dimensions"` // of an embedding; 0 without encoders
	// Fingerprint is of the encoders' weights: models of the same one embed alike.
	Fingerprint string    `json:"fingerprint,omitempty"`
	MaxContext  int       `json:"max_context"` // tokens, prompt and answer together; 0: it does not chat
	MaxTokens   int       `json:"max_tokens"`  // of an answer to a request that does not say
	Cache       *Cache    `json:"cache,omitempty"`
	Licences    []Licence `json:"licences"`
}

// A Kind is a kind of input.
type Kind struct {
	Modality string      `json:"modality"`
	Part     string      `json:"part"`       // type of a content part
	Field    string      `json:"form_field"` // of POST /v1/ask
	Media    []string    `json:"media_types"`
	Params   []ParamInfo `json:"params"`
}

// A ParamInfo describes one of a modality's parameters.
type ParamInfo struct {
	Name    string  `json:"name"`
	Doc     string  `json:"doc"`
	Type    string  `json:"type"` // number, integer, boolean
	Default float64 `json:"default"`
	Min     float64 `json:"min"`
	Max     float64 `json:"max"`
}

// A Licence says under what terms a part's weights came.
type Licence struct {
	Part    string `json:"part"`
	Licence string `json:"licence"`
	Notice  string `json:"notice,omitempty"`
}

// An ErrorEvent is the event that ends a stream which failed.
type ErrorEvent = httpapi.ErrorBody
