// Package foreign keeps the decoders of foreign bytes from taking the program
// down: third-party code that panics on a broken file makes an error instead.
package foreign

import (
	"fmt"

	imagebind "imagebind-llm"
)

// Recover when deferred turns a panic into an Invalid error at *err. what names
// the file's kind, as in "PNG".
func Recover(err *error, what string) {
	if r := recover(); r != nil {
		*err = &imagebind.Error{Kind: imagebind.Invalid, Message: "the " + what + " file is broken and cannot be decoded", Err: fmt.Errorf("decoder panicked: %v", r)}
	}
}

// Broken is the error of a file that its decoder refuses with cause.
func Broken(what string, cause error) error {
	return imagebind.Errorf(imagebind.Invalid, "the %s file cannot be decoded: %w", what, cause)
}
