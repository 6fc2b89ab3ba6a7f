// Package rebuild asks a retriever to make a feature collection anew from a
// file of features, or from media that a runner embeds, and follows the job.
package rebuild

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"strconv"
	"strings"
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
	Path       string   // of the source, under the retriever's --source-root
	Runner     string   // URL of one of the retriever's --runners, to embed media first; empty for features
	Modality   string   // of the media; empty: the runner finds it by content
	Params     []string // of the modality, as in rate=200
	Index      string   // index of the new generation; empty for the collection's
	Wait       bool     // follow the job to its end
	MaxRate    float64  // rows a second at most; 0: no bound
	New        bool     // start a job also where one with the same source is under way
}

// patience is how long the retriever may be away while a job is followed: it
// resumes its jobs when it comes back.
const patience = 2 * time.Minute

// shown is how many of the rows left out are told.
const shown = 5

// Params reads a modality's parameters, NAME=VALUE, of numbers, true or false.
func Params(pairs []string) (map[string]any, error) {
	params := map[string]any{}
	for _, p := range pairs {
		name, v, ok := strings.Cut(p, "=")
		if !ok || name == "" {
			return nil, imagebind.Errorf(imagebind.Invalid, "parameter %q: it is NAME=VALUE, as in rate=200", p)
		}
		if v == "true" || v == "false" {
			params[name] = v == "true"
			continue
		}
		x, err := strconv.ParseFloat(v, 64)
		if err != nil || math.IsNaN(x) || math.IsInf(x, 0) {
			return nil, imagebind.Errorf(imagebind.Invalid, "parameter %q: the value is a number, true or false", p)
		}
		params[name] = x
	}
	return params, nil
}

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
	params, err := Params(o.Params)
	if err != nil {
		return err
	}
	c, err := retrieverapi.NewClient(o.Retriever, retrieverapi.Options{Key: o.Key})
	if err != nil {
		return err
	}
	r := retrieverapi.JobRequest{
		Type: retrieverapi.JobRebuild, Collection: o.Collection, Index: o.Index, MaxRate: o.MaxRate,
		Source: retrieverapi.Source{Path: o.Path, Runner: o.Runner, Modality: o.Modality, Params: params},
	}
	var job retrieverapi.Job
	found := false
	if !o.New {
		if job, found, err = underWay(ctx, c, r); err != nil {
			return fmt.Errorf("look for a rebuild that is under way: %w", err)
		}
	}
	if !found {
		if job, err = c.Start(ctx, r); err != nil {
			return fmt.Errorf("start the rebuild of %s from %s: %w", o.Collection, o.Path, err)
		}
		job.Source = r.Source
	}
	fmt.Fprintf(out, "job %s: %s from %s\n", job.ID, o.Collection, o.Path)
	if found {
		fmt.Fprintln(out, "it is under way already; --new starts another")
	}
	if !o.Wait {
		fmt.Fprintf(out, "it goes on by itself: GET %s/v1/jobs/%s says how far it is\n", o.Retriever, job.ID)
		return nil
	}
	return follow(ctx, c, o.Retriever, job, out)
}

// underWay finds the job of a request that was made before and is not over, as
// when an exporter was killed while it watched.
func underWay(ctx context.Context, c *retrieverapi.Client, r retrieverapi.JobRequest) (retrieverapi.Job, bool, error) {
	list, err := c.Jobs(ctx)
	if err != nil {
		return retrieverapi.Job{}, false, err
	}
	for _, j := range list {
		same := j.Collection == r.Collection && j.Index == r.Index && j.Source.Path == r.Source.Path && j.Source.Runner == r.Source.Runner &&
			j.Source.Modality == r.Source.Modality && maps.Equal(j.Source.Params, r.Source.Params)
		if same && !j.Over() {
			return j, true, nil
		}
	}
	return retrieverapi.Job{}, false, nil
}

// Follow shows how far a job is on out until it is over.
func Follow(ctx context.Context, o Options, id string, out io.Writer) error {
	c, err := retrieverapi.NewClient(o.Retriever, retrieverapi.Options{Key: o.Key})
	if err != nil {
		return err
	}
	job, err := c.Job(ctx, id)
	if err != nil {
		return fmt.Errorf("job %s: %w", id, err)
	}
	fmt.Fprintf(out, "job %s: %s from %s\n", job.ID, job.Collection, job.Source.Path)
	return follow(ctx, c, o.Retriever, job, out)
}

func follow(ctx context.Context, c *retrieverapi.Client, retriever string, job retrieverapi.Job, out io.Writer) error {
	unit := progress.Rows
	if job.Source.Runner != "" {
		unit = progress.Media
	}
	bar := progress.New(out).Start(job.Phase, 0, unit)
	id := job.ID
	job, err := c.Wait(ctx, id, patience, func(j retrieverapi.Job) {
		bar.Describe(j.Collection + ", " + j.Phase)
		bar.Set(int64(j.RowsDone), int64(j.RowsTotal))
	})
	if errors.Is(err, context.Canceled) {
		return fmt.Errorf("stopped watching; job %s goes on: exporter cache follow --job %s shows it, DELETE %s/v1/jobs/%s ends it: %w", id, id, retriever, id, err)
	}
	if err != nil {
		return fmt.Errorf("follow job %s: %w", id, err)
	}
	bar.Finish()
	if job.State != retrieverapi.JobDone {
		return fmt.Errorf("job %s %s: %s", id, job.State, job.Error)
	}
	for _, note := range job.Notes {
		fmt.Fprintf(out, "note: %s\n", note)
	}
	if job.RowsFailed > 0 {
		fmt.Fprintf(out, "%d rows were left out; GET %s/v1/jobs/%s lists the first\n", job.RowsFailed, retriever, id)
		for _, e := range job.RowErrors[:min(len(job.RowErrors), shown)] {
			fmt.Fprintf(out, "  row %d: %s\n", e.Row, e.Message)
		}
	}
	if k := job.Checks; k != nil {
		fmt.Fprintf(out, "generation %d serves: %d rows of %d values, recall@10 %.3f against an exact search\n", job.Generation, k.Rows, k.Dim, k.Recall)
	}
	return nil
}
