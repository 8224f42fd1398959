"""Writes blocks.json: what quantised blocks decode to, by the `gguf` package of Python (0.19.0).

    python3 -m venv v && v/bin/pip install gguf==0.19.0 && v/bin/python blocks.py > blocks.json

Blocks are bytes of splitmix64, so that the file holds digests instead of them; halves that would
be infinite or no number have their top exponent bit cleared. Every other scale occurs.
"""

import hashlib
import json

import numpy
from gguf import quants
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType as Type

BLOCKS = 2000
# Offsets of binary16 numbers in a block.
HALVES = {
    "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "IQ4_NL": [0],
    "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "IQ4_XS": [0],
}


def splitmix(seed):
    mask = 2**64 - 1
    while True:
        seed = (seed + 0x9E3779B97F4A7C15) & mask
        z = (seed ^ (seed >> 30)) * 0xBF58476D1CE4E5B9 & mask
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB & mask
        yield from (z ^ (z >> 31)).to_bytes(8, "little")


def case(seed, name, halves):
    length, size = GGML_QUANT_SIZES[Type[name]]
    stream = splitmix(seed)
    stored = bytearray(next(stream) for _ in range(BLOCKS * size))
    for block in range(0, len(stored), size):
        for at in halves:
            if stored[block + at + 1] & 0x7C == 0x7C:
                stored[block + at + 1] &= 0xBF
    rows = numpy.frombuffer(stored, dtype=numpy.uint8).reshape(BLOCKS, size)
    numbers = quants.dequantize(rows, Type[name]).astype("<f4")
    assert numbers.shape == (BLOCKS, length) and numpy.isfinite(numbers).all()
    first = " ".join(f"{bits:08x}" for bits in numbers[0].view("<u4"))
    digest = hashlib.sha256(numbers.tobytes()).hexdigest()
    return {"type": name, "id": int(Type[name]), "block_bytes": size, "block_len": length,
            "halves": halves, "seed": seed, "blocks": BLOCKS, "sha256": digest, "first": first}


cases = [case(seed, *item) for seed, item in enumerate(HALVES.items(), 1)]
print("[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]")
