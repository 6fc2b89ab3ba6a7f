package constrain

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// repeat returns n members of an array or object.
func repeat(n int, member func(i int) string) string {
	list := make([]string, n)
	for i := range list {
		list[i] = member(i)
	}
	return strings.Join(list, ",")
}

// The largest schemas, and those that are hard on others, take milliseconds:
// an hour's worth of work is refused. The bound here is for a busy machine.
func TestBounds(t *testing.T) {
	_, v := smol(t)
	for name, s := range map[string]string{
		"alternatives, all":     `{"anyOf":[` + repeat(20000, func(int) string { return "{}" }) + `]}`,
		"alternatives, strings": `{"anyOf":[` + repeat(3000, func(int) string { return `{"type":"string"}` }) + `]}`,
		"alternatives, objects": `{"anyOf":[` + repeat(500, func(i int) string { return fmt.Sprintf(`{"properties":{"a%d":{"type":"null"}}}`, i) }) + `]}`,
		"maxLength":             `{"type":"string","maxLength":30000}`,
		"optional properties":   `{"properties":{` + repeat(1200, func(i int) string { return fmt.Sprintf(`"p%d":{"type":"null"}`, i) }) + `}}`,
		"other properties":      `{"properties":{` + repeat(1000, func(i int) string { return fmt.Sprintf(`"p%d":{"type":"null"}`, i) }) + `},"additionalProperties":true}`,
		"a long name":           `{"properties":{"` + strings.Repeat("x", 10000) + `":{}},"additionalProperties":true}`,
		"enum":                  `{"enum":[` + repeat(5000, func(i int) string { return fmt.Sprintf(`"v%d"`, i*7919) }) + `]}`,
		"references":            `{"$ref":"#/$defs/r0","$defs":{` + repeat(1000, func(i int) string { return fmt.Sprintf(`"r%d":{"items":{"$ref":"#/$defs/r%d"}}`, i, (i+1)%1000) }) + `}}`,
		"pattern, letters":      `{"pattern":"^(\\pL{0,30}\\pN?)*$"}`,
		"pattern, nested":       `{"pattern":"(x+x+)+y"}`,
		"pattern, counted":      `{"pattern":"(.*a){500}"}`,
		"pattern, optional":     `{"pattern":"((a?){500}){2}"}`,
	} {
		begin := time.Now()
		g, err := Schema([]byte(s), "")
		if err == nil {
			x := v.Begin(g, false)
			for range 20 {
				mask, id := x.Allowed(), -1
				for i, s := range v.texts { // the longest goes through the most states
					if mask[i/64]>>(i%64)&1 == 1 && (id < 0 || len(s) > len(v.texts[id])) && !strings.HasSuffix(s, `"`) {
						id = i
					}
				}
				if id < 0 || !x.Accept(id) {
					break
				}
			}
		}
		if d := time.Since(begin); d > 5*time.Second {
			t.Errorf("%s took %v", name, d)
		} else {
			t.Logf("%s: %v, %v", name, d, err)
		}
	}
}
