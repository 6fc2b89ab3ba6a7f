package server

import (
	"bufio"
	"log/slog"
	"net/http"
	"strconv"

	"github.com/gin-gonic/gin"

	imagebind "imagebind-llm"
	"imagebind-llm/internal/httpapi"
	"imagebind-llm/retriever/retrieverapi"
	"imagebind-llm/retriever/source"
	"imagebind-llm/retriever/store"
)

func (s *Server) generations(c *gin.Context) (int, any, error) {
	name, err := named(c)
	if err != nil {
		return 0, nil, err
	}
	infos, err := s.o.Store.Generations(c.Request.Context(), name)
	if err != nil {
		return 0, nil, err
	}
	out := retrieverapi.GenerationList{Generations: make([]retrieverapi.Generation, len(infos))}
	for i, info := range infos {
		out.Generations[i] = retrieverapi.Generation{Collection: tenantFrom(c).collection(info), Serves: info.Serves}
	}
	return http.StatusOK, out, nil
}

func (s *Server) rollback(c *gin.Context) (int, any, error) {
	var r retrieverapi.RollbackRequest
	name, err := named(c)
	if err != nil {
		return 0, nil, err
	}
	if c.Request.ContentLength != 0 { // no body asks for the one that served last
		if err := readJSON(c.Request, &r); err != nil {
			return 0, nil, err
		}
	}
	if r.Generation < 0 {
		return 0, nil, imagebind.WithParam(imagebind.Errorf(imagebind.Invalid, "generation is %d; GET …/generations lists those that can serve", r.Generation), "generation")
	}
	i, err := s.o.Store.Switch(c.Request.Context(), name, r.Generation)
	return http.StatusOK, tenantFrom(c).collection(i), err
}

func (s *Server) forget(c *gin.Context) (int, any, error) {
	name, err := named(c)
	if err != nil {
		return 0, nil, err
	}
	n, err := strconv.Atoi(c.Param("generation"))
	if err != nil || n < 1 {
		return 0, nil, imagebind.Errorf(imagebind.NotFound, "no generation %q; GET …/generations lists them", c.Param("generation"))
	}
	err = s.o.Store.Forget(c.Request.Context(), name, n)
	return http.StatusOK, gin.H{"name": c.Param("name"), "generation": n, "deleted": true}, err
}

// export streams the rows that serve as a .parquet file. An error before its
// first bytes is answered as usual; a later one cuts the connection, so that
// nobody takes a part for the whole.
func (s *Server) export(c *gin.Context) {
	name, err := named(c)
	var i store.Info
	if err == nil {
		i, err = s.o.Store.Info(c.Request.Context(), name)
	}
	if err != nil {
		httpapi.WriteError(c.Writer, c.Request, err)
		return
	}
	out := bufio.NewWriterSize(&file{w: c.Writer, name: c.Param("name") + ".parquet"}, 1<<20)
	err = source.WriteParquet(out, i.Dim, func(do func([]store.Row) error) error {
		return s.o.Store.Scan(c.Request.Context(), name, do)
	})
	if err == nil {
		err = out.Flush()
	}
	switch {
	case err != nil && !c.Writer.Written():
		httpapi.WriteError(c.Writer, c.Request, err)
	case err != nil:
		slog.ErrorContext(c.Request.Context(), "an export broke off", "collection", name, "request_id", httpapi.RequestID(c.Request.Context()), "err", err)
		panic(http.ErrAbortHandler)
	}
}

// A file is an answer that begins with its first bytes.
type file struct {
	w    gin.ResponseWriter
	name string // of letters that need no quotes
}

func (f *file) Write(b []byte) (int, error) {
	if !f.w.Written() {
		h := f.w.Header()
		h.Set("Content-Type", "application/vnd.apache.parquet")
		h.Set("Content-Disposition", `attachment; filename="`+f.name+`"`)
	}
	return f.w.Write(b)
}
