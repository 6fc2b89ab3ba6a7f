// Package foreign keeps the decoders of foreign bytes from taking the program
// down: third-party code that panics on a broken file makes an error instead.
package foreign

import (
	"errors"
	"fmt"
	"image/jpeg"
	"image/png"

	"golang.org/x/image/bmp"
	"golang.org/x/image/tiff"

	imagebind "imagebind-llm"
)

// Recover when deferred turns a panic into an Invalid error at *err. what names
// the file's kind, as in "PNG".
func Recover(err *error, what string) {
	if r := recover(); r != nil {
		*err = &imagebind.Error{Kind: imagebind.Invalid, Message: "the " + what + " file is broken and cannot be decoded", Err: fmt.Errorf("decoder panicked: %v", r)}
	}
}

// Broken is the error of a file that its decoder refuses with cause: Invalid,
// or Unsupported for a variant of the format that the decoder does not know.
func Broken(what string, cause error) error {
	var j jpeg.UnsupportedError
	var p png.UnsupportedError
	var t tiff.UnsupportedError
	if errors.As(cause, &j) || errors.As(cause, &p) || errors.As(cause, &t) || errors.Is(cause, bmp.ErrUnsupported) {
		return imagebind.Errorf(imagebind.Unsupported, "this variant of %s cannot be read: %w; save it as an ordinary one, or as PNG", what, cause)
	}
	return imagebind.Errorf(imagebind.Invalid, "the %s file cannot be decoded: %w", what, cause)
}
