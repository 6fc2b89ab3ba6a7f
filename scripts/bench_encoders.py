#!/usr/bin/env python3
"""Times of ImageBind's encoders in PyTorch, eager: the peer of the exported graphs.

The trunks are those of the released model (imagebind_huge) in sizes and in the
modules that it uses, nn.MultiheadAttention, nn.LayerNorm and nn.GELU, with
random weights. Each run prints a line: {"work": "vision 1", "ms": 2345.6}.

    bench_encoders.py [--threads 1] [--batch 1,8] [--encoder vision,audio] [--rounds 1] [--dtype float32]

It wants PyTorch (pip install torch) and nothing else.
"""

import argparse
import json
import sys
import time

import torch
from torch import nn

# name: width, blocks, heads, keys and values with a bias, norm of the stem, stem, one clip's shape
SIZES = {
    "vision": (1280, 32, 16, False, False, lambda d: nn.Conv3d(3, d, (2, 14, 14), (2, 14, 14), bias=False), (3, 2, 224, 224)),
    "audio": (768, 12, 12, True, True, lambda d: nn.Conv2d(1, d, 16, 10, bias=False), (1, 128, 204)),
}
E = 1024


class Block(nn.Module):
    """Pre-norm, tokens first [T, N, D] as the released model has them."""

    def __init__(self, d, heads, bias_kv):
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(d, eps=1e-6), nn.LayerNorm(d, eps=1e-6)
        self.attn = nn.MultiheadAttention(d, heads, add_bias_kv=bias_kv)
        self.mlp = nn.Sequential(nn.Linear(d, 4 * d), nn.GELU(), nn.Linear(4 * d, d))

    def forward(self, x):
        y = self.norm_1(x)
        x = x + self.attn(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.norm_2(x))


class Encoder(nn.Module):
    """[N, …] to [N, E]."""

    def __init__(self, name):
        super().__init__()
        d, blocks, heads, bias_kv, normed, stem, self.shape = SIZES[name]
        self.stem = stem(d)
        self.norm = nn.LayerNorm(d) if normed else nn.Identity()
        tokens = self.stem(torch.zeros(1, *self.shape)).flatten(2).shape[2] + 1
        self.cls, self.pos = nn.Parameter(torch.randn(1, 1, d)), nn.Parameter(torch.randn(1, tokens, d))
        self.pre = nn.Identity() if normed else nn.LayerNorm(d, eps=1e-6)
        self.blocks = nn.Sequential(*(Block(d, heads, bias_kv) for _ in range(blocks)))
        self.head = nn.Sequential(nn.LayerNorm(d, eps=1e-6), nn.Linear(d, E, bias=False))

    def forward(self, x):
        x = self.norm(self.stem(x).flatten(2).transpose(1, 2))
        x = torch.cat((self.cls.expand(len(x), -1, -1), x), 1) + self.pos
        x = self.blocks(self.pre(x).transpose(0, 1)).transpose(0, 1)
        return nn.functional.normalize(self.head(x)[:, 0], dim=-1)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--batch", default="1,8", help="clips in a run")
    p.add_argument("--encoder", default="vision,audio")
    p.add_argument("--rounds", type=int, default=1, help="runs that are timed, after one that is not")
    p.add_argument("--dtype", default="float32", help="float32 or bfloat16")
    p.add_argument("--wait", action="store_true", help="run once for each line of standard input, to take turns with another program")
    o = p.parse_args()
    torch.set_num_threads(o.threads)
    print(json.dumps({"versions": f"PyTorch {torch.__version__}"}), flush=True)
    for name in o.encoder.split(","):
        model = Encoder(name).eval().to(getattr(torch, o.dtype))
        for batch in map(int, o.batch.split(",")):
            x = torch.randn(batch, *model.shape).to(getattr(torch, o.dtype))
            with torch.inference_mode():
                model(x)
                for _ in range(o.rounds):
                    if o.wait and not sys.stdin.readline():
                        return
                    start = time.perf_counter()
                    model(x)
                    ms = (time.perf_counter() - start) * 1e3
                    print(json.dumps({"work": f"{name} {batch}", "ms": round(ms, 2)}), flush=True)


if __name__ == "__main__":
    main()
