package text

import (
	"slices"
	"strings"
	"sync"
	"testing"

	imagebind "imagebind-llm"
	"imagebind-llm/internal/golden"
	"imagebind-llm/runner/modality"
)

// cases are the reference's: testdata/README.md.
func cases(t testing.TB) []struct {
	Text    string
	Cleaned string
	Padded  []int64 `json:"padded_fb"`
} {
	var file struct {
		Cases []struct {
			Text    string
			Cleaned string
			Padded  []int64 `json:"padded_fb"`
		}
	}
	golden.JSON(t, "testdata/clip_bpe.json", &file)
	if len(file.Cases) != 24 {
		t.Fatalf("%d cases", len(file.Cases))
	}
	return file.Cases
}

func TestReadGolden(t *testing.T) {
	for _, c := range cases(t) {
		if got := clean(c.Text); got != c.Cleaned {
			t.Errorf("%q cleaned is %q, want %q", c.Text, got, c.Cleaned)
		}
		got, err := Read(t.Context(), []byte(c.Text), modality.Options{})
		if err != nil {
			t.Errorf("%q: %v", c.Text, err)
		} else if !slices.Equal(got.Shape, []int{1, Context}) || !slices.Equal(got.Ints, c.Padded) {
			t.Errorf("%q has ids %v, want %v", c.Text, got.Ints, c.Padded)
		}
	}
}

// TestClean holds further texts against ftfy 6.3.1 and Python.
func TestClean(t *testing.T) {
	var more []struct{ Text, Cleaned string }
	golden.JSON(t, "testdata/more.json", &more)
	for _, c := range more {
		if got := clean(c.Text); got != c.Cleaned {
			t.Errorf("%q is %q, want %q", c.Text, got, c.Cleaned)
		}
	}
}

func TestReadErrors(t *testing.T) {
	if _, err := Read(t.Context(), []byte("\xff\xfe"), modality.Options{}); imagebind.KindOf(err) != imagebind.Invalid {
		t.Errorf("not UTF-8: %v", err)
	}
	if _, err := Read(t.Context(), make([]byte, maxText+1), modality.Options{}); imagebind.KindOf(err) != imagebind.TooLarge {
		t.Errorf("too long: %v", err)
	}
}

// TestLongWord reads one word as long as is allowed, from many goroutines.
func TestLongWord(t *testing.T) {
	word := []byte(strings.Repeat("ab", maxText/2))
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			got, err := Read(t.Context(), word, modality.Options{})
			if err != nil || got.Ints[Context-1] != end {
				t.Errorf("%v, %v", got.Ints, err)
			}
		})
	}
	wg.Wait()
}

func TestNewTokenizerErrors(t *testing.T) {
	for _, vocabulary := range []string{"", "version\ni n\n", "version\nfoo bar\n"} {
		if _, err := NewTokenizer(strings.NewReader(vocabulary)); err == nil {
			t.Errorf("%q is taken", vocabulary)
		}
	}
}

func FuzzRead(f *testing.F) {
	for _, c := range cases(f) {
		f.Add([]byte(c.Text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := Read(t.Context(), data, modality.Options{})
		if err != nil {
			return
		}
		if got.Ints[0] != start || !slices.Contains(got.Ints, end) {
			t.Errorf("ids %v", got.Ints)
		}
	})
}

func BenchmarkRead(b *testing.B) {
	text := []byte("a photograph of a very long street market in the early morning with many people walking between the stalls")
	for b.Loop() {
		if _, err := Read(b.Context(), text, modality.Options{}); err != nil {
			b.Fatal(err)
		}
	}
}
