// Package config fills a struct of options from its defaults, a YAML file, the
// environment and the command line, each over the one before. Every leaf of the
// struct is a key in all four:
//
//	struct field  Limits.Pixels   `koanf:"limits"` `koanf:"pixels" help:"…"`
//	YAML          limits: {pixels: …}
//	environment   RUNNER_LIMITS_PIXELS
//	flag          --limits-pixels
//
// Leaves are strings, bools, ints, floats, time.Duration and []string.
package config

import (
	"fmt"
	"log/slog"
	"os"
	"reflect"
	"sort"
	"strings"
	"time"

	"github.com/knadh/koanf/parsers/yaml"
	"github.com/knadh/koanf/providers/confmap"
	"github.com/knadh/koanf/providers/file"
	"github.com/knadh/koanf/v2"
	"github.com/spf13/pflag"
)

// A leaf is one option.
type leaf struct {
	key    string // dotted
	value  reflect.Value
	help   string
	secret bool
}

func (l leaf) flag() string { return strings.ReplaceAll(strings.ReplaceAll(l.key, ".", "-"), "_", "-") }

func (l leaf) env(prefix string) string {
	return prefix + "_" + strings.ToUpper(strings.NewReplacer(".", "_", "-", "_").Replace(l.key))
}

func leaves(v reflect.Value, prefix string) []leaf {
	var out []leaf
	t := v.Type()
	for i := range t.NumField() {
		f := t.Field(i)
		name := f.Tag.Get("koanf")
		if name == "" || !f.IsExported() {
			panic(fmt.Sprintf("config: field %s.%s has no koanf tag", t, f.Name))
		}
		key := prefix + name
		if f.Type.Kind() == reflect.Struct {
			out = append(out, leaves(v.Field(i), key+".")...)
			continue
		}
		out = append(out, leaf{key, v.Field(i), f.Tag.Get("help"), f.Tag.Get("secret") == "true"})
	}
	return out
}

// Flags adds a flag for every leaf of *dst, whose values are the defaults, and
// --config for the file.
func Flags(fs *pflag.FlagSet, dst any) {
	for _, l := range leaves(reflect.ValueOf(dst).Elem(), "") {
		switch v := l.value.Interface().(type) {
		case string:
			fs.String(l.flag(), v, l.help)
		case bool:
			fs.Bool(l.flag(), v, l.help)
		case int:
			fs.Int(l.flag(), v, l.help)
		case int64:
			fs.Int64(l.flag(), v, l.help)
		case float64:
			fs.Float64(l.flag(), v, l.help)
		case time.Duration:
			fs.Duration(l.flag(), v, l.help)
		case []string:
			fs.StringSlice(l.flag(), v, l.help)
		default:
			panic(fmt.Sprintf("config: %s is a %T, which is no option", l.key, v))
		}
	}
	fs.String("config", "", "YAML file of options; the environment and flags go over it")
}

// Load fills *dst: flags of fs that were given, over the environment (env is
// the prefix, as in RUNNER), over the file that --config names, over what *dst
// holds. A key in the file that *dst does not have is an error.
func Load(fs *pflag.FlagSet, env string, dst any) error {
	all := leaves(reflect.ValueOf(dst).Elem(), "")
	k := koanf.New(".")
	path, _ := fs.GetString("config")
	if path == "" {
		path = os.Getenv(env + "_CONFIG")
	}
	if path != "" {
		if err := k.Load(file.Provider(path), yaml.Parser()); err != nil {
			return fmt.Errorf("config %s: %w", path, err)
		}
		if err := unknown(k.Keys(), all); err != nil {
			return fmt.Errorf("config %s: %w", path, err)
		}
	}
	over := map[string]any{}
	for _, l := range all {
		if s, ok := os.LookupEnv(l.env(env)); ok {
			over[l.key] = s
			if l.value.Kind() == reflect.Slice {
				over[l.key] = strings.FieldsFunc(s, func(r rune) bool { return r == ',' })
			}
		}
		if f := fs.Lookup(l.flag()); f != nil && f.Changed {
			over[l.key] = f.Value.String()
			if s, ok := f.Value.(pflag.SliceValue); ok {
				over[l.key] = s.GetSlice()
			}
		}
	}
	if err := k.Load(confmap.Provider(over, "."), nil); err != nil {
		return err
	}
	if err := k.Unmarshal("", dst); err != nil {
		return fmt.Errorf("config: %w", err)
	}
	return nil
}

func unknown(keys []string, all []leaf) error {
	known := map[string]bool{}
	var names []string
	for _, l := range all {
		known[l.key] = true
		names = append(names, l.key)
	}
	for _, k := range keys {
		if !known[k] {
			sort.Strings(names)
			return fmt.Errorf("unknown key %q; the keys are %s", k, strings.Join(names, ", "))
		}
	}
	return nil
}

// Log writes the effective options in one line, secrets masked.
func Log(options any) {
	var args []any
	for _, l := range leaves(reflect.ValueOf(options).Elem(), "") {
		v := l.value.Interface()
		if l.secret && !l.value.IsZero() {
			v = "***"
		}
		args = append(args, l.key, v)
	}
	slog.Info("config", args...)
}

// SetLog makes the default logger: "text" or "json", on stderr.
func SetLog(format, level string) error {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return fmt.Errorf("log level %q: it is debug, info, warn or error", level)
	}
	o := &slog.HandlerOptions{Level: l}
	switch format {
	case "text":
		slog.SetDefault(slog.New(slog.NewTextHandler(os.Stderr, o)))
	case "json":
		slog.SetDefault(slog.New(slog.NewJSONHandler(os.Stderr, o)))
	default:
		return fmt.Errorf("log format %q: it is text or json", format)
	}
	return nil
}
