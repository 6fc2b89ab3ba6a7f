package torch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"imagebind-llm/internal/format"
)

// Bounds of a pickle; the largest real one has some 30,000 objects.
const (
	maxObjects = 1 << 20
	maxDepth   = 64
)

// What a pickle makes: nil, bool, int64, float64, string, and these.
type (
	tuple []any
	list  struct{ items []any }
	dict  struct {
		keys, values []any
	}
	// A global is one of the allowed names.
	global string
	// opaque is a value that is allowed and of no use here.
	opaque struct{}
	mark   struct{}
)

// allowed says what of a global is needed. Nothing else may be named.
func allowed(name string) bool {
	switch name {
	case "collections.OrderedDict", "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter",
		"torch.Size", "torch.storage.UntypedStorage", "torch.storage.TypedStorage":
		return true
	}
	base, ok := strings.CutPrefix(name, "torch.")
	if !ok {
		return false
	}
	_, typed := storages[base]
	switch base {
	case "float32", "float16", "bfloat16", "float64", "int64", "int32", "int16", "int8", "uint8", "bool":
		typed = true
	}
	return typed
}

// A machine runs the opcodes of pickle protocols 0 to 5 that torch.save and
// Python's pickle write for such objects.
type machine struct {
	in      []byte
	at      int
	stack   []any
	memo    map[uint64]any
	objects int
}

func unpickle(b []byte) (any, error) {
	m := &machine{in: b, memo: map[uint64]any{}}
	v, err := m.run()
	if err != nil {
		return nil, fmt.Errorf("byte %d: %w", m.at, err)
	}
	return v, nil
}

var errShort = errors.New("it ends too early")

func (m *machine) take(n uint64) ([]byte, error) {
	if n > uint64(len(m.in)-m.at) {
		return nil, errShort
	}
	b := m.in[m.at : m.at+int(n)]
	m.at += int(n)
	return b, nil
}

func (m *machine) number(n int) (uint64, error) {
	b, err := m.take(uint64(n))
	if err != nil {
		return 0, err
	}
	var x uint64
	for i, c := range b {
		x |= uint64(c) << (8 * i)
	}
	return x, nil
}

// text reads a string whose length comes first, in n bytes.
func (m *machine) text(n int) ([]byte, error) {
	size, err := m.number(n)
	if err != nil {
		return nil, err
	}
	return m.take(size)
}

func (m *machine) line() (string, error) {
	i := strings.IndexByte(string(m.in[m.at:min(len(m.in), m.at+4096)]), '\n')
	if i < 0 {
		return "", errShort
	}
	s := string(m.in[m.at : m.at+i])
	m.at += i + 1
	return s, nil
}

func (m *machine) push(v any) error {
	if m.objects++; m.objects > maxObjects || len(m.stack) > maxObjects {
		return errors.New("it makes too many objects")
	}
	m.stack = append(m.stack, v)
	return nil
}

var errEmpty = errors.New("an operation wants more than there is on the stack")

func (m *machine) pop() (any, error) {
	if len(m.stack) == 0 {
		return nil, errEmpty
	}
	v := m.stack[len(m.stack)-1]
	if _, ok := v.(mark); ok {
		return nil, errEmpty
	}
	m.stack = m.stack[:len(m.stack)-1]
	return v, nil
}

func (m *machine) top() (any, error) {
	if len(m.stack) == 0 {
		return nil, errEmpty
	}
	return m.stack[len(m.stack)-1], nil
}

// marked pops what lies above the last mark, and the mark.
func (m *machine) marked() ([]any, error) {
	for i := len(m.stack) - 1; i >= 0; i-- {
		if _, ok := m.stack[i].(mark); ok {
			items := append([]any(nil), m.stack[i+1:]...)
			m.objects += len(items)
			m.stack = m.stack[:i]
			return items, nil
		}
	}
	return nil, errors.New("there is no mark")
}

// Opcodes (Python, Lib/pickletools.py).
const (
	opMark, opStop, opPop, opPopMark            = '(', '.', '0', '1'
	opInt, opBinInt, opBinInt1, opBinInt2       = 'I', 'J', 'K', 'M'
	opLong, opNone, opReduce, opPersID          = 'L', 'N', 'R', 'P'
	opBinPersID, opFloat, opBinFloat            = 'Q', 'F', 'G'
	opBinUnicode, opShortBinString, opBinString = 'X', 'U', 'T'
	opAppend, opBuild, opGlobal, opDict         = 'a', 'b', 'c', 'd'
	opEmptyDict, opAppends, opGet, opBinGet     = '}', 'e', 'g', 'h'
	opLongBinGet, opList, opEmptyList           = 'j', 'l', ']'
	opPut, opBinPut, opLongBinPut, opSetItem    = 'p', 'q', 'r', 's'
	opTuple, opEmptyTuple, opSetItems           = 't', ')', 'u'
	opProto, opNewObj                           = 0x80, 0x81
	opTuple1, opTuple2, opTuple3                = 0x85, 0x86, 0x87
	opTrue, opFalse, opLong1, opLong4           = 0x88, 0x89, 0x8a, 0x8b
	opShortUnicode, opUnicode8, opStackGlobal   = 0x8c, 0x8d, 0x93
	opMemoize, opFrame, opBinBytes              = 0x94, 0x95, 'B'
	opShortBinBytes                             = 'C'
)

func (m *machine) run() (any, error) {
	for {
		op, err := m.number(1)
		if err != nil {
			return nil, err
		}
		if op == opStop {
			return m.pop()
		}
		if err := m.step(byte(op)); err != nil {
			return nil, err
		}
	}
}

func (m *machine) step(op byte) error {
	switch op {
	case opProto:
		v, err := m.number(1)
		if err == nil && v > 5 {
			err = fmt.Errorf("pickle protocol %d is not known", v)
		}
		return err
	case opFrame:
		_, err := m.number(8)
		return err
	case opMark:
		return m.push(mark{})
	case opPop:
		_, err := m.pop()
		return err
	case opPopMark:
		_, err := m.marked()
		return err
	case opNone:
		return m.push(nil)
	case opTrue:
		return m.push(true)
	case opFalse:
		return m.push(false)
	case opInt, opLong, opFloat:
		return m.decimal(op)
	case opBinInt:
		v, err := m.number(4)
		return m.pushed(int64(int32(v)), err)
	case opBinInt1:
		v, err := m.number(1)
		return m.pushed(int64(v), err)
	case opBinInt2:
		v, err := m.number(2)
		return m.pushed(int64(v), err)
	case opLong1, opLong4:
		b, err := m.text(map[byte]int{opLong1: 1, opLong4: 4}[op])
		if err != nil {
			return err
		}
		v, err := long(b)
		return m.pushed(v, err)
	case opBinFloat:
		b, err := m.take(8)
		if err != nil {
			return err
		}
		return m.push(math.Float64frombits(binary.BigEndian.Uint64(b)))
	case opBinUnicode, opBinString, opBinBytes:
		b, err := m.text(4)
		return m.pushed(string(b), err)
	case opShortUnicode, opShortBinString, opShortBinBytes:
		b, err := m.text(1)
		return m.pushed(string(b), err)
	case opUnicode8:
		b, err := m.text(8)
		return m.pushed(string(b), err)
	case opEmptyDict:
		return m.push(&dict{})
	case opEmptyList:
		return m.push(&list{})
	case opEmptyTuple:
		return m.push(tuple{})
	case opTuple, opList, opDict:
		return m.collection(op)
	case opTuple1, opTuple2, opTuple3:
		n := int(op-opTuple1) + 1
		t := make(tuple, n)
		for i := n - 1; i >= 0; i-- {
			var err error
			if t[i], err = m.pop(); err != nil {
				return err
			}
		}
		return m.push(t)
	case opAppend, opAppends, opSetItem, opSetItems:
		return m.fill(op)
	case opBinGet, opLongBinGet, opGet, opPut, opBinPut, opLongBinPut, opMemoize:
		return m.remember(op)
	case opGlobal:
		module, err := m.line()
		if err != nil {
			return err
		}
		name, err := m.line()
		if err != nil {
			return err
		}
		return m.global(module, name)
	case opStackGlobal:
		name, err := m.pop()
		if err != nil {
			return err
		}
		module, err := m.pop()
		if err != nil {
			return err
		}
		ms, ok1 := module.(string)
		ns, ok2 := name.(string)
		if !ok1 || !ok2 {
			return errors.New("a global's name is no text")
		}
		return m.global(ms, ns)
	case opReduce, opNewObj:
		return m.reduce()
	case opBuild: // sets an object's attributes: OrderedDict's _metadata, which is not needed
		_, err := m.pop()
		if err != nil {
			return err
		}
		_, err = m.top()
		return err
	case opBinPersID:
		return m.persistent()
	}
	return fmt.Errorf("opcode %#x is not one that checkpoints use", op)
}

func (m *machine) pushed(v any, err error) error {
	if err != nil {
		return err
	}
	return m.push(v)
}

// decimal reads a number of protocol 0.
func (m *machine) decimal(op byte) error {
	s, err := m.line()
	if err != nil {
		return err
	}
	if op == opFloat {
		v, err := strconv.ParseFloat(s, 64)
		return m.pushed(v, err)
	}
	if op == opInt && (s == "00" || s == "01") {
		return m.push(s == "01")
	}
	v, err := strconv.ParseInt(strings.TrimSuffix(s, "L"), 10, 64)
	return m.pushed(v, err)
}

// long reads a little-endian two's complement number.
func long(b []byte) (int64, error) {
	if len(b) > 8 {
		return 0, errors.New("a number is too large")
	}
	var x uint64
	for i, c := range b {
		x |= uint64(c) << (8 * i)
	}
	if n := len(b); n > 0 && n < 8 && b[n-1]&0x80 != 0 {
		x |= ^uint64(0) << (8 * n)
	}
	return int64(x), nil
}

func (m *machine) collection(op byte) error {
	items, err := m.marked()
	if err != nil {
		return err
	}
	switch op {
	case opTuple:
		return m.push(tuple(items))
	case opList:
		return m.push(&list{items})
	}
	d := &dict{}
	if err := d.set(items); err != nil {
		return err
	}
	return m.push(d)
}

func (d *dict) set(items []any) error {
	if len(items)%2 != 0 {
		return errors.New("a dict has a key without a value")
	}
	for i := 0; i < len(items); i += 2 {
		d.keys, d.values = append(d.keys, items[i]), append(d.values, items[i+1])
	}
	return nil
}

// fill adds to the list or dict below.
func (m *machine) fill(op byte) error {
	var items []any
	var err error
	switch op {
	case opAppends, opSetItems:
		items, err = m.marked()
	case opAppend:
		items = make([]any, 1)
		items[0], err = m.pop()
	case opSetItem:
		items = make([]any, 2)
		if items[1], err = m.pop(); err == nil {
			items[0], err = m.pop()
		}
	}
	if err != nil {
		return err
	}
	v, err := m.top()
	if err != nil {
		return err
	}
	switch v := v.(type) {
	case *list:
		if op == opAppend || op == opAppends {
			v.items = append(v.items, items...)
			return nil
		}
	case *dict:
		if op == opSetItem || op == opSetItems {
			return v.set(items)
		}
	}
	return fmt.Errorf("items are added to a %T", v)
}

func (m *machine) remember(op byte) error {
	var key uint64
	var err error
	switch op {
	case opBinGet, opBinPut:
		key, err = m.number(1)
	case opLongBinGet, opLongBinPut:
		key, err = m.number(4)
	case opGet, opPut:
		var s string
		if s, err = m.line(); err == nil {
			key, err = strconv.ParseUint(s, 10, 32)
		}
	case opMemoize:
		key = uint64(len(m.memo))
	}
	if err != nil {
		return err
	}
	if op == opBinGet || op == opLongBinGet || op == opGet {
		v, ok := m.memo[key]
		if !ok {
			return fmt.Errorf("memo %d is empty", key)
		}
		return m.push(v)
	}
	v, err := m.top()
	if err != nil {
		return err
	}
	if m.objects++; m.objects > maxObjects {
		return errors.New("it makes too many objects")
	}
	m.memo[key] = v
	return nil
}

func (m *machine) global(module, name string) error {
	full := module + "." + name
	if !allowed(full) {
		return fmt.Errorf("pickle global %q is not allowed: what is not among the few things that weights need could run code; save the state dict alone", full)
	}
	return m.push(global(full))
}

// reduce calls one of the allowed globals.
func (m *machine) reduce() error {
	x, err := m.pop()
	if err != nil {
		return err
	}
	f, err := m.pop()
	if err != nil {
		return err
	}
	args, isTuple := x.(tuple)
	g, isGlobal := f.(global)
	if !isTuple || !isGlobal {
		return fmt.Errorf("a %T is called", f)
	}
	switch g {
	case "collections.OrderedDict":
		d := &dict{}
		if len(args) == 0 {
			return m.push(d)
		}
		items, ok := args[0].(*list)
		if !ok || len(args) > 1 {
			return errors.New("an OrderedDict is made of something else than pairs")
		}
		for _, p := range items.items {
			pair := asItems(p)
			if len(pair) != 2 {
				return errors.New("an OrderedDict is made of something else than pairs")
			}
			if err := d.set(pair); err != nil {
				return err
			}
		}
		return m.push(d)
	case "torch._utils._rebuild_tensor_v2":
		t, err := rebuild(args)
		return m.pushed(t, err)
	case "torch._utils._rebuild_parameter":
		if len(args) > 0 {
			if t, ok := args[0].(*tensor); ok {
				return m.push(t)
			}
		}
		return errors.New("a parameter is rebuilt from no tensor")
	case "torch.Size":
		if len(args) == 1 {
			return m.push(tuple(asItems(args[0])))
		}
	}
	return m.push(opaque{})
}

func asItems(v any) []any {
	switch v := v.(type) {
	case tuple:
		return v
	case *list:
		return v.items
	}
	return nil
}

// persistent turns ('storage', type, key, location, count) into a storage.
func (m *machine) persistent() error {
	v, err := m.pop()
	if err != nil {
		return err
	}
	id, ok := v.(tuple)
	if !ok || len(id) < 5 || id[0] != "storage" {
		return errors.New("a persistent id is no storage")
	}
	typ, ok1 := id[1].(global)
	key, ok2 := id[2].(string)
	count, ok3 := id[4].(int64)
	dtype := storages[strings.TrimPrefix(string(typ), "torch.")]
	if !ok1 || !ok2 || !ok3 || count < 0 || dtype == format.Unknown {
		return fmt.Errorf("a storage of type %q is not read", typ)
	}
	return m.push(&storage{key, dtype, count})
}
