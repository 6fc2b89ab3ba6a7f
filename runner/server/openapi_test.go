package server

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
)

// TestOpenAPI holds openapi.yaml to the standard and to the routes, both ways.
// The page's assets are not documented.
func TestOpenAPI(t *testing.T) {
	doc, err := openapi3.NewLoader().LoadFromData(openapiJSON())
	if err != nil {
		t.Fatal(err)
	}
	if err := doc.Validate(t.Context(), openapi3.EnableExamplesValidation()); err != nil {
		t.Fatal(err)
	}
	var documented, served []string
	for path, item := range doc.Paths.Map() {
		for method := range item.Operations() {
			documented = append(documented, method+" "+path)
		}
	}
	server, err := New(Options{Pipeline: &fake{}})
	if err != nil {
		t.Fatal(err)
	}
	params := regexp.MustCompile(`:(\w+)`)
	for _, r := range server.routes {
		if !strings.HasPrefix(r.Path, "/assets/") {
			served = append(served, r.Method+" "+params.ReplaceAllString(r.Path, "{$1}"))
		}
	}
	slices.Sort(documented)
	slices.Sort(served)
	if !slices.Equal(documented, served) {
		t.Errorf("documented %q\nserved %q", documented, served)
	}
}
