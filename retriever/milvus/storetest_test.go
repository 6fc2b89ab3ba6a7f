package milvus

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/milvus-io/milvus-sdk-go/v2/client"

	"imagebind-llm/internal/golden"
	"imagebind-llm/retriever/store"
	"imagebind-llm/retriever/storetest"
)

// TestStore gives each test of the suite a database of its own.
func TestStore(t *testing.T) {
	addr, why := server()
	if addr == "" {
		golden.Need(t, "milvus", why)
	}
	admin, err := client.NewClient(t.Context(), client.Config{Address: addr})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { admin.Close() })
	run := fmt.Sprintf("t%08x_", rand.Uint32())
	var mu sync.Mutex
	made := map[string]bool{}
	storetest.Run(t, func(t *testing.T) store.Store {
		db := run + filepath.Base(t.Name())
		mu.Lock()
		defer mu.Unlock()
		if !made[db] {
			made[db] = true
			if err := admin.CreateDatabase(t.Context(), db); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := admin.DropDatabase(context.WithoutCancel(t.Context()), db); err != nil {
					t.Errorf("drop database %s: %v", db, err)
				}
			})
		}
		s, err := Open(Options{Address: addr, Database: db, Timeout: 30 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		return s
	})
}
