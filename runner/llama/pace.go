package llama

import "time"

// A pace decides how much of a prompt is read between two steps of others, and
// how long a step waits for sequences that are about to begin theirs.
type pace struct {
	step   time.Duration // what a step has taken lately
	tokens int           // of a prompt that are read between two steps
	read   bool          // some were, since the last step
}

// share of a step's time that reading a prompt may add to it.
const share = 0.4

// took notes a step's time.
func (p *pace) took(d time.Duration) {
	if p.step == 0 {
		p.step = d
	}
	p.step += (d - p.step) / 4
	p.read = false
}

// chunk returns how many tokens to read between two steps, 1 to most.
func (p *pace) chunk(most int) int {
	if p.tokens == 0 {
		p.tokens = 8
	}
	p.tokens = max(1, min(p.tokens, most))
	return p.tokens
}

// readTook notes that reading n tokens between two steps took d, and corrects
// what the next chunk has: at most twice as many.
func (p *pace) readTook(n int, d time.Duration) {
	p.read = true
	if p.step == 0 || d == 0 {
		return
	}
	fit := share * float64(p.step) / float64(d)
	if n < p.tokens && fit > 1 { // the prompt ended: it says little
		return
	}
	p.tokens = max(1, int(float64(n)*min(fit, 2)))
}

// patience is how long after a step the others wait for a sequence to begin
// its next: long enough to draw a token, and little beside a step.
func (p *pace) patience() time.Duration {
	return min(max(p.step/4, 500*time.Microsecond), 10*time.Millisecond)
}
