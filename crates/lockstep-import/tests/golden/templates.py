"""Writes templates.json: what the chat templates in templates/ render to, by Jinja2 (3.1.6).

    python3 -m venv v && v/bin/pip install jinja2==3.1.6 && v/bin/python templates.py

The environment is that of the Python reference. A chat that a template refuses has its words.
"""

import json
import pathlib
from datetime import date

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

FAMILIES = {
    "gemma3": ("<bos>", "<eos>"), "llama3": ("<|begin_of_text|>", "<|eot_id|>"),
    "llama3.2": ("<|begin_of_text|>", "<|eot_id|>"), "qwen2.5": ("", "<|im_end|>"),
    "qwen3": ("", "<|im_end|>"), "mistral": ("<s>", "</s>"), "mistral-v3": ("<s>", "</s>"),
    "phi3": ("<s>", "<|endoftext|>"),
}
HI = [["user", "  Hi <b>&</b> 'you'\n"]]
LONG = [["user", "Who?"], ["assistant", " Me.\n"], ["user", "Why?\n\nTell me: {{ x }} {% y %}"]]
THOUGHT = [["user", "2+2"], ["assistant", "<think>\nadd\n</think>\n\n4"], ["user", "3+3"],
           ["assistant", "<think>\nadd again\n</think>\n\n6"]]
CHATS = [HI, [["system", "Be brief."], *HI], LONG, [["system", "Answer\nin verse. "], *LONG],
         THOUGHT, [["assistant", "first"], *HI], [*HI, *HI]]


def refuse(message):
    raise TemplateError(message)


def render(source, chat, prompt, bos, eos):
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = date(2026, 11, 23).strftime
    environment.filters["tojson"] = lambda x, **options: json.dumps(x, ensure_ascii=False, **options)
    try:
        return {"text": environment.from_string(source).render(
            messages=[{"role": role, "content": content} for role, content in chat],
            add_generation_prompt=prompt, bos_token=bos, eos_token=eos, tools=None,
            documents=None)}
    except TemplateError as error:
        return {"refused": str(error)}


cases = []
for family, (bos, eos) in FAMILIES.items():
    source = (pathlib.Path("templates") / f"{family}.jinja").read_text()
    for chat in CHATS:
        for prompt in [True, False]:
            case = {"family": family, "chat": chat, "prompt": prompt, "bos": bos, "eos": eos}
            cases.append({**case, **render(source, chat, prompt, bos, eos)})
pathlib.Path("templates.json").write_text(
    "[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]\n")
