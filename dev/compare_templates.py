"""Chat templates rendered by Python's jinja2, as the transformers library sets it up, and here.

    python3 -m venv v && v/bin/pip install jinja2==3.1.6
    v/bin/python dev/compare_templates.py features
    v/bin/python dev/compare_templates.py corpus FOLDER [FOLDER ...]

`features` renders the single constructs of crates/lockstep-import/tests/golden/features.json;
with `--write` it also writes down what Python renders. `corpus` renders each *.jinja of the folders
with chats of every kind. The corpus of llama.cpp is in the source package of llama-cpp-python:

    v/bin/pip download --no-binary :all: --no-deps llama-cpp-python && tar xf llama_cpp_python-*.gz
    v/bin/python dev/compare_templates.py corpus llama_cpp_python-*/vendor/llama.cpp/models/templates

Counted: `equal`; `both refuse` in the template's own words; `both fail`; `only Python fails`; `only
here fails`, which is loud; `DIFFERS`, which is a fault. The exit code is 1 if anything differs or
fails here only and is not in the list EXPECTED.
"""

import collections
import datetime
import functools
import json
import pathlib
import subprocess
import sys

import jinja2
import jinja2.nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

ROOT = pathlib.Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "crates/lockstep-import/tests/golden/features.json"
DATE = "2026-11-29"
BOS, EOS = "<s>", "</s>"

# What fails here, loudly, and why.
EXPECTED = {
    "{% autoescape true %}{{ '<' }}{% endautoescape %}": "no autoescape: prompts are no HTML",
    "{{ [1]|random }}": "no chance in a prompt",
    "{{ {'a': 1}.get('b') }}{{ {'a': 1}.get('b', 2) }}{{ {'a': 1}['a'] }}{{ {'items': 5}.items }}":
        "the text of a method is an address in memory",
    "{{ lipsum }}": "the text of a function is an address in memory",
    "{{ 'a b&c/\u00e9'|urlencode }}{{ {'a': 'x y'}|urlencode }}": "urlencode takes texts only",
    "{{ ''.__class__ }}": "unsafe attributes are refused at once, not when they are used",
    "{{ '\\N{BULLET}' }}": "no names of characters",
    "{{ 1.real }}": "no attributes of numbers",
}


class Generation(Extension):
    """The tag with which transformers marks what an assistant says."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        call = self.call_method("_body")
        return jinja2.nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _body(self, caller):
        return caller()


def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators,
                      sort_keys=sort_keys)


class Refused(jinja2.exceptions.TemplateError):
    """What raise_exception raises."""


def refuse(message):
    raise Refused(message)


def environment():
    made = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    made.filters["tojson"] = tojson
    made.globals["raise_exception"] = refuse
    made.globals["strftime_now"] = datetime.datetime.fromisoformat(DATE).strftime
    return made


@functools.cache
def compiled(source):
    return environment().from_string(source)


def python(job):
    """What Python renders: a kind and a text."""
    try:
        text = compiled(job["template"]).render(
            messages=job["messages"], tools=job["tools"], documents=None,
            add_generation_prompt=job["prompt"], bos_token=BOS, eos_token=EOS,
            **job["arguments"])
        text.encode()
        return "ok", text
    except Refused as error:
        return "refused", str(error)
    except Exception as error:  # noqa: BLE001: whatever a template can raise
        return "failed", f"{type(error).__name__}: {error}"


def job(template, messages, tools=None, prompt=True, arguments=None):
    return {"template": template, "messages": messages, "tools": tools, "prompt": prompt,
            "arguments": arguments or {}, "bos": BOS, "eos": EOS, "date": DATE}


def here(jobs):
    command = ["cargo", "run", "--quiet", "-p", "lockstep-import", "--example", "render_chats"]
    lines = "\n".join(map(json.dumps, jobs))
    run = subprocess.run(command, input=lines, capture_output=True, text=True, cwd=ROOT)
    if run.returncode:
        sys.exit(run.stderr[-3000:])
    return [json.loads(line) for line in run.stdout.split("\n")[:-1]]


def verdict(expected, got):
    kind, text = expected
    if kind == "ok":
        if "text" not in got:
            return "only here fails"
        return "equal" if got["text"] == text else "DIFFERS"
    if "text" in got:
        return "only Python fails"
    return "both refuse" if kind == "refused" and got["refused"] else "both fail"


def compare(named):
    """Renders jobs both ways, shows what is not alike and how many there are of each kind."""
    expected = [python(job) for _, job in named]
    found = here([job for _, job in named])
    counts, bad = collections.Counter(), 0
    for (name, one), want, got in zip(named, expected, found):
        kind = verdict(want, got)
        counts[kind] += 1
        known = one["template"] in EXPECTED
        if kind not in ("DIFFERS", "only here fails", "only Python fails"):
            continue
        bad += kind != "only Python fails" and not known
        print(f"{kind}{' (known)' if known else ''}: {name}")
        print(f"  Python: {want[1][:300]!r}\n  here:   {got.get('text', got.get('error'))[:300]!r}")
    print(f"{len(named)} renders: " + ", ".join(f"{n} {kind}" for kind, n in counts.most_common()))
    return expected, bad


TOOLS = [{"type": "function", "function": {
    "name": "get_weather", "description": "Weather <now> & \"later\"", "parameters": {
        "type": "object", "properties": {
            "city": {"type": "string", "description": "The city"},
            "days": {"type": "integer", "default": 1},
            "unit": {"type": "string", "enum": ["c", "f"]}},
        "required": ["city"]}}}]
CALL = {"role": "assistant", "content": "", "tool_calls": [
    {"id": "call12345", "type": "function", "function": {
        "name": "get_weather", "arguments": {"city": "Z\u00fcrich", "days": 2}}}]}
SILENT_CALL = {**CALL, "content": None}
RESULT = {"role": "tool", "tool_call_id": "call12345", "name": "get_weather",
          "content": "{\"t\": 7}"}


def user(text):
    return {"role": "user", "content": text}


def says(text, **more):
    return {"role": "assistant", "content": text, **more}


def system(text):
    return {"role": "system", "content": text}


PARTS = {"role": "user", "content": [{"type": "text", "text": "Part one."},
                                     {"type": "text", "text": "Part two."}]}
CHATS = {
    "user": ([user("Hi, who are you? <b>&</b> 'x' \"y\"")], None),
    "system": ([system("Be brief.\nAnswer in verse."), user("What is 2+2?")], None),
    "turns": ([user("Hi"), says("Hello there.\n"), user("And \u00e9\u4e2d\U0001F600?")], None),
    "thinking": ([system("Be brief."), user("Hi"), says("<think>\nhm\n</think>\n\nHello."),
                  user("Bye")], None),
    "reasoning": ([user("Hi"), says("Hello.", reasoning_content="They greet."), user("Bye")], None),
    "parts": ([PARTS], None),
    "empty": ([user("")], None),
    "blanks": ([user("  \n spaces \n\n"), says("  yes "), user("\t")], None),
    "tools": ([system("S"), user("Weather?")], TOOLS),
    "tools alone": ([user("Weather?")], TOOLS),
    "tool call": ([user("Weather?"), CALL, RESULT], TOOLS),
    "tool turns": ([system("S"), user("Weather?"), SILENT_CALL, RESULT, says("7 degrees."),
                    user("Thanks")], TOOLS),
    "no tools": ([user("Hi")], []),
}


def corpus(folders):
    files = [f for folder in folders for f in sorted(pathlib.Path(folder).glob("*.jinja"))]
    named = []
    for file in files:
        source = file.read_bytes().decode()
        for name, (messages, tools) in CHATS.items():
            for prompt in (True, False):
                arguments = [{}, {"enable_thinking": False}] if name == "user" else [{}]
                for argument in arguments:
                    title = f"{file.stem}, {name}, {'prompt' if prompt else 'no prompt'} {argument}"
                    named.append((title, job(source, messages, tools, prompt, argument)))
    print(f"{len(files)} templates")
    return compare(named)[1]


def features(write):
    chat = [system("S"), user("U1"), says("A"), user("U2")]
    known = json.loads(GOLDEN.read_text())
    templates = [entry["template"] for entry in known]
    expected, bad = compare([(template, job(template, chat)) for template in templates])
    if write:
        entries = []
        for template, (kind, text) in zip(templates, expected):
            result = {"text": text} if kind == "ok" else {kind: text if kind == "refused" else True}
            if template in EXPECTED:
                result = {"unsupported": EXPECTED[template]}
            entries.append(json.dumps({"template": template, **result}))
        GOLDEN.write_text("[\n" + ",\n".join(entries) + "\n]\n")
    return bad


def main():
    match sys.argv[1:]:
        case ["features"]:
            bad = features(write=False)
        case ["features", "--write"]:
            bad = features(write=True)
        case ["corpus", *folders] if folders:
            bad = corpus(folders)
        case _:
            sys.exit(__doc__)
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
