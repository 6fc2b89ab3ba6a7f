// Package retrieverapi holds the requests and answers of the retriever's HTTP
// API (docs/api.md, "Retriever HTTP") and a [Client] for them. It is all that
// the other programs see of the retriever.
package retrieverapi

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"math"
	"time"

	imagebind "imagebind-llm"
)

// Limits of one request.
const (
	MaxDim     = 32768 // values of a vector
	MaxQueries = 1024  // vectors of a search or an enhancement
	MaxItems   = 10000 // rows of an insert or a delete
	MaxID      = 256   // bytes of an id
	MaxText    = 8192  // bytes of a caption, a URI, or a row's metadata as JSON
)

// A Vector is an embedding on the wire: written as a JSON array, read from an
// array or from a string, base64 of little-endian float32.
type Vector []float32

// UnmarshalJSON reads an array of numbers or a base64 string of at most MaxDim
// values, all finite.
func (v *Vector) UnmarshalJSON(b []byte) error {
	b = bytes.TrimSpace(b)
	var x []float32
	switch {
	case len(b) > 0 && b[0] == '[':
		if n := bytes.Count(b, []byte{','}) + 1; n > MaxDim {
			return imagebind.Errorf(imagebind.Invalid, "a vector of %d values; at most %d are read", n, MaxDim)
		}
		if err := json.Unmarshal(b, &x); err != nil {
			return imagebind.Errorf(imagebind.Invalid, "a vector is an array of numbers in float32's range, or a base64 string: %w", err)
		}
	case len(b) > 0 && b[0] == '"':
		if len(b) > base64.StdEncoding.EncodedLen(4*MaxDim)+2 {
			return imagebind.Errorf(imagebind.Invalid, "a vector of %d base64 characters; at most %d values are read", len(b)-2, MaxDim)
		}
		var s string
		if err := json.Unmarshal(b, &s); err != nil {
			return imagebind.Errorf(imagebind.Invalid, "vector: %w", err)
		}
		raw, err := base64.StdEncoding.DecodeString(s)
		if err != nil {
			return imagebind.Errorf(imagebind.Invalid, "a vector given as a string is base64 of little-endian float32: %w", err)
		}
		if x, err = DecodeRow(raw); err != nil {
			return err
		}
	default:
		return imagebind.Errorf(imagebind.Invalid, "a vector is an array of numbers or a base64 string of little-endian float32")
	}
	if len(x) == 0 {
		return imagebind.Errorf(imagebind.Invalid, "a vector has no values")
	}
	if !imagebind.Embedding(x).Finite() {
		return imagebind.Errorf(imagebind.Invalid, "a vector holds NaN or infinity")
	}
	*v = x
	return nil
}

// Packed is a Vector that is written as base64, in a tenth of an array's time.
type Packed Vector

// MarshalJSON writes base64 of little-endian float32.
func (v Packed) MarshalJSON() ([]byte, error) {
	raw := make([]byte, 0, 4*len(v))
	for _, x := range v {
		raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(x))
	}
	b := make([]byte, 0, base64.StdEncoding.EncodedLen(len(raw))+2)
	return append(base64.StdEncoding.AppendEncode(append(b, '"'), raw), '"'), nil
}

// UnmarshalJSON is a Vector's.
func (v *Packed) UnmarshalJSON(b []byte) error { return (*Vector)(v).UnmarshalJSON(b) }

// Encodings of an answer's vectors, as the query parameter encoding of a search
// or an enhancement.
const (
	EncodingFloat  = "float" // arrays, the default
	EncodingBase64 = "base64"
)

// DecodeRow reads little-endian float32 values; raw must hold 1 to MaxDim.
func DecodeRow(raw []byte) ([]float32, error) {
	if len(raw) == 0 || len(raw)%4 != 0 || len(raw) > 4*MaxDim {
		return nil, imagebind.Errorf(imagebind.Invalid, "a vector of %d bytes; float32 values are 4 bytes each, 1 to %d of them", len(raw), MaxDim)
	}
	x := make([]float32, len(raw)/4)
	for i := range x {
		x[i] = math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:]))
	}
	return x, nil
}

// A Collection is a named feature cache.
type Collection struct {
	Name       string     `json:"name"`
	Dim        int        `json:"dim"`
	Count      int        `json:"count"`
	Index      string     `json:"index"`
	Backend    string     `json:"backend"` // embedded, milvus
	Model      string     `json:"model,omitempty"`
	Generation int        `json:"generation"`
	BuiltAt    *time.Time `json:"built_at,omitempty"`
}

// A CollectionList answers GET /v1/collections.
type CollectionList struct {
	Collections []Collection `json:"collections"`
}

// A Generation is one build of a collection that can serve.
type Generation struct {
	Collection
	Serves bool `json:"serves"` // searches see its rows; else it is kept
}

// A GenerationList answers GET /v1/collections/{name}/generations: the one that
// serves, then those that are kept, the one that served last first.
type GenerationList struct {
	Generations []Generation `json:"generations"`
}

// A RollbackRequest asks POST /v1/collections/{name}/rollback.
type RollbackRequest struct {
	Generation int `json:"generation,omitempty"` // 0: the one that served last
}

// A CreateCollection asks PUT /v1/collections/{name}.
type CreateCollection struct {
	Dim   int    `json:"dim"`             // 1..MaxDim
	Index string `json:"index,omitempty"` // the backend's index type; empty for its default
	Model string `json:"model,omitempty"` // the embedding model's id
}

// An Item is a row to store.
type Item struct {
	ID       string         `json:"id,omitempty"` // made when empty
	Vector   Vector         `json:"vector"`
	Caption  string         `json:"caption,omitempty"`
	URI      string         `json:"uri,omitempty"`
	Metadata map[string]any `json:"metadata,omitempty"`
}

// An UpsertRequest asks POST /v1/collections/{name}/vectors. Rows of an id that
// is stored already are replaced.
type UpsertRequest struct {
	Items []Item `json:"items"`
}

// An UpsertResponse lists the ids of the rows, in the order they were sent.
type UpsertResponse struct {
	Count int      `json:"count"`
	IDs   []string `json:"ids"`
}

// A DeleteRequest asks DELETE /v1/collections/{name}/vectors.
type DeleteRequest struct {
	IDs []string `json:"ids"`
}

// A DeleteResponse says how many of the ids were stored.
type DeleteResponse struct {
	Deleted int `json:"deleted"`
}

// What Include may name.
const (
	IncludeVector   = "vector"
	IncludeMetadata = "metadata"
)

// A SearchRequest asks POST /v1/collections/{name}/search.
type SearchRequest struct {
	Vectors []Vector       `json:"vectors"`
	K       *int           `json:"k,omitempty"`      // 1..1000, default 10
	Filter  map[string]any `json:"filter,omitempty"` // conditions on metadata, as {"legs": 4, "kind": {"in": ["cat"]}}
	Include []string       `json:"include,omitempty"`
}

// A SearchResponse has one list a query vector, best first.
type SearchResponse = SearchResponseOf[Vector]

// A SearchResponseOf writes its vectors as V does.
type SearchResponseOf[V Vector | Packed] struct {
	Neighbours [][]NeighbourOf[V] `json:"neighbours"`
}

// A Neighbour is a row near a query.
type Neighbour = NeighbourOf[Vector]

// A NeighbourOf writes its vector as V does.
type NeighbourOf[V Vector | Packed] struct {
	ID       string         `json:"id"`
	Score    float32        `json:"score"`            // the inner product of query and row
	Weight   *float32       `json:"weight,omitempty"` // its share of the enhancement; absent from a search
	Caption  string         `json:"caption"`
	URI      string         `json:"uri"`
	Metadata map[string]any `json:"metadata,omitempty"` // with include metadata
	Vector   V              `json:"vector,omitempty"`   // with include vector
}

// An EnhanceRequest asks POST /v1/collections/{name}/enhance. Absent fields
// take the reference's defaults (imagebind.DefaultEnhance).
type EnhanceRequest struct {
	Vectors     []Vector       `json:"vectors"`
	K           *int           `json:"k,omitempty"`           // 1..1000
	Temperature *float32       `json:"temperature,omitempty"` // 0..1000
	Weight      *float32       `json:"weight,omitempty"`      // 0..1
	Filter      map[string]any `json:"filter,omitempty"`      // as of a search
	Include     []string       `json:"include,omitempty"`
}

// An EnhanceResponse has the enhanced unit vectors and the neighbours that
// made them, one list a query vector.
type EnhanceResponse = EnhanceResponseOf[Vector]

// An EnhanceResponseOf writes its vectors as V does.
type EnhanceResponseOf[V Vector | Packed] struct {
	Vectors    []V                `json:"vectors"`
	Neighbours [][]NeighbourOf[V] `json:"neighbours"`
}

// States of a Job.
const (
	JobQueued    = "queued"
	JobRunning   = "running"
	JobDone      = "done"
	JobFailed    = "failed"
	JobCancelled = "cancelled"
)

// JobRebuild is the one type of job: a source becomes a new generation.
const JobRebuild = "rebuild"

// A JobRequest asks POST /v1/jobs.
type JobRequest struct {
	Type       string `json:"type"` // rebuild
	Collection string `json:"collection"`
	Source     Source `json:"source"`
	Index      string `json:"index,omitempty"`
	Model      string `json:"model,omitempty"` // the embedding model's id
	// MaxRate bounds the rows a second, so that what serves has the machine; 0: as
	// many as it can.
	MaxRate float64 `json:"max_rows_per_second,omitempty"`
}

// A Source says where a rebuild's rows come from: a table of features, or with
// Runner media that it embeds: a folder, one file, a list of files
// (.jsonl, .csv, .tsv), or .tar archives of samples.
type Source struct {
	Path     string         `json:"path"`               // under the retriever's --source-root
	Runner   string         `json:"runner,omitempty"`   // URL of one of the retriever's --runners
	Modality string         `json:"modality,omitempty"` // of all the media, as depth; empty: the runner finds it by content
	Params   map[string]any `json:"params,omitempty"`   // of the modality, as in {"rate": 200}: numbers, true or false
}

// A Job is a rebuild and how far it got.
type Job struct {
	ID         string     `json:"id"`
	Type       string     `json:"type"`
	Collection string     `json:"collection"`
	Source     Source     `json:"source"`
	Index      string     `json:"index,omitempty"`
	Model      string     `json:"model,omitempty"`
	MaxRate    float64    `json:"max_rows_per_second,omitempty"`
	State      string     `json:"state"`
	Phase      string     `json:"phase"` // queued, open, copy (embed, for media), check, switch, done
	RowsDone   int        `json:"rows_done"`
	RowsTotal  int        `json:"rows_total"`
	Rate       float64    `json:"rows_per_second"`
	ETA        *float64   `json:"eta_seconds,omitempty"`
	Resumed    int        `json:"resumed,omitempty"` // how often it went on after a restart
	Error      string     `json:"error,omitempty"`
	RowErrors  []RowError `json:"row_errors,omitempty"` // the first of the rows left out
	RowsFailed int        `json:"rows_failed"`          // how many were left out
	Notes      []string   `json:"notes,omitempty"`      // of the source, as that its codes are lossy
	Checks     *Checks    `json:"checks,omitempty"`
	Generation int        `json:"generation,omitempty"` // that now serves, once done
	CreatedAt  time.Time  `json:"created_at"`
	StartedAt  *time.Time `json:"started_at,omitempty"`
	FinishedAt *time.Time `json:"finished_at,omitempty"`
}

// Over reports whether the job will not change any more.
func (j Job) Over() bool {
	return j.State == JobDone || j.State == JobFailed || j.State == JobCancelled
}

// A RowError is a row of the source that was left out.
type RowError struct {
	Row     int    `json:"row"` // from 0, in the source's order
	Message string `json:"message"`
}

// Checks are what a new generation was held to before the switch.
type Checks struct {
	Rows    int     `json:"rows"`
	Dim     int     `json:"dim"`
	NormMin float64 `json:"norm_min"`
	NormMax float64 `json:"norm_max"`
	Queries int     `json:"queries"`   // rows searched for in the new generation
	Recall  float64 `json:"recall_10"` // recall@10 against brute force over the source
}

// A JobList answers GET /v1/jobs, newest first.
type JobList struct {
	Jobs []Job `json:"jobs"`
}
