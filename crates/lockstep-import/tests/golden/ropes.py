"""Writes ropes.json: rotary frequencies by the formulas of the `transformers` package of Python.

    python3 -m venv v && v/bin/pip install numpy==2.4.6
    v/bin/pip download --no-deps transformers==5.23.0
    v/bin/python ropes.py transformers-5.23.0-py3-none-any.whl

The functions are those of `transformers/modeling_rope_utils.py`, taken out of the wheel as they are
and run. In place of torch they get a few functions of numpy in the same precision, binary32: the
package itself takes gigabytes. A frequency is in radians per position.
"""

import json
import math
import sys
import types
import zipfile

import numpy as np

FILE = "transformers/modeling_rope_utils.py"
NAMES = ["linear", "longrope", "llama3"]


class Tensor(np.ndarray):
    """An array with what the functions ask of a tensor."""

    def to(self, device=None, dtype=None):
        return self if dtype is None else self.astype(dtype)

    def float(self):
        return self.astype(np.float32)

    # torch keeps binary32 where a number of Python stands on the left.
    def __rpow__(self, base):
        return np.power(np.float32(base), np.asarray(self, np.float32)).view(Tensor)


def tensor(values, dtype=None, device=None):
    return np.asarray(values, dtype).view(Tensor)


def torch():
    shim = types.ModuleType("torch")
    shim.float = shim.float32 = np.float32
    shim.int64 = np.int64
    shim.Tensor = Tensor
    shim.tensor = tensor
    shim.arange = lambda *a, dtype=np.int64, device=None: tensor(np.arange(*a, dtype=dtype))
    shim.where = lambda *a: np.where(*a).view(Tensor)
    return shim


def functions(wheel):
    """The functions of the package by the name of what they compute."""
    source = zipfile.ZipFile(wheel).read(FILE).decode()
    starts = {name: source.index(f"def _compute_{name}") for name in NAMES}
    space = {"math": math, "torch": torch(), "Optional": None, "PreTrainedConfig": object}
    found = {}
    for name, start in starts.items():
        end = source.index("\n    return inv_freq", start)
        text = source[start : source.index("\n", end + 1)]
        exec("from typing import Optional\n" + text, space)  # noqa: S102
        found[name] = space[text[4 : text.index("(")]]
    return found


def config(case):
    values = {"rope_parameters": dict(case["parameters"]), "hidden_size": case["head_dim"],
              "num_attention_heads": 1, "head_dim": case["head_dim"],
              "max_position_embeddings": case["context"],
              "standardize_rope_params": lambda: None}  # fmt: skip
    return types.SimpleNamespace(**values)


def llama3(head_dim, base, factor, low=1.0, high=4.0, original=8192):
    return {"kind": "llama3", "head_dim": head_dim, "context": 131072, "parameters": {
        "rope_type": "llama3", "rope_theta": base, "factor": factor, "low_freq_factor": low,
        "high_freq_factor": high, "original_max_position_embeddings": original}}  # fmt: skip


def linear(head_dim, base, factor):
    return {"kind": "linear", "head_dim": head_dim, "context": 32768, "parameters": {
        "rope_type": "linear", "rope_theta": base, "factor": factor}}  # fmt: skip


def longrope(head_dim, base, context, original, part=1.0):
    pairs = int(head_dim * part) // 2
    short = [1.0 + 0.05 * at / pairs for at in range(pairs)]
    long = [round(1.0 + 60.0 * (at / pairs) ** 2, 4) for at in range(pairs)]
    return {"kind": "longrope", "head_dim": head_dim, "context": context, "parameters": {
        "rope_type": "longrope", "rope_theta": base, "short_factor": short, "long_factor": long,
        "original_max_position_embeddings": original, "partial_rotary_factor": part}}  # fmt: skip


CASES = [
    llama3(128, 500000.0, 8.0), llama3(64, 500000.0, 32.0), llama3(128, 500000.0, 32.0),
    llama3(64, 10000.0, 4.0, 1.5, 3.0, 2048), linear(128, 10000.0, 4.0), linear(64, 5e6, 2.5),
    linear(256, 1e6, 8.0), longrope(96, 10000.0, 131072, 4096), longrope(96, 10000.0, 4096, 4096),
    longrope(128, 10000.0, 131072, 4096, 0.75),
]  # fmt: skip


def main():
    compute = functions(sys.argv[1])
    for case in CASES:
        asked = case["context"] if case["kind"] == "longrope" else None
        frequencies, gain = compute[case["kind"]](config(case), seq_len=asked)
        assert frequencies.dtype == np.float32, case
        case["frequencies"] = [float(f) for f in frequencies]
        case["attention_factor"] = gain
    with open("ropes.json", "w", encoding="utf-8") as file:
        file.write("[\n" + ",\n".join(json.dumps(case) for case in CASES) + "\n]\n")


main()
