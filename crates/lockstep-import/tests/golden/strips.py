"""Writes strips.json: two tokenizers whose special tokens swallow white space, and ids of theirs.

    python3 -m venv v && v/bin/pip install tokenizers==0.23.3
    v/bin/python strips.py

"pieces" is built like the tokenizer.json of Phi-3 models, "bytes" like those of byte-level models;
both have tokens that swallow on the left side, the right, both and none. The ids are those of the
`tokenizers` package of Python, of texts in which such tokens stand beside every kind of space.
"""

import json
import random

from tokenizers import Tokenizer

# White space by Unicode's property, and characters that only look or act like it.
SPACES = [" ", "  ", "\n", "\r\n", "\t", "\u00a0", "\u3000", "\u2028", "\u0085", "\u000b", "\u000c",
          "\u1680", "\u2003", "\u202f", "\u205f", " \n \t "]
OTHERS = ["\u200b", "\ufeff", "\u001c", "\u180e", "\u00ad", "a", "the", "ab", ".", "<", "|>", "\u00e9",
          "\u6771", "\U0001f642", "<|", "end", "s>"]
PHI = [("<unk>", 0, 0, True), ("<s>", 0, 0, True), ("</s>", 0, 1, False),
       ("<|endoftext|>", 0, 0, True), ("<|assistant|>", 0, 1, True), ("<|system|>", 0, 1, True),
       ("<|end|>", 0, 1, True), ("<|user|>", 0, 1, True), ("<|left|>", 1, 0, True),
       ("<|both|>", 1, 1, True), ("<|word|>", 1, 1, False), (" x", 0, 0, False)]


def added(first):
    return [{"id": first + at, "content": text, "single_word": False, "lstrip": bool(left),
             "rstrip": bool(right), "normalized": False, "special": special}
            for at, (text, left, right, special) in enumerate(PHI)]  # fmt: skip


def merged(letters, merges):
    return letters + [a + b for a, b in merges if a + b not in letters]


def tokenizer(model, first, normalizer, pre_tokenizer):
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added(first),
            "normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "post_processor": None,
            "decoder": None, "model": model}  # fmt: skip


def pieces():
    merges = [("\u2581", "t"), ("h", "e"), ("\u2581t", "he"), ("a", "b"), ("\u2581", "\u2581"), ("\u2581", "a")]
    letters = [chr(c) for c in range(0x21, 0x7F)] + ["\u2581", "\u00e9"]
    own = [text for text, *_ in PHI]
    texts = own + [f"<0x{byte:02X}>" for byte in range(256)] + merged(letters, merges)
    model = {"type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None,
             "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True,
             "ignore_merges": False, "vocab": {text: at for at, text in enumerate(texts)},
             "merges": [" ".join(merge) for merge in merges]}  # fmt: skip
    steps = [{"type": "Prepend", "prepend": "\u2581"},
             {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}]  # fmt: skip
    return tokenizer(model, 0, {"type": "Sequence", "normalizers": steps}, None)


def alphabet():
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return [chr(c) for c in plain] + [chr(256 + at) for at in range(len(others))]


def in_bytes():
    space = "\u0120"
    merges = [("t", "h"), ("th", "e"), (space, "the"), ("a", "b"), (space, "a"), (space, space)]
    texts = merged(alphabet(), merges)
    model = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
             "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
             "ignore_merges": False, "vocab": {text: at for at, text in enumerate(texts)},
             "merges": [" ".join(merge) for merge in merges]}  # fmt: skip
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    digits = {"type": "Digits", "individual_digits": True}
    steps = {"type": "Sequence", "pretokenizers": [digits, level]}
    return tokenizer(model, len(texts), None, steps)


def texts():
    random.seed(20261123)
    marks = [text for text, *_ in PHI if text not in ("<unk>", "<s>")]
    chat = "<s><|system|>\nYou are the a.<|end|>\n<|user|>\nab the?<|end|>\n<|assistant|>\n"
    fixed = [chat, chat + " the<|end|>  \n\n <|user|>", "<|user|>", " <|user|> ", "</s> </s>", "</s>\n</s>the",
             "<|both|> <|both|>", "<|end|> <|left|>", "<|left|> <|end|>", "the <|both|>\n\nthe",
             "<|end|> x", "<|end|>  x x", " x x"]  # fmt: skip
    beside = [f"the{a}{mark}{b}the" for mark in marks for a in ("", " ", "\n") for b in ("", " ", "\t\n")]
    spaces = [f"a{space}<|both|>{space}a{space}<|end|>{space}" for space in SPACES + OTHERS[:5]]
    parts = marks * 2 + SPACES + OTHERS
    drawn = ["".join(random.choice(parts) for _ in range(random.randint(2, 14))) for _ in range(250)]
    return list(dict.fromkeys(fixed + beside + spaces + drawn))


def main():
    built = {"pieces": pieces(), "bytes": in_bytes()}
    out = {"tokenizers": built, "cases": [{"text": text} for text in texts()]}
    for name, definition in built.items():
        library = Tokenizer.from_str(json.dumps(definition))
        for case in out["cases"]:
            case[name] = library.encode(case["text"], add_special_tokens=False).ids
    with open("strips.json", "w", encoding="utf-8") as file:
        json.dump(out, file, ensure_ascii=True, separators=(",", ":"))
        file.write("\n")


main()
