// Package web is the page that the runner shows at /: drop a picture or a
// sound, or bind a text, ask, watch the answer come, see the neighbours. It is
// three files, embedded, without a build step, and uses the API like any client.
package web

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"mime"
	"net/http"
	"path"
	"time"
)

//go:embed index.html app.js style.css
var files embed.FS

// policy lets the page load its own files and talk to its own server only.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; media-src blob:; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// Assets returns the paths of the files beside the page.
func Assets() []string { return []string{"/assets/app.js", "/assets/style.css"} }

// Handler serves the page at / and its files below /assets/.
func Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /{$}", file("index.html"))
	for _, p := range Assets() {
		mux.Handle("GET "+p, file(path.Base(p)))
	}
	return mux
}

func file(name string) http.Handler {
	content, err := files.ReadFile(name)
	if err != nil {
		panic("web: " + err.Error()) // it is embedded
	}
	sum := sha256.Sum256(content)
	etag := `"` + hex.EncodeToString(sum[:8]) + `"`
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Type", mime.TypeByExtension(path.Ext(name)))
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cache-Control", "no-cache") // ask each time whether the ETag still holds
		h.Set("ETag", etag)
		http.ServeContent(w, r, name, time.Time{}, bytes.NewReader(content))
	})
}
