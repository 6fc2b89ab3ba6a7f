package config

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
)

type options struct {
	Listen string   `koanf:"listen" help:"address"`
	Keys   []string `koanf:"keys" secret:"true" help:"keys"`
	Limits struct {
		Pixels  int           `koanf:"pixels" help:"pixels"`
		MaxTime time.Duration `koanf:"max_time" help:"time"`
	} `koanf:"limits"`
	Share float64 `koanf:"share" help:"share"`
	On    bool    `koanf:"on" help:"on"`
}

func defaults() *options {
	o := &options{Listen: ":1", Share: 0.5}
	o.Limits.Pixels, o.Limits.MaxTime = 10, time.Second
	return o
}

func load(t *testing.T, yaml string, args ...string) (*options, error) {
	t.Helper()
	o := defaults()
	fs := pflag.NewFlagSet("test", pflag.ContinueOnError)
	Flags(fs, o)
	if yaml != "" {
		path := filepath.Join(t.TempDir(), "c.yaml")
		if err := os.WriteFile(path, []byte(yaml), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, "--config", path)
	}
	if err := fs.Parse(args); err != nil {
		t.Fatal(err)
	}
	return o, Load(fs, "TESTAPP", o)
}

func TestLoadPrecedence(t *testing.T) {
	t.Setenv("TESTAPP_LISTEN", ":3")
	t.Setenv("TESTAPP_LIMITS_MAX_TIME", "5s")
	t.Setenv("TESTAPP_KEYS", "a,b")
	o, err := load(t, "listen: ':2'\nlimits: {pixels: 20, max_time: 3s}\nshare: 0.75\n", "--listen", ":4", "--on")
	if err != nil {
		t.Fatal(err)
	}
	if o.Listen != ":4" || o.Limits.Pixels != 20 || o.Limits.MaxTime != 5*time.Second || o.Share != 0.75 || !o.On || !slices.Equal(o.Keys, []string{"a", "b"}) {
		t.Errorf("got %+v", o)
	}
}

func TestLoadDefaults(t *testing.T) {
	o, err := load(t, "")
	if err != nil {
		t.Fatal(err)
	}
	if o.Listen != ":1" || o.Limits.MaxTime != time.Second {
		t.Errorf("got %+v", o)
	}
}

func TestLoadErrors(t *testing.T) {
	for _, tt := range []struct{ name, yaml, want string }{
		{"unknown key", "listne: ':2'\n", `unknown key "listne"`},
		{"unknown nested key", "limits: {pixel: 1}\n", `unknown key "limits.pixel"`},
		{"wrong type", "limits: {pixels: many}\n", "pixels"},
		{"no YAML", "listen: [", "config"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := load(t, tt.yaml)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q in it", err, tt.want)
			}
		})
	}
}
