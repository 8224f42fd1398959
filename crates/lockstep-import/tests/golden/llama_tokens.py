"""Writes llama_tokens.json: ids of a hard corpus by llama.cpp's own `llama-tokenize`.

    python3 llama_tokens.py llama-tokenize SmolLM2-135M-Instruct.Q4_1.gguf gemma-3-270m-q4_k_m.gguf

The file was made with llama.cpp at commit 0c1e5709 (the one in llama-cpp-python 0.3.36). Texts that
look like special tokens are there twice: read as such and as plain text.
"""

import json
import random
import subprocess
import sys
import tempfile

LONG = "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft"
FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466"
CORPUS = [
    # Scripts, alone and mixed.
    "Привет, мир! Как дела?", "Γειά σου Κόσμε", "שלום עולם", "مرحبا بالعالم ١٢٣", "नमस्ते दुनिया",
    "สวัสดีชาวโลก", "こんにちは世界。カタカナ", "你好，世界！我们在这里", "안녕하세요 세계", "ሰላም ልዑል", "გამარჯობა",
    "Բարեւ աշխարհ", "ᚠᛇᚻ᛫ᛒᛦᚦ", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝕞𝕒𝕥𝕙", "ǅungla ǈ ǋ", "ﬁne ﬂow ﬀ", "Ⅻ ⅷ ② ½ ¾ ² ³",
    "helloпривет你好مرحبا", "naïve café vs nai\u0308ve cafe\u0301", "Å Å A\u030a", "İstanbul ıI", "ſtraße ẞ",
    # Emoji, with joiners, colours, flags and selectors.
    "🙂🙃", FAMILY, "👩🏽‍🚀 to 🌍", "🏳️‍🌈🏴‍☠️", "🇩🇪🇫🇷🇯🇵", "1️⃣2️⃣", "❤️ ❤", "a🙂b 🙂 c", "👍🏿👍🏻👍",
    # Digits.
    "1", "12", "123", "1234", "12345678901234567890", "3.14159 2,718,281 1e-9", "0x1F 0b101 007",
    "٠١٢٣٤٥٦٧٨٩", "१२३४", "１２３", "a1b22c333d4444", " 1  22   333", "2026-11-23T14:05:09Z", "+1 (555) 010-9999",
    # White space.
    " ", "  ", "   ", " " * 17, "a b  c   d    e", "\t", "\t\t\t", "\n", "\n\n", "\n\n\n\n", "\r\n\r\n", "\r\r",
    " \n \n", "\n \n ", "\t \t a", "a\tb\t\tc", "x\n\n\n  y", "x  \n\n", "end   ", "   start", "a\u00a0b\u00a0\u00a0c",
    "a\u2003b\u2009c\u3000d", "a\u200bb\u200cc\u200dd", "line\u2028sep\u2029par", "a\u0085b", "\u1680\u205f", " \u00a0 \t\n x",
    "def f(x):\n    if x:\n\t\treturn  1\n\n\n# done\n", "{\n  \"a\": [1, 2,   3],\n\t\"b\": null\n}\n",
    # Control characters, marks of order, private and last code points.
    "\x00", "a\x00b", "\x01\x02", "\x07\x08\x0b\x0c", "\x1b[31mred\x1b[0m", "\x7f", "\ufeffx", "\ufffd\ufffe", "\ue000\U0010ffff",
    "\u202eabc\u202c", "\u0301\u0302", "e\u0301\u0302\u0303\u0304",
    # Contractions.
    "I'm you're he's we'll they've I'd don't", "I'M YOU'RE HE'S WE'LL THEY'VE I'D DON'T", "'s 'S 't 'll'LL 'x",
    "don’t it’s", "rock'n'roll o'clock 'tis", "it''s '''s", "'\u017f x'\u017f", "1's 22'll",
    # Long words, runs of one sign.
    LONG, "a" * 300, "ab" * 150, "A" * 64 + "b" * 64, "!" * 50, "=" * 80, "-" * 33, "_" * 40, "." * 100, "аб" * 60, "漢" * 70,
    "antidisestablishmentarianism" * 5, "camelCaseXMLHttpRequest2Go snake_case_v2 SCREAMING_CASE",
    # Signs.
    "!?.,;:", "«quoted» „so“ “and” ‘so’", "a/b\\c", "https://example.org/a?b=c&d=%20#e", "x->y => z == w != v", "$1 €2 £3 ¥4",
    "C:\\new\\table \\n \\t \\x41 \\u0041", "a...b…c", "(((())))", "<b>bold</b>", "``` ` ``", "∑∫√≈≠", "\u2581", "a\u2581b \u2581",
    "Ġhello Ċ", "<0x0A><0x41>", "(c) © ® ™",
]
SPECIAL = [
    "<|im_start|>user\nHi<|im_end|>\n", "<|im_start|", "<|im_start |>", "<|IM_START|>", "<<|im_end|>>", "a<|im_end|>b",
    "<|im_end|> <|im_end|>", "  <|im_start|>  x", "<|endoftext|>", "<|endoftext|><|endoftext|>x", "<repo_name>a<file_sep>b",
    "<start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n", "<start_of_turn", "<end_of_turn>>", " <end_of_turn> ",
    "<bos>x<eos>", "<pad><unk>", "<s></s>", "[INST] x [/INST]", "<unused0><unused98>", "<mask>", "<|begin_of_text|>",
    "<start_of_image>", "[multimodal]", "<tr><td>1</td></tr>", "<|im_start|>\n\n   <start_of_turn>\n\n   1",
]
PARTS = [
    "the", " ", "  ", "\n", "\t", "\r\n", "don't", "'LL", "42", "1234", "é", "e\u0301", "🙂", FAMILY, "東京", "мир", "ก็", "ß", "_", "--",
    "!?", ".", "\u00a0", "\u200d", "\u3000", "²", "x", "XMLHttp", "frangible", "<b>", "\u2581", "'", "\"", "\\n", "\x0b",
]


def corpus():
    random.seed(20261123)
    generated = ["".join(random.choices(PARTS, k=random.randint(2, 30))) for _ in range(60)]
    plain = [(text, "plain") for text in dict.fromkeys(CORPUS + generated + SPECIAL)]
    return plain + [(text, "parse") for text in SPECIAL]


def ids(tokenize, model, text, control):
    with tempfile.NamedTemporaryFile() as file:
        file.write(text.encode())
        file.flush()
        command = [tokenize, "-m", model, "-f", file.name, "--ids", "--no-bos", "--no-escape", "--log-disable"]
        command += ["--no-parse-special"] if control == "plain" else []
        return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)


def main():
    tokenize, smollm2, gemma = sys.argv[1:]
    lines = []
    for text, control in corpus():
        case = {"text": text, "control": control}
        case["smollm2"] = ids(tokenize, smollm2, text, control)
        case["gemma"] = ids(tokenize, gemma, text, control)
        lines.append(json.dumps(case))
    with open("llama_tokens.json", "w", encoding="utf-8") as file:
        file.write("[\n" + ",\n".join(lines) + "\n]\n")


if __name__ == "__main__":
    main()
