#!/usr/bin/env python3
"""Compares Lockstep's token ids with llama.cpp's and with those of the `tokenizers` package, on hard texts.

    cargo build -p lockstep-import --example tokens
    python3 dev/compare_tokenizers.py vocabs LLAMA_CPP/models --llama ./llama_tokens
    python3 dev/compare_tokenizers.py rules LLAMA_CPP/models --llama ./llama_tokens
    python3 dev/compare_tokenizers.py folders FOLDER...
    python3 dev/compare_tokenizers.py made
    python3 dev/compare_tokenizers.py mistral [LLAMA_CPP/models/templates]

vocabs   every vocabulary of llama.cpp's models/*.gguf: the ids of its .inp texts against its .out file, and the
         corpus against llama.cpp
rules    every name of a splitting rule in llama.cpp's source, put into llama.cpp's copies of GPT-2's and Llama 3's
         vocabularies: the corpus against llama.cpp, which says what a rule does whatever the vocabulary
folders  folders with a tokenizer.json (and config.json, or one is made up): the corpus, with the file's own
         special tokens mixed in, against the `tokenizers` package
made     small tokenizers with one feature each, trained on the spot: the corpus against `tokenizers`
mistral  the tokenizers in the `mistral-common` package (SentencePiece models and tekken.json), written as GGUF files
         in the way exporters do: the corpus against the package, and chats of one and more turns, rendered by the
         folder's templates, against its encode_chat_completion

LLAMA_CPP is its source; dev/llama_tokens.cpp says how llama_tokens is built. `folders` and `made` need
`pip install tokenizers`, `mistral` needs `pip install mistral-common[sentencepiece] protobuf`. The last line of each comparison is a count; with --show N also the first N differences.
"""
import argparse
import json
import pathlib
import random
import re
import struct
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
SEED = 20_261_129


def corpus():
    """Texts in which rules differ: scripts, marks, numbers, code, white space, control characters, long words."""
    numbers = random.Random(SEED)
    fixed = [
        "", " ", "  ", "   ", "a", " a", "a ", "\t", "\n", "\n\n", "\n\n\n", "\r\n", " \n", "\t\tx = 1\n\n\n  y",
        "\r\n\r\nx\r\n", "x\u00a0y", "\u200bz", "e\u0301 \u00e9", "\ufeffx", "x\ufeff", "\ufffd", "\u2028x\u2029",
        "\U0001F468\u200d\U0001F469\u200d\U0001F467 \U0001F1E9\U0001F1EA \U0001F44D\U0001F3FD \u2764\ufe0f",
        "1234567890 12 3.14 1,000,000 0x1F 1e-9", "I'LL you're it's WE'VE don\u2019t 'tis '\u017f", "<0x41> <0x0A>",
        "\u2581\u2581x \u2581", "\u4f60\u597d\uff0c\u4e16\u754c\uff01", "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35",
        "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645",
        "\u0928\u092e\u0938\u094d\u0924\u0947 \u0926\u0941\u0928\u093f\u092f\u093e", "\U00010348\U0001D54F",
        "\u00bd \u2167 \u0664\u0665 \u00b2\u00b3 \u0967\u0968", "\u0130\u0131 \u00df \u1e9e \u00c4\u00d6\u00dcabc",
        "\u1100\u1161\u11a8 \uac01 \ud55c\uad6d\uc5b4", "Hello World  !", "   leading and trailing   ",
        "=====\n-----", "http://x.y/z?a=b&c=d#e", "{\"a\": [1, 2]}", "\x00\x01\x7f\x85\x9f", "getHTTPCode camelCase",
        "a" * 300, "\u00e4" * 200, "1" * 100, " " * 70 + "x", "\n" * 40, "!" * 90, "\u6771" * 80, "x\n \n  \n   y",
        "def f(x):\n    return x**2  # \u2264\n", "\u201cquote\u201d \u2014 dash\u2026", "a\u0308\u0323 q\u0307\u0323",
        "\ufb01 \u212b \u2460 \uff21\uff22", "ABC\u0431\u0412\u0413 \u03b1\u0392\u0393", "#include <stdio.h>\n/* c */",
        "'s't're've'm'll'd", "$100 \u20ac5 \u00a37 50% a+b=c <x> ~y |z| ^w `v`", "\u1f88 \u01c5 \u02b0 \u0345",
    ]
    parts = [
        "a", "B", "word", "Word", "WORD", "\u00e9", "e\u0301", "\u00c9", "\u4e2d\u6587", "\u65e5\u672c", "\u30ab\u30bf",
        "\ud55c\uad6d", "\u0645\u0631", "\u0928\u092e\u0938\u094d", "\u0e44\u0e17\u0e22", "\u0301", "\u200d", "\u200b",
        "\U0001F600", "\U0001F468\u200d\U0001F469", "7", "12", "345", "6789", "\u0664", "\u00b2", "\u00bd", " ", "  ", "    ",
        "\t", "\n", "\n\n", "\r\n", "\u00a0", "\u3000", "\u2003", "\u0085", ".", ",", "!", "?", "...", "'", "'s", "'LL", "\u2019t",
        "\"", "(", ")", "[", "]", "{", "}", "<", ">", "/", "\\", "//", "_", "-", "--", "+", "=", "==", "$", "\u20ac", "^",
        "~", "|", "`", "#", "@", "&", "*", "%", "\u3002", "\uff0c", "\uff01", "\u2014", "\x00", "\x1b", "\ufeff", "\u2581", "\u2028",
        "\U0001D54F", "\u01c5", "\u02b0", "\u0130", "\u017f", "\u00df", "the", " the", "ing", "function", "\u0456\u0457",
    ]
    made = ["".join(numbers.choices(parts, k=numbers.randrange(2, 14))) for _ in range(1500)]
    return fixed + made


class Peer:
    """A program that reads texts and writes a line of ids for each."""

    def __init__(self, command, frame, parse):
        self.command, self.frame, self.parse = command, frame, parse

    def ids(self, path, jobs):
        data = b"".join(self.frame(mode, text) for mode, text in jobs)
        done = subprocess.run([*self.command, str(path)], input=data, capture_output=True, timeout=1800)
        lines = done.stdout.decode().splitlines()
        if done.returncode != 0 or not lines:
            sys.exit(f"{self.command[0]} failed on {path}: {done.stderr.decode()[-500:]}")
        return lines[0], [self.parse(line) for line in lines[1:]]


def framed(mode, text):
    data = text.encode()
    return f"{mode} {len(data)}\n".encode() + data


def lines(mode, text):
    return json.dumps({"mode": mode, "text": text}).encode() + b"\n"


def answer(line):
    read = json.loads(line)
    return read.get("ids", read.get("error"))


def ours(arguments):
    return Peer([arguments.tokens], lines, answer)


def llama(arguments):
    return Peer([arguments.llama], framed, lambda line: [int(word) for word in line.split()])


def report(name, jobs, wanted, got, show):
    """Prints how many are equal; what is refused is counted apart."""
    equal, refused, different = 0, 0, []
    for job, want, have in zip(jobs, wanted, got):
        if have == want:
            equal += 1
        elif isinstance(have, str):
            refused += 1
        else:
            different.append((job, want, have))
    print(f"{name:44} equal {equal} of {len(jobs)}, refused {refused}, different {len(different)}", flush=True)
    for job, want, have in different[:show]:
        print(f"    {job}\n      theirs {want[:24]}\n      ours   {have[:24]}")
    return len(different)


# GGUF files, as far as one metadata string is to be changed.
SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}


def pairs(data):
    """Of each metadata pair: key, where the pair begins, where it ends."""
    count = struct.unpack_from("<Q", data, 16)[0]
    at = 24

    def skip(kind, at):
        if kind == 8:
            return at + 8 + struct.unpack_from("<Q", data, at)[0]
        if kind != 9:
            return at + SIZES[kind]
        item, length = struct.unpack_from("<IQ", data, at)
        at += 12
        if item != 8:
            return at + SIZES[item] * length
        for _ in range(length):
            at = skip(8, at)
        return at

    for _ in range(count):
        start = at
        length = struct.unpack_from("<Q", data, at)[0]
        key = data[at + 8:at + 8 + length].decode()
        kind = struct.unpack_from("<I", data, at + 8 + length)[0]
        at = skip(kind, at + 12 + length)
        yield key, start, at


def with_text(data, key, value):
    """A vocabulary-only file with another text under `key`."""
    def text(value):
        return struct.pack("<Q", len(value)) + value.encode()

    pair = text(key) + struct.pack("<I", 8) + text(value)
    found = [(start, end) for name, start, end in pairs(data) if name == key]
    if found:
        start, end = found[0]
        return data[:start] + pair + data[end:]
    count = struct.unpack_from("<Q", data, 16)[0]
    return data[:16] + struct.pack("<Q", count + 1) + pair + data[24:]


def vocabs(arguments):
    different = 0
    for path in sorted(pathlib.Path(arguments.paths[0]).glob("ggml-vocab-*.gguf")):
        inp, out = pathlib.Path(f"{path}.inp"), pathlib.Path(f"{path}.out")
        jobs = [("plain", text) for text in corpus()]
        head, got = ours(arguments).ids(path, jobs)
        if "error" in json.loads(head):
            print(f"{path.stem:44} refused: {json.loads(head)['error'][:150]}")
            continue
        if inp.exists() and out.exists():
            texts = inp.read_text().split("\n__ggml_vocab_test__\n")
            wanted = [[int(word) for word in line.split()] for line in out.read_text().splitlines()]
            texts = texts[:len(wanted)]
            plain = [("plain", text) for text in texts]
            different += report(path.stem + " .out", plain, wanted, ours(arguments).ids(path, plain)[1], arguments.show)
        if arguments.llama:
            ends, wanted = llama(arguments).ids(path, jobs)
            different += report(path.stem + " corpus", jobs, wanted, got, arguments.show)
            theirs = sorted(int(word) for word in ends.split())
            if theirs != json.loads(head)["ends"]:
                print(f"    ends: theirs {theirs}, ours {json.loads(head)['ends']}")
    return different


def rules(arguments):
    models = pathlib.Path(arguments.paths[0])
    source = (models.parent / "src" / "llama-vocab.cpp").read_text()
    names = sorted(set(re.findall(r'tokenizer_pre == "([^"]+)"', source)))
    different, refused = 0, []
    jobs = [("plain", text) for text in corpus()]
    for name in names:
        for vocabulary in ("gpt-2", "llama-bpe"):
            data = (models / f"ggml-vocab-{vocabulary}.gguf").read_bytes()
            with tempfile.TemporaryDirectory() as folder:
                path = pathlib.Path(folder) / "renamed.gguf"
                path.write_bytes(with_text(data, "tokenizer.ggml.pre", name))
                head, got = ours(arguments).ids(path, jobs)
                if "error" in json.loads(head):
                    refused.append(name)
                    break
                _, wanted = llama(arguments).ids(path, jobs)
                different += report(f"{name} on {vocabulary}", jobs, wanted, got, arguments.show)
    print(f"{len(names)} names, refused: {', '.join(refused) or 'none'}")
    return different


PLAIN_CONFIG = {
    "model_type": "llama", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256, "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": False,
}


def compare_folder(arguments, name, text, settings=None):
    """A tokenizer.json against the package that made it what it is."""
    from tokenizers import Tokenizer
    theirs = Tokenizer.from_str(text)
    theirs.no_truncation()
    theirs.no_padding()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        (folder / "tokenizer.json").write_text(text)
        if settings is not None:
            (folder / "tokenizer_config.json").write_text(settings)
        size = max(theirs.get_vocab(with_added_tokens=True).values()) + 1
        (folder / "config.json").write_text(json.dumps(PLAIN_CONFIG | {"vocab_size": size}))
        added = [token["content"] for token in json.loads(text)["added_tokens"]]
        mixed = [form.format(s=s) for s in added[:6] + added[-4:] for form in (
            "{s}", "a{s}b", "a {s} b", " {s}", "{s}\n", "{s} {s}", "x\n{s}\ny", "{s}Hello", "{s} Hello", "{s}{s} .")]
        jobs = [("parse", text) for text in corpus() + mixed]
        head, got = ours(arguments).ids(folder, jobs)
        if "error" in json.loads(head):
            print(f"{name:44} refused: {json.loads(head)['error'][:250]}", flush=True)
            return 0
        wanted = [theirs.encode(text, add_special_tokens=False).ids for _, text in jobs]
        return report(name, jobs, wanted, got, arguments.show)


def folders(arguments):
    different = 0
    for path in map(pathlib.Path, arguments.paths):
        settings = path / "tokenizer_config.json"
        settings = settings.read_text() if settings.exists() else None
        different += compare_folder(arguments, str(path), (path / "tokenizer.json").read_text(), settings)
    return different


def made(arguments):
    sys.path.insert(0, str(ROOT / "crates/lockstep-import/tests/golden"))
    import tokenizers_json
    return sum(compare_folder(arguments, name, text) for name, text in tokenizers_json.made())


def packed(value):
    """A GGUF metadata value with its type."""
    def text(value):
        return struct.pack("<Q", len(value.encode())) + value.encode()

    kinds = {bool: (7, "<?"), int: (4, "<I"), float: (6, "<f")}
    if isinstance(value, str):
        return struct.pack("<I", 8) + text(value)
    if isinstance(value, list):
        if isinstance(value[0], str):
            return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(text, value))
        kind, form = (5, "i") if isinstance(value[0], int) else (6, "f")
        return struct.pack("<IIQ", 9, kind, len(value)) + struct.pack(f"<{len(value)}{form}", *value)
    kind, form = kinds[type(value)]
    return struct.pack("<I", kind) + struct.pack(form, value)


def gguf(metadata):
    """A vocabulary-only file."""
    pairs = [struct.pack("<Q", len(key)) + key.encode() + packed(value) for key, value in metadata.items()]
    return b"GGUF" + struct.pack("<IQQ", 3, 0, len(pairs)) + b"".join(pairs)


def of_sentencepiece(path):
    """A SentencePiece model as exporters write it: tokens that the model names by itself steer, so they are control
    tokens, as the models' tokenizer_config.json has them."""
    from sentencepiece import sentencepiece_model_pb2
    model = sentencepiece_model_pb2.ModelProto()
    model.ParseFromString(path.read_bytes())
    return {
        "tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": [piece.piece for piece in model.pieces],
        "tokenizer.ggml.scores": [piece.score for piece in model.pieces],
        "tokenizer.ggml.token_type": [3 if piece.type == 4 else piece.type for piece in model.pieces],
        "tokenizer.ggml.add_space_prefix": model.normalizer_spec.add_dummy_prefix,
        "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2,
    }


def of_tekken(tekken):
    """tekken.json as exporters write it: special tokens, then the ordinary ones in the byte alphabet, and merges, of
    which the file says only the results: each is made of what the earlier ones make of its bytes."""
    own = [*range(33, 127), *range(161, 173), *range(174, 256)]
    moved = [byte for byte in range(256) if byte not in own]
    letters = [chr(byte) if byte in own else chr(256 + moved.index(byte)) for byte in range(256)]
    spelled = lambda text: "".join(letters[byte] for byte in text)
    first = tekken.num_special_tokens
    special = [tekken.id_to_piece(id) for id in range(first)]
    ordinary = [tekken.id_to_byte_piece(id) for id in range(first, tekken.n_words)]
    ranks = {text: rank for rank, text in enumerate(ordinary)}
    merges = []
    for rank, text in enumerate(ordinary):
        parts = [text[at:at + 1] for at in range(len(text))]
        while len(parts) > 2:
            results = [ranks.get(left + right, rank) for left, right in zip(parts, parts[1:])]
            best = min(range(len(results)), key=results.__getitem__)
            if results[best] >= rank:
                break
            parts[best:best + 2] = [parts[best] + parts[best + 1]]
        if len(parts) == 2:
            merges.append(" ".join(map(spelled, parts)))
    return {
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "tekken",
        "tokenizer.ggml.tokens": special + [spelled(text) for text in ordinary],
        "tokenizer.ggml.token_type": [3] * first + [1] * len(ordinary), "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": tekken.bos_id, "tokenizer.ggml.eos_token_id": tekken.eos_id,
    }


def mistral_chats(tekken, always_system):
    """Chats whose last message is a user's. Texts of control tokens stand only in those for tekken.json: of the
    SentencePiece models the package takes a user's [INST] for the token. Answers have no white space at their end,
    which the package takes away and templates do not; a template with a system message of its own gets another."""
    turns = random.Random(SEED)
    texts = [text for text in corpus() if text.strip()]
    names = ["[INST] x [/INST]", "</s>", "<s>[INST]", "a[/INST]</s>[INST]b", "[TOOL_CALLS][]", "[SYSTEM_PROMPT]"]
    for _ in range(400):
        length = turns.choice([1, 1, 3, 5])
        says = lambda: turns.choice(names) if tekken and turns.random() < 0.1 else turns.choice(texts)
        chat = [{"role": ("user", "assistant")[at % 2], "content": says()} for at in range(length)]
        for message in chat[1::2]:
            message["content"] = message["content"].rstrip() or "Yes."
        if turns.random() < 0.4 or always_system:
            chat.insert(0, {"role": "system", "content": says()})
        yield chat


def mistral(arguments):
    import mistral_common
    from mistral_common.protocol.instruct.request import ChatCompletionRequest
    from mistral_common.tokens.tokenizers.mistral import MistralTokenizer
    nemo, small = "mistralai-Mistral-Nemo-Instruct-2407.jinja", "Mistral-Small-3.2-24B-Instruct-2506.jinja"
    # Templates of the models that came with these tokenizers, as far as the folder has them.
    templates = {"model.v3": nemo, "model.v7": small, "tekken_240718.json": nemo, "tekken_240911.json": nemo}
    different = 0
    for path in sorted((pathlib.Path(mistral_common.__file__).parent / "data").iterdir()):
        peer = MistralTokenizer.from_file(str(path))
        theirs = peer.instruct_tokenizer.tokenizer
        tekken = path.name.startswith("tekken")
        metadata = {"general.architecture": "llama"} | (of_tekken(theirs) if tekken else of_sentencepiece(path))
        of_path = [name for end, name in templates.items() if arguments.paths and path.name.endswith(end)]
        for name in of_path:
            metadata["tokenizer.chat_template"] = (pathlib.Path(arguments.paths[0]) / name).read_text()
        jobs = [("plain", text) for text in corpus()]
        chats = list(mistral_chats(tekken, small in of_path)) if of_path else []
        with tempfile.TemporaryDirectory() as folder:
            file = pathlib.Path(folder) / "vocabulary.gguf"
            file.write_bytes(gguf(metadata))
            head, got = ours(arguments).ids(file, jobs + [("chat", chat) for chat in chats])
        if "error" in json.loads(head):
            sys.exit(f"{path.name}: refused: {json.loads(head)['error'][:250]}")
        wanted = [theirs.encode(text, bos=False, eos=False) for _, text in jobs]
        different += report(path.name, jobs, wanted, got, arguments.show)
        asked = [ChatCompletionRequest(messages=chat) for chat in chats]
        wanted = [peer.encode_chat_completion(one).tokens for one in asked]
        if chats:
            different += report(f"{path.name} chats", chats, wanted, got[len(jobs):], arguments.show)
    return different


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["vocabs", "rules", "folders", "made", "mistral"])
    parser.add_argument("paths", nargs="*")
    parser.add_argument("--tokens", default=str(ROOT / "target/debug/examples/tokens"), help="the example's program")
    parser.add_argument("--llama", help="the program of dev/llama_tokens.cpp")
    parser.add_argument("--show", type=int, default=0, help="how many differences to print of each")
    arguments = parser.parse_args()
    sys.exit(1 if globals()[arguments.what](arguments) else 0)


if __name__ == "__main__":
    main()
