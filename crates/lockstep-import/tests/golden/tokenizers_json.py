#!/usr/bin/env python3
"""Writes tokenizers.json: small tokenizer.json files with one feature each, and the ids that the `tokenizers`
package (0.23.3) gives hard texts. dev/compare_tokenizers.py compares more texts.

    pip install tokenizers==0.23.3
    python3 crates/lockstep-import/tests/golden/tokenizers_json.py > crates/lockstep-import/tests/golden/tokenizers.json
"""
import json
import sys

MARK = "\u2581"
WORDS = ["the", "in", "hello", "world", "Hello", "12", "123", "don", "é", "中文", "a b", "  ", "\n\n", "ing", "the the"]
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")


def alphabet():
    own = [*range(33, 127), *range(161, 173), *range(174, 256)]
    moved = [byte for byte in range(256) if byte not in own]
    return [chr(byte) if byte in own else chr(256 + moved.index(byte)) for byte in range(256)]


def spelled(text):
    letters = alphabet()
    return "".join(letters[byte] for byte in text.encode())


def chain(words):
    """Merges that make each word from its left, in order."""
    merges = []
    for word in words:
        for end in range(2, len(word) + 1):
            pair = (word[:end - 1], word[end - 1])
            if pair not in merges:
                merges.append(pair)
    return merges


def base(model, normalizer=None, pre_tokenizer=None, added=(), first=()):
    known = {token: at for at, token in enumerate(first)}
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": list(added),
            "normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "post_processor": None, "decoder": None,
            "model": model}


def token(id_, content, **flags):
    return {"id": id_, "content": content, "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": False, "special": True} | flags


def bpe(letters, words, special=(), bytes_=False, **fields):
    merges = chain(words)
    tokens = list(special) + ([f"<0x{b:02X}>" for b in range(256)] if bytes_ else [])
    for text in letters + [left + right for left, right in merges]:
        if text not in tokens:
            tokens.append(text)
    return {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": bytes_, "ignore_merges": False,
            "vocab": {text: at for at, text in enumerate(tokens)}, "merges": [list(pair) for pair in merges]} | fields


def bytes_bpe(special=("<s>", "</s>"), **fields):
    return bpe(alphabet(), [spelled(word) for word in WORDS + [" " + word for word in WORDS]], special, **fields)


def text_bpe(mark=MARK, special=("<unk>", "<s>", "</s>"), bytes_=True, **fields):
    words = [word.replace(" ", mark) for word in WORDS + [" " + word for word in WORDS]]
    letters = sorted(set("".join(words) + "abcdefghijklmnopqrstuvwxyz.,!?'<>/s" + mark))
    return bpe(letters, words, special, bytes_, **fields)


def unigram(mark=MARK, bytes_=False, unk=0):
    words = [word.replace(" ", mark) for word in WORDS + [" " + word for word in WORDS]]
    letters = sorted(set("".join(words) + "abcdefghijklmnopqrstuvwxyz.,!?'" + mark))
    pieces = list(dict.fromkeys(words + letters))
    vocab = [["<unk>", 0.0], ["<s>", 0.0], ["</s>", 0.0]]
    vocab += [[f"<0x{b:02X}>", 0.0] for b in range(256)] if bytes_ else []
    vocab += [[piece, -2.0 - 0.37 * (at % 11) - 1.1 / (1 + len(piece))] for at, piece in enumerate(pieces)]
    return {"type": "Unigram", "unk_id": unk, "vocab": vocab, "byte_fallback": bytes_}


def made():
    """Name and text of each file."""
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    spell = level | {"use_regex": False}
    split = lambda pattern, behavior="Isolated", invert=False: {
        "type": "Split", "pattern": pattern, "behavior": behavior, "invert": invert}
    steps = lambda *parts: {"type": "Sequence", "pretokenizers": list(parts)}
    norm = lambda *parts: {"type": "Sequence", "normalizers": list(parts)}
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": MARK}
    prepend = {"type": "Prepend", "prepend": MARK}
    specials = [token(0, "<s>"), token(1, "</s>")]
    three = [token(0, "<unk>"), token(1, "<s>"), token(2, "</s>")]
    meta = lambda scheme, cut=True, mark=MARK: {
        "type": "Metaspace", "replacement": mark, "prepend_scheme": scheme, "split": cut}
    files = {
        "byte level": base(bytes_bpe(), None, level, specials),
        "byte level with prefix space": base(bytes_bpe(), None, level | {"add_prefix_space": True}, specials),
        "byte level without expression": base(bytes_bpe(), None, spell, specials),
        "whole pieces first": base(bytes_bpe(ignore_merges=True), None, steps(split({"Regex": LLAMA3}), spell), specials),
        "llama 3 without whole pieces": base(bytes_bpe(), None, steps(split({"Regex": LLAMA3}), spell), specials),
        "digits one by one": base(bytes_bpe(), None, steps({"type": "Digits", "individual_digits": True}, level), specials),
        "digits together": base(bytes_bpe(), None, steps({"type": "Digits", "individual_digits": False}, level), specials),
        "falcon": base(bytes_bpe(), None, steps(
            {"type": "Punctuation", "behavior": "Contiguous"}, level, {"type": "Digits", "individual_digits": False},
            split({"Regex": "[0-9][0-9][0-9]"})), specials),
        "white space split": base(bytes_bpe(), None, steps({"type": "WhitespaceSplit"}, spell), specials),
        "white space": base(bytes_bpe(), None, steps({"type": "Whitespace"}, spell), specials),
        "delimiter": base(bytes_bpe(), None, steps({"type": "CharDelimiterSplit", "delimiter": "e"}, spell), specials),
        "bert": base(bytes_bpe(), None, steps({"type": "BertPreTokenizer"}, spell), specials),
        "lines": base(bytes_bpe(), None, steps(split({"Regex": r"^\s+|\s+$"}), spell), specials),
        "look behind": base(bytes_bpe(), None, steps(split({"Regex": r"(?<=[a-z])(?=[A-Z])|(?<!\d)\d{2,}?|\b\w+?\b"}), spell), specials),
        "possessive": base(bytes_bpe(), None, steps(split({"Regex": r"[^\s]?+\p{L}++|(?>a+)b|\s*+"}), spell), specials),
        "classes": base(bytes_bpe(), None, steps(split({"Regex": r"[\p{L}&&[^\p{Han}]]+|[^(\s|[.,!?…])]+|(?i)THE|\x{4e2d}"}), spell), specials),
        "string pattern": base(bytes_bpe(), None, steps(split({"String": "l.o"}), split({"String": "l"}), spell), specials),
    }
    for behavior in ("Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"):
        for invert in (False, True):
            name = f"split {behavior}{' inverted' if invert else ''}"
            files[name] = base(bytes_bpe(), None, steps(split({"Regex": r"[aeiou\s]"}, behavior, invert), spell), specials)
    for kind in ("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "Nmt"):
        files[kind] = base(bytes_bpe(), {"type": kind}, level, specials)
    files |= {
        "strip": base(bytes_bpe(), {"type": "Strip", "strip_left": True, "strip_right": False}, level, specials),
        "replace": base(bytes_bpe(), norm({"type": "Replace", "pattern": {"Regex": r"\s{2,}"}, "content": " "}, {"type": "Lowercase"}), level, specials),
        "flags of added tokens": base(bytes_bpe(), {"type": "NFKC"}, level, specials + [
            token(900, "the", single_word=True, special=False), token(901, "<L>", lstrip=True),
            token(902, "<R>", rstrip=True), token(903, "\uff28i", normalized=True, special=False)]),
        "llama 2": base(text_bpe(unk_token="<unk>", fuse_unk=True), norm(prepend, replace), None, three),
        "gemma": base(text_bpe(unk_token="<unk>", fuse_unk=True), replace, split({"String": " "}, "MergedWithPrevious"), three),
        "llama 2 with normalized tokens": base(text_bpe(unk_token="<unk>"), norm(prepend, replace), None,
                                               [token(0, "<unk>", normalized=True), token(1, "<s>", normalized=True), token(2, "</s>")]),
        "runs of marks are added tokens": base(
            text_bpe(unk_token="<unk>", fuse_unk=True), replace, split({"String": " "}, "MergedWithPrevious"),
            three + [token(0, MARK * run, special=False) for run in (2, 3)]),
        "unknown": base(text_bpe(unk_token="<unk>", bytes_=False), None, meta("always"), three),
        "unknown fused": base(text_bpe(unk_token="<unk>", bytes_=False, fuse_unk=True), None, meta("always"), three),
        "another mark": base(text_bpe(mark="_", unk_token="<unk>"), None, meta("always", mark="_"), three),
        "metaspace with whole pieces": base(text_bpe(ignore_merges=True), None, meta("first"), three),
    }
    for scheme in ("always", "first", "never"):
        for cut in (True, False):
            files[f"metaspace {scheme}{' split' if cut else ''}"] = base(text_bpe(unk_token="<unk>"), None, meta(scheme, cut), three)
    files |= {
        "unigram": base(unigram(), None, meta("always"), three),
        "unigram first": base(unigram(), None, meta("first", False), three),
        "unigram with bytes": base(unigram(bytes_=True), norm({"type": "NFKC"}, prepend, replace), None, three),
        "unigram with marks in added tokens": base(unigram(), {"type": "NFKC"}, meta("always"), three + [
            token(900, MARK * 2, special=False, normalized=True), token(901, f"x{MARK}y", special=False)]),
        "unigram over white space": base(unigram(), {"type": "Nmt"}, steps({"type": "WhitespaceSplit"}, meta("always")), three),
    }
    for name, file in files.items():
        names = {text for text in ("<s>", "</s>", "<unk>")}
        ids = file["model"]["vocab"]
        if isinstance(ids, list):
            ids = {piece: at for at, (piece, _) in enumerate(ids)}
        for one in file["added_tokens"]:
            if one["content"] in ids:
                one["id"] = ids[one["content"]]
        taken = len(ids)
        for one in file["added_tokens"]:
            if one["content"] not in ids:
                one["id"], taken = taken, taken + 1
        yield name, json.dumps(file, ensure_ascii=False)


TEXTS = [
    "", " ", "the", " the  the", "Hello world!", "  hello\n\nworld  ", "in 1969, don't 12345", "é e\u0301 É \u212b \ufb01",
    "中文 中 文", "<s>the</s> the <s> x", "a<s>b</s>c", "x\u00a0y \u2581\u2581z", "THE The thee", "the, breathe the",
    "x <L>  y <R>  z", "\uff28i Hi hi", "\t\r\n x\r\n", "\U0001F600\u200d\U0001F468 q", "_x_ _", "ing\x00\x1b?", "a b a  b",
    "l.o hello lol", "<s> the", "<unk> x", "\u0664\u00b2 12", "aaab aab", "don't", "camelCaseWord x1y22",
    "a    b\u2581\u2581 \u2581c", "x y x\u2581y  \u2581\u2581\u2581\u2581  the",
]


def main():
    from tokenizers import Tokenizer
    out = []
    for name, text in made():
        theirs = Tokenizer.from_str(text)
        ids = [theirs.encode(one, add_special_tokens=False).ids for one in TEXTS]
        out.append({"name": name, "file": json.loads(text), "ids": ids})
    json.dump({"texts": TEXTS, "files": out}, sys.stdout, ensure_ascii=True, separators=(",", ":"))


if __name__ == "__main__":
    main()
