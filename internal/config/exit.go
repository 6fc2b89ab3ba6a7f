package config

import (
	"errors"
	"fmt"
	"os"
)

// A Usage is a mistake on the command line or in the config.
type Usage struct{ Err error }

func (u Usage) Error() string { return u.Err.Error() }

// Unwrap returns the mistake.
func (u Usage) Unwrap() error { return u.Err }

// Exit ends a program with what its run returned: code 0 for nil, 2 for a Usage,
// 1 for all else, which it prints.
func Exit(program string, err error) {
	if err == nil {
		os.Exit(0)
	}
	fmt.Fprintf(os.Stderr, "%s: %v\n", program, err)
	if usage := (Usage{}); errors.As(err, &usage) {
		os.Exit(2)
	}
	os.Exit(1)
}
