package web

import (
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
)

func get(t *testing.T, path, etag string) *httptest.ResponseRecorder {
	t.Helper()
	w := httptest.NewRecorder()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil)
	r.Header.Set("If-None-Match", etag)
	Handler().ServeHTTP(w, r)
	return w
}

// TestHandler holds each file against what a browser under the policy wants.
func TestHandler(t *testing.T) {
	for path, media := range map[string]string{"/": "text/html", "/assets/app.js": "text/javascript", "/assets/style.css": "text/css"} {
		w := get(t, path, "")
		h := w.Header()
		if w.Code != http.StatusOK || !strings.HasPrefix(h.Get("Content-Type"), media) || h.Get("X-Content-Type-Options") != "nosniff" || w.Body.Len() == 0 {
			t.Errorf("%s: %d %v", path, w.Code, h)
		}
		for _, rule := range []string{"default-src 'none'", "script-src 'self'", "base-uri 'none'", "frame-ancestors 'none'"} {
			if !strings.Contains(h.Get("Content-Security-Policy"), rule) {
				t.Errorf("%s: the policy lacks %s", path, rule)
			}
		}
		if again := get(t, path, h.Get("ETag")); again.Code != http.StatusNotModified {
			t.Errorf("%s: %d for its own ETag", path, again.Code)
		}
	}
	if w := get(t, "/assets/web.go", ""); w.Code != http.StatusNotFound {
		t.Errorf("web.go: %d", w.Code)
	}
}

// TestPage holds the page to its policy: nothing from elsewhere, nothing
// inline, no text made HTML, and no id that the script asks for and is not there.
func TestPage(t *testing.T) {
	html, script, style := get(t, "/", "").Body.String(), get(t, "/assets/app.js", "").Body.String(), get(t, "/assets/style.css", "").Body.String()
	for name, text := range map[string]string{"index.html": html, "app.js": script, "style.css": style} {
		if m := regexp.MustCompile(`innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|https?://|\burl\(|@import`).FindString(text); m != "" {
			t.Errorf("%s has %s", name, m)
		}
	}
	if m := regexp.MustCompile(`\son\w+=|\sstyle=|<style|<script>`).FindString(html); m != "" {
		t.Errorf("index.html has %s", m)
	}
	for _, m := range regexp.MustCompile(`(?:src|href)="(/[^"]*)"`).FindAllStringSubmatch(html, -1) {
		if w := get(t, m[1], ""); w.Code != http.StatusOK {
			t.Errorf("%s: %d", m[1], w.Code)
		}
	}
	for _, m := range regexp.MustCompile(`\$\("(\w+)"\)`).FindAllStringSubmatch(script, -1) {
		if !strings.Contains(html, `id="`+m[1]+`"`) {
			t.Errorf("app.js asks for #%s, which index.html lacks", m[1])
		}
	}
}
