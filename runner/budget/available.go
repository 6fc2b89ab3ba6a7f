package budget

import (
	"bufio"
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"
)

// Available returns the bytes of memory that this process can still have: what
// the machine has free or can free (MemAvailable), and no more than what is left
// of its cgroups' limits. It is an error where the system does not say.
func Available() (int64, error) { return available(os.DirFS("/")) }

func available(root fs.FS) (int64, error) {
	n, err := field(root, "proc/meminfo", "MemAvailable:")
	if err != nil {
		return 0, err
	}
	n *= 1024
	groups, err := fs.ReadFile(root, "proc/self/cgroup")
	if err != nil {
		return n, nil // a system without cgroups
	}
	for s := bufio.NewScanner(bytes.NewReader(groups)); s.Scan(); {
		part := strings.SplitN(s.Text(), ":", 3) // id:controllers:path
		if len(part) != 3 {
			continue
		}
		for _, v := range versions {
			if v.has(part[1]) {
				n = min(n, left(root, v, part[2]))
			}
		}
	}
	return max(n, 0), nil
}

// A version is where a kind of cgroup says its limit and use.
type version struct {
	dir, limit, usage, idle string
	has                     func(controllers string) bool
}

var versions = []version{
	{"sys/fs/cgroup", "memory.max", "memory.current", "inactive_file", func(c string) bool { return c == "" }},
	{"sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file",
		func(c string) bool { return strings.Contains(","+c+",", ",memory,") }},
}

// left is what a group and those around it leave: the least of limit - use,
// where the page cache that nobody needs counts as free. In a container the
// path may be the host's, and the mount is the group itself.
func left(root fs.FS, v version, group string) int64 {
	least := int64(1 << 62)
	for p := path.Clean("/" + group); ; p = path.Dir(p) {
		dir := path.Join(v.dir, p)
		if limit, err := number(root, path.Join(dir, v.limit)); err == nil {
			usage, _ := number(root, path.Join(dir, v.usage))
			idle, _ := field(root, path.Join(dir, "memory.stat"), v.idle)
			least = min(least, limit-usage+idle)
		}
		if p == "/" {
			return least
		}
	}
}

// number reads a file of one number; "max" is none.
func number(root fs.FS, name string) (int64, error) {
	b, err := fs.ReadFile(root, name)
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
}

// field reads the number after a word at the beginning of a line.
func field(root fs.FS, name, word string) (int64, error) {
	b, err := fs.ReadFile(root, name)
	if err != nil {
		return 0, err
	}
	for s := bufio.NewScanner(bytes.NewReader(b)); s.Scan(); {
		if f := strings.Fields(s.Text()); len(f) > 1 && f[0] == word {
			return strconv.ParseInt(f[1], 10, 64)
		}
	}
	return 0, errors.New(name + " has no " + word)
}
