package flat

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"

	imagebind "imagebind-llm"
	conditions "imagebind-llm/retriever/filter"
	"imagebind-llm/retriever/store"
	"imagebind-llm/retriever/storetest"
)

const fuzzSalt = 0x5a17

// logOf makes a log of a few groups, and where they end.
func logOf(t testing.TB) (b []byte, ends []int) {
	rows := storetest.Rows(0, 7, 5)
	rows[2].Metadata, rows[2].URI = map[string]any{"a": 1.0}, "file:x"
	rows[3].Caption = groupMagic + string(make([]byte, 40)) // looks like a group
	b = header(5, false, fuzzSalt)
	for _, part := range [][]store.Row{rows[:1], rows[1:4], rows[4:]} {
		batch := &batch{}
		if err := encode(batch, part, 5, false); err != nil {
			t.Fatal(err)
		}
		g := groups{salt: fuzzSalt}
		g.addBatch(batch)
		g.add(appendDelete(nil, part[0].ID))
		b = append(b, g.take()...)
		ends = append(ends, len(b))
	}
	return b, ends
}

func TestLog(t *testing.T) {
	b, ends := logOf(t)
	read := func(b []byte) (list []string, end int64, err error) {
		end, err = readLog(bytes.NewReader(b), int64(len(b)), headerBytes, fuzzSalt, readRecord, func(r record, at int64, n int) error {
			list = append(list, fmt.Sprint(r.kind, " ", string(r.id)))
			got, m, err := readRecord(b[at : at+int64(n)])
			if err != nil || m != n || !bytes.Equal(got.id, r.id) || !bytes.Equal(got.metadata, r.metadata) {
				t.Errorf("the record at %d is not at its place", at)
			}
			return nil
		}, nil)
		return
	}
	whole, end, err := read(b)
	if err != nil || end != int64(len(b)) || len(whole) != 10 || whole[0] != "1 r000000" || whole[9] != "2 r000004" {
		t.Fatal(whole, end, err)
	}
	for cut := headerBytes; cut < len(b); cut++ {
		list, end, err := read(b[:cut])
		i, _ := slices.BinarySearch(ends, cut+1)
		want := []int{headerBytes, ends[0], ends[1]}[i]
		if err != nil || end != int64(want) || !slices.Equal(list, whole[:[]int{0, 2, 6}[i]]) {
			t.Fatalf("cut at %d: %v, end %d, %v; want %d", cut, list, end, err, want)
		}
	}
	for at := headerBytes; at < len(b); at++ { // one bit anywhere is seen
		c := slices.Clone(b)
		c[at] ^= 4
		list, end, err := read(c)
		if last := at >= ends[1]; last && (err != nil || end != int64(ends[1])) || !last && imagebind.KindOf(err) != imagebind.Invalid {
			t.Fatalf("a bit at %d: %v, end %d, %v", at, list, end, err)
		}
	}
	if salt, _, err := readHeader(bytes.NewReader(b), 5, false); err != nil || salt != fuzzSalt {
		t.Error(salt, err)
	}
	for _, bad := range [][]byte{nil, b[:headerBytes-1], header(6, false, fuzzSalt), header(5, true, fuzzSalt), []byte("IBROWS3\n________________")} {
		if _, _, err := readHeader(bytes.NewReader(bad), 5, false); imagebind.KindOf(err) != imagebind.Invalid {
			t.Errorf("header %q: %v", bad, err)
		}
	}
}

func seeds(f *testing.F) {
	b, ends := logOf(f)
	f.Add(b, false)
	f.Add(b[:ends[1]+9], false)
	f.Add(b, true)
	for _, at := range []int{28, 32, 40, 44, 61, 67, ends[0] + 8} {
		c := slices.Clone(b)
		c[at] ^= 0xff
		f.Add(c, true)
	}
}

// seal makes the checksums of a log right, so that a fuzzer gets past them.
func seal(b []byte) {
	if len(b) < headerBytes {
		return
	}
	copy(b, header(5, false, fuzzSalt))
	for at := headerBytes; at+groupHeader <= len(b); {
		g := b[at:]
		n := groupHeader + int(binary.LittleEndian.Uint32(g[4:]))
		if n > len(g) {
			return
		}
		copy(g, groupMagic)
		binary.LittleEndian.PutUint32(g[12:], groupSum(g[:n], fuzzSalt))
		at += n
	}
}

// FuzzLog reads bytes as a log.
func FuzzLog(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, b []byte, sealed bool) {
		if sealed {
			seal(b)
		}
		last := int64(headerBytes)
		end, err := readLog(bytes.NewReader(b), int64(len(b)), headerBytes, fuzzSalt, readRecord, func(r record, at int64, n int) error {
			if len(r.id) == 0 || n > maxGroup || at < last || at+int64(n) > int64(len(b)) {
				t.Fatalf("a record of %d bytes at %d, behind %d", n, at, last)
			}
			last = at + int64(n)
			return nil
		}, nil)
		if err == nil && len(b) >= headerBytes && (end < last || end > int64(len(b))) {
			t.Fatalf("it ends at %d", end)
		}
	})
}

// FuzzRows opens and searches a folder of rows with a log of these bytes.
func FuzzRows(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, b []byte, sealed bool) {
		if sealed {
			seal(b)
		}
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, logFile), b, 0o644); err != nil {
			t.Fatal(err)
		}
		for _, f := range []string{rowsFile, codesFile} {
			if err := os.WriteFile(filepath.Join(dir, f), make([]byte, 64*20), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		p, err := openPart(dir, generation{Dim: 5, Values: float32Values})
		if err != nil {
			return
		}
		defer p.close()
		v := p.shown.Load()
		living := 0
		for slot := range v.n {
			if v.alive(slot) {
				living++
			}
		}
		if living != v.count() || len(v.places) != v.n || len(v.sums) != v.n || len(v.scales) != v.n || len(v.widths) != v.n {
			t.Fatalf("%d slots, %d dead, %d alive, %d places", v.n, v.deaths, living, len(v.places))
		}
		for k := 1; k < 4; k++ { // vectors do not fit their checksums here: an error, no panic
			_, _ = p.search(t.Context(), store.Query{Vectors: []imagebind.Embedding{make(imagebind.Embedding, 5)}, K: k, Filter: map[string]any{"a": 1.0}})
		}
	})
}

// FuzzOld reads bytes as a log of format 1.
func FuzzOld(f *testing.F) {
	const dir = "testdata/format1/pets/rows-000001"
	b, err := os.ReadFile(filepath.Join(dir, logFile))
	if err != nil {
		f.Fatal(err)
	}
	rows, err := os.ReadFile(filepath.Join(dir, rowsFile))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b, rows)
	f.Add(b[:len(b)-3], rows)
	f.Add(b, rows[:100])
	f.Fuzz(func(t *testing.T, b, rows []byte) {
		if len(b) > oldHeaderBytes { // past the checksums
			copy(b, oldMagic)
			le := binary.LittleEndian
			le.PutUint32(b[8:], 19)
			le.PutUint32(b[16:], crc32.Checksum(b[:16], castagnoli))
			for at := oldHeaderBytes; at+groupHeader <= len(b); {
				n := groupHeader + int(le.Uint32(b[at+4:]))
				if n > len(b)-at {
					break
				}
				copy(b[at:], groupMagic)
				le.PutUint32(b[at+12:], groupSum(b[at:at+n], le.Uint32(b[12:])))
				at += n
			}
		}
		dir := t.TempDir()
		for name, b := range map[string][]byte{logFile: b, rowsFile: rows} {
			if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		p, err := createPart(filepath.Join(dir, "new"), 19, false)
		if err != nil {
			t.Fatal(err)
		}
		defer p.close()
		if err := readOld(dir, p); err == nil && p.now.n != len(p.now.places) {
			t.Errorf("%d slots, %d places", p.now.n, len(p.now.places))
		}
	})
}

func FuzzManifest(f *testing.F) {
	m, err := newManifest(name, store.Spec{Dim: 5, Model: "m"})
	if err != nil {
		f.Fatal(err)
	}
	m.Rows, m.Values = "rows-000001", float16Values
	m.Kept = []generation{{Dim: 4, Values: float32Values, Generation: 3, Rows: "rows-000002"}}
	b, err := json.Marshal(m)
	if err != nil {
		f.Fatal(err)
	}
	for _, s := range []string{string(b), `{}`, `{"format":1,"name":"pets","dim":-1}`, `[]`, `{"format":1,"name":"pets","dim":1,"index":"FLAT","generation":1,"rows":"rows-000001/.."}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parseManifest(b, name)
		if err != nil {
			if imagebind.KindOf(err) != imagebind.Invalid {
				t.Errorf("%v is of kind %v", err, imagebind.KindOf(err))
			}
			return
		}
		if m.Dim < 1 || m.Dim > maxDim || m.Name != name || filepath.Base(m.Rows) != m.Rows || m.Generation < 1 {
			t.Errorf("%+v went through", m)
		}
		again, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := parseManifest(again, name); err != nil || !reflect.DeepEqual(n, m) {
			t.Errorf("%+v became %+v, %v", m, n, err)
		}
	})
}

// FuzzFilter holds the filter's shortcut through the bytes to a plain comparison.
func FuzzFilter(f *testing.F) {
	f.Add(`{"a":1}`, `{"a":1.0}`)
	f.Add(`{"a":"x\"b\":2","b":2}`, `{"b":2}`)
	f.Add(`{"a":-0}`, `{"a":0}`)
	f.Add(`{"a":"\ufffd"}`, `{"a":"\ud800"}`)
	f.Add(`{"a":{"b":true}}`, `{"b":true}`)
	f.Add(`{"é<":"\u2028"}`, `{"é<":"\u2028"}`)
	f.Add(`{"a":1}`, `{"a":{"eq":1}}`)
	f.Add(`{"a":{"eq":1}}`, `{"a":{"ne":1}}`)
	f.Add(`{"a":-0,"b":"x"}`, `{"a":{"gte":0,"lt":2},"b":{"in":["x",2]}}`)
	f.Fuzz(func(t *testing.T, metadata, fields string) {
		var m, want map[string]any
		if json.Unmarshal([]byte(metadata), &m) != nil || json.Unmarshal([]byte(fields), &want) != nil || len(m) == 0 {
			return
		}
		b, err := canonical(m)
		if err != nil {
			t.Fatal(err)
		}
		flt, err := newFilter(want)
		if err != nil {
			if imagebind.KindOf(err) != imagebind.Invalid {
				t.Error(err)
			}
			return
		}
		terms, err := conditions.Parse(want)
		if err != nil {
			t.Fatal(err)
		}
		same := true
		for _, term := range terms {
			same = same && term.Pass(m)
		}
		if got := flt.pass(b); got != same {
			t.Errorf("%s against %s: %v, want %v", fields, b, got, same)
		}
	})
}

// TestIDs holds the table to a map.
func TestIDs(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	table, want := newIDs(), map[string]int{}
	var slots []string
	for range 20000 {
		id := fmt.Sprint("id", r.IntN(5000))
		e, err := table.find([]byte(id), func(slot int) (bool, error) { return slots[slot] == id, nil })
		if err != nil {
			t.Fatal(err)
		}
		slot, ok := want[id]
		if ok != (e.slot != 0) || ok && int(e.slot-1) != slot {
			t.Fatalf("%s: slot %d, want %d %v", id, int(e.slot)-1, slot, ok)
		}
		if r.IntN(3) > 0 {
			want[id] = len(slots)
			table.put(e, len(slots))
			slots = append(slots, id)
		}
	}
	if table.n != len(want) {
		t.Errorf("%d entries for %d ids", table.n, len(want))
	}
}
