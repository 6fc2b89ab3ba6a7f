// Package progtest helps the three programs test themselves: a test binary that
// is its own program, what a command line promises, and that the config file in
// configs/ says the defaults.
package progtest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"

	"imagebind-llm/internal/config"
	"imagebind-llm/internal/golden"
)

// asProgram makes a test binary be the program.
const asProgram = "IMAGEBIND_TEST_AS_PROGRAM"

// Main is for a TestMain: where the test binary was started by [Command] it runs
// the program and does not return.
func Main(program func()) {
	if os.Getenv(asProgram) != "" {
		program()
		os.Exit(0)
	}
}

// Command is the program with args. It is killed when the test ends.
func Command(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe, args...)
	cmd.Env = append(os.Environ(), asProgram+"=1")
	return cmd
}

// Check runs the program with args, as a test of that name, and holds it against
// the exit code that it should have and words of what it should print.
func Check(t *testing.T, name string, code int, says string, args ...string) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		out, err := Command(t, args...).CombinedOutput()
		got := 0
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			got = exit.ExitCode()
		} else if err != nil {
			t.Fatal(err)
		}
		if got != code || !strings.Contains(string(out), says) {
			t.Errorf("exit code %d, want %d and %q:\n%s", got, code, says, out)
		}
	})
}

// ConfigFile holds the file at path against the options' defaults: it names
// every key, and reading it into empty, a pointer to zero options, gives what
// defaults points to.
func ConfigFile(t *testing.T, path string, empty, defaults any) {
	t.Helper()
	fs := pflag.NewFlagSet("test", pflag.ContinueOnError)
	config.Flags(fs, empty)
	if err := fs.Parse([]string{"--config", path}); err != nil {
		t.Fatal(err)
	}
	if err := config.Load(fs, "IMAGEBIND_TEST_OF_CONFIG", empty); err != nil {
		t.Fatal(err)
	}
	if got, want := fmt.Sprintf("%+v", empty), fmt.Sprintf("%+v", defaults); got != want {
		t.Errorf("the file says\n%s\nthe defaults are\n%s", got, want)
	}
	var doc map[string]any
	if err := yaml.Unmarshal(golden.Bytes(t, path), &doc); err != nil {
		t.Fatal(err)
	}
	in := map[string]bool{"config": true}
	for key, v := range doc {
		if group, ok := v.(map[string]any); ok {
			for k := range group {
				in[strings.ReplaceAll(key+"-"+k, "_", "-")] = true
			}
		}
		in[strings.ReplaceAll(key, "_", "-")] = true
	}
	fs.VisitAll(func(f *pflag.Flag) {
		if !in[f.Name] {
			t.Errorf("%s is not in the file", f.Name)
		}
	})
}
