package tokenizer

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
)

// space is how SentencePiece writes a space.
const space = "\u2581"

// Piece types of sentencepiece_model.proto.
const (
	typeNormal = 1 + iota
	typeUnknown
	typeControl
	typeUser
	typeUnused
	typeByte
)

var kinds = map[int]kind{typeNormal: normal, typeUnknown: unknown, typeControl: control,
	typeUser: user, typeUnused: unused, typeByte: rawByte}

// spm is a SentencePiece BPE model (sentencepiece, bpe_model.cc): the text,
// spaces as U+2581, falls into runes, and the neighbours that make the piece of
// the highest score are joined, the leftmost first, until none do.
type spm struct {
	t     *Tokenizer
	ranks []int32 // by id: place of its score, the highest 0; -1 where it takes no part
	bytes [256]int
	unk   int
	// normalizer_spec
	dummyPrefix, removeExtra, escape bool
	anyBytes, anyUnused              bool
	longest                          int // bytes of a piece
}

// parseSentencePiece reads a ModelProto.
func parseSentencePiece(data []byte) (*Tokenizer, error) {
	t := &Tokenizer{bos: -1, eos: -1, flushOnSkip: true}
	m := &spm{t: t, unk: -1, dummyPrefix: true, removeExtra: true, escape: true}
	t.model = m
	var scores []float32
	trainer := struct {
		modelType     uint64
		bos, eos, unk string
		surface       string
	}{1, "<s>", "</s>", "<unk>", " \u2047 "}
	err := fields(data, func(num protowire.Number, v value) error {
		switch num {
		case 1: // pieces
			p, score, typ := "", float32(0), uint64(typeNormal)
			if err := fields(v.bytes, func(num protowire.Number, v value) error {
				switch num {
				case 1:
					p = string(v.bytes)
				case 2:
					score = math.Float32frombits(uint32(v.num))
				case 3:
					typ = v.num
				}
				return nil
			}); err != nil {
				return err
			}
			k, ok := kinds[int(typ)]
			if !ok {
				return invalid("piece %d (%q) has the unknown type %d", len(t.tokens), p, typ)
			}
			if len(t.tokens) == maxTokens {
				return invalid("more than %d pieces", maxTokens)
			}
			t.tokens = append(t.tokens, token{piece: p, kind: k})
			scores = append(scores, score)
		case 2: // trainer_spec
			return fields(v.bytes, func(num protowire.Number, v value) error {
				switch num {
				case 3:
					trainer.modelType = v.num
				case 44:
					trainer.surface = string(v.bytes)
				case 45:
					trainer.unk = string(v.bytes)
				case 46:
					trainer.bos = string(v.bytes)
				case 47:
					trainer.eos = string(v.bytes)
				case 24:
					if v.num != 0 {
						return unsupported("treat_whitespace_as_suffix; LLaMA's models do not use it")
					}
				}
				return nil
			})
		case 3: // normalizer_spec
			return fields(v.bytes, func(num protowire.Number, v value) error {
				switch num {
				case 2:
					if len(v.bytes) > 0 {
						return unsupported("a normalisation other than identity (precompiled_charsmap); LLaMA's models have none")
					}
				case 3:
					m.dummyPrefix = v.num != 0
				case 4:
					m.removeExtra = v.num != 0
				case 5:
					m.escape = v.num != 0
				}
				return nil
			})
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if len(t.tokens) == 0 {
		return nil, invalid("neither a tokenizer.json nor a SentencePiece model: it has no pieces")
	}
	if trainer.modelType != 2 {
		return nil, unsupported("SentencePiece model type %d; only BPE (2) is read, which is what LLaMA's are", trainer.modelType)
	}
	for b := range m.bytes {
		m.bytes[b] = -1
	}
	for id := range t.tokens {
		tok := &t.tokens[id]
		switch tok.kind {
		case control:
		case unknown:
			if m.unk >= 0 {
				return nil, invalid("pieces %d and %d are both unknown", m.unk, id)
			}
			m.unk, tok.text = id, trainer.surface
		case rawByte:
			b, ok := parseByte(tok.piece)
			if !ok {
				return nil, invalid("piece %d (%q) is of type byte but not written <0xHH>", id, tok.piece)
			}
			m.bytes[b], m.anyBytes = id, true
			tok.text = string([]byte{b})
		default:
			if tok.piece == "" || !utf8.ValidString(tok.piece) {
				return nil, invalid("piece %d (%q) is not text", id, tok.piece)
			}
			tok.text = strings.ReplaceAll(tok.piece, space, " ")
			tok.lead = strings.HasPrefix(tok.piece, space)
			m.anyUnused = m.anyUnused || tok.kind == unused
			m.longest = max(m.longest, len(tok.piece))
		}
	}
	if m.unk < 0 {
		return nil, invalid("no piece is of type unknown")
	}
	if m.anyBytes && slices.Contains(m.bytes[:], -1) {
		return nil, invalid("some byte pieces <0x00> to <0xFF> are missing")
	}
	if err := t.finish(); err != nil {
		return nil, err
	}
	m.rank(scores)
	t.dropLead = m.dummyPrefix || m.removeExtra
	t.dropLeads = m.removeExtra
	if id, ok := t.special.ids[trainer.bos]; ok {
		t.bos = id
	}
	if id, ok := t.special.ids[trainer.eos]; ok {
		t.eos = id
	}
	return t, nil
}

// rank turns scores into places, equal scores into equal places.
func (m *spm) rank(scores []float32) {
	distinct := slices.Clone(scores)
	slices.Sort(distinct)
	distinct = slices.Compact(distinct)
	m.ranks = make([]int32, len(scores))
	for id, s := range scores {
		m.ranks[id] = -1
		switch m.t.tokens[id].kind {
		case normal, user, unused:
			if i, ok := slices.BinarySearch(distinct, s); ok {
				m.ranks[id] = int32(len(distinct) - 1 - i)
			}
		}
	}
}

// parseByte reads "<0x0A>".
func parseByte(piece string) (byte, bool) {
	if len(piece) != 6 || !strings.HasPrefix(piece, "<0x") || piece[5] != '>' {
		return 0, false
	}
	b, err := strconv.ParseUint(piece[3:5], 16, 8)
	return byte(b), err == nil
}

// normalise escapes spaces and adds the dummy prefix (normalizer.cc).
func (m *spm) normalise(text string) string {
	if m.removeExtra {
		var words []string
		for _, w := range strings.Split(text, " ") {
			if w != "" {
				words = append(words, w)
			}
		}
		text = strings.Join(words, " ")
	}
	if text == "" {
		return ""
	}
	if m.dummyPrefix {
		text = " " + text
	}
	if m.escape {
		text = strings.ReplaceAll(text, " ", space)
	}
	return text
}

// encode appends the ids of text. Each text after a special token has its own
// dummy prefix, as the turns of a LLaMA 2 chat have, so first does not matter.
func (m *spm) encode(ids []int, text string, _ bool) []int {
	text = m.normalise(text)
	t := m.t
	var s scratch
	s.syms = make([]symbol, 0, len(text))
	for i := 0; i < len(text); {
		if id, n := t.defined.prefix(text[i:]); n > 0 {
			s.add(i, i+n, id, true)
			i += n
			continue
		}
		_, n := utf8.DecodeRuneInString(text[i:])
		s.add(i, i+n, -1, false)
		i += n
	}
	var parts map[string][2]int // of an unused piece: the ends of its halves' texts
	s.merge(func(l, r *symbol) (int32, int32, bool) {
		if int(r.end-l.start) > m.longest {
			return 0, 0, false
		}
		piece := text[l.start:r.end]
		id, ok := t.ids[piece]
		if !ok || m.ranks[id] < 0 {
			return 0, 0, false
		}
		if m.anyUnused && t.tokens[id].kind == unused {
			if parts == nil {
				parts = map[string][2]int{}
			}
			parts[piece] = [2]int{int(l.end - l.start), int(r.end - l.start)}
		}
		return m.ranks[id], int32(id), true
	})
	lastUnk := false
	var emit func(piece string)
	emit = func(piece string) {
		id, ok := t.ids[piece]
		if ok && t.tokens[id].kind == unused {
			if cut, ok := parts[piece]; ok { // it only served as a step
				emit(piece[:cut[0]])
				emit(piece[cut[0]:])
				return
			}
		}
		switch {
		case ok && m.ranks[id] >= 0:
			ids, lastUnk = append(ids, id), false
		case m.anyBytes:
			for _, b := range []byte(piece) {
				ids = append(ids, m.bytes[b])
			}
		case !lastUnk: // a run of unknown ones is one
			ids, lastUnk = append(ids, m.unk), true
		}
	}
	for i := int32(0); i >= 0 && int(i) < len(s.syms); i = s.syms[i].next {
		sym := s.syms[i]
		emit(text[sym.start:sym.end])
	}
	return ids
}

// A value is one protobuf field's: a number of any width, or bytes.
type value struct {
	num   uint64
	bytes []byte
}

// fields calls f for each field of a message.
func fields(msg []byte, f func(protowire.Number, value) error) error {
	for len(msg) > 0 {
		num, typ, n := protowire.ConsumeTag(msg)
		if n < 0 {
			return invalid("neither a tokenizer.json nor a SentencePiece model: %w", protowire.ParseError(n))
		}
		msg = msg[n:]
		var v value
		switch typ {
		case protowire.VarintType:
			v.num, n = protowire.ConsumeVarint(msg)
		case protowire.Fixed32Type:
			var x uint32
			x, n = protowire.ConsumeFixed32(msg)
			v.num = uint64(x)
		case protowire.Fixed64Type:
			v.num, n = protowire.ConsumeFixed64(msg)
		case protowire.BytesType:
			v.bytes, n = protowire.ConsumeBytes(msg)
		default:
			n = protowire.ConsumeFieldValue(num, typ, msg)
		}
		if n < 0 {
			return invalid("neither a tokenizer.json nor a SentencePiece model: %w", protowire.ParseError(n))
		}
		msg = msg[n:]
		if err := f(num, v); err != nil {
			return err
		}
	}
	return nil
}

// bytePiece writes a byte as SentencePiece does.
func bytePiece(b byte) string { return fmt.Sprintf("<0x%02X>", b) }
