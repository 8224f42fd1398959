#!/usr/bin/env python3
"""Writes a GGUF file of random weights with the sizes of `lockstep bench --shape`, for llama.cpp.

    python3 dev/random_gguf.py llama-3.2-1b Q8_0 random-1b-Q8_0.gguf

Types are those that llama.cpp's quantiser gives: in a Q4_0 file the embedding (which is also the
output matrix here) is Q6_K, or Q8_0 where rows are no multiple of 256. Numbers mean nothing and
there is no vocabulary, so the file is good for measuring speed alone. Standard library only.
"""
import random
import struct
import sys

SHAPES = {
    "smollm2-135m": dict(layers=30, hidden=576, heads=9, kv_heads=3, head_dim=64, inner=1536,
                         vocabulary=49_152),
    "llama-3.2-1b": dict(layers=16, hidden=2048, heads=32, kv_heads=8, head_dim=64, inner=8192,
                         vocabulary=49_152),
    "llama-3.1-8b-layers": dict(layers=4, hidden=4096, heads=32, kv_heads=8, head_dim=128,
                                inner=14_336, vocabulary=1024),
}
# Name: (number in the format, elements of a block, bytes of a block, offset of its f16 scale).
TYPES = {"F32": (0, 1, 4, None), "Q4_0": (2, 32, 18, 0), "Q8_0": (8, 32, 34, 0),
         "Q6_K": (14, 256, 210, 208)}
# The root mean square of random codes, times Q6_K's random scales of a block.
CODES = {"Q4_0": 4.6, "Q8_0": 74.0, "Q6_K": 18.5 * 74.0}
ALIGNMENT = 32
PIECE_BLOCKS = 1 << 19
U32, F32, STRING = 4, 6, 8


def text(value):
    return struct.pack("<Q", len(value)) + value.encode()


def key(name, kind, value):
    packed = text(value) if kind == STRING else struct.pack("<I" if kind == U32 else "<f", value)
    return text(name) + struct.pack("<I", kind) + packed


def keys(name, shape):
    return [
        key("general.architecture", STRING, "llama"),
        key("general.name", STRING, f"random {name}"),
        key("llama.block_count", U32, shape["layers"]),
        key("llama.context_length", U32, 8192),
        key("llama.embedding_length", U32, shape["hidden"]),
        key("llama.feed_forward_length", U32, shape["inner"]),
        key("llama.attention.head_count", U32, shape["heads"]),
        key("llama.attention.head_count_kv", U32, shape["kv_heads"]),
        key("llama.attention.layer_norm_rms_epsilon", F32, 1e-5),
        key("llama.rope.freq_base", F32, 10_000.0),
        key("llama.rope.dimension_count", U32, shape["head_dim"]),
        key("llama.vocab_size", U32, shape["vocabulary"]),
        key("tokenizer.ggml.model", STRING, "no_vocab"),
    ]


def tensors(shape, kind):
    """(name, columns, rows, type); one row for a vector."""
    hidden, inner = shape["hidden"], shape["inner"]
    query, kv = (shape[heads] * shape["head_dim"] for heads in ("heads", "kv_heads"))
    tied = ("Q8_0" if hidden % 256 else "Q6_K") if kind == "Q4_0" else kind
    yield "token_embd.weight", hidden, shape["vocabulary"], tied
    yield "output_norm.weight", hidden, 1, "F32"
    for layer in range(shape["layers"]):
        name = f"blk.{layer}."
        yield name + "attn_norm.weight", hidden, 1, "F32"
        yield name + "attn_q.weight", hidden, query, kind
        yield name + "attn_k.weight", hidden, kv, kind
        yield name + "attn_v.weight", hidden, kv, kind
        yield name + "attn_output.weight", query, hidden, kind
        yield name + "ffn_norm.weight", hidden, 1, "F32"
        yield name + "ffn_gate.weight", hidden, inner, kind
        yield name + "ffn_up.weight", hidden, inner, kind
        yield name + "ffn_down.weight", inner, hidden, kind


def size(columns, rows, kind):
    _, elements, width, _ = TYPES[kind]
    return rows * columns // elements * width


def pieces(columns, rows, kind, numbers):
    """The bytes of a tensor, piece by piece: random codes with one scale for all."""
    _, elements, width, at = TYPES[kind]
    if kind == "F32":
        yield struct.pack("<f", 1.0) * (rows * columns)
        return
    scale = struct.pack("<e", 1.0 / (columns ** 0.5 * CODES[kind]))
    blocks = rows * columns // elements
    while blocks:
        count = min(blocks, PIECE_BLOCKS)
        piece = bytearray(numbers.randbytes(count * width))
        for byte in range(2):
            piece[at + byte::width] = scale[byte:byte + 1] * count
        yield piece
        blocks -= count


def write(file, name, kind):
    shape = SHAPES[name]
    all_keys, all_tensors = keys(name, shape), list(tensors(shape, kind))
    header = [b"GGUF", struct.pack("<IQQ", 3, len(all_tensors), len(all_keys)), *all_keys]
    offset = 0
    for tensor, columns, rows, type_ in all_tensors:
        sizes = [columns] if rows == 1 else [columns, rows]
        header.append(text(tensor) + struct.pack("<I", len(sizes)))
        header.append(struct.pack(f"<{len(sizes)}Q", *sizes))
        header.append(struct.pack("<IQ", TYPES[type_][0], offset))
        offset += -(-size(columns, rows, type_) // ALIGNMENT) * ALIGNMENT
    header = b"".join(header)
    file.write(header + bytes(-len(header) % ALIGNMENT))
    numbers = random.Random(2026)
    for _, columns, rows, type_ in all_tensors:
        for piece in pieces(columns, rows, type_, numbers):
            file.write(piece)
        file.write(bytes(-size(columns, rows, type_) % ALIGNMENT))


def main():
    if len(sys.argv) != 4 or sys.argv[1] not in SHAPES or sys.argv[2] not in ("Q8_0", "Q4_0"):
        sys.exit(f"{__doc__}\nshapes: {', '.join(SHAPES)}; types: Q8_0, Q4_0")
    with open(sys.argv[3], "wb") as file:
        write(file, sys.argv[1], sys.argv[2])


if __name__ == "__main__":
    main()
