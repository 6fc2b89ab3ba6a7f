package llama

import "time"

// A pace decides how much of the prompts is read between two steps of others,
// and how long a step waits for sequences that are about to begin theirs.
type pace struct {
	step   time.Duration // what a step has taken lately
	tokens int           // of each waiting prompt that are read between two steps
	left   int           // tokens that may still be read before the next step; -1: not yet decided
}

// share of a step's time that reading one prompt may add to it. Each prompt that
// waits adds as much: with several, getting them to answer matters more than
// the pace of those that do.
const share = 0.4

// stepTook notes a step's time.
func (p *pace) stepTook(d time.Duration) {
	if p.step == 0 {
		p.step = d
	}
	p.step += (d - p.step) / 4
	p.left = -1
}

// chunk returns how many tokens to read now, between two steps, of the prompts
// that wait; 0 is none before the next step.
func (p *pace) chunk(prompts int) int {
	if p.tokens == 0 {
		p.tokens = 8
	}
	if p.left < 0 {
		p.left = prompts * p.tokens
	}
	return p.left
}

// readTook notes that reading n tokens of the chunk took d, and corrects what
// the next has: at most twice as many.
func (p *pace) readTook(n, prompts int, d time.Duration) {
	whole := n >= p.left
	p.left = max(0, p.left-n)
	if p.step == 0 || d == 0 {
		return
	}
	fit := share * float64(p.step) * float64(prompts) / float64(d)
	if !whole && fit > 1 { // the prompt ended: it says little
		return
	}
	p.tokens = max(2, min(int(float64(n)*min(fit, 2))/prompts, 1<<16))
}

// patience is how long after a step the others wait for a sequence to begin
// its next: long enough to draw a token, and little beside a step.
func (p *pace) patience() time.Duration {
	return min(max(p.step/4, 500*time.Microsecond), 10*time.Millisecond)
}
