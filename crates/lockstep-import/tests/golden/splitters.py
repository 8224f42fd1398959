"""Writes tokens.json anew: ids of its texts for every splitter, by the `regex` package of Python
and a plain pair merger (the real model's vocabulary and merges, whatever the splitter).

    python3 -m venv v && v/bin/pip install gguf==0.19.0 regex
    v/bin/python splitters.py SmolLM2-135M-Instruct.Q4_1.gguf tokens.json

Texts and whether control tokens are read come from the file; ids it has must come out again.
"""

import json
import sys
import unicodedata

import regex
from gguf import GGUFReader

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
SHORT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
SPACES = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = SHORT + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*" + SPACES
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
WORD = r"[^\r\n\p{L}\p{N}]?"
GPT4O = (f"{WORD}{UPPER}*{LOWER}+{SHORT}?|{WORD}{UPPER}+{LOWER}*{SHORT}?"
         r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*" + SPACES)
TEKKEN = (f"{WORD}{UPPER}*{LOWER}+|{WORD}{UPPER}+{LOWER}*"
          r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*" + SPACES)
DEEPSEEK = (r"[!\x22#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"
            r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*" + SPACES)
# Each expression cuts what the one before left; what it does not match stands between matches.
RULES = {
    "gpt-2": [GPT2], "smollm": [r"\p{N}", GPT2], "llama-bpe": [LLAMA3], "qwen2": [QWEN2],
    "gpt-4o": [GPT4O], "tekken": [TEKKEN],
    "deepseek-v3": [r"\p{N}{1,3}", "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+", DEEPSEEK],
}
WHOLE = {"llama-bpe", "tekken"}


def letters():
    own = [*range(33, 127), *range(161, 173), *range(174, 256)]
    moved = [byte for byte in range(256) if byte not in own]
    return {**{b: chr(b) for b in own}, **{b: chr(256 + n) for n, b in enumerate(moved)}}


LETTERS = letters()


def cut(rules, text):
    pieces = [text]
    for rule in rules:
        found = []
        for piece in pieces:
            at = 0
            for match in regex.finditer(rule, piece, regex.V0):
                found += [piece[at:match.start()], match.group()]
                at = match.end()
            found.append(piece[at:])
        pieces = [piece for piece in found if piece]
    return pieces


def main():
    model, path = sys.argv[1:]
    fields = GGUFReader(model).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    types = fields["tokenizer.ggml.token_type"].contents()
    rank = {tuple(rule.split(" ")): n
            for n, rule in enumerate(fields["tokenizer.ggml.merges"].contents())}
    ids = {token: n for n, token in enumerate(tokens)}
    special = {"parse": [3, 4], "plain": [4]}

    def merge(piece, whole):
        parts = [LETTERS[byte] for byte in piece.encode()]
        if whole and "".join(parts) in ids:
            return [ids["".join(parts)]]
        while True:
            pairs = [(rank.get(pair, len(rank)), at) for at, pair in
                     enumerate(zip(parts, parts[1:]))]
            if not pairs or min(pairs)[0] == len(rank):
                return [ids[part] for part in parts]
            at = min(pairs)[1]
            parts[at:at + 2] = [parts[at] + parts[at + 1]]

    def encode(name, text, control):
        texts = [t for t, kind in zip(tokens, types) if kind in special[control]]
        texts.sort(key=len, reverse=True)
        expression = "|".join(map(regex.escape, texts)) or r"(?!)"
        out = []
        for part in regex.split(f"({expression})", text):
            if part in texts:
                out.append(ids[part])
                continue
            if name == "qwen2":
                part = unicodedata.normalize("NFC", part)
            for piece in cut(RULES[name], part):
                out += merge(piece, name in WHOLE)
        return out

    cases = json.load(open(path))
    for case in cases:
        control = "parse" if case["control"] == "parse" else "plain"
        found = {name: encode(name, case["text"], control) for name in RULES}
        for name, expected in case["ids"].items():
            assert found[name] == expected, (name, case["text"])
        case["ids"] = found
    lines = (json.dumps(case, ensure_ascii=False, separators=(",", ":")) for case in cases)
    open(path, "w").write("[\n" + ",\n".join(lines) + "\n]\n")


main()
