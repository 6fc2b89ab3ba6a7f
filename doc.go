// Package imagebind holds the words that the three programs share: an
// [Embedding] in ImageBind's space, a [Neighbour] in the feature cache, a
// [Tensor] on its way into a graph, and an [Error] on its way to the caller.
//
// The system answers questions about anything ImageBind can embed
// (ImageBind-LLM, arXiv 2309.03905):
//
//	files ──► modality ──► encoder (ONNX) ──► embedding [E], one per part
//	                                             │ weighted mix (Mix)
//	                                             ▼
//	retriever ◄── enhance ──────────────── query [E]
//	   │ the K nearest image features, softmax-weighted
//	   ▼
//	enhanced [E] ──► bridge (ONNX) ──► injection [L, D] ──┐
//	                                                      ▼
//	prompt ──► tokenizer ──► LLaMA (ONNX): prefill, decode ──► answer
//
// Programs: exporter turns published checkpoints into a bundle of ONNX graphs;
// runner serves a bundle over HTTP; retriever serves the feature cache. They
// meet in a file (runner/bundle) or over HTTP (runner/runnerapi,
// retriever/retrieverapi), never in memory. This package does no I/O and
// imports the standard library only.
package imagebind
