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
//	1  the first
const formatVersion = 1

const (
	manifestFile = "manifest.json" // in a collection's folder: which rows serve
	buildFile    = "build.json"    // in a folder of rows: the job that fills it
	maxManifest  = 64 << 10        // bytes

	maxDim = 32768
)

// A manifest says what a folder of rows is: of a collection, the one that
// serves; of a build, the one that a job fills.
type manifest struct {
	Format     int       `json:"format"`
	Name       string    `json:"name"`
	Dim        int       `json:"dim"`
	Index      string    `json:"index"`
	Model      string    `json:"model,omitempty"`
	Generation int       `json:"generation"`
	BuiltAt    time.Time `json:"built_at"`
	Rows       string    `json:"rows"`          // the folder's name
	Job        string    `json:"job,omitempty"` // of a build
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
	return manifest{Format: formatVersion, Name: name, Dim: spec.Dim, Index: index, Model: spec.Model, Generation: 1}, nil
}

// parseManifest reads and checks a manifest of the collection name.
func parseManifest(b []byte, name string) (manifest, error) {
	var m manifest
	if err := json.Unmarshal(b, &m); err != nil {
		return m, imagebind.Errorf(imagebind.Invalid, "it is no manifest: %w", err)
	}
	switch {
	case m.Format != formatVersion:
		return m, imagebind.Errorf(imagebind.Invalid, "format %d; this program reads format %d", m.Format, formatVersion)
	case m.Name != name:
		return m, imagebind.Errorf(imagebind.Invalid, "it is of the collection %q, not of %q", m.Name, name)
	case m.Dim < 1 || m.Dim > maxDim:
		return m, imagebind.Errorf(imagebind.Invalid, "dim is %d; it is 1 to %d", m.Dim, maxDim)
	case m.Index != index:
		return m, imagebind.Errorf(imagebind.Invalid, "index %q is not known", m.Index)
	case m.Generation < 1:
		return m, imagebind.Errorf(imagebind.Invalid, "generation %d; they count from 1", m.Generation)
	case !rowsRE.MatchString(m.Rows):
		return m, imagebind.Errorf(imagebind.Invalid, "rows %q is no folder of rows", m.Rows)
	}
	return m, nil
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
