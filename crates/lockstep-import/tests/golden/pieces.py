"""Writes pieces.json and gemma.json: ids by the `sentencepiece` package of Python.

    python3 -m venv v && v/bin/pip install gguf==0.19.0 sentencepiece==0.2.3 protobuf
    v/bin/python pieces.py TEXT gemma-3-270m-q4_k_m.gguf

pieces.json holds a small model trained on TEXT (any English book) with its vocabulary; gemma.json
the ids that the real model's vocabulary gives. The texts are those of tokens.json and a few more.
"""

import io
import json
import random
import sys

import sentencepiece
from gguf import GGUFReader
from sentencepiece import sentencepiece_model_pb2 as pb

MORE = [
    "\u2581", "a\u2581b", "  \u2581 \u2581", "\n", "\n\n\n\n a", "\t\tif x:\n\t\t\treturn  y\n",
    " leading", "trailing ", "   three", "x" * 40, "ab" * 60, "<code>fn main() {}</code>",
    "<b>bold</b><i> italic", "\u0000\u0001\u007f", "\U0001f9d1\u200d\U0001f680", "\ud55c\uad6d\uc5b4",
    "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35", "\u0645\u0631\u062d\u0628\u0627", "\ufeffbom", "\ufffd",
    "caf\u00e9 cafe\u0301", "1234567890 3.14159 0x1F", "don't DON'T we'll", "\r\n\r\n \r",
    "    def f(self):\n        pass\n", "\u3053\u3093\u306b\u3061\u306f\u4e16\u754c", "\ue000\U0010ffff",
]
KINDS = {1: "NORMAL", 2: "UNKNOWN", 3: "CONTROL", 4: "USER_DEFINED", 5: "UNUSED", 6: "BYTE"}


def generated():
    random.seed(20261123)
    parts = ["the", " ", "  ", "\n", "\u2581", "light", "ray", "s", "1", "42", ".", ",", "<code>", "\u00e9",
             "\U0001f642", "\t", "re", "frang", "ible", "Q", "\u6771\u4eac", "-", "'s", "<b>", "\n\n"]
    return ["".join(random.choice(parts) for _ in range(random.randint(1, 24))) for _ in range(150)]


def texts():
    old = [c["text"] for c in json.load(open("tokens.json")) if "<|" not in c["text"]]
    return [text for text in dict.fromkeys(old + MORE + generated()) if text]


def processor(pieces, prefix):
    model = pb.ModelProto()
    for text, score, kind in pieces:
        piece = model.pieces.add()
        piece.piece, piece.score, piece.type = text, score, kind
    model.trainer_spec.model_type = 2
    model.trainer_spec.byte_fallback = True
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.add_dummy_prefix = prefix
    model.normalizer_spec.remove_extra_whitespaces = False
    model.normalizer_spec.escape_whitespaces = True
    return sentencepiece.SentencePieceProcessor(model_proto=model.SerializeToString())


def trained(path):
    out = io.BytesIO()
    lines = [line.rstrip("\n") for line in open(path, encoding="utf-8") if line.strip()]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=out, vocab_size=700, model_type="bpe",
        byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False,
        user_defined_symbols=["<code>", "\n\n", "\u2581\u2581\u2581"], num_threads=1,
        character_coverage=0.999)
    model = pb.ModelProto.FromString(out.getvalue())
    return [[p.piece, p.score, int(p.type)] for p in model.pieces]


def cases(pieces, prefixes):
    encoders = {str(prefix).lower(): processor(pieces, prefix) for prefix in prefixes}
    return [{"text": text, **{name: e.encode(text) for name, e in encoders.items()}}
            for text in texts()]


def main():
    book, gemma = sys.argv[1:]
    small = trained(book)
    lines = ",\n".join(json.dumps(case) for case in cases(small, [False, True]))
    with open("pieces.json", "w") as out:
        out.write('{"pieces": ' + json.dumps(small) + ',\n"cases": [\n' + lines + "\n]}\n")
    fields = GGUFReader(gemma).fields
    names = ["tokens", "scores", "token_type"]
    real = list(zip(*(fields[f"tokenizer.ggml.{name}"].contents() for name in names)))
    # The file writes spaces of user-defined pieces plainly, and has its unknown token as control.
    spaced = [(t.replace(" ", "\u2581"), s, 2 if t == "<unk>" else k) for t, s, k in real]
    lines = ",\n".join(json.dumps(case) for case in cases(spaced, [False]))
    open("gemma.json", "w").write("[\n" + lines + "\n]\n")


main()
