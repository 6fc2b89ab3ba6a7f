package runnerapi

// A ChatResponse answers a chat completion.
type ChatResponse struct {
	ID      string   `json:"id"`
	Object  string   `json:"object"` // chat.completion
	Created int64    `json:"created"`
	Model   string   `json:"model"`
	Choices []Choice `json:"choices"`
	Usage   Usage    `json:"usage"`
	Bind    *Bind    `json:"bind,omitempty"`
}

// A Choice is one answer.
type Choice struct {
	Index        int       `json:"index"`
	Message      Reply     `json:"message"`
	FinishReason string    `json:"finish_reason"` // stop, length
	Logprobs     *Logprobs `json:"logprobs"`
}

// A Reply is the assistant's message.
type Reply struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

// A ChatChunk is one event of a streamed answer. After the last comes [DONE].
type ChatChunk struct {
	ID      string        `json:"id"`
	Object  string        `json:"object"` // chat.completion.chunk
	Created int64         `json:"created"`
	Model   string        `json:"model"`
	Choices []ChunkChoice `json:"choices"`
	Usage   *Usage        `json:"usage,omitempty"` // on the last chunk, where it was asked for
	Bind    *Bind         `json:"bind,omitempty"`  // on the last chunk
}

// A ChunkChoice is what a chunk adds to a choice.
type ChunkChoice struct {
	Index        int       `json:"index"`
	Delta        Delta     `json:"delta"`
	FinishReason *string   `json:"finish_reason"` // null until the choice is complete
	Logprobs     *Logprobs `json:"logprobs,omitempty"`
}

// A Delta is added text.
type Delta struct {
	Role    string  `json:"role,omitempty"` // on a choice's first chunk
	Content *string `json:"content,omitempty"`
}

// Usage counts tokens. The prompt counts once, whatever N.
type Usage struct {
	PromptTokens     int           `json:"prompt_tokens"`
	CompletionTokens int           `json:"completion_tokens"`
	TotalTokens      int           `json:"total_tokens"`
	PromptDetails    PromptDetails `json:"prompt_tokens_details"`
}

// PromptDetails say more of the prompt's tokens.
type PromptDetails struct {
	CachedTokens int `json:"cached_tokens"` // that an earlier prompt had read; of the choice that had most
}

// EmbeddingUsage counts tokens as embeddings do, which have no completion.
type EmbeddingUsage struct {
	PromptTokens int `json:"prompt_tokens"`
	TotalTokens  int `json:"total_tokens"`
}

// Logprobs are the log probabilities of a choice's tokens.
type Logprobs struct {
	Content []TokenLogprob `json:"content"`
}

// A TokenLogprob is one token's, with those of the likeliest.
type TokenLogprob struct {
	Logprob
	Top []Logprob `json:"top_logprobs"`
}

// A Logprob is a token and its natural log probability, at least MinLogprob.
type Logprob struct {
	Token   string  `json:"token"`
	Logprob float64 `json:"logprob"`
	Bytes   []int   `json:"bytes"` // of the token, which may be a part of a rune; never null
}

// MinLogprob stands for all that are less likely, as in OpenAI's answers.
const MinLogprob = -9999

// A Bind says what an answer was bound to.
type Bind struct {
	Modalities []Modality         `json:"modalities"` // in the order of the parts; empty for plain chat
	Cache      CacheState         `json:"cache"`
	Neighbours []Neighbour        `json:"neighbours,omitempty"` // with include neighbours
	Timings    map[string]float64 `json:"timings_ms,omitempty"` // with include timings; stages, encode_image and the like, total
}

// A Modality is one part of the mix.
type Modality struct {
	Type   string  `json:"type"`
	Weight float32 `json:"weight"`
}

// A CacheState says what came of the feature cache.
type CacheState struct {
	Applied  bool   `json:"applied"`
	Degraded bool   `json:"degraded"`         // it was wanted and could not be had
	Reason   string `json:"reason,omitempty"` // of degraded
}

// A Neighbour is an image feature near the query.
type Neighbour struct {
	ID      string  `json:"id"`
	Score   float32 `json:"score"`  // the inner product with the query
	Weight  float32 `json:"weight"` // its share of the enhancement
	Caption string  `json:"caption"`
	URI     string  `json:"uri"`
}
