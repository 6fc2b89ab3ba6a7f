package source

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"runtime"
	"slices"
	"testing"

	imagebind "imagebind-llm"
	"imagebind-llm/retriever/store"
)

// someRows returns n rows [dim] of which some have every field and some only what a row must have.
func someRows(n, dim int) []store.Row {
	rows := make([]store.Row, n)
	for i, v := range values(n, dim) {
		rows[i] = store.Row{ID: fmt.Sprintf("row %d", i), Vector: v}
		if i%3 > 0 {
			rows[i].Caption, rows[i].URI = fmt.Sprintf("zażółć\n\"%d\"", i), fmt.Sprintf("file:%d.png", i)
		}
		if i%3 == 2 {
			rows[i].Metadata = map[string]any{"id": "not the row's", "n": float64(i), "tags": []any{"a", nil}, "deep": map[string]any{"yes": true}}
		}
	}
	return rows
}

// scanOf hands rows out in batches.
func scanOf(rows []store.Row, batch int, last error) func(func([]store.Row) error) error {
	return func(do func([]store.Row) error) error {
		for part := range slices.Chunk(rows, batch) {
			if err := do(part); err != nil {
				return err
			}
		}
		return last
	}
}

// TestWriteParquet: what was written is read back, over several row groups.
func TestWriteParquet(t *testing.T) {
	for _, n := range []int{0, 1, 7, 1000} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			want := someRows(n, 32768/8)
			var b bytes.Buffer
			if err := WriteParquet(&b, 32768/8, scanOf(want, 100, nil)); err != nil {
				t.Fatal(err)
			}
			s := open(t, write(t, t.TempDir()+"/x.parquet", b.Bytes()))
			if s.Rows() != n {
				t.Fatalf("%d rows, want %d", s.Rows(), n)
			}
			if n == 0 {
				return
			}
			for i, r := range all(t, s, 64) {
				if !reflect.DeepEqual(r, want[i]) {
					t.Fatalf("row %d: %.200v\nwant %.200v", i, r, want[i])
				}
			}
		})
	}
}

// TestWriteParquetBroken: a file whose rows ended in an error is none.
func TestWriteParquetBroken(t *testing.T) {
	gone := errors.New("the disk is gone")
	var b bytes.Buffer
	if err := WriteParquet(&b, 8, scanOf(someRows(300, 8), 100, gone)); !errors.Is(err, gone) {
		t.Fatalf("%v", err)
	}
	if _, err := Open(write(t, t.TempDir()+"/x.parquet", b.Bytes())); imagebind.KindOf(err) != imagebind.Invalid {
		t.Errorf("half a file: %v", err)
	}
	if err := WriteParquet(broken{gone}, 8, scanOf(someRows(300, 8), 100, nil)); !errors.Is(err, gone) {
		t.Errorf("a writer that fails: %v", err)
	}
	if err := WriteParquet(&b, 9, scanOf(someRows(3, 8), 100, nil)); err == nil {
		t.Error("rows of another dim were written")
	}
	if err := WriteParquet(&b, 0, scanOf(nil, 1, nil)); imagebind.KindOf(err) != imagebind.Invalid {
		t.Errorf("dim 0: %v", err)
	}
}

type broken struct{ err error }

func (b broken) Write([]byte) (int, error) { return 0, b.err }

// TestWriteParquetMemory: memory is that of a row group, not of the file.
func TestWriteParquetMemory(t *testing.T) {
	rows := someRows(2000, 1024)
	var base, now runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&base)
	peak := uint64(0)
	err := WriteParquet(io.Discard, 1024, func(do func([]store.Row) error) error {
		for range 48 { // 96,000 rows, 375 MiB
			if err := do(rows); err != nil {
				return err
			}
			runtime.ReadMemStats(&now)
			peak = max(peak, now.HeapInuse)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if grown := int64(peak) - int64(base.HeapInuse); grown > 256<<20 {
		t.Errorf("the heap grew by %d MiB", grown>>20)
	} else {
		t.Logf("the heap grew by %d MiB", grown>>20)
	}
}
