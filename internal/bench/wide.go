package main

import (
	"context"
	"fmt"
	"path/filepath"
)

// wideFiles makes the GGUF file of LLaMA-7B's shapes and our bundle of it,
// unless they are there.
func (e *env) wideFiles(ctx context.Context, p precision) (dir, gguf string, err error) {
	name := "wide"
	if e.layers != llama7B.layers {
		name = fmt.Sprintf("wide%d", e.layers)
	}
	gguf = filepath.Join(e.work, p.file(name))
	if !has(gguf) {
		say("writing %s", gguf)
		s := llama7B
		s.layers = e.layers
		if err := writeGGUF(gguf, s, p.theirs); err != nil {
			return "", "", err
		}
	}
	dir, err = e.bundle(ctx, name, gguf, p.ours)
	return dir, gguf, err
}

// wide measures a decoder of LLaMA-7B's shapes, and how near its decode is to
// what the memory allows: every token reads every weight but the embedding's.
func (e *env) wide(ctx context.Context) ([]Result, error) {
	var out []Result
	short := *e
	short.rounds = min(e.rounds, 3) // a round takes minutes
	for _, p := range precisions {
		dir, gguf, err := e.wideFiles(ctx, p)
		if err != nil {
			return out, err
		}
		model := fmt.Sprintf("7B-shaped, %d layers", e.layers)
		results, err := short.beside(ctx, model, dir, gguf, p, 64, 16)
		if err != nil {
			return append(out, results...), err
		}
		for i, t := range e.threads {
			results[i].Want = "≥ 1.0"
			limit := 0.0 // the best of some, since other load only slows it down
			for range 3 {
				v, err := e.memorySpeed(ctx, t)
				if err != nil {
					return out, err
				}
				limit = max(limit, v)
			}
			bits := 4.5 // of a weight in blocks of 32 with a half-precision scale
			if p.ours == "int8" {
				bits = 8.5
			}
			s := llama7B
			perLayer := float64(4*s.width*s.width + 3*s.width*s.hidden)
			gigabytes := (float64(e.layers)*perLayer*bits + float64(s.vocab*s.width)*8.5) / 8 / 1e9
			share := Result{Work: fmt.Sprintf("share of the memory's %.1f GB/s, %s %s, %.2f GB a token", limit, model, p.ours, gigabytes), Threads: t, Peer: results[i].Peer}
			for _, v := range results[i].Ours {
				share.Ours = append(share.Ours, v*gigabytes/limit)
			}
			for _, v := range results[i].Theirs {
				share.Theirs = append(share.Theirs, v*gigabytes/limit)
			}
			results = append(results, share)
		}
		out = append(out, results...)
	}
	return out, nil
}
