package flat

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/google/renameio/v2"

	imagebind "imagebind-llm"
	"imagebind-llm/retriever/store"
)

// formatVersion of manifests and of the files they lead to.
//
//	1  fp32 rows alone, which searches read
//	2  codes, and rows in float32 or float16; generations that are kept
const formatVersion = 2

const (
	manifestFile = "manifest.json" // in a collection's folder: which rows serve
	buildFile    = "build.json"    // in a folder of rows: the job that fills it
	maxManifest  = 64 << 10        // bytes

	maxDim = 32768
)

// How a generation's rows are stored.
const (
	float32Values = "float32"
	float16Values = "float16"
)

// A generation is a folder of rows.
type generation struct {
	Dim        int       `json:"dim"`
	Values     string    `json:"values"` // float32 or float16
	Model      string    `json:"model,omitempty"`
	Generation int       `json:"generation"`
	BuiltAt    time.Time `json:"built_at"`
	Rows       string    `json:"rows"` // the folder's name
	// The log's first bytes as the build left them, and their checksum. They hold
	// the checksums of all its rows and codes.
	LogBytes int64  `json:"log_bytes,omitempty"`
	LogSum   uint32 `json:"log_sum,omitempty"`
	Count    int    `json:"count"`        // of rows: when it was built, or last served
	By       string `json:"by,omitempty"` // the job that built it
}

// A manifest says what a folder of rows is: of a collection, the one that
// serves; of a build, the one that a job fills.
type manifest struct {
	Format int    `json:"format"`
	Name   string `json:"name"`
	Index  string `json:"index"`
	generation
	Job  string       `json:"job,omitempty"`  // of a build
	Kept []generation `json:"kept,omitempty"` // the one that served last first
}

var (
	nameRE = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_-]{0,99}$`)
	rowsRE = regexp.MustCompile(`^rows-[0-9]{6,18}$`)
)

// checkName keeps a collection's name from leading out of its folder.
func checkName(name string) error {
	if !nameRE.MatchString(name) {
		return imagebind.Errorf(imagebind.Invalid, "collection name %q: it is a letter or _, then up to 99 letters, digits, _ and -", name)
	}
	return nil
}

// newManifest checks what a collection is asked to be.
func newManifest(name string, spec store.Spec) (manifest, error) {
	if err := checkName(name); err != nil {
		return manifest{}, err
	}
	if spec.Dim < 1 || spec.Dim > maxDim {
		return manifest{}, imagebind.Errorf(imagebind.Invalid, "dim is %d; it is 1 to %d", spec.Dim, maxDim)
	}
	if spec.Index != "" && !strings.EqualFold(spec.Index, index) {
		return manifest{}, imagebind.Errorf(imagebind.Invalid, "index %q: the embedded store is exact and has %s alone; a Milvus store has others", spec.Index, index)
	}
	if len(spec.Model) > maxText {
		return manifest{}, imagebind.Errorf(imagebind.Invalid, "a model id of %d bytes; it has at most %d", len(spec.Model), maxText)
	}
	return manifest{Format: formatVersion, Name: name, Index: index, generation: generation{Dim: spec.Dim, Model: spec.Model, Generation: 1}}, nil
}

// parseManifest reads and checks a manifest of the collection name.
func parseManifest(b []byte, name string) (manifest, error) {
	var m manifest
	if err := json.Unmarshal(b, &m); err != nil {
		return m, imagebind.Errorf(imagebind.Invalid, "it is no manifest: %w", err)
	}
	switch {
	case m.Format < 1 || m.Format > formatVersion:
		return m, imagebind.Errorf(imagebind.Invalid, "format %d; this program reads formats 1 to %d", m.Format, formatVersion)
	case m.Name != name:
		return m, imagebind.Errorf(imagebind.Invalid, "it is of the collection %q, not of %q", m.Name, name)
	case m.Index != index:
		return m, imagebind.Errorf(imagebind.Invalid, "index %q is not known", m.Index)
	case m.Format == 1 && len(m.Kept) > 0:
		return m, imagebind.Errorf(imagebind.Invalid, "generations are kept from format 2 on")
	case m.Format == 1 && m.Values == "":
		m.Values = float32Values
	}
	seen := map[string]bool{}
	for _, g := range m.all() {
		if err := g.check(); err != nil {
			return m, err
		}
		if seen[g.Rows] {
			return m, imagebind.Errorf(imagebind.Invalid, "the folder %s is named twice", g.Rows)
		}
		seen[g.Rows] = true
	}
	return m, nil
}

func (g generation) check() error {
	switch {
	case g.Dim < 1 || g.Dim > maxDim:
		return imagebind.Errorf(imagebind.Invalid, "dim is %d; it is 1 to %d", g.Dim, maxDim)
	case g.Generation < 1:
		return imagebind.Errorf(imagebind.Invalid, "generation %d; they count from 1", g.Generation)
	case g.Values != float32Values && g.Values != float16Values:
		return imagebind.Errorf(imagebind.Invalid, "values %q; they are %s or %s", g.Values, float32Values, float16Values)
	case !rowsRE.MatchString(g.Rows):
		return imagebind.Errorf(imagebind.Invalid, "rows %q is no folder of rows", g.Rows)
	case g.Count < 0 || g.LogBytes < 0:
		return imagebind.Errorf(imagebind.Invalid, "%d rows, %d bytes of log", g.Count, g.LogBytes)
	}
	return nil
}

// readManifest reads the manifest at path; a missing one is os.ErrNotExist.
func readManifest(path, name string) (manifest, error) {
	info, err := os.Stat(path)
	if err != nil {
		return manifest{}, err
	}
	if info.Size() > maxManifest {
		return manifest{}, imagebind.Errorf(imagebind.Invalid, "%s: %d bytes; a manifest has at most %d", path, info.Size(), maxManifest)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return manifest{}, err
	}
	m, err := parseManifest(b, name)
	if err != nil {
		return m, fmt.Errorf("%s: %w", path, err)
	}
	return m, nil
}

// write puts the manifest at path, whole or not at all, and durably. It may
// fail when the manifest is there already but not durable: then there is true.
func (m manifest) write(path string) (there bool, err error) {
	b, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return false, err
	}
	if err := renameio.WriteFile(path, append(b, '\n'), 0o644); err != nil {
		return false, err
	}
	return true, syncDir(filepath.Dir(path))
}

// syncDir makes what was created, renamed and removed in dir durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return fsync(d)
}
