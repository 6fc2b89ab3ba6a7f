package pipeline

import (
	"time"

	imagebind "imagebind-llm"
	"imagebind-llm/runner/constrain"
	"imagebind-llm/runner/generate"
	"imagebind-llm/runner/modality"
	"imagebind-llm/runner/prompt"
)

// A Query is a question with what it is about.
type Query struct {
	Messages   []prompt.Message
	Parts      []Part // none: plain chat, nothing is injected
	Cache      Cache
	Neighbours bool // return those that the cache used
	N          int  // choices, 1 to MaxChoices
	// Grammar is what answers keep to; nil is any text.
	Grammar *constrain.Grammar
	// Client is who asks, as far as the server tells clients apart: they share the
	// decoder's slots fairly.
	Client string
	// Generate says how an answer is drawn and when it ends. PromptIDs and
	// Injection are the pipeline's to fill in, the bundle's stop ids are added to
	// StopIDs, Constrain is made of Grammar, and choice i draws with Seed+i.
	Generate generate.Request
}

// MaxChoices bounds Query.N, as OpenAI does.
const MaxChoices = 128

// A Part is one input of ImageBind. Either Data or Embedding is set.
type Part struct {
	Modality  string              // a Spec's name, as in image; "" is found by sniffing Data
	Data      []byte              // a file's bytes, or UTF-8 for text
	Params    modality.Params     // what Data does not say
	Embedding imagebind.Embedding // a ready embedding; it is normalised again, as the reference does
	Weight    float32             // > 0
	Param     string              // the field of the request, for errors, as in messages[0].content[1]
}

// A Cache says whether and how the feature cache moves the mix.
type Cache struct {
	Enabled    bool
	Collection string
	Filter     map[string]any // conditions on the neighbours' metadata; nil for none
	imagebind.EnhanceParams
}

// An Event is a part of a choice's text.
type Event struct {
	Choice int
	generate.Event
}

// A Modality is one part of the mix.
type Modality struct {
	Type   string // a Spec's name; embedding for a ready one that names none
	Weight float32
}

// A Bind says what the answer was bound to.
type Bind struct {
	Modalities     []Modality // in the order of the parts
	CacheApplied   bool
	Degraded       bool // the cache was wanted and could not be had
	DegradedReason string
	Neighbours     []imagebind.Neighbour
}

// Timings say where the time of a request went. Those of stages that run side
// by side (parts, choices) are of the slowest.
type Timings struct {
	Queue                                                  time.Duration // waiting for a decoder slot
	Read, Encode, Retrieve, Bridge, Prefill, Decode, Total time.Duration
	Encoders                                               map[string]time.Duration // by modality
}

// An Answer is all choices.
type Answer struct {
	Choices []generate.Result
	Bind    Bind
	Timings Timings
}

// An EmbedRequest asks for the embeddings of several items.
type EmbedRequest struct {
	Items [][]Part // the parts of an item are mixed
	Cache *Cache   // nil: as the encoders give them
}

// An Embedded is one item's unit embedding.
type Embedded struct {
	Embedding imagebind.Embedding
	Bind      Bind
}

// An Observer hears of what goes on, for metrics. Its methods are called
// concurrently and return at once.
type Observer interface {
	Queue(requests, running int)                      // requests let in, and choices that have a slot, now
	Encoded(modality string, d time.Duration)         // one part: read and embedded
	Recalled(modality string, hit bool)               // one part: whether its embedding was there, or under way
	Retrieved(d time.Duration, err error)             // one call of the retriever
	Prefilled(tokens int, sinceRequest time.Duration) // the first token of a choice is there
	Generated(tokens int, d time.Duration)            // a choice is over
	Ran(sequences, prompt int, d time.Duration)       // one run of the decoder: a step of so many, or so many tokens of a prompt
}
