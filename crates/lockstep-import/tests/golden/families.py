#!/usr/bin/env python3
"""What model families compute, written from their authors' definitions and not from this project's code.

    python3 crates/lockstep-import/tests/golden/families.py FOLDER > crates/lockstep-import/tests/golden/families.json

FOLDER holds the files that `cargo test --release -p lockstep-import --test families -- --ignored` writes. For each of them: the
state after every layer at the last of 24 tokens. Standard library only, binary64, F32 tensors only; `llama` rotates neighbouring
elements as its files are permuted for it, the others the two halves of what they rotate.
"""

import json
import math
import pathlib
import struct
import sys

TOKENS = [(at * 37 + 11) % 260 for at in range(24)]
FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


class Gguf:
    def __init__(self, data):
        self.data, self.at = data, 4
        assert data[:4] == b"GGUF" and self.number("I") == 3
        tensors, pairs = self.number("Q"), self.number("Q")
        self.meta = {}
        for _ in range(pairs):
            key = self.text()
            self.meta[key] = self.value(self.number("I"))
        entries = []
        for _ in range(tensors):
            name = self.text()
            dims = [self.number("Q") for _ in range(self.number("I"))]
            assert self.number("I") == 0, "F32"
            entries.append((name, dims, self.number("Q")))
        start = -(-self.at // 32) * 32
        self.tensors = {}
        for name, dims, offset in entries:
            values = struct.unpack_from(f"<{math.prod(dims)}f", data, start + offset)
            width = dims[0]
            rows = [values[at : at + width] for at in range(0, len(values), width)]
            if len(dims) == 3:
                rows = [rows[at : at + dims[1]] for at in range(0, len(rows), dims[1])]
            self.tensors[name] = rows if len(dims) > 1 else rows[0]

    def number(self, form):
        (value,) = struct.unpack_from("<" + form, self.data, self.at)
        self.at += struct.calcsize("<" + form)
        return value

    def text(self):
        length = self.number("Q")
        self.at += length
        return self.data[self.at - length : self.at].decode()

    def value(self, kind):
        if kind == 8:
            return self.text()
        if kind == 9:
            kind, count = self.number("I"), self.number("Q")
            return [self.value(kind) for _ in range(count)]
        return self.number(FORMATS[kind])


def multiply(rows, x):
    return [sum(w * v for w, v in zip(row, x)) for row in rows]


def rms_norm(x, gain, eps):
    r = 1 / math.sqrt(sum(v * v for v in x) / len(x) + eps)
    return [v * r * g for v, g in zip(x, gain)]


def silu(x):
    return x / (1 + math.exp(-x))


def gelu(x):
    return 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def add(a, b):
    return [x + y for x, y in zip(a, b)]


class Model:
    def __init__(self, gguf):
        self.family = gguf.meta["general.architecture"]
        self.get = lambda name, default=None: gguf.meta.get(f"{self.family}.{name}", default)
        self.tensors = gguf.tensors
        self.heads, self.kv_heads = self.get("attention.head_count"), self.get("attention.head_count_kv")
        self.hidden = self.get("embedding_length")
        self.dim = self.get("attention.key_length", self.hidden // self.heads)
        self.eps = self.get("attention.layer_norm_rms_epsilon")
        self.keys = [[] for _ in range(self.get("block_count"))]
        self.values = [[] for _ in self.keys]

    def weight(self, layer, name):
        return self.tensors.get(f"blk.{layer}.{name}.weight")

    def is_local(self, layer):
        return self.family == "gemma3" and (layer + 1) % self.get("attention.sliding_window_pattern", 6) != 0

    def window(self, layer):
        window = self.get("attention.sliding_window")
        is_global = self.family == "gemma3" and not self.is_local(layer)
        return None if is_global else window

    def rotated(self, head, layer, position):
        size = self.get("rope.dimension_count", self.dim)
        base = 10_000.0 if self.is_local(layer) else self.get("rope.freq_base", 10_000.0)
        long = self.get("context_length") > self.get("rope.scaling.original_context_length", 1 << 40)
        factors = self.tensors.get("rope_factors_long.weight" if long else "rope_factors_short.weight")
        factors = factors or self.tensors.get("rope_freqs.weight") or [1.0] * (size // 2)
        if self.get("rope.scaling.type") == "linear" and not self.is_local(layer):
            factors = [self.get("rope.scaling.factor")] * (size // 2)
        scale = self.get("rope.scaling.attn_factor", 1.0)
        head = list(head)
        for i in range(size // 2):
            angle = position * base ** (-2 * i / size) / factors[i]
            one, other = (2 * i, 2 * i + 1) if self.family == "llama" else (i, i + size // 2)
            a, b, c, s = head[one], head[other], math.cos(angle) * scale, math.sin(angle) * scale
            head[one], head[other] = a * c - b * s, b * c + a * s
        return head

    def qkv(self, layer, x):
        counts = [self.heads, self.kv_heads, self.kv_heads]
        if self.family == "phi3":
            flat = multiply(self.weight(layer, "attn_qkv"), x)
        else:
            flat = []
            for part in ("attn_q", "attn_k", "attn_v"):
                out = multiply(self.weight(layer, part), x)
                bias = self.tensors.get(f"blk.{layer}.{part}.bias")
                flat += add(out, bias) if bias else out
        heads = [flat[at : at + self.dim] for at in range(0, len(flat), self.dim)]
        return heads[: counts[0]], heads[counts[0] : sum(counts[:2])], heads[sum(counts[:2]) :]

    def attention(self, layer, x, position):
        queries, keys, values = self.qkv(layer, x)
        if self.family in ("qwen3", "qwen3moe", "gemma3"):
            queries = [rms_norm(q, self.weight(layer, "attn_q_norm"), self.eps) for q in queries]
            keys = [rms_norm(k, self.weight(layer, "attn_k_norm"), self.eps) for k in keys]
        self.keys[layer].append([self.rotated(k, layer, position) for k in keys])
        self.values[layer].append(values)
        window = self.window(layer)
        first = max(0, position + 1 - window) if window else 0
        out = []
        for head, query in enumerate(queries):
            query, kv = self.rotated(query, layer, position), head // (self.heads // self.kv_heads)
            past = range(first, position + 1)
            scores = [sum(map(lambda a, b: a * b, query, self.keys[layer][p][kv])) for p in past]
            scores = [score / math.sqrt(self.dim) for score in scores]
            weights = [math.exp(score - max(scores)) for score in scores]
            for i in range(self.dim):
                total = sum(w * self.values[layer][p][kv][i] for w, p in zip(weights, past))
                out.append(total / sum(weights))
        return multiply(self.weight(layer, "attn_output"), out)

    def expert(self, gate, up, down, x):
        return multiply(down, [silu(g) * u for g, u in zip(multiply(gate, x), multiply(up, x))])

    def experts(self, layer, x):
        logits = multiply(self.weight(layer, "ffn_gate_inp"), x)
        shares = [math.exp(logit - max(logits)) for logit in logits]
        chosen = sorted(range(len(logits)), key=lambda e: -logits[e])[: self.get("expert_used_count")]
        is_whole = self.get("expert_weights_norm", self.family != "qwen2moe")
        total = sum(shares[e] for e in chosen) if is_whole else sum(shares)
        out = [0.0] * len(x)
        for e in chosen:
            gate, up, down = (self.weight(layer, f"ffn_{part}_exps")[e] for part in ("gate", "up", "down"))
            out = add(out, [shares[e] / total * v for v in self.expert(gate, up, down, x)])
        if self.family == "qwen2moe":
            logit = sum(map(lambda a, b: a * b, self.weight(layer, "ffn_gate_inp_shexp"), x))
            gate, up, down = (self.weight(layer, f"ffn_{part}_shexp") for part in ("gate", "up", "down"))
            out = add(out, [v / (1 + math.exp(-logit)) for v in self.expert(gate, up, down, x)])
        return out

    def feed_forward(self, layer, x):
        if self.weight(layer, "ffn_gate_inp"):
            return self.experts(layer, x)
        up = multiply(self.weight(layer, "ffn_up"), x)
        if self.family == "phi3":
            gate, up = up[: len(up) // 2], up[len(up) // 2 :]
        else:
            gate = multiply(self.weight(layer, "ffn_gate"), x)
        activate = gelu if self.family == "gemma3" else silu
        return multiply(self.weight(layer, "ffn_down"), [activate(g) * u for g, u in zip(gate, up)])

    def feed(self, token, position):
        """The state after each layer."""
        scale = math.sqrt(self.hidden) if self.family == "gemma3" else 1.0
        x, states = [v * scale for v in self.tensors["token_embd.weight"][token]], []
        for layer in range(len(self.keys)):
            out = self.attention(layer, rms_norm(x, self.weight(layer, "attn_norm"), self.eps), position)
            if self.family == "gemma3":
                out = rms_norm(out, self.weight(layer, "post_attention_norm"), self.eps)
            x = add(x, out)
            out = self.feed_forward(layer, rms_norm(x, self.weight(layer, "ffn_norm"), self.eps))
            if self.family == "gemma3":
                out = rms_norm(out, self.weight(layer, "post_ffw_norm"), self.eps)
            x = add(x, out)
            states.append(x)
        return states


def main():
    cases = {}
    for path in sorted(pathlib.Path(sys.argv[1]).glob("*.gguf")):
        model = Model(Gguf(path.read_bytes()))
        for position, token in enumerate(TOKENS):
            states = model.feed(token, position)
        cases[path.stem] = [[float(f"{x:.7g}") for x in state] for state in states]
    lines = [f"{json.dumps(name)}: {json.dumps(states)}" for name, states in cases.items()]
    print("{\n" + ",\n".join(lines) + "\n}")


if __name__ == "__main__":
    main()
