// Package store says what the retriever asks of whatever keeps the feature
// cache. Package flat keeps it on disk and scans it exactly; package milvus
// keeps it in a Milvus server. Both pass the one suite in storetest.
package store

import (
	"context"
	"time"

	imagebind "imagebind-llm"
)

// A Row is one image feature.
type Row struct {
	ID       string              // unique in its collection, 1..256 bytes
	Vector   imagebind.Embedding // [Dim], finite, not zero
	Caption  string
	URI      string
	Metadata map[string]any // JSON values
}

// A Spec is what a collection is created with.
type Spec struct {
	Dim   int    // 1..32768
	Index string // the backend's index type; empty means its default
	Model string // the embedding model's id (the bundle's), if known
}

// Info describes a collection.
type Info struct {
	Name       string
	Dim        int
	Count      int
	Index      string
	Backend    string // embedded, milvus
	Model      string
	Generation int // of these rows; a rebuild adds one
	BuiltAt    time.Time
	Serves     bool // searches see these rows; false of a generation that is only kept
	Device     Device
}

// A Device is what one does for a collection, since its rows were loaded.
type Device struct {
	Rows    int   // among which it finds candidates; 0: it is not used
	Queries int64 // without a filter
	Scanned int64 // of them, whose candidates did not surely have the best rows: all were scanned
}

// A Query is a search over one collection.
type Query struct {
	Vectors []imagebind.Embedding // [B][Dim], of any length: a mix is no unit vector
	K       int                   // fewer come back when the collection is smaller
	Filter  map[string]any        // conditions on metadata (package filter); empty for all
}

// A Store keeps collections of rows, each in generations of which one serves.
// Errors are NotFound, Conflict, Invalid or Unavailable; all methods honour ctx.
type Store interface {
	List(ctx context.Context) ([]Info, error)
	Info(ctx context.Context, name string) (Info, error)
	// Create fails with Conflict when the collection exists with another dim.
	Create(ctx context.Context, name string, spec Spec) (Info, error)
	Drop(ctx context.Context, name string) error

	// Upsert stores the rows, replacing those of the same id. When it returns
	// nil they are durable and the next Search sees them.
	Upsert(ctx context.Context, name string, rows []Row) error
	// Delete removes rows and returns how many there were. It is durable and
	// visible like Upsert.
	Delete(ctx context.Context, name string, ids []string) (int, error)

	// Search returns, for each query vector, the K rows of the largest inner
	// product, best first, ties by id, with prototypes and similarities from the
	// stored fp32 values.
	Search(ctx context.Context, name string, q Query) ([][]imagebind.Neighbour, error)

	// Version says which rows a search would see: it changes with every write and
	// switch that this process made or learnt of. Empty when that is not known.
	Version(name string) string

	// Scan hands every row that serves to do, in batches, each row once and in
	// the store's order; rows written meanwhile may be seen or not. It ends with
	// do's error. A batch is do's only until it returns.
	Scan(ctx context.Context, name string, do func([]Row) error) error

	// Generations lists those of the collection that can serve: the one that does,
	// then those that are kept, the one that served last first.
	Generations(ctx context.Context, name string) ([]Info, error)
	// Switch makes a kept generation serve, in one step as Commit does; 0 is the
	// one that served last. The one that served before is kept.
	Switch(ctx context.Context, name string, generation int) (Info, error)
	// Forget removes a kept generation; the one that serves is a Conflict.
	Forget(ctx context.Context, name string, generation int) error

	// Build starts (or, for a job seen before, resumes) a new generation beside
	// the one that serves. The collection need not exist.
	Build(ctx context.Context, name string, spec Spec, job string) (Builder, error)

	// Ready is nil when a search can be answered.
	Ready(ctx context.Context) error
	Close() error
}

// A Builder fills a new generation. No query sees it before Commit.
type Builder interface {
	// Committed returns the generation that this job made, when it did before: a
	// crash may come between a switch and whoever asked for it. Then nothing is
	// left to be done.
	Committed() (Info, bool)
	// Rows is how many rows are durably stored; after a crash a resumed build
	// begins there.
	Rows() int
	// Append adds rows in order. It may buffer; Checkpoint makes durable what was
	// appended before it, and may run beside further Appends.
	Append(ctx context.Context, rows []Row) error
	Checkpoint(ctx context.Context) error
	// Search is an exact look into the unfinished generation, for the checks.
	Search(ctx context.Context, q Query) ([][]imagebind.Neighbour, error)
	// Commit makes the generation durable, indexes it and switches the name to
	// it in one step. The one that served is kept; of older ones, as many as the
	// store is told to keep.
	Commit(ctx context.Context) (Info, error)
	// Abort removes the generation. After Commit it does nothing.
	Abort(ctx context.Context) error
}
