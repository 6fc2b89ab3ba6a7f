package server

import (
	"context"
	"path"
	"regexp"
	"strings"

	"github.com/gin-gonic/gin"

	imagebind "imagebind-llm"
	"imagebind-llm/internal/httpapi"
	"imagebind-llm/retriever/retrieverapi"
	"imagebind-llm/retriever/store"
)

// Tenants share a retriever without seeing one another. What the tenant acme
// calls pets is the collection acme__pets of the store; acme sees collections
// and jobs of that prefix only, by the names without it, and sources below the
// folder acme of the source root. Owners without a name see everything as it is.
type Tenants struct {
	Owners []httpapi.Owner // of keys; none means no check
	// MaxRows that serve in all of a tenant's collections together; 0 for no bound.
	MaxRows int
}

const tenantMark = "__"

var tenantRE = regexp.MustCompile(`^[a-z][a-z0-9]{0,31}$`)

// ParseTenants reads keys of administrators, and NAME=KEY of tenants; a tenant
// may have several keys.
func ParseTenants(keys, tenants []string, maxRows int) (Tenants, error) {
	t := Tenants{MaxRows: maxRows}
	if maxRows < 0 {
		return t, imagebind.Errorf(imagebind.Invalid, "a tenant's rows are at least 0, not %d", maxRows)
	}
	seen := map[string]bool{}
	add := func(o httpapi.Owner) error {
		if seen[o.Key] {
			return imagebind.Errorf(imagebind.Invalid, "a key is there twice; each has one owner")
		}
		seen[o.Key] = true
		t.Owners = append(t.Owners, o)
		return nil
	}
	for _, k := range keys {
		if err := add(httpapi.Owner{Key: k}); err != nil {
			return t, err
		}
	}
	for _, entry := range tenants {
		name, key, ok := strings.Cut(entry, "=")
		if !ok || key == "" || !tenantRE.MatchString(name) {
			return t, imagebind.Errorf(imagebind.Invalid, "a tenant is NAME=KEY; the name is a small letter, then up to 31 small letters and digits")
		}
		if err := add(httpapi.Owner{Name: name, Key: key}); err != nil {
			return t, err
		}
	}
	return t, nil
}

// tenantOf returns the tenant of a collection of the store; "" for none.
func tenantOf(collection string) string {
	name, _, ok := strings.Cut(collection, tenantMark)
	if !ok || !tenantRE.MatchString(name) {
		return ""
	}
	return name
}

// Room is an error where a tenant's collection of the store cannot hold rows in
// place of those that it has; more, beside them.
func (t Tenants) Room(ctx context.Context, s store.Store, collection string, rows int, more bool) error {
	tenant := tenantOf(collection)
	if t.MaxRows == 0 || tenant == "" {
		return nil
	}
	infos, err := s.List(ctx)
	if err != nil {
		return err
	}
	held := 0
	for _, i := range infos {
		if tenantOf(i.Name) == tenant && (more || i.Name != collection) {
			held += i.Count
		}
	}
	if held+rows > t.MaxRows {
		return imagebind.Errorf(imagebind.TooLarge, "%d rows beside the %d that this key's collections hold are more than its %d; delete some first", rows, held, t.MaxRows)
	}
	return nil
}

// A tenant is whose request it is, and how it names things; "" is nobody's.
type tenant string

func tenantFrom(c *gin.Context) tenant { return tenant(httpapi.OwnerOf(c.Request.Context())) }

// prefix of the tenant's collections in the store.
func (t tenant) prefix() string {
	if t == "" {
		return ""
	}
	return string(t) + tenantMark
}

// owns reports whether a collection of the store is the tenant's to see.
func (t tenant) owns(collection string) bool { return strings.HasPrefix(collection, t.prefix()) }

// shown is the tenant's name of a collection of the store.
func (t tenant) shown(collection string) string { return strings.TrimPrefix(collection, t.prefix()) }

// stored is the store's name of what the tenant calls name.
func (t tenant) stored(name string) (string, error) {
	longest := maxName - len(t.prefix())
	if !nameRE.MatchString(name) || len(name) > longest {
		return "", imagebind.WithParam(imagebind.Errorf(imagebind.Invalid, "collection name %q: it is a letter or _, then up to %d letters, digits, _ and -", name, longest-1), "collection")
	}
	return t.prefix() + name, nil
}

// source is the path of a source that the tenant names.
func (t tenant) source(p string) string {
	if t == "" || p == "" {
		return p
	}
	return path.Join(string(t), path.Clean("/"+p))
}

// job is j as the tenant sees it.
func (t tenant) job(j retrieverapi.Job) retrieverapi.Job {
	j.Collection = t.shown(j.Collection)
	if t != "" {
		j.Source.Path = strings.TrimPrefix(strings.TrimPrefix(j.Source.Path, string(t)), "/")
	}
	return j
}

// collection is i as the tenant sees it.
func (t tenant) collection(i store.Info) retrieverapi.Collection {
	i.Name = t.shown(i.Name)
	return collection(i)
}

// named returns the store's name of the collection in the request's path.
func named(c *gin.Context) (string, error) { return tenantFrom(c).stored(c.Param("name")) }
