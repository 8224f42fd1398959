"""Writes blocks.json: what quantised blocks decode to, by the `gguf` package of Python (0.19.0).

    python3 -m venv v && v/bin/pip install gguf==0.19.0 && v/bin/python blocks.py > blocks.json

Blocks are bytes of splitmix64, so that the file holds digests instead of them; scales that would
be infinite or no number have a bit cleared. Every other scale occurs.
"""

import hashlib
import json

import numpy
from gguf import quants
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType as Type

BLOCKS = 2000
# Bytes at the top of a block's numbers: where they are, the bits of which not all may be set (they
# would say that the number is infinite, or none), and the bits that are kept where all are.
HALF = lambda at: [at + 1, 0x7C, 0xBF]
TOPS = {
    "Q4_0": [HALF(0)], "Q4_1": [HALF(0), HALF(2)], "Q5_0": [HALF(0)], "Q5_1": [HALF(0), HALF(2)],
    "Q8_0": [HALF(0)], "IQ4_NL": [HALF(0)], "Q2_K": [HALF(80), HALF(82)], "Q3_K": [HALF(108)],
    "Q4_K": [HALF(0), HALF(2)], "Q5_K": [HALF(0), HALF(2)], "Q6_K": [HALF(208)],
    "IQ4_XS": [HALF(0)], "IQ1_S": [HALF(0)], "IQ1_M": [[55, 0x70, 0xBF]], "IQ2_XXS": [HALF(0)],
    "IQ2_XS": [HALF(0)], "IQ2_S": [HALF(0)], "IQ3_XXS": [HALF(0)], "IQ3_S": [HALF(0)],
    "TQ1_0": [HALF(52)], "TQ2_0": [HALF(64)], "MXFP4": [[0, 0xF8, 0x7F]],
}


def splitmix(seed):
    mask = 2**64 - 1
    while True:
        seed = (seed + 0x9E3779B97F4A7C15) & mask
        z = (seed ^ (seed >> 30)) * 0xBF58476D1CE4E5B9 & mask
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB & mask
        yield from (z ^ (z >> 31)).to_bytes(8, "little")


def case(seed, name, tops):
    length, size = GGML_QUANT_SIZES[Type[name]]
    stream = splitmix(seed)
    stored = bytearray(next(stream) for _ in range(BLOCKS * size))
    for block in range(0, len(stored), size):
        for at, bits, kept in tops:
            if stored[block + at] & bits == bits:
                stored[block + at] &= kept
    rows = numpy.frombuffer(stored, dtype=numpy.uint8).reshape(BLOCKS, size)
    numbers = quants.dequantize(rows, Type[name]).astype("<f4")
    assert numbers.shape == (BLOCKS, length) and numpy.isfinite(numbers).all()
    first = " ".join(f"{bits:08x}" for bits in numbers[0].view("<u4"))
    digest = hashlib.sha256(numbers.tobytes()).hexdigest()
    return {"type": name, "id": int(Type[name]), "block_bytes": size, "block_len": length,
            "tops": tops, "seed": seed, "blocks": BLOCKS, "sha256": digest, "first": first}


cases = [case(seed, *item) for seed, item in enumerate(TOPS.items(), 1)]
print("[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]")
