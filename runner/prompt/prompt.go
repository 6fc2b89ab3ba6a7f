// Package prompt writes a conversation as the text that a model was trained to
// continue. A [Template] is a built-in, by name, or a Go text/template that a
// bundle brings; it renders to segments, so that the tokenizer parses control
// tokens where the template wrote them and never where a user did.
//
// A template sees:
//
//	.Messages  all messages as sent: .Role (system, user, assistant), .Content, .Input
//	.System    the system messages, joined by blank lines; "" for none
//	.Turns     the rest as turns: .User, .Input, .Assistant ("" where it is to be answered)
//	.HasInput  some turn has an input
//	trim X     X without spaces around it
//
// It must use .Content, .User and the like as they are or through trim: they are
// stand-ins until the text is whole.
package prompt

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/template"

	imagebind "imagebind-llm"
	"imagebind-llm/runner/tokenizer"
)

// Roles of a message. Developer is read as System, as OpenAI's servers do.
const (
	System    = "system"
	Developer = "developer"
	User      = "user"
	Assistant = "assistant"
)

// A Message is one of a conversation. The last is the user's.
type Message struct {
	Role    string
	Content string
	// Input is Alpaca's second field, what the instruction is about; "" is none.
	// Other templates put it below the content, a blank line between.
	Input string
}

// alpaca is the reference's prompt (LLaMA-Adapter, imagebind_LLM/llama/utils.py,
// format_prompt), which ends without a newline: the training put the answer
// right behind. It has one turn and no system message; here a system message
// takes the preface's place, as in FastChat, and earlier turns stand before the
// last one as further Instruction and Response blocks, a blank line between.
const alpaca = `{{if .System}}{{.System}}` +
	`{{else if .HasInput}}Below is an instruction that describes a task, paired with an input that provides further context. Write a response that appropriately completes the request.` +
	`{{else}}Below is an instruction that describes a task. Write a response that appropriately completes the request.{{end}}` +
	"{{range .Turns}}\n\n### Instruction:\n{{.User}}{{if .Input}}\n\n### Input:\n{{.Input}}{{end}}\n\n### Response:{{.Assistant}}{{end}}"

// chatml is OpenAI's markup; Qwen, Yi and many others use it.
const chatml = "{{range .Messages}}<|im_start|>{{.Role}}\n{{.Content}}<|im_end|>\n{{end}}<|im_start|>assistant\n"

// smollm is chatml with SmolLM2's own system message where the conversation
// does not begin with one (its tokenizer.chat_template).
const smollm = `{{if ne (index .Messages 0).Role "system"}}` +
	"<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n{{end}}" + chatml

// llama2 is Meta's (llama/generation.py, chat_completion): each turn begins with
// <s>, the first one's by the tokenizer's BOS, and ends with </s> once answered.
const llama2 = `{{range $i, $t := .Turns}}{{if $i}}<s>{{end}}[INST] ` +
	"{{if and $.System (eq $i 0)}}<<SYS>>\n{{trim $.System}}\n<</SYS>>\n\n{{end}}" +
	`{{trim .User}} [/INST]{{if .Assistant}} {{trim .Assistant}} </s>{{end}}{{end}}`

// llama3 is Meta's without the date that 3.1 puts before the system message.
const llama3 = "{{range .Messages}}<|start_header_id|>{{.Role}}<|end_header_id|>\n\n{{trim .Content}}<|eot_id|>{{end}}" +
	"<|start_header_id|>assistant<|end_header_id|>\n\n"

// plain is for base models: the texts alone, a newline between.
const plain = "{{range $i, $m := .Messages}}{{if $i}}\n{{end}}{{.Content}}{{end}}"

var builtin = map[string]string{"alpaca": alpaca, "chatml": chatml, "smollm": smollm, "llama2": llama2, "llama3": llama3, "plain": plain}

// Names returns the names of the built-in templates.
func Names() []string { return slices.Sorted(maps.Keys(builtin)) }

// A Template is safe for concurrent use.
type Template struct {
	Name   string // "" where it is none of the built-ins
	alpaca bool   // it has its own place for an input
	t      *template.Template
}

// Parse returns the built-in of that name, or the template of that text.
func Parse(nameOrText string) (*Template, error) {
	text, ok := builtin[nameOrText]
	t := &Template{Name: nameOrText}
	if !ok {
		if !strings.Contains(nameOrText, "{{") {
			return nil, imagebind.Errorf(imagebind.Invalid, "prompt template %q is neither one of %s nor a text with {{ }}", nameOrText, strings.Join(Names(), ", "))
		}
		t.Name, text = "", nameOrText
	}
	if strings.ContainsRune(text, mark) {
		return nil, imagebind.Errorf(imagebind.Invalid, "the prompt template contains the character U+%04X", mark)
	}
	t.alpaca = strings.Contains(text, ".Input")
	var err error
	t.t, err = template.New("prompt").Funcs(template.FuncMap{"trim": func(s string) string { return s }}).Parse(text)
	if err != nil {
		return nil, imagebind.Errorf(imagebind.Invalid, "prompt template: %w", err)
	}
	if _, err := t.Render([]Message{{Role: User, Content: "Hello"}}); err != nil {
		return nil, err
	}
	return t, nil
}

// mark stands around the number of a user's text while the template runs. The
// text itself never passes through the template.
const mark = '\uFDD0' // a noncharacter

// texts are a conversation's, by the number in their stand-ins.
type texts []string

// put returns the stand-in of s; nothing stays nothing, so that {{if}} works.
func (x *texts) put(s string) string {
	if s == "" {
		return ""
	}
	*x = append(*x, s)
	return fmt.Sprintf("%c%d%c", mark, len(*x)-1, mark)
}

// get returns the text behind the number of a stand-in.
func (x texts) get(number string) (string, error) {
	n, err := strconv.Atoi(number)
	if err != nil || n < 0 || n >= len(x) {
		return "", errApart
	}
	return x[n], nil
}

var errApart = imagebind.Errorf(imagebind.Invalid, "the prompt template takes a message's text apart; it may only insert or trim it")

type turn struct{ User, Input, Assistant string }

// Render writes the conversation and leaves it open for the answer.
func (t *Template) Render(messages []Message) ([]tokenizer.Segment, error) {
	if err := check(messages); err != nil {
		return nil, err
	}
	var x texts
	var data struct {
		Messages []Message
		System   string
		Turns    []turn
		HasInput bool
	}
	var system []string
	var turns []turn
	for i, m := range messages {
		if m.Role == Developer {
			m.Role = System
		}
		if m.Input != "" && !t.alpaca {
			m.Content, m.Input = join(m.Content, m.Input), ""
		}
		switch m.Role {
		case System:
			system = append(system, m.Content)
		case User:
			if n := len(turns); n == 0 || messages[i-1].Role == Assistant || turns[n-1].Assistant != "" {
				turns = append(turns, turn{})
			}
			last := &turns[len(turns)-1]
			last.User, last.Input = join(last.User, m.Content), join(last.Input, m.Input)
		case Assistant:
			if len(turns) == 0 {
				turns = append(turns, turn{})
			}
			last := &turns[len(turns)-1]
			last.Assistant = join(last.Assistant, m.Content)
		}
		data.HasInput = data.HasInput || m.Input != ""
		data.Messages = append(data.Messages, Message{Role: m.Role, Content: x.put(m.Content), Input: x.put(m.Input)})
	}
	data.System = x.put(strings.Join(system, "\n\n"))
	for _, tn := range turns {
		data.Turns = append(data.Turns, turn{x.put(tn.User), x.put(tn.Input), x.put(tn.Assistant)})
	}

	tmpl, err := t.t.Clone()
	if err != nil {
		return nil, err
	}
	tmpl.Funcs(template.FuncMap{"trim": func(s string) (string, error) {
		if s == "" {
			return "", nil
		}
		text, err := x.get(strings.Trim(s, string(mark)))
		return x.put(strings.TrimSpace(text)), err
	}})
	var b strings.Builder
	if err := tmpl.Execute(&b, data); err != nil {
		return nil, imagebind.Errorf(imagebind.Invalid, "prompt template: %w", err)
	}
	var out []tokenizer.Segment
	parts := strings.Split(b.String(), string(mark))
	if len(parts)%2 == 0 {
		return nil, errApart
	}
	for i, s := range parts {
		own := i%2 == 0
		if !own {
			if s, err = x.get(s); err != nil {
				return nil, err
			}
		}
		if s != "" {
			out = append(out, tokenizer.Segment{Text: s, Special: own})
		}
	}
	return out, nil
}

// join puts a blank line between two texts.
func join(a, b string) string {
	if a == "" || b == "" {
		return a + b
	}
	return a + "\n\n" + b
}

// check holds a conversation against what can be answered.
func check(messages []Message) error {
	if len(messages) == 0 {
		return imagebind.WithParam(imagebind.Errorf(imagebind.Invalid, "messages is empty: send at least one of role user"), "messages")
	}
	for i, m := range messages {
		switch m.Role {
		case System, Developer, User, Assistant:
		default:
			return imagebind.WithParam(imagebind.Errorf(imagebind.Invalid, "role %q is not known: use system, user or assistant", m.Role), fmt.Sprintf("messages[%d].role", i))
		}
	}
	if last := messages[len(messages)-1]; last.Role != User {
		return imagebind.WithParam(imagebind.Errorf(imagebind.Invalid, "the last message is of role %s: the one to answer is of role user", last.Role), fmt.Sprintf("messages[%d].role", len(messages)-1))
	}
	return nil
}

// Text joins segments, for logs and for people.
func Text(segments []tokenizer.Segment) string {
	var b strings.Builder
	for _, s := range segments {
		b.WriteString(s.Text)
	}
	return b.String()
}

// Recognise returns the built-in for a chat template in Jinja, as .gguf and
// tokenizer_config.json files hold it, by the control tokens it writes.
func Recognise(jinja string) (name string, ok bool) {
	for _, r := range []struct{ marker, name string }{
		{"named SmolLM", "smollm"},
		{"<|im_start|>", "chatml"},
		{"<|start_header_id|>", "llama3"},
		{"[INST]", "llama2"},
		{"### Instruction:", "alpaca"},
	} {
		if strings.Contains(jinja, r.marker) {
			return r.name, true
		}
	}
	return "", false
}
