package imagebind

import (
	"context"
	"errors"
	"fmt"
)

// A Kind says whose fault an error is and what the caller may do about it. The
// HTTP status of each stands in internal/httpapi.
type Kind uint8

// The kinds.
const (
	Internal     Kind = iota // a defect or a broken machine; the message stays in the log
	Invalid                  // the request can never succeed
	NotFound                 // no such model, collection, job or file
	TooLarge                 // over a configured limit
	Unsupported              // no modality or codec here reads it
	Unauthorized             // no key, or a wrong one
	Conflict                 // it exists already, or is in use
	Busy                     // the queue is full: again, later
	Canceled                 // the caller left
	Unavailable              // something this depends on does not answer
	Timeout                  // it took longer than allowed
)

// An Error carries a message meant for the caller. Wrap it with
// fmt.Errorf("…: %w") on the way up; MessageOf finds it again.
type Error struct {
	Kind    Kind
	Message string // a sentence for the caller: what is wrong, what to do
	Param   string // the field of the request at fault, as in messages[0].content[1].image_url; may be empty
	Err     error  // the cause, for the log; may be nil
	said    bool   // Message holds Err's text already
}

// Error returns the message with its cause.
func (e *Error) Error() string {
	if e.Err == nil || e.said {
		return e.Message
	}
	return e.Message + ": " + e.Err.Error()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Errorf makes an Error of a kind. A %w verb keeps its operand as the cause,
// and its text becomes part of the message.
func Errorf(kind Kind, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Kind: kind, Message: err.Error(), Err: errors.Unwrap(err), said: true}
}

// WithParam returns err with the field at fault set, where err holds an Error
// that names none yet. Other errors come back as they are.
func WithParam(err error, param string) error {
	var e *Error
	if !errors.As(err, &e) || e.Param != "" {
		return err
	}
	c := *e
	c.Param = param
	return &c
}

// ParamOf returns the field at fault that err names, or "".
func ParamOf(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.Param
	}
	return ""
}

// KindOf returns the kind of the first Error in err's chain. Context errors
// are Canceled and Timeout; all else is Internal.
func KindOf(err error) Kind {
	var e *Error
	switch {
	case errors.As(err, &e):
		return e.Kind
	case errors.Is(err, context.Canceled):
		return Canceled
	case errors.Is(err, context.DeadlineExceeded):
		return Timeout
	}
	return Internal
}

// MessageOf returns what the caller may read of err: the message of the first
// Error in its chain, or a plain sentence for its kind.
func MessageOf(err error) string {
	var e *Error
	if errors.As(err, &e) && e.Kind != Internal {
		return e.Message
	}
	switch KindOf(err) {
	case Canceled:
		return "the request was cancelled"
	case Timeout:
		return "the request took too long"
	}
	return "internal error"
}
