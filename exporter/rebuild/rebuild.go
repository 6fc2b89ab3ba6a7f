// Package rebuild asks a retriever to make a feature collection anew from a
// file, and follows the job.
package rebuild

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	imagebind "imagebind-llm"
	"imagebind-llm/exporter/progress"
	"imagebind-llm/retriever/retrieverapi"
)

// Options of Run.
type Options struct {
	Retriever  string // its URL
	Key        string // bearer key, when it wants one
	Collection string
	Path       string // of the source, under the retriever's --source-root
	Runner     string // a runner's URL, to embed media first; empty for features
	Index      string // index of the new generation; empty for the collection's
	Wait       bool   // follow the job to its end
}

// patience is how long the retriever may be away while a job is followed: it
// resumes its jobs when it comes back.
const patience = 2 * time.Minute

// Run starts the job and, with Wait, shows how far it is on out until it is
// over; a job that did not end well is an error. When ctx ends the job goes on:
// only the watching stops, which the error says.
func Run(ctx context.Context, o Options, out io.Writer) error {
	switch {
	case o.Path == "":
		return imagebind.Errorf(imagebind.Invalid, "no source: name a path under the retriever's --source-root with --path")
	case o.Collection == "":
		return imagebind.Errorf(imagebind.Invalid, "no collection: name one with --collection")
	}
	c, err := retrieverapi.NewClient(o.Retriever, retrieverapi.Options{Key: o.Key})
	if err != nil {
		return err
	}
	job, err := c.Start(ctx, retrieverapi.JobRequest{
		Type: retrieverapi.JobRebuild, Collection: o.Collection, Index: o.Index,
		Source: retrieverapi.Source{Path: o.Path, Runner: o.Runner},
	})
	if err != nil {
		return fmt.Errorf("start the rebuild of %s from %s: %w", o.Collection, o.Path, err)
	}
	fmt.Fprintf(out, "job %s: %s from %s\n", job.ID, o.Collection, o.Path)
	if !o.Wait {
		fmt.Fprintf(out, "it goes on by itself: GET %s/v1/jobs/%s says how far it is\n", o.Retriever, job.ID)
		return nil
	}
	bar := progress.New(out).Start(job.Phase, 0, progress.Rows)
	id := job.ID
	job, err = c.Wait(ctx, id, patience, func(j retrieverapi.Job) {
		bar.Describe(j.Collection + ", " + j.Phase)
		bar.Set(int64(j.RowsDone), int64(j.RowsTotal))
	})
	if errors.Is(err, context.Canceled) {
		return fmt.Errorf("stopped watching; job %s goes on: GET or DELETE %s/v1/jobs/%s: %w", id, o.Retriever, id, err)
	}
	if err != nil {
		return fmt.Errorf("follow job %s: %w", id, err)
	}
	bar.Finish()
	if job.State != retrieverapi.JobDone {
		return fmt.Errorf("job %s %s: %s", id, job.State, job.Error)
	}
	if job.RowsFailed > 0 {
		fmt.Fprintf(out, "%d rows were left out; GET %s/v1/jobs/%s lists the first\n", job.RowsFailed, o.Retriever, id)
	}
	if k := job.Checks; k != nil {
		fmt.Fprintf(out, "generation %d serves: %d rows of %d values, recall@10 %.3f against an exact search\n", job.Generation, k.Rows, k.Dim, k.Recall)
	}
	return nil
}
