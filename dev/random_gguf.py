#!/usr/bin/env python3
"""Writes a GGUF file of random weights with the sizes of `lockstep bench --shape`, for llama.cpp.

    python3 dev/random_gguf.py llama-3.2-1b Q8_0 random-1b-Q8_0.gguf
    python3 dev/random_gguf.py llama-3.2-1b Q8_0 random-1b-Q8_0.gguf --tokenizer smollm2.gguf

Types are those that llama.cpp's quantiser gives: in a Q4_0 file the embedding (which is also the
output matrix here) is Q6_K, or Q8_0 where rows are no multiple of 256. Numbers mean nothing and
there is no vocabulary, so the file is good for measuring speed alone; with the tokenizer of another
file, whose vocabulary must be of the same size, it can also be imported. Standard library only.
"""
import argparse
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
U32, F32, STRING, ARRAY = 4, 6, 8, 9
# Bytes of a value, by the number of its kind.
WIDTHS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}


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
    ]


def skip(data, kind, at):
    """Where the value of a kind at `at` ends."""
    if kind == STRING:
        return at + 8 + struct.unpack_from("<Q", data, at)[0]
    if kind == ARRAY:
        element, count = struct.unpack_from("<IQ", data, at)
        at += 12
        if element not in (STRING, ARRAY):
            return at + WIDTHS[element] * count
        for _ in range(count):
            at = skip(data, element, at)
        return at
    return at + WIDTHS[kind]


def tokenizer(path):
    """The keys of a GGUF file that describe its tokenizer, as they stand there."""
    with open(path, "rb") as file:
        data = file.read()
    if data[:4] != b"GGUF":
        sys.exit(f"{path}: not a GGUF file")
    found, at = [], 24
    for _ in range(struct.unpack_from("<Q", data, 16)[0]):
        start = at
        at = skip(data, STRING, at)
        name = data[start + 8:at]
        at = skip(data, struct.unpack_from("<I", data, at)[0], at + 4)
        if name.startswith(b"tokenizer."):
            found.append(data[start:at])
    return found


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


def write(file, name, kind, tokenizer_keys):
    shape = SHAPES[name]
    all_keys, all_tensors = keys(name, shape) + tokenizer_keys, list(tensors(shape, kind))
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
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("type", choices=("Q8_0", "Q4_0"))
    parser.add_argument("file")
    parser.add_argument("--tokenizer", metavar="GGUF")
    args = parser.parse_args()
    described = [key("tokenizer.ggml.model", STRING, "no_vocab")]
    if args.tokenizer:
        described = tokenizer(args.tokenizer)
    with open(args.file, "wb") as file:
        write(file, args.shape, args.type, described)


if __name__ == "__main__":
    main()
