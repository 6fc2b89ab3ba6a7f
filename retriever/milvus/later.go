package milvus

import (
	"context"

	imagebind "imagebind-llm"
	"imagebind-llm/retriever/store"
)

var errLater = imagebind.Errorf(imagebind.Unavailable, "not there yet")

// Version is not known yet.
func (s *Store) Version(string) string { return "" }

// Scan is not there yet.
func (s *Store) Scan(context.Context, string, func([]store.Row) error) error { return errLater }

// Generations is not there yet.
func (s *Store) Generations(context.Context, string) ([]store.Info, error) { return nil, errLater }

// Switch is not there yet.
func (s *Store) Switch(context.Context, string, int) (store.Info, error) {
	return store.Info{}, errLater
}

// Forget is not there yet.
func (s *Store) Forget(context.Context, string, int) error { return errLater }
