package constrain

import "testing"

func BenchmarkMask(b *testing.B) {
	tok, v := smol(b)
	object, err := Object()
	if err != nil {
		b.Fatal(err)
	}
	for _, c := range []struct {
		name, text string
		g          *Grammar
	}{
		{"schema", `{"name": "A dog and a cat", "age": 12}`, schema(b, schemas[0])},
		{"object", `{"name": "A dog", "list": [1, 2.5, {"deep": [true, null]}], "text": "one two three"}`, object},
		{"bounded string", `"abcd"`, schema(b, schemas[11])},
	} {
		ids := tok.Encode(c.text, false)
		b.Run(c.name+"/new", func(b *testing.B) { // every state for the first time
			worst := 0.0
			for b.Loop() {
				x := &Match{m: newMachine(c.g, v)}
				x.st = x.m.starts[0]
				for _, id := range ids {
					start := b.Elapsed()
					x.Allowed()
					worst = max(worst, float64((b.Elapsed() - start).Microseconds()))
					if !x.Accept(id) {
						b.Fatal(c.text)
					}
				}
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*len(ids)), "µs/token")
			b.ReportMetric(worst, "µs/worst")
		})
		b.Run(c.name+"/known", func(b *testing.B) {
			for b.Loop() {
				x := v.Begin(c.g, false)
				for _, id := range ids {
					x.Allowed()
					x.Accept(id)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(ids)), "ns/token")
		})
	}
	b.Run("vocabulary", func(b *testing.B) {
		for b.Loop() {
			NewVocabulary(tok, nil)
		}
	})
	b.Run("compile", func(b *testing.B) {
		for b.Loop() {
			schema(b, schemas[0])
		}
	})
}
