#!/usr/bin/env python3
"""A second implementation of the exact arithmetic, written from docs/arithmetic.md.

It shares no code with the Rust crates and needs nothing but Python's standard library. It reads
every vector beside it, computes the outputs from the inputs, and compares:

    python3 vectors/check.py [FILE ...]

binary32 is emulated: an operation on two f32 is done in binary64 and rounded to binary32. For
+ - * / and square root that is exactly the correctly rounded binary32 result, because binary64
has more than twice as many digits and two.
"""

import functools
import json
import math
import pathlib
import struct
import sys
from operator import mul

# --- Numbers (sections 1 and 2) ------------------------------------------------------------------

INFINITY = math.inf
PACK_F32 = struct.Struct("<f")
PACK_U32 = struct.Struct("<I")


def r32(x):
    """A binary64 rounded to binary32."""
    try:
        return PACK_F32.unpack(PACK_F32.pack(x))[0]
    except OverflowError:
        return math.copysign(INFINITY, x)


def f32_of_bits(bits):
    return PACK_F32.unpack(PACK_U32.pack(bits))[0]


def bits_of(x):
    return PACK_U32.unpack(PACK_F32.pack(x))[0]


def f32_of_int(n):
    """An integer rounded once to binary32."""
    magnitude = abs(n)
    drop = magnitude.bit_length() - 24
    if drop <= 0:
        return float(n)
    kept, lost, half = magnitude >> drop, magnitude & ((1 << drop) - 1), 1 << (drop - 1)
    if lost > half or (lost == half and kept & 1):
        kept += 1
    return math.copysign(float(kept << drop), n)


def rne(x):
    return round(x)  # ties to even


def pow2(k):
    assert k <= 127
    return 0.0 if k < -126 else 2.0**k


def magnitude_bits(x):
    return bits_of(x) & 0x7FFFFFFF


def amax(values):
    return max(map(magnitude_bits, values), default=0)


TINY_BITS = (127 - 40) << 23
HUGE_BITS = (127 + 55) << 23
LOG2_E = f32_of_bits(0x3FB8AA3B)
EXP2 = [f32_of_bits(b) for b in (0x3F317218, 0x3E75FDF0, 0x3D6357B6, 0x3C1D952A, 0x3AAF8448, 0x392209C5)]
SIN = [f32_of_bits(b) for b in (0x3F490FDB, 0xBDA55DE7, 0x3B2335E3, 0xB8196966, 0x34A83C1A)]
COS = [f32_of_bits(b) for b in (0x3F800000, 0xBE9DE9E6, 0x3C81E0F8, 0xB9AAE9E4, 0x3670FA83, 0xB2D368F9)]


class Overflow(Exception):
    """A number that is too large where numbers become integers."""


class Refused(Exception):
    """Bytes that are not canonical."""


def horner(coefficients, x):
    total = coefficients[-1]
    for c in reversed(coefficients[:-1]):
        total = r32(c + r32(x * total))
    return total


def exp2_fraction(f):
    return r32(1.0 + r32(f * horner(EXP2, f)))


def exp_of_negative(x):
    if not x >= -87.0:
        return 0.0
    t = r32(x * LOG2_E)
    n = rne(t)
    return r32(exp2_fraction(r32(t - n)) * pow2(n))


def sigmoid(x):
    e = exp_of_negative(-abs(x))
    return r32((e if x < 0.0 else 1.0) / r32(1.0 + e))


GELU = f32_of_bits(0x3FCC422A), f32_of_bits(0x3D922279)


def gelu_tanh(x):
    return r32(x * sigmoid(r32(x * r32(GELU[0] + r32(GELU[1] * r32(x * x))))))


def sin_cos_of_turn(phase):
    octant, place = phase >> 61, (phase >> 37) & 0xFFFFFF
    if octant & 1:
        place = (1 << 24) - place
    u = place * 2.0**-24
    q = r32(u * u)
    s, c = r32(horner(SIN, q) * u), horner(COS, q)
    return [(s, c), (c, s), (c, -s), (s, -c), (-s, -c), (-c, -s), (-c, s), (-s, c)][octant]


# --- From f32 to integers (section 3) ------------------------------------------------------------


def quantise(values, qmax):
    """Codes and scale."""
    top = amax(values)
    if top < TINY_BITS:
        return [0] * len(values), 0.0
    if top >= HUGE_BITS:
        raise Overflow
    largest = f32_of_bits(top)
    factor = r32(qmax / largest)
    return [rne(r32(x * factor)) for x in values], r32(largest / qmax)


def block_exponent(top):
    """The exponent of a block with this largest magnitude; None if it is flushed to zero."""
    if top < TINY_BITS:
        return None
    rounded = top + 0x100
    if rounded >= HUGE_BITS:
        raise Overflow
    return (rounded >> 23) - 141


def block_i16(values):
    """Mantissas and exponent byte."""
    e = block_exponent(amax(values))
    if e is None:
        return [0] * len(values), 0
    factor = pow2(-e)
    return [rne(r32(x * factor)) for x in values], e + 128


# --- States (section 4.1) ------------------------------------------------------------------------

MARKER = 255


class StateRow:
    def __init__(self, mantissas, exponents):
        self.mantissas, self.exponents = mantissas, exponents

    @classmethod
    def zeros(cls, width):
        return cls([0] * width, [0] * -(-width // 32))

    @classmethod
    def marker(cls, width):
        return cls([0] * width, [MARKER] * -(-width // 32))

    @classmethod
    def encode(cls, values):
        row = cls([], [])
        for at in range(0, len(values), 32):
            mantissas, byte = block_i16(values[at : at + 32])
            row.mantissas += mantissas
            row.exponents.append(byte)
        return row

    def is_marker(self):
        return self.exponents[0] == MARKER

    def values(self):
        return [m * self.unit(i // 32) for i, m in enumerate(self.mantissas)]

    def unit(self, group):
        byte = self.exponents[group]
        return 1.0 if byte in (0, MARKER) else pow2(byte - 128)

    def groups(self):
        return [
            (self.mantissas[32 * g : 32 * g + 32], byte) for g, byte in enumerate(self.exponents)
        ]

    def bytes(self):
        return struct.pack(f"<{len(self.mantissas)}h", *self.mantissas) + bytes(self.exponents)


def parse_state(width, data):
    groups = -(-width // 32)
    size = 2 * width + groups
    if len(data) % size:
        raise Refused
    rows = []
    for at in range(0, len(data), size):
        mantissas = list(struct.unpack_from(f"<{width}h", data, at))
        row = StateRow(mantissas, list(data[at + 2 * width : at + size]))
        if all(byte == MARKER for byte in row.exponents):
            if any(mantissas):
                raise Refused
        elif not all(is_canonical_group(group, byte) for group, byte in row.groups()):
            raise Refused
        rows.append(row)
    return rows


def is_canonical_group(mantissas, byte):
    peak = max(map(abs, mantissas))
    if byte == 0:
        return peak == 0
    return 16384 <= peak <= 32767 and -54 <= byte - 128 <= 40


# --- KV rows (section 4.2) -----------------------------------------------------------------------


class KvRow:
    def __init__(self, keys, values, key_scales, value_scales):
        self.keys, self.values = keys, values
        self.key_scales, self.value_scales = key_scales, value_scales

    def bytes(self):
        codes, scales = self.keys + self.values, self.key_scales + self.value_scales
        return struct.pack(f"<{len(codes)}b{len(scales)}f", *codes, *scales)


def parse_kv_row(heads, size, data):
    width = heads * size
    if len(data) != 2 * width + 8 * heads:
        raise Refused
    codes = list(struct.unpack_from(f"<{2 * width}b", data))
    scales = list(struct.unpack_from(f"<{2 * heads}f", data, 2 * width))
    low, high = r32(2.0**-40 / 127), r32(2.0**55 / 127)
    if -128 in codes or not all(bits_of(s) == 0 or low <= s <= high for s in scales):
        raise Refused
    return KvRow(codes[:width], codes[width:], scales[:heads], scales[heads:])


# --- Matrices (section 4.3) ----------------------------------------------------------------------


class W8:
    """Codes of 8 bits, a scale per 64 columns."""

    name, tag, group = "w8", 0, 64
    code_bytes, scale_bytes = 1024, 16  # of a block, per 64 columns
    code_range, scale_range, largest = (-127, 127), (1, 63), 2.0**40

    @staticmethod
    def weight(scale, shift, code):
        return scale * code

    @staticmethod
    def code_part(codes):
        """Rows of 64 codes, packed."""
        quads = range(0, 64, 4)
        return bytes(row[k + i] + 128 for k in quads for row in codes for i in range(4))

    @staticmethod
    def code(part, lane, k):
        return part[k // 4 * 64 + lane * 4 + k % 4] - 128

    @staticmethod
    def scale_part(scales, shifts):
        return bytes(row[0] for row in scales)

    @staticmethod
    def scale(part, lane, _):
        return part[lane], 0


class W4:
    """Codes of 4 bits, a scale and a shift per 32 columns."""

    name, tag, group = "w4", 1, 32
    code_bytes, scale_bytes = 512, 64
    code_range, scale_range, largest = (-8, 7), (1, 255), 2.0**36

    @staticmethod
    def weight(scale, shift, code):
        return scale * (16 * code + shift)

    @staticmethod
    def code_part(codes):
        octets = range(0, 64, 8)
        return bytes(
            row[k + i] + 8 | row[k + i + 4] + 8 << 4
            for k in octets for row in codes for i in range(4)
        )  # fmt: skip

    @staticmethod
    def code(part, lane, k):
        return (part[k // 8 * 64 + lane * 4 + k % 4] >> (4 if k % 8 >= 4 else 0) & 15) - 8

    @staticmethod
    def scale_part(scales, shifts):
        scales = bytes(scale for row in scales for scale in row)
        return scales + struct.pack("32b", *(shift for row in shifts for shift in row))

    @staticmethod
    def scale(part, lane, group):
        at = 2 * lane + group
        (shift,) = struct.unpack_from("b", part, 32 + at)
        return part[at], shift


CODECS = {codec.name: codec for codec in (W8, W4)}


class Matrix:
    """Rows of (codes, group scales, shifts, row scale), without padding."""

    def __init__(self, codec, columns, rows):
        self.codec, self.columns, self.rows = codec, columns, rows
        self.scales = [row[3] for row in rows]

    @functools.cached_property
    def weights(self):
        """The integer weights, row after row."""
        codec = self.codec

        def row(codes, scales, shifts):
            groups = list(zip(scales, shifts))
            return [codec.weight(*groups[k // codec.group], c) for k, c in enumerate(codes)]

        return [row(*parts) for *parts, _ in self.rows]

    def packed(self):
        codec, spans = self.codec, -(-self.columns // 64)
        each = 64 // codec.group
        out = bytearray()

        def padded(row, value, length):
            return row + [value] * (length - len(row))

        for first in range(0, len(self.rows), 16):
            lanes = self.rows[first : first + 16]
            lanes = lanes + [([], [], [], 1.0)] * (16 - len(lanes))
            codes = [padded(row[0], 0, 64 * spans) for row in lanes]
            scales = [padded(row[1], 1, each * spans) for row in lanes]
            shifts = [padded(row[2], 0, each * spans) for row in lanes]
            for span in range(spans):
                out += codec.code_part([row[64 * span : 64 * span + 64] for row in codes])
            for span in range(spans):
                part = slice(each * span, each * span + each)
                out += codec.scale_part([row[part] for row in scales], [row[part] for row in shifts])
            out += struct.pack("<16f", *(row[3] for row in lanes))
            out += bytes(-len(out) % 64)
        return bytes(out)


def packed_bytes(codec, rows, columns):
    block = -(-columns // 64) * (codec.code_bytes + codec.scale_bytes) + 64
    return -(-rows // 16) * (-(-block // 64) * 64)


def parse_matrix(codec, count, columns, data):
    """The inverse of packed(): what does not pack to the same bytes is refused."""
    if not (1 <= count <= 1 << 22 and 1 <= columns <= 131072):
        raise Refused
    if len(data) != packed_bytes(codec, count, columns):
        raise Refused
    scales_at = -(-columns // 64) * codec.code_bytes
    row_scales_at = scales_at + -(-columns // 64) * codec.scale_bytes
    stride = len(data) // -(-count // 16)
    each = 64 // codec.group
    rows = []
    for n in range(count):
        block, lane = data[n // 16 * stride :][:stride], n % 16
        codes = [
            codec.code(block[k // 64 * codec.code_bytes :], lane, k % 64) for k in range(columns)
        ]
        groups = [
            codec.scale(block[scales_at + g // each * codec.scale_bytes :], lane, g % each)
            for g in range(-(-columns // codec.group))
        ]
        scales, shifts = [g[0] for g in groups], [g[1] for g in groups]
        (scale,) = struct.unpack_from("<f", block, row_scales_at + 4 * lane)
        low, high = codec.code_range
        least, most = codec.scale_range
        if not all(low <= c <= high for c in codes) or not all(least <= s <= most for s in scales):
            raise Refused
        if -128 in shifts or not 2.0**-60 <= abs(scale) <= codec.largest:
            raise Refused
        rows.append((codes, scales, shifts, scale))
    matrix = Matrix(codec, columns, rows)
    if matrix.packed() != data:
        raise Refused
    return matrix


# --- Operations of a layer (section 5) -----------------------------------------------------------


def embed(table, scale, token):
    row_scale = table.scales[token]
    try:
        return StateRow.encode([r32(r32(w * row_scale) * scale) for w in table.weights[token]])
    except Overflow:
        return StateRow.marker(table.columns)


def norm(row, eps, gain):
    r = r32(1.0 / r32(math.sqrt(r32(mean_of_squares(row) + eps))))
    return [r32(r32(x * r) * g) for x, g in zip(row.values(), gain)]


def mean_of_squares(row):
    used = [(group, byte - 128) for group, byte in row.groups() if byte not in (0, MARKER)]
    if not used:
        return 0.0
    top = max(e for _, e in used)
    total = sum((sum(m * m for m in group) << 16) >> 2 * (top - e) for group, e in used)
    assert total < 1 << 61
    return r32(r32(f32_of_int(total) * pow2(2 * top - 16)) / len(row.mantissas))


def norm_f32(values, eps, gain):
    """The norm of what f32 are as block-i16, and whether they overflowed."""
    try:
        return norm(StateRow.encode(values), eps, gain), False
    except Overflow:
        return norm(StateRow.zeros(len(values)), eps, gain), True


def add_bias(values, bias):
    return [r32(x + b) for x, b in zip(values, bias)]


def quantise_or_zero(values, qmax):
    """Codes, scale and whether they overflowed."""
    try:
        return *quantise(values, qmax), False
    except Overflow:
        return [0] * len(values), 0.0, True


def matmul(matrix, codes):
    return [sum(map(mul, weights, codes)) for weights in matrix.weights]


def dequant(sums, token_scale, row_scales):
    return [r32(f32_of_int(y) * r32(s * token_scale)) for y, s in zip(sums, row_scales)]


class Attention:
    def __init__(self, heads, kv_heads, head_dim, window, score_scale, rope, norms=None):
        self.heads, self.kv_heads, self.head_dim = heads, kv_heads, head_dim
        self.window, self.score_scale, self.rope = window, score_scale, rope
        self.norms = norms or {}

    def split(self, row):
        """Heads of queries, keys and values."""
        size = self.head_dim
        heads = [row[at : at + size] for at in range(0, len(row), size)]
        return (
            heads[: self.heads],
            heads[self.heads : self.heads + self.kv_heads],
            heads[self.heads + self.kv_heads :],
        )

    def rotated(self, head, position):
        head, pairs = list(head), len(self.rope)
        for i, frequency in enumerate(self.rope):
            s, c = sin_cos_of_turn(frequency * position % 2**64)
            a, b = head[i], head[i + pairs]
            head[i] = r32(r32(a * c) - r32(b * s))
            head[i + pairs] = r32(r32(b * c) + r32(a * s))
        return head

    def turned(self, name, head, position):
        """A query or key head as it is quantised, and whether it overflowed before."""
        overflowed = False
        if name in self.norms:
            head, overflowed = norm_f32(head, *self.norms[name])
        return self.rotated(head, position), overflowed

    def kv_row(self, row, position):
        """The KV row and whether a head of it overflowed."""
        _, keys, values = self.split(row)
        turned = [self.turned("key", head, position) for head in keys]
        keys = [quantise_or_zero(head, 127) for head, _ in turned]
        values = [quantise_or_zero(head, 127) for head in values]
        kv = KvRow(
            [c for head in keys for c in head[0]],
            [c for head in values for c in head[0]],
            [head[1] for head in keys],
            [head[1] for head in values],
        )
        early = any(overflowed for _, overflowed in turned)
        return kv, early or any(head[2] for head in keys + values)

    def queries(self, row, position):
        """Per head its codes and its scale for scores, and whether one overflowed."""
        turned = [self.turned("query", head, position) for head in self.split(row)[0]]
        heads = [quantise_or_zero(head, 32512) for head, _ in turned]
        scaled = [(codes, r32(scale * self.score_scale)) for codes, scale, _ in heads]
        early = any(overflowed for _, overflowed in turned)
        return scaled, early or any(head[2] for head in heads)

    def attend(self, queries, position, past):
        """The row of all heads and whether one overflowed; `past` gives the KV row of a position."""
        first = 0 if self.window == 0 else max(0, position + 1 - self.window)
        row, overflowed = [], False
        for head, query in enumerate(queries):
            kv_head = head // (self.heads // self.kv_heads)
            try:
                row += self.head(query, kv_head, first, position, past)
            except Overflow:
                row += [0.0] * self.head_dim
                overflowed = True
        return row, overflowed

    def head(self, query, kv_head, first, last, past):
        chunks = []
        for chunk in range(first // 256, last // 256 + 1):
            positions = range(max(first, 256 * chunk), min(last, 256 * chunk + 255) + 1)
            chunks.append(self.chunk(query, kv_head, [past(p) for p in positions]))
        return combine(chunks, self.head_dim)

    def chunk(self, query, kv_head, rows):
        """M, D, X and N of one chunk; X is None if it has no numerator."""
        codes, scale = query
        part = slice(kv_head * self.head_dim, (kv_head + 1) * self.head_dim)
        scores = []
        for row in rows:
            dot = sum(map(mul, codes, row.keys[part]))
            assert abs(dot) < 1 << 31
            scores.append(score(dot, scale, row.key_scales[kv_head]))
        top = max(n for n, _ in scores)
        denominator, weights = 0, []
        for (n, m), row in zip(scores, rows):
            below = top - n
            if below > 40:
                weights.append(0.0)
                continue
            denominator += rne(r32(m * pow2(30 - below)))
            weights.append(r32(r32(m * pow2(-below)) * row.value_scales[kv_head]))
        assert denominator < 1 << 39
        e = block_exponent(amax(weights))
        if e is None:
            return top, denominator, None, None
        mantissas = [rne(r32(w * pow2(-e))) for w in weights]
        columns = zip(*(row.values[part] for row in rows))
        numerators = [sum(map(mul, mantissas, column)) for column in columns]
        assert all(abs(n) < 1 << 30 for n in numerators)
        return top, denominator, e + top, numerators


def score(dot, query_scale, key_scale):
    return score_parts(r32(f32_of_int(dot) * r32(query_scale * key_scale)))


def score_parts(t):
    if magnitude_bits(t) >= (127 + 20) << 23:
        raise Overflow
    n = rne(t)
    return n, exp2_fraction(r32(t - n))


def combine(chunks, size):
    top = max(chunk[0] for chunk in chunks)
    denominator = sum((d << 12) >> min(63, top - m) for m, d, _, _ in chunks)
    with_numerator = [chunk for chunk in chunks if chunk[2] is not None]
    if not with_numerator:
        return [0.0] * size
    largest = max(chunk[2] for chunk in with_numerator)
    power = largest - top + 22
    if power < -100:
        return [0.0] * size
    out = []
    for i in range(size):
        numerator = sum((n[i] << 20) >> min(63, largest - x) for _, _, x, n in with_numerator)
        assert abs(numerator) < 1 << 63 and denominator < 1 << 63
        quotient = r32(f32_of_int(numerator) / f32_of_int(denominator))
        out.append(r32(quotient * pow2(power)))
    return out


ACTIVATIONS = {"silu": lambda x: r32(x * sigmoid(x)), "gelu_tanh": gelu_tanh}


def gate(row, activation):
    inner, activate = len(row) // 2, ACTIVATIONS[activation]
    return [r32(activate(g) * u) for g, u in zip(row[:inner], row[inner:])]


def choose(logits, used, normalise):
    """The experts of a row, increasing, with their weights; and whether the row overflowed."""
    try:
        parts, overflowed = [score_parts(r32(z * LOG2_E)) for z in logits], False
    except Overflow:
        logits = [0.0] * len(logits)
        parts, overflowed = [score_parts(z) for z in logits], True
    top = max(n for n, _ in parts)
    shares = [0 if top - n > 40 else rne(r32(m * pow2(30 - (top - n)))) for n, m in parts]
    best = sorted(range(len(logits)), key=lambda e: (-logits[e], e))[:used]
    total = sum(shares[e] for e in best) if normalise else sum(shares)
    weights = [(e, r32(f32_of_int(shares[e]) / f32_of_int(total))) for e in sorted(best)]
    return weights, overflowed


def accumulate(out, weight, row):
    return [r32(o + r32(weight * x)) for o, x in zip(out, row)]


def residual(row, delta, flagged):
    """The state and whether the row is flagged now."""
    try:
        encoded = StateRow.encode([r32(x + d) for x, d in zip(row.values(), delta)])
    except Overflow:
        flagged = True
    return (StateRow.marker(len(delta)), True) if flagged else (encoded, False)


# --- Sampling (section 7) ------------------------------------------------------------------------

DEFAULTS = {
    "temperature": 0.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0,
    "presence_penalty": 0.0, "frequency_penalty": 0.0, "logit_bias": [], "seed": 0,
}  # fmt: skip


def first_bad_parameter(p, vocabulary):
    hundredth = f32_of_bits(0x3C23D70A)
    ranges = [
        ("temperature", p["temperature"] == 0 or hundredth <= p["temperature"] <= 100),
        ("top_p", 0 < p["top_p"] <= 1),
        ("min_p", 0 <= p["min_p"] <= 1),
        ("repetition_penalty", hundredth <= p["repetition_penalty"] <= 100),
        ("presence_penalty", -100 <= p["presence_penalty"] <= 100),
        ("frequency_penalty", -100 <= p["frequency_penalty"] <= 100),
    ]
    before = -1
    for token, bias in p["logit_bias"]:
        ranges.append(("logit_bias", -1000 <= bias <= 1000 and before < token < vocabulary))
        before = token
    return next((name for name, fits in ranges if not fits), None)


def adjusted(logits, p, prompt, answer):
    logits, known = list(logits), range(len(logits))
    penalty = p["repetition_penalty"]
    if penalty != 1:
        for token in set(prompt + answer) & set(known):
            l = logits[token]
            logits[token] = r32(l / penalty) if l > 0 else r32(l * penalty)
    presence, frequency = p["presence_penalty"], p["frequency_penalty"]
    if presence != 0 or frequency != 0:
        for token in set(answer) & set(known):
            l = r32(logits[token] - presence)
            logits[token] = r32(l - r32(frequency * answer.count(token)))
    for token, bias in p["logit_bias"]:
        if token in known:
            logits[token] = r32(logits[token] + bias)
    return logits


def fraction(n, x):
    return (n * rne(r32(x * pow2(24)))) >> 24


def sample(logits, p, prompt, answer, allowed=None):
    logits = adjusted(logits, p, prompt, answer)
    if amax(logits) >= HUGE_BITS:
        raise Overflow
    ids = [i for i in range(len(logits)) if allowed is None or i in allowed]
    if not ids:
        raise Overflow
    ids.sort(key=lambda i: (-logits[i], i))
    best = logits[ids[0]]
    if p["temperature"] == 0:
        return ids[0]
    if p["top_k"]:
        ids = ids[: p["top_k"]]
    weighed = []
    for i in ids:
        x = r32(r32(logits[i] - best) / p["temperature"])
        weight = rne(r32(exp_of_negative(x) * pow2(30)))
        if weight:
            weighed.append((i, weight))
    enough, total, nucleus = fraction(sum(w for _, w in weighed), p["top_p"]), 0, len(weighed)
    for index, (_, weight) in enumerate(weighed):
        total += weight
        if total >= enough:
            nucleus = index + 1
            break
    least = fraction(weighed[0][1], p["min_p"])
    likely = next((k for k, (_, weight) in enumerate(weighed) if weight < least), len(weighed))
    weighed = weighed[: max(1, min(nucleus, likely))]
    word = random(p["seed"], len(prompt) + len(answer))
    left = (word * sum(w for _, w in weighed)) >> 64
    for i, weight in weighed:
        if left < weight:
            return i
        left -= weight
    raise AssertionError("the draw is below the sum of the weights")


def random(seed, position):
    parts = [seed.to_bytes(8, "little"), position.to_bytes(8, "little")]
    return int.from_bytes(digest_parts("lockstep 2026 sampler randomness", parts)[:8], "little")


# --- Stop rules (section 8) ----------------------------------------------------------------------


def finish_after(answer, vocabulary, end_tokens, stops, context, prompt_len):
    """How an answer ends with its last token, or None."""
    if not stops["ignore_end"] and answer[-1] in end_tokens:
        return "end token"
    text = b"".join(vocabulary[token] for token in answer if token < len(vocabulary))
    if any(string and string in text for string in stops["strings"]):
        return "stop string"
    if len(answer) >= stops["max_tokens"]:
        return "length"
    return "context" if prompt_len + len(answer) >= context else None


# --- BLAKE3 (section 9.1) ------------------------------------------------------------------------

IV = (0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19)
CHUNK_START, CHUNK_END, PARENT, ROOT = 1, 2, 4, 8
DERIVE_KEY_CONTEXT, DERIVE_KEY_MATERIAL = 32, 64


def compression_source():
    """The compression function with its seven rounds written out, which is much faster."""
    columns = [(0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15)]
    diagonals = [(0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14)]
    permutation = [2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8]
    lines = ["def compress(cv, m, counter, length, flags):", " v0,v1,v2,v3,v4,v5,v6,v7=cv"]
    lines += [" " + ",".join(f"m{i}" for i in range(16)) + "=m"]
    lines += [f" v{8 + i}={IV[i]}" for i in range(4)]
    lines += [" v12=counter&0xffffffff", " v13=counter>>32", " v14=length", " v15=flags"]
    order = list(range(16))
    for _ in range(7):
        for index, (a, b, c, d) in enumerate(columns + diagonals):
            for word, turns in ((order[2 * index], (16, 12)), (order[2 * index + 1], (8, 7))):
                lines.append(f" v{a}=(v{a}+v{b}+m{word})&0xffffffff")
                lines.append(f" v{d}^=v{a}")
                lines.append(f" v{d}=(v{d}>>{turns[0]}|v{d}<<{32 - turns[0]})&0xffffffff")
                lines.append(f" v{c}=(v{c}+v{d})&0xffffffff")
                lines.append(f" v{b}^=v{c}")
                lines.append(f" v{b}=(v{b}>>{turns[1]}|v{b}<<{32 - turns[1]})&0xffffffff")
        order = [order[p] for p in permutation]
    low = [f"v{i}^v{i + 8}" for i in range(8)]
    high = [f"v{i + 8}^cv[{i}]" for i in range(8)]
    return "\n".join([*lines, f" return ({','.join(low + high)})"])


exec(compression_source())  # defines compress


class Node:
    """The last compression of a subtree, which may become the root."""

    def __init__(self, cv, words, counter, length, flags):
        self.cv, self.words, self.counter, self.length, self.flags = cv, words, counter, length, flags

    def chaining_value(self):
        return compress(self.cv, self.words, self.counter, self.length, self.flags)[:8]

    def output(self):
        """The root's unending output, 64 bytes at a time."""
        counter = 0
        while True:
            words = compress(self.cv, self.words, counter, self.length, self.flags | ROOT)
            yield struct.pack("<16I", *words)
            counter += 1


def tree(data, key, flags, first_chunk=0):
    """The node over whole chunks from `first_chunk` on."""
    if len(data) <= 1024:
        return chunk_node(data, key, flags, first_chunk)
    # The left subtree is the largest power of two of chunks that leaves something to the right.
    left = 1 << (((len(data) - 1) // 1024).bit_length() - 1)
    words = tree(data[: left * 1024], key, flags, first_chunk).chaining_value()
    words += tree(data[left * 1024 :], key, flags, first_chunk + left).chaining_value()
    return Node(key, words, 0, 64, flags | PARENT)


def chunk_node(data, key, flags, counter):
    blocks = [data[at : at + 64] for at in range(0, len(data), 64)] or [b""]
    cv, start = key, CHUNK_START
    for block in blocks[:-1]:
        cv = compress(cv, struct.unpack("<16I", block), counter, 64, flags | start)[:8]
        start = 0
    last = blocks[-1]
    words = struct.unpack("<16I", last + bytes(64 - len(last)))
    return Node(cv, words, counter, len(last), flags | start | CHUNK_END)


def blake3(data):
    return next(tree(bytes(data), IV, 0).output())[:32]


def derive_key(context, data):
    """The node of BLAKE3 in its key-derivation mode."""
    key = next(tree(context.encode(), IV, DERIVE_KEY_CONTEXT).output())[:32]
    return tree(bytes(data), struct.unpack("<8I", key), DERIVE_KEY_MATERIAL)


def digest_parts(context, parts):
    data = b"".join(len(part).to_bytes(8, "little") + part for part in parts)
    return next(derive_key(context, data).output())[:32]


# --- Canonical bytes (section 9.2 and 9.3) -------------------------------------------------------


def u16(x):
    return x.to_bytes(2, "little")


def u32(x):
    return x.to_bytes(4, "little")


def u64(x):
    return x.to_bytes(8, "little")


def byte_string(data):
    return u32(len(data)) + data


def list_of(items):
    return u32(len(items)) + b"".join(items)


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, count):
        piece = self.data[self.at : self.at + count]
        if len(piece) != count:
            raise Refused
        self.at += count
        return piece

    def int(self, width):
        return int.from_bytes(self.take(width), "little")

    def u32(self):
        return self.int(4)

    def u64(self):
        return self.int(8)

    def f32(self):
        (x,) = PACK_F32.unpack(self.take(4))
        if not math.isfinite(x):
            raise Refused
        return x

    def count(self, limit):
        count = self.u32()
        if count > limit:
            raise Refused
        return count

    def list(self, limit, element):
        return [element() for _ in range(self.count(limit))]

    def text(self, limit):
        try:
            return self.take(self.count(limit)).decode()
        except UnicodeDecodeError as error:
            raise Refused from error

    def finish(self):
        if self.at != len(self.data):
            raise Refused


def sampling_bytes(p):
    names = ("top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty")
    biases = [u32(token) + PACK_F32.pack(bias) for token, bias in p["logit_bias"]]
    out = PACK_F32.pack(p["temperature"]) + u32(p["top_k"])
    return out + b"".join(PACK_F32.pack(p[name]) for name in names) + list_of(biases) + u64(p["seed"])


def stops_bytes(stops):
    strings = [byte_string(string) for string in stops["strings"]]
    return u32(stops["max_tokens"]) + bytes([stops["ignore_end"]]) + list_of(strings)


def parse_vocabulary(data):
    reader = Reader(data)

    def token():
        length = reader.int(2)
        if length > 1024:
            raise Refused
        return reader.take(length)

    tokens = reader.list(1 << 20, token)
    reader.finish()
    return tokens


def matrix_ref_bytes(m):
    codec = bytes([CODECS[m["codec"]].tag])
    return u64(m["offset"]) + u32(m["rows"]) + u32(m["columns"]) + codec + bytes.fromhex(m["digest"])


def norm_bytes(n):
    return f32_bytes(n["eps"]) + vector_bytes(n["gain"])


def vector_bytes(v):
    return u64(v["offset"]) + u32(v["len"])


def option_bytes(value, encode):
    return b"\0" if value is None else b"\1" + encode(value)


BIASES = ("qkv", "output")
GATED = ("gate_up", "down")
HEAD_NORMS = ("query", "key")
POST_NORMS = ("attention", "ffn")


def f32_bytes(text):
    return u32(int(text, 16))


def product_bytes(p):
    return matrix_ref_bytes(p["matrix"]) + option_bytes(p["bias"], vector_bytes)


def gated_bytes(g):
    return b"".join(product_bytes(g[name]) for name in GATED)


def feed_forward_bytes(f):
    if "dense" in f:
        return b"\0" + gated_bytes(f["dense"])
    e = f["experts"]
    return b"".join([
        b"\1", u32(e["used"]), bytes([e["normalise"]]), product_bytes(e["router"]),
        list_of([gated_bytes(expert) for expert in e["experts"]]),
        option_bytes(e["shared"], lambda s: product_bytes(s["gate"]) + gated_bytes(s["gated"])),
    ])  # fmt: skip


def layer_bytes(l):
    a = l["attention"]
    sizes = [a[name] for name in ("heads", "kv_heads", "head_dim", "rope", "window")]
    return b"".join([
        u32(l["blob"]), norm_bytes(l["attention_norm"]), matrix_ref_bytes(l["qkv"]),
        *map(u32, sizes), f32_bytes(a["score_scale"]), matrix_ref_bytes(l["output"]),
        norm_bytes(l["ffn_norm"]), bytes([list(ACTIVATIONS).index(l["activation"])]),
        feed_forward_bytes(l["feed_forward"]),
        *(option_bytes(l["biases"][name], vector_bytes) for name in BIASES),
        option_bytes(l["head_norms"], lambda n: b"".join(norm_bytes(n[k]) for k in HEAD_NORMS)),
        option_bytes(l["post_norms"], lambda n: b"".join(norm_bytes(n[k]) for k in POST_NORMS)),
    ])  # fmt: skip


FIGURE_NUMBERS = ("perplexity", "reference_perplexity", "kl", "same_top")


def figure_bytes(f):
    return b"".join([
        byte_string(f["text"].encode()), bytes.fromhex(f["text_digest"]), u32(f["window"]),
        u32(f["windows"]), u64(f["positions"]), byte_string(f["reference"].encode()),
        *(f32_bytes(f[name]) for name in FIGURE_NUMBERS),
    ])  # fmt: skip


def is_figure(f):
    def number(name, low, high):
        bits = int(f[name], 16)
        return bits < 1 << 31 and low <= f32_of(f[name]) <= high

    return (
        2 <= f["window"] <= 1 << 21 and 1 <= f["windows"]
        and 1 <= f["positions"] <= f["window"] // 2 * f["windows"]
        and number("perplexity", 1.0, 2.0**40) and number("reference_perplexity", 1.0, 2.0**40)
        and number("kl", 0.0, 2.0**40) and number("same_top", 0.0, 1.0)
    )  # fmt: skip


def manifest_bytes(m):
    provenance, head = m["provenance"], m["head"]
    texts = [provenance[name] for name in ("name", "architecture", "license", "source_format")]
    ropes = [list_of([u64(f) for f in words_of(table["frequencies"])]) for table in m["ropes"]]
    return b"".join([
        b"LOCKSTEP", u16(0), *(byte_string(text.encode()) for text in texts),
        list_of([figure_bytes(figure) for figure in provenance["figures"]]),
        u32(m["hidden"]), u32(m["vocabulary"]), u32(m["context"]),
        list_of([bytes.fromhex(blob["digest"]) + u64(blob["len"]) for blob in m["blobs"]]),
        u32(m["vocabulary_blob"]), u32(m["tokenizer_blob"]),
        list_of([u32(token) for token in m["end_tokens"]]), list_of(ropes),
        u32(head["embedding_blob"]), matrix_ref_bytes(head["embedding"]),
        f32_bytes(head["embedding_scale"]), u32(head["blob"]), norm_bytes(head["norm"]),
        matrix_ref_bytes(head["output"]), list_of([layer_bytes(layer) for layer in m["layers"]]),
    ])  # fmt: skip


def parse_manifest(data):
    """The manifest in the form that the vectors have; refuses what is malformed."""
    r = Reader(data)

    def matrix():
        fields = {"offset": r.u64(), "rows": r.u32(), "columns": r.u32()}
        codec = r.int(1)
        if codec >= len(CODECS):
            raise Refused
        return fields | {"codec": list(CODECS)[codec], "digest": r.take(32).hex()}

    def vector():
        return {"offset": r.u64(), "len": r.u32()}

    def norm_plan():
        return {"eps": f32_text(r.f32()), "gain": vector()}

    def norms(names):
        return {name: norm_plan() for name in names}

    def option(read):
        tag = r.int(1)
        if tag > 1:
            raise Refused
        return read() if tag else None

    def attention():
        names = ("heads", "kv_heads", "head_dim", "rope", "window")
        return {name: r.u32() for name in names} | {"score_scale": f32_text(r.f32())}

    def activation():
        tag = r.int(1)
        if tag >= len(ACTIVATIONS):
            raise Refused
        return list(ACTIVATIONS)[tag]

    def flag():
        tag = r.int(1)
        if tag > 1:
            raise Refused
        return tag == 1

    def planned_product():
        return {"matrix": matrix(), "bias": option(vector)}

    def gated():
        return {name: planned_product() for name in GATED}

    def experts():
        parts = (
            ("used", r.u32), ("normalise", flag), ("router", planned_product),
            ("experts", lambda: r.list(1024, gated)),
            ("shared", lambda: option(lambda: {"gate": planned_product(), "gated": gated()})),
        )  # fmt: skip
        return {name: read() for name, read in parts}

    def feed_forward():
        tag = r.int(1)
        if tag > 1:
            raise Refused
        return {"experts": experts()} if tag else {"dense": gated()}

    def figure():
        parts = (
            ("text", lambda: r.text(256)), ("text_digest", lambda: r.take(32).hex()),
            ("window", r.u32), ("windows", r.u32), ("positions", r.u64),
            ("reference", lambda: r.text(256)),
            *((name, lambda: f32_text(r.f32())) for name in FIGURE_NUMBERS),
        )  # fmt: skip
        return {name: read() for name, read in parts}

    def layer():
        parts = (
            ("blob", r.u32), ("attention_norm", norm_plan), ("qkv", matrix),
            ("attention", attention), ("output", matrix), ("ffn_norm", norm_plan),
            ("activation", activation), ("feed_forward", feed_forward),
            ("biases", lambda: {name: option(vector) for name in BIASES}),
            ("head_norms", lambda: option(lambda: norms(HEAD_NORMS))),
            ("post_norms", lambda: option(lambda: norms(POST_NORMS))),
        )  # fmt: skip
        return {name: read() for name, read in parts}

    if r.take(8) != b"LOCKSTEP" or r.int(2) != 0:
        raise Refused
    limits = {"name": 256, "architecture": 256, "license": 65536, "source_format": 256}
    m = {"provenance": {name: r.text(limit) for name, limit in limits.items()}}
    m["provenance"]["figures"] = r.list(16, figure)
    for name in ("hidden", "vocabulary", "context"):
        m[name] = r.u32()
    m["blobs"] = r.list(520, lambda: {"digest": r.take(32).hex(), "len": r.u64()})
    m["vocabulary_blob"], m["tokenizer_blob"] = r.u32(), r.u32()
    m["end_tokens"] = r.list(64, r.u32)
    m["ropes"] = r.list(8, lambda: {"frequencies": words_text(r.list(256, r.u64))})
    head = (
        ("embedding_blob", r.u32), ("embedding", matrix), ("embedding_scale", lambda: f32_text(r.f32())),
        ("blob", r.u32), ("norm", norm_plan), ("output", matrix),
    )  # fmt: skip
    m["head"] = {name: read() for name, read in head}
    m["layers"] = r.list(512, layer)
    r.finish()
    return m


def is_consistent(m):
    hidden, vocabulary, blobs = m["hidden"], m["vocabulary"], m["blobs"]

    def scale(text):
        return 2.0**-60 <= f32_of(text) <= 2.0**40

    def section(blob, offset, length):
        return blob < len(blobs) and offset % 64 == 0 and offset + length <= blobs[blob]["len"]

    def matrix(blob, ref, rows, columns):
        fits = (ref["rows"], ref["columns"]) == (rows, columns)
        fits = fits and 1 <= rows <= 1 << 22 and 1 <= columns <= 131072
        return fits and section(blob, ref["offset"], packed_bytes(CODECS[ref["codec"]], rows, columns))

    def vector(blob, ref, length):
        return ref["len"] == length and section(blob, ref["offset"], 4 * length)

    def norm_plan(blob, plan, length=hidden):
        return scale(plan["eps"]) and vector(blob, plan["gain"], length)

    def optional(l):
        blob, size = l["blob"], l["attention"]["head_dim"]
        biases = ((l["biases"][name], l[name]["rows"]) for name in BIASES)
        heads, posts = l["head_norms"] or {}, l["post_norms"] or {}
        return (
            all(bias is None or vector(blob, bias, rows) for bias, rows in biases)
            and all(norm_plan(blob, plan, size) for plan in heads.values())
            and all(norm_plan(blob, plan) for plan in posts.values())
        )

    def planned_product(blob, p, rows, columns):
        bias = p["bias"]
        fits = matrix(blob, p["matrix"], rows, columns)
        return fits and (bias is None or vector(blob, bias, rows))

    def gated(blob, g):
        inner = g["down"]["matrix"]["columns"]
        return (
            1 <= inner <= 131072
            and planned_product(blob, g["gate_up"], 2 * inner, hidden)
            and planned_product(blob, g["down"], hidden, inner)
        )

    def feed_forward(blob, f):
        if "dense" in f:
            return gated(blob, f["dense"])
        e, shared = f["experts"], f["experts"]["shared"]
        count = len(e["experts"])
        return (
            1 <= count <= 1024 and 1 <= e["used"] <= count
            and planned_product(blob, e["router"], count, hidden)
            and all(gated(blob, g) for g in e["experts"])
            and len({g["down"]["matrix"]["columns"] for g in e["experts"]}) == 1
            and len({g["gate_up"]["matrix"]["codec"] for g in e["experts"]}) == 1
            and len({g["down"]["matrix"]["codec"] for g in e["experts"]}) == 1
            and e["used"] * (2 * e["experts"][0]["down"]["matrix"]["columns"] + hidden) <= 1 << 20
            and (shared is None or planned_product(blob, shared["gate"], 1, hidden))
            and (shared is None or gated(blob, shared["gated"]))
        )  # fmt: skip

    def layer(l):
        a, blob = l["attention"], l["blob"]
        heads, kv_heads, size = a["heads"], a["kv_heads"], a["head_dim"]
        return (
            1 <= heads <= 512 and 1 <= kv_heads <= heads and heads % kv_heads == 0
            and 2 <= size <= 512 and size % 2 == 0 and scale(a["score_scale"])
            and a["rope"] < len(m["ropes"])
            and len(words_of(m["ropes"][a["rope"]]["frequencies"])) <= size // 2
            and norm_plan(blob, l["attention_norm"]) and norm_plan(blob, l["ffn_norm"])
            and matrix(blob, l["qkv"], (heads + 2 * kv_heads) * size, hidden)
            and matrix(blob, l["output"], hidden, heads * size)
            and feed_forward(blob, l["feed_forward"])
            and optional(l)
        )  # fmt: skip

    head = m["head"]
    return (
        32 <= hidden <= 32768 and hidden % 32 == 0 and 1 <= vocabulary <= 1 << 20
        and 1 <= m["context"] <= 1 << 20 and 1 <= len(m["layers"]) <= 512
        and m["vocabulary_blob"] < len(blobs) and m["tokenizer_blob"] < len(blobs)
        and all(token < vocabulary for token in m["end_tokens"])
        and all(map(is_figure, m["provenance"]["figures"]))
        and matrix(head["embedding_blob"], head["embedding"], vocabulary, hidden)
        and matrix(head["blob"], head["output"], vocabulary, hidden)
        and norm_plan(head["blob"], head["norm"]) and scale(head["embedding_scale"])
        and all(map(layer, m["layers"]))
    )  # fmt: skip


# --- The seeded model (section 10) ---------------------------------------------------------------


class Numbers:
    def __init__(self, seed):
        self.blocks = derive_key("lockstep 2026 fixture numbers", u64(seed)).output()
        self.words = iter(())

    def draw(self):
        word = next(self.words, None)
        if word is None:
            self.words = iter(struct.unpack("<8Q", next(self.blocks)))
            word = next(self.words)
        return word

    def below(self, bound):
        return self.draw() % bound

    def unit(self):
        return (self.below(1 << 17) - 65536) * 2.0**-16


def seeded_matrix(numbers, rows, columns, codec=W8):
    low, high = codec.code_range
    half, size = (32, 3500.0) if codec is W8 else (128, 20000.0)
    groups = range(-(-columns // codec.group))

    def row():
        codes = [numbers.below(high - low + 1) + low for _ in range(columns)]
        scales = [half + numbers.below(half) for _ in groups]
        shifts = [0 if codec is W8 else numbers.below(255) - 127 for _ in groups]
        g = r32(1.0 + r32(0.5 * numbers.unit()))
        return codes, scales, shifts, r32(g / r32(r32(math.sqrt(columns)) * size))

    return Matrix(codec, columns, [row() for _ in range(rows)])


def seeded_bias(numbers, size):
    return [r32(0.5 * numbers.unit()) for _ in range(size)]


def seeded_gain(numbers, size):
    return [r32(1.0 + r32(0.25 * numbers.unit())) for _ in range(size)]


class Model:
    """Weights, blobs and manifest of a seeded model, with the changes of a case."""

    def __init__(self, case):
        self.sizes = s = case["sizes"]
        numbers = Numbers(word_of(case["seed"]))
        hidden, vocabulary = s["hidden"], s["vocabulary"]
        query, kv = s["heads"] * s["head_dim"], s["kv_heads"] * s["head_dim"]
        self.embedding = seeded_matrix(numbers, vocabulary, hidden)
        self.norm = seeded_gain(numbers, hidden)
        self.output = seeded_matrix(numbers, vocabulary, hidden)
        self.layers, self.features = [], set(case["features"])
        codec = W4 if "w4" in self.features else W8
        for index in range(s["layers"]):
            layer = {
                "attention_norm": seeded_gain(numbers, hidden),
                "qkv": seeded_matrix(numbers, query + 2 * kv, hidden, codec),
                "output": seeded_matrix(numbers, hidden, query, codec),
                "ffn_norm": seeded_gain(numbers, hidden),
                "feed_forward": self.seeded_feed_forward(numbers, index, codec),
            }  # fmt: skip
            layer["biases"] = dict.fromkeys(BIASES)
            if "biases" in self.features:
                for name in BIASES:
                    layer["biases"][name] = seeded_bias(numbers, len(layer[name].rows))
                for p in products_of(layer["feed_forward"]):
                    p["bias"] = seeded_bias(numbers, len(p["matrix"].rows))
            layer["head_norms"] = layer["post_norms"] = None
            if "head norms" in self.features:
                size = s["head_dim"]
                layer["head_norms"] = {name: seeded_gain(numbers, size) for name in HEAD_NORMS}
            if "post norms" in self.features:
                layer["post_norms"] = {name: seeded_gain(numbers, hidden) for name in POST_NORMS}
            self.layers.append(layer)
        self.embedding_scale = f32_of(case["embedding_scale"])
        self.windows = case["windows"]
        self.activation = "gelu_tanh" if "gelu" in self.features else "silu"
        pairs = s["head_dim"] // 2
        self.ropes = [[(1 << 62) >> min(i, 40) for i in range(pairs)]]
        if "second rope" in self.features:
            self.ropes.append(self.ropes[0][: pairs // 2])
        self.score_scale = r32(LOG2_E / r32(math.sqrt(s["head_dim"])))
        for edit in case["row_scales"]:
            name = edit["matrix"]
            matrix = self.embedding if name == "embedding" else self.matrix_of(edit)
            *parts, _ = matrix.rows[edit["row"]]
            matrix.rows[edit["row"]] = (*parts, f32_of(edit["scale"]))
            matrix.scales[edit["row"]] = f32_of(edit["scale"])
        self.describe()

    def seeded_feed_forward(self, numbers, index, codec):
        hidden, inner = self.sizes["hidden"], self.sizes["inner"]

        def product(rows, columns):
            return {"matrix": seeded_matrix(numbers, rows, columns, codec), "bias": None}

        def gated(inner):
            return {"gate_up": product(2 * inner, hidden), "down": product(hidden, inner)}

        if "experts" not in self.features or index == 0:
            return {"dense": gated(inner)}
        has_shared = "shared expert" in self.features
        experts = {"used": 2, "normalise": not has_shared, "router": product(5, hidden)}
        experts["experts"] = [gated(inner // 2) for _ in range(5)]
        experts["shared"] = None
        if has_shared:
            experts["shared"] = {"gate": product(1, hidden), "gated": gated(inner)}
        return {"experts": experts}

    def matrix_of(self, edit):
        layer, name = self.layers[edit["layer"]], edit["matrix"]
        if name in BIASES:
            return layer[name]
        part = layer["feed_forward"]
        if name == "router":
            return part["experts"]["router"]["matrix"]
        if name == "expert":
            return part["experts"]["experts"][edit["expert"]]["gate_up"]["matrix"]
        return part["dense"][name]["matrix"]

    def describe(self):
        """Blobs and manifest."""
        self.blobs, s = [], self.sizes
        eps = "3727c5ac"
        first = bytearray()
        embedding = add_matrix(first, self.embedding)
        second = bytearray()
        head = {
            "embedding_blob": 0, "embedding": embedding, "blob": 1,
            "embedding_scale": f32_text(self.embedding_scale),
            "norm": {"eps": eps, "gain": add_vector(second, self.norm)},
            "output": add_matrix(second, self.output),
        }  # fmt: skip
        self.blobs += [first, second]
        layers = []
        for layer, window in zip(self.layers, self.windows):
            blob = bytearray()
            plan = {"blob": len(self.blobs)}
            for name in ("attention_norm", "qkv", "output", "ffn_norm"):
                part = layer[name]
                if isinstance(part, Matrix):
                    plan[name] = add_matrix(blob, part)
                else:
                    plan[name] = {"eps": eps, "gain": add_vector(blob, part)}
            products = products_of(layer["feed_forward"])
            matrices = [add_matrix(blob, p["matrix"]) for p in products]
            biases = layer["biases"].items()
            plan["biases"] = {name: bias and add_vector(blob, bias) for name, bias in biases}
            vectors = [p["bias"] and add_vector(blob, p["bias"]) for p in products]
            planned = iter([{"matrix": m, "bias": v} for m, v in zip(matrices, vectors)])
            plan["feed_forward"] = with_products(layer["feed_forward"], planned)
            for kind in ("head_norms", "post_norms"):
                plan[kind] = layer[kind] and {
                    name: {"eps": eps, "gain": add_vector(blob, gain)}
                    for name, gain in layer[kind].items()
                }
            plan["activation"] = self.activation
            plan["attention"] = {
                "heads": s["heads"], "kv_heads": s["kv_heads"], "head_dim": s["head_dim"],
                "rope": self.rope_of(len(layers)), "window": window,
                "score_scale": f32_text(self.score_scale),
            }  # fmt: skip
            self.blobs.append(blob)
            layers.append(plan)
        tokens = [bytes([i]) if i < 256 else b"<%d>" % i for i in range(s["vocabulary"])]
        self.blobs += [list_of([u16(len(token)) + token for token in tokens]), b"no tokenizer"]
        self.digests = [blake3(blob).hex() for blob in self.blobs]
        self.manifest = {
            "provenance": {
                "name": "tiny", "architecture": "llama", "license": "MIT OR Apache-2.0",
                "source_format": "seeded numbers", "figures": [],
            },
            "hidden": s["hidden"], "vocabulary": s["vocabulary"], "context": s["context"],
            "blobs": [{"digest": d, "len": len(b)} for d, b in zip(self.digests, self.blobs)],
            "vocabulary_blob": len(self.blobs) - 2, "tokenizer_blob": len(self.blobs) - 1,
            "end_tokens": [s["vocabulary"] - 1],
            "ropes": [{"frequencies": words_text(table)} for table in self.ropes],
            "head": head, "layers": layers,
        }  # fmt: skip

    def rope_of(self, layer):
        return layer % len(self.ropes)


def products_of(part):
    """The products of a feed-forward part, in order of use."""
    if "dense" in part:
        return [part["dense"][name] for name in GATED]
    e = part["experts"]
    products = [e["router"]] + [expert[name] for expert in e["experts"] for name in GATED]
    if e["shared"]:
        shared = e["shared"]
        products += [shared["gate"]] + [shared["gated"][name] for name in GATED]
    return products


def with_products(part, products):
    """The same part of other products, taken in order of use."""

    def gated():
        return {name: next(products) for name in GATED}

    if "dense" in part:
        return {"dense": gated()}
    e = part["experts"]
    plan = {"used": e["used"], "normalise": e["normalise"], "router": next(products)}
    plan["experts"] = [gated() for _ in e["experts"]]
    plan["shared"] = e["shared"] and {"gate": next(products), "gated": gated()}
    return {"experts": plan}


def add_section(blob, section):
    blob += bytes(-len(blob) % 64)
    offset = len(blob)
    blob += section
    return offset


def add_matrix(blob, matrix):
    packed = matrix.packed()
    digest = blake3(packed).hex()
    offset, rows = add_section(blob, packed), len(matrix.rows)
    place = {"offset": offset, "rows": rows, "columns": matrix.columns}
    return place | {"codec": matrix.codec.name, "digest": digest}


def add_vector(blob, values):
    return {"offset": add_section(blob, struct.pack(f"<{len(values)}f", *values)), "len": len(values)}


# --- The forward pass (section 6) ----------------------------------------------------------------

EPS = f32_of_bits(0x3727C5AC)


def product(matrix, row, bias=None):
    """A quantised row times a matrix, dequantised; and whether the row overflowed."""
    codes, scale, overflowed = quantise_or_zero(row, 32512)
    out = dequant(matmul(matrix, codes), scale, matrix.scales)
    return (out if bias is None else add_bias(out, bias)), overflowed


class Session:
    """One position after the other: how a prompt is cut must not matter."""

    def __init__(self, model):
        count, s = len(model.layers), model.sizes
        self.model = model
        self.attention = [
            Attention(
                s["heads"], s["kv_heads"], s["head_dim"], window, model.score_scale,
                model.ropes[model.rope_of(index)],
                {name: (EPS, gain) for name, gain in (layer["head_norms"] or {}).items()},
            )  # fmt: skip
            for index, (layer, window) in enumerate(zip(model.layers, model.windows))
        ]
        self.kv = [[] for _ in range(count)]
        self.embeddings, self.states = bytearray(), [bytearray() for _ in range(count)]
        self.markers = [[] for _ in range(count)]

    def feed(self, token, feeds_head):
        """The state of the next position after all layers, if it feeds the head."""
        state = embed(self.model.embedding, self.model.embedding_scale, token)
        self.embeddings += state.bytes()
        for index in range(len(self.model.layers)):
            state = self.layer(index, state, feeds_head)
        return state

    def layer(self, index, state, feeds_head):
        weights, attention, kv = self.model.layers[index], self.attention[index], self.kv[index]
        position, flagged = len(kv), state.is_marker()
        biases, posts = weights["biases"], weights["post_norms"]
        x = norm(state, EPS, weights["attention_norm"])
        qkv, overflowed = product(weights["qkv"], x, biases["qkv"])
        flagged |= overflowed
        row, overflowed = attention.kv_row(qkv, position)
        flagged |= overflowed
        kv.append(row)
        if index + 1 == len(self.kv) and not feeds_head:
            return None
        queries, overflowed = attention.queries(qkv, position)
        flagged |= overflowed
        out, overflowed = attention.attend(queries, position, kv.__getitem__)
        flagged |= overflowed
        out, overflowed = product(weights["output"], out, biases["output"])
        flagged |= overflowed
        if posts:
            out, overflowed = norm_f32(out, EPS, posts["attention"])
            flagged |= overflowed
        middle, flagged = residual(state, out, flagged)
        x = norm(middle, EPS, weights["ffn_norm"])
        down, overflowed = self.feed_forward(weights["feed_forward"], x)
        flagged |= overflowed
        if posts:
            down, overflowed = norm_f32(down, EPS, posts["ffn"])
            flagged |= overflowed
        state, flagged = residual(middle, down, flagged)
        self.states[index] += state.bytes()
        if flagged:
            self.markers[index].append(position)
        return state

    def gated(self, part, x):
        gate_up, first = product(part["gate_up"]["matrix"], x, part["gate_up"]["bias"])
        x = gate(gate_up, self.model.activation)
        down, second = product(part["down"]["matrix"], x, part["down"]["bias"])
        return down, first or second

    def feed_forward(self, part, x):
        if "dense" in part:
            return self.gated(part["dense"], x)
        e = part["experts"]
        logits, flagged = product(e["router"]["matrix"], x, e["router"]["bias"])
        chosen, overflowed = choose(logits, e["used"], e["normalise"])
        flagged |= overflowed
        out = [0.0] * len(x)
        for expert, weight in chosen:
            row, overflowed = self.gated(e["experts"][expert], x)
            flagged |= overflowed
            out = accumulate(out, weight, row)
        if e["shared"]:
            shared = e["shared"]
            (z,), first = product(shared["gate"]["matrix"], x, shared["gate"]["bias"])
            row, second = self.gated(shared["gated"], x)
            flagged |= first or second
            out = accumulate(out, sigmoid(z), row)
        return out, flagged

    def logits(self, state):
        logits, overflowed = product(self.model.output, norm(state, EPS, self.model.norm))
        if overflowed or state.is_marker() or amax(logits) >= HUGE_BITS:
            raise Overflow
        return logits


# --- Values of the vector files ------------------------------------------------------------------


def f32_of(text):
    return f32_of_bits(int(text, 16))


def f32s_of(text):
    return [f32_of(word) for word in text.split()]


def f32_text(x):
    return "7fc00000" if math.isnan(x) else f"{bits_of(x):08x}"


def f32s_text(values):
    return " ".join(map(f32_text, values))


def word_of(text):
    return int(text, 16)


def words_of(text):
    return [int(word, 16) for word in text.split()]


def words_text(words):
    return " ".join(f"{word:016x}" for word in words)


def sampling_of(case):
    values = {
        name: value if name in ("top_k", "logit_bias") else f32_of(value)
        for name, value in case.items()
        if name != "seed"
    }
    if "logit_bias" in case:
        values["logit_bias"] = [(b["token"], f32_of(b["bias"])) for b in case["logit_bias"]]
    return DEFAULTS | values | {"seed": word_of(case.get("seed", "0"))}


def stops_of(case):
    return case | {"strings": [bytes.fromhex(text) for text in case["strings"]]}


def rows_of(values, width):
    return [values[at : at + width] for at in range(0, len(values), width)]


def attention_of(case):
    norms = None
    if "eps" in case:
        eps = f32_of(case["eps"])
        norms = {name: (eps, f32s_of(case[f"{name}_gain"])) for name in HEAD_NORMS}
    return Attention(
        case["heads"], case["kv_heads"], case["head_dim"], case.get("window", 0),
        f32_of(case.get("score_scale", "3f800000")), words_of(case.get("rope", "")), norms,
    )  # fmt: skip


def packed_of(case):
    packed = bytes.fromhex(case["packed"])
    return parse_matrix(CODECS[case["codec"]], case["rows"], case["columns"], packed)


def accepted(read):
    try:
        read()
        return {"accepted": True}
    except Refused:
        return {"accepted": False}


# --- Operations of the vector files --------------------------------------------------------------

OPERATIONS = {}


def operation(function):
    OPERATIONS[function.__name__.removeprefix("op_")] = function
    return function


def elementwise(name, function):
    OPERATIONS[name] = lambda case: {"y": f32s_text(map(function, f32s_of(case["x"])))}


elementwise("exp2_fraction", exp2_fraction)
elementwise("exp_of_negative", exp_of_negative)
elementwise("sigmoid", sigmoid)
elementwise("gelu_tanh", gelu_tanh)


@operation
def op_rne(case):
    return {"y": [rne(x) for x in f32s_of(case["x"])]}


@operation
def op_f32_of_integer(case):
    return {"y": f32s_text(f32_of_int(int(text)) for text in case["x"])}


@operation
def op_pow2(case):
    return {"y": f32s_text(map(pow2, case["exponent"]))}


@operation
def op_sin_cos_of_turn(case):
    pairs = [sin_cos_of_turn(phase) for phase in words_of(case["phase"])]
    return {"sine": f32s_text(s for s, _ in pairs), "cosine": f32s_text(c for _, c in pairs)}


@operation
def op_block_exponent(case):
    def exponent(x):
        try:
            return block_exponent(magnitude_bits(x))
        except Overflow:
            return "overflow"

    return {"e": [exponent(x) for x in f32s_of(case["amax"])]}


@operation
def op_block_i16(case):
    try:
        mantissas, byte = block_i16(f32s_of(case["x"]))
        return {"mantissas": mantissas, "byte": byte}
    except Overflow:
        return {"overflow": True}


@operation
def op_quantise(case):
    try:
        codes, scale = quantise(f32s_of(case["x"]), case["qmax"])
        return {"codes": codes, "scale": f32_text(scale)}
    except Overflow:
        return {"overflow": True}


@operation
def op_embed(case):
    table, scale = packed_of(case), f32_of(case["scale"])
    return {"state": b"".join(embed(table, scale, t).bytes() for t in case["tokens"]).hex()}


@operation
def op_norm(case):
    rows = parse_state(case["width"], bytes.fromhex(case["state"]))
    eps, gain = f32_of(case["eps"]), f32s_of(case["gain"])
    return {"y": f32s_text(y for row in rows for y in norm(row, eps, gain))}


@operation
def op_norm_rows(case):
    eps, gain = f32_of(case["eps"]), f32s_of(case["gain"])
    rows = [norm_f32(row, eps, gain) for row in rows_of(f32s_of(case["x"]), len(gain))]
    return {
        "y": f32s_text(y for row, _ in rows for y in row),
        "flagged": [index for index, (_, overflowed) in enumerate(rows) if overflowed],
    }


@operation
def op_add_bias(case):
    bias = f32s_of(case["bias"])
    rows = rows_of(f32s_of(case["x"]), len(bias))
    return {"y": f32s_text(y for row in rows for y in add_bias(row, bias))}


@operation
def op_quantise_rows(case):
    rows = [quantise_or_zero(row, 32512) for row in rows_of(f32s_of(case["x"]), case["width"])]
    return {
        "codes": [code for row in rows for code in row[0]],
        "scales": f32s_text(row[1] for row in rows),
        "flagged": [index for index, row in enumerate(rows) if row[2]],
    }


@operation
def op_matmul(case):
    matrix = packed_of(case)
    rows = rows_of(case["codes"], matrix.columns)
    return {"sums": [y for row in rows for y in matmul(matrix, row)]}


@operation
def op_dequant(case):
    rows = zip(rows_of(case["sums"], case["width"]), f32s_of(case["token_scales"]))
    row_scales = f32s_of(case["row_scales"])
    return {"y": f32s_text(z for sums, scale in rows for z in dequant(sums, scale, row_scales))}


@operation
def op_append(case):
    attention, positions = attention_of(case), case["positions"]
    qkv = f32s_of(case["qkv"])
    rows = rows_of(qkv, len(qkv) // len(positions))
    kv = [attention.kv_row(row, position) for row, position in zip(rows, positions)]
    queries = {index: attention.queries(rows[index], positions[index]) for index in case["wanted"]}
    heads = [head for index in case["wanted"] for head in queries[index][0]]
    flagged = [i for i in range(len(rows)) if kv[i][1] or (i in queries and queries[i][1])]
    return {
        "kv_rows": [row.bytes().hex() for row, _ in kv],
        "codes": [code for codes, _ in heads for code in codes],
        "scales": f32s_text(scale for _, scale in heads),
        "flagged": flagged,
    }


@operation
def op_attend(case):
    attention, first = attention_of(case), case["first"]
    sizes = (case["kv_heads"], case["head_dim"])
    kv = [parse_kv_row(*sizes, bytes.fromhex(row)) for row in case["kv_rows"]]
    codes = rows_of(case["codes"], case["head_dim"])
    queries = rows_of(list(zip(codes, f32s_of(case["scales"]))), case["heads"])
    pairs = zip(queries, case["positions"])
    rows = [attention.attend(query, p, lambda q: kv[q - first]) for query, p in pairs]
    flagged = [index for index, (_, overflowed) in enumerate(rows) if overflowed]
    return {"y": f32s_text(y for row, _ in rows for y in row), "flagged": flagged}


@operation
def op_gate(case):
    rows = rows_of(f32s_of(case["gate_up"]), 2 * case["inner"])
    return {"y": f32s_text(y for row in rows for y in gate(row, case["activation"]))}


@operation
def op_choose(case):
    rows = rows_of(f32s_of(case["logits"]), case["experts"])
    chosen = [choose(row, case["used"], case["normalise"]) for row in rows]
    return {
        "experts": [[expert for expert, _ in row] for row, _ in chosen],
        "weights": [f32s_text(weight for _, weight in row) for row, _ in chosen],
        "flagged": [index for index, (_, flag) in enumerate(chosen) if flag],
    }


@operation
def op_accumulate(case):
    out, x = (rows_of(f32s_of(case[name]), case["width"]) for name in ("out", "x"))
    for row, index, weight in zip(x, case["rows"], f32s_of(case["weights"])):
        out[index] = accumulate(out[index], weight, row)
    return {"y": f32s_text(y for row in out for y in row)}


@operation
def op_residual(case):
    rows = parse_state(case["width"], bytes.fromhex(case["state"]))
    deltas = rows_of(f32s_of(case["delta"]), case["width"])
    flagged = [index in case["flagged"] for index in range(len(rows))]
    out = [residual(row, delta, flag) for row, delta, flag in zip(rows, deltas, flagged)]
    return {
        "state": b"".join(row.bytes() for row, _ in out).hex(),
        "flagged": [index for index, (_, flag) in enumerate(out) if flag],
    }


@operation
def op_pack(case):
    parts = ("codes", "group_scales", "shifts")
    rows = [(*map(row.get, parts), f32_of(row["scale"])) for row in case["matrix"]]
    packed = Matrix(CODECS[case["codec"]], case["columns"], rows).packed()
    return {"packed": packed.hex(), "digest": blake3(packed).hex()}


@operation
def op_matrix_bytes(case):
    return accepted(lambda: packed_of(case))


@operation
def op_state_bytes(case):
    try:
        rows = parse_state(case["width"], bytes.fromhex(case["state"]))
    except Refused:
        return {"accepted": False}
    return {
        "accepted": True,
        "values": f32s_text(x for row in rows for x in row.values()),
        "markers": [index for index, row in enumerate(rows) if row.is_marker()],
    }


@operation
def op_kv_row(case):
    scales = f32s_of(case["key_scales"]), f32s_of(case["value_scales"])
    return {"bytes": KvRow(case["key_codes"], case["value_codes"], *scales).bytes().hex()}


@operation
def op_kv_bytes(case):
    data = bytes.fromhex(case["bytes"])
    return accepted(lambda: parse_kv_row(case["kv_heads"], case["head_dim"], data))


P = 2**61 - 1


@operation
def op_field_reduce(case):
    return {"y": words_text([int(case["x"], 16) % P])}


@operation
def op_field_arithmetic(case):
    a, b = word_of(case["a"]), word_of(case["b"])
    results = {"sum": a + b, "difference": a - b, "product": a * b}
    return {name: words_text([value % P]) for name, value in results.items()}


@operation
def op_field_dot(case):
    return {"y": words_text([sum(map(mul, words_of(case["weights"]), case["values"])) % P])}


@operation
def op_digest(case):
    return {"digest": blake3(bytes.fromhex(case["bytes"])).hex()}


@operation
def op_digest_parts(case):
    parts = [bytes.fromhex(part) for part in case["parts"]]
    return {"digest": digest_parts(case["context"], parts).hex()}


@operation
def op_vocabulary(case):
    try:
        tokens = parse_vocabulary(bytes.fromhex(case["bytes"]))
    except Refused:
        return {"accepted": False}
    return {"accepted": True, "tokens": [token.hex() for token in tokens]}


@operation
def op_manifest(case):
    data = manifest_bytes(case["manifest"])
    assert parse_manifest(data) == case["manifest"], "a manifest reads back"
    consistent = is_consistent(case["manifest"])
    return {"bytes": data.hex(), "id": blake3(data).hex(), "consistent": consistent}


@operation
def op_manifest_bytes(case):
    def read():
        if not is_consistent(parse_manifest(bytes.fromhex(case["bytes"]))):
            raise Refused

    return accepted(read)


@operation
def op_sampling_bytes(case):
    return {"bytes": sampling_bytes(sampling_of(case["sampling"])).hex()}


@operation
def op_sampling_check(case):
    return {"refused": first_bad_parameter(sampling_of(case["sampling"]), case["vocabulary"])}


@operation
def op_stops_bytes(case):
    return {"bytes": stops_bytes(stops_of(case["stops"])).hex()}


@operation
def op_finish_bytes(case):
    tag = ["end token", "stop string", "length", "context", "overflow"].index(case["finish"])
    return {"bytes": bytes([tag]).hex(), "reason": ["stop", "stop", "length", "length", "error"][tag]}


@operation
def op_random(case):
    return {"word": words_text([random(word_of(case["seed"]), case["position"])])}


@operation
def op_sample(case):
    arguments = sampling_of(case["sampling"]), case["prompt"], case["answer"], case.get("allowed")
    try:
        return {"token": sample(f32s_of(case["logits"]), *arguments)}
    except Overflow:
        return {"overflow": True}


@operation
def op_stop(case):
    vocabulary = [bytes.fromhex(token) for token in case["vocabulary"]]
    rules = case["end_tokens"], stops_of(case["stops"]), case["context"], case["prompt_len"]
    for count in range(1, len(case["tokens"]) + 1):
        finish = finish_after(case["tokens"][:count], vocabulary, *rules)
        if finish:
            return {"finish": finish, "count": count}
    return {"finish": None}


@operation
def op_fixture_numbers(case):
    numbers = Numbers(word_of(case["seed"]))
    words = [numbers.draw() for _ in range(case["count"])]
    return {"words": words_text(words), "units": f32s_text(numbers.unit() for _ in words)}


@operation
def op_model(case):
    model = Model(case)
    session, prompt = Session(model), case["prompt"]
    p, answer, logit_digests, pending = sampling_of(case["sampling"]), [], [], list(prompt)
    overflow = False
    while not overflow and len(answer) < case["answer_tokens"]:
        state = None
        for index, token in enumerate(pending):
            state = session.feed(token, index + 1 == len(pending))
        try:
            logits = session.logits(state)
            logit_digests.append(blake3(struct.pack(f"<{len(logits)}f", *logits)).hex())
            answer.append(sample(logits, p, prompt, answer))
        except Overflow:
            overflow = True
        pending = answer[-1:]
    assert is_consistent(model.manifest)
    return {
        "id": blake3(manifest_bytes(model.manifest)).hex(),
        "blobs": model.digests,
        "embeddings": blake3(session.embeddings).hex(),
        "states": [blake3(column).hex() for column in session.states],
        "kv": [blake3(b"".join(row.bytes() for row in rows)).hex() for rows in session.kv],
        "markers": session.markers,
        "logits": logit_digests,
        "answer": answer,
        "overflow": overflow,
    }


# --- Comparison ----------------------------------------------------------------------------------


def check(path):
    """How many cases a file has, and a line for each that differs."""
    cases = json.loads(path.read_text())["cases"]
    differences = []
    for index, case in enumerate(cases):
        got = OPERATIONS[case["op"]](case["in"])
        if got != case["out"]:
            fields = [name for name in case["out"] | got if case["out"].get(name) != got.get(name)]
            differences.append(f"{path.name}: case {index} ({case['op']}): {', '.join(fields)}")
    return len(cases), differences


def main(arguments):
    folder = pathlib.Path(__file__).parent
    paths = [pathlib.Path(name) for name in arguments] or sorted(folder.glob("*.json"))
    differences, total = [], 0
    for path in paths:
        count, lines = check(path)
        total += count
        differences += lines
        print(f"{path.name}: {count - len(lines)} of {count} cases agree")
    for line in differences:
        print(line, file=sys.stderr)
    return 1 if differences or not total else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
