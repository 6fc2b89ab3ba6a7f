// Package version says which build a program is.
package version

import "runtime/debug"

// Version is set by the linker (make build); a `go run` knows its commit only.
var Version = ""

// String returns the version, or the commit, or "dev".
func String() string {
	if Version != "" {
		return Version
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				return s.Value[:min(12, len(s.Value))]
			}
		}
	}
	return "dev"
}
