package flat

import (
	"path/filepath"
	"testing"

	"imagebind-llm/retriever/store"
	"imagebind-llm/retriever/storetest"
)

func TestStore(t *testing.T) {
	dir := t.TempDir()
	storetest.Run(t, func(t *testing.T) store.Store {
		s, err := Open(filepath.Join(dir, filepath.Base(t.Name())), Options{})
		if err != nil {
			t.Fatal(err)
		}
		return s
	})
}
