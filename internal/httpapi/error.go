// Package httpapi is what the HTTP servers of runner and retriever share: the
// error object, request ids, the access log, bearer keys, limits on bodies, and
// a server that stops gracefully. It speaks net/http; gin lives in */server.
package httpapi

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"

	imagebind "imagebind-llm"
)

// status is the one place where a Kind becomes an HTTP status. Servers read it
// forwards, in WriteError, and clients backwards, in ReadError.
var status = map[imagebind.Kind]int{
	imagebind.Invalid:      http.StatusBadRequest,
	imagebind.Unauthorized: http.StatusUnauthorized,
	imagebind.NotFound:     http.StatusNotFound,
	imagebind.Conflict:     http.StatusConflict,
	imagebind.TooLarge:     http.StatusRequestEntityTooLarge,
	imagebind.Unsupported:  http.StatusUnsupportedMediaType, // no modality or codec here reads it
	imagebind.Busy:         http.StatusTooManyRequests,      // the queue is full
	imagebind.Canceled:     499,                             // the client left; nobody reads this
	imagebind.Internal:     http.StatusInternalServerError,
	imagebind.Unavailable:  http.StatusServiceUnavailable, // Milvus, say, does not answer
	imagebind.Timeout:      http.StatusGatewayTimeout,
}

// types are OpenAI's words for error classes.
var types = map[imagebind.Kind]string{
	imagebind.Unauthorized: "authentication_error",
	imagebind.NotFound:     "not_found_error",
	imagebind.Conflict:     "conflict_error",
	imagebind.Busy:         "rate_limit_error",
	imagebind.Canceled:     "canceled",
	imagebind.Internal:     "server_error",
	imagebind.Unavailable:  "server_error",
	imagebind.Timeout:      "server_error",
}

// codes are stable words for programs.
var codes = map[imagebind.Kind]string{
	imagebind.Invalid: "invalid_value", imagebind.Unauthorized: "invalid_api_key", imagebind.NotFound: "not_found",
	imagebind.Conflict: "conflict", imagebind.TooLarge: "too_large", imagebind.Unsupported: "unsupported_media",
	imagebind.Busy: "overloaded", imagebind.Canceled: "canceled", imagebind.Internal: "internal_error",
	imagebind.Unavailable: "unavailable", imagebind.Timeout: "timeout",
}

// An ErrorBody is the error object of docs/api.md.
type ErrorBody struct {
	Error ErrorObject `json:"error"`
}

// An ErrorObject says what went wrong, in OpenAI's shape.
type ErrorObject struct {
	Message string  `json:"message"`
	Type    string  `json:"type"`
	Param   *string `json:"param"`
	Code    *string `json:"code"`
}

// ErrorOf returns the object that the caller may read of err, and its status.
func ErrorOf(err error) (ErrorBody, int) {
	kind := imagebind.KindOf(err)
	o := ErrorObject{Message: imagebind.MessageOf(err), Type: "invalid_request_error"}
	if t, ok := types[kind]; ok {
		o.Type = t
	}
	if c := codes[kind]; c != "" {
		o.Code = &c
	}
	if p := imagebind.ParamOf(err); p != "" {
		o.Param = &p
	}
	return ErrorBody{o}, status[kind]
}

// WriteError answers with the error object of docs/api.md. The sender reads the
// message of a typed error and "internal error" for all else; the log keeps the
// whole chain.
func WriteError(w http.ResponseWriter, r *http.Request, err error) {
	body, code := ErrorOf(err)
	switch imagebind.KindOf(err) {
	case imagebind.Internal:
		slog.ErrorContext(r.Context(), "request failed", "path", r.URL.Path, "request_id", RequestID(r.Context()), "err", err)
	case imagebind.Busy, imagebind.Unavailable:
		w.Header().Set("Retry-After", strconv.Itoa(1))
	case imagebind.Unauthorized:
		w.Header().Set("WWW-Authenticate", "Bearer")
	}
	WriteJSON(w, code, body)
}

// WriteJSON answers with v.
func WriteJSON(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(v) // the client may have left
}

// ReadError turns an answer of 400 and above back into an Error of its kind.
func ReadError(resp *http.Response) error {
	raw, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	kind := imagebind.Internal
	for k, s := range status {
		if s == resp.StatusCode {
			kind = k
		}
	}
	if resp.StatusCode == http.StatusBadGateway { // a proxy's, before a server that is away
		kind = imagebind.Unavailable
	}
	var body ErrorBody
	if json.Unmarshal(raw, &body) != nil || body.Error.Message == "" {
		return imagebind.Errorf(kind, "%s answered %s", resp.Request.URL.Host, resp.Status)
	}
	err := imagebind.Errorf(kind, "%s", body.Error.Message)
	if body.Error.Param != nil {
		err.Param = *body.Error.Param
	}
	return fmt.Errorf("%s: %w", resp.Request.URL.Host, err)
}
