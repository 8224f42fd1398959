#!/usr/bin/env python3
"""Tests of compare_llama.py, with programs that only pretend: python3 dev/test_compare_llama.py"""
import contextlib
import io
import json
import os
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import compare_llama  # noqa: E402

LLAMA = """#!{python}
import json, sys
with open({log!r}, "a") as log:
    log.write("llama " + " ".join(sys.argv[1:]) + "\\n")
rounds = sum(line.startswith("llama") for line in open({log!r}))
print(json.dumps([
    {{"n_prompt": 512, "n_gen": 0, "avg_ts": 100.0 * rounds}},
    {{"n_prompt": 0, "n_gen": 128, "avg_ts": 10.0}},
]))
"""

LOCKSTEP = """#!{python}
import json, os, sys
with open({log!r}, "a") as log:
    log.write("lockstep " + os.environ.get("LOCKSTEP_KERNEL", "-") + " " + " ".join(sys.argv[1:]))
    log.write("\\n")
print("a table")
print(json.dumps({{"kernel": "fake", "prefill_tokens_per_s": 300.0, "decode_tokens_per_s": 15.0}}))
"""

BROKEN = """#!{python}
import sys
print("no such model", file=sys.stderr)
sys.exit(1)
"""


class Compare(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        self.log = os.path.join(self.folder, "log")

    def program(self, name, text):
        path = os.path.join(self.folder, name)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text.format(python=sys.executable, log=self.log))
        os.chmod(path, 0o755)
        return path

    def compare(self, *more, llama=LLAMA, own=LOCKSTEP):
        programs = ["--llama", self.program("llama-bench", llama),
                    "--lockstep", self.program("lockstep", own)]
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = compare_llama.main([*programs, *more])
        return code, out.getvalue(), err.getvalue()

    def calls(self):
        with open(self.log, encoding="utf-8") as log:
            return log.read().splitlines()

    def test_programs_take_turns_with_the_same_threads_and_lengths(self):
        code, _, _ = self.compare("--shape", "llama-3.2-1b", "--gguf", "a.gguf", "--threads", "1,2",
                                  "--rounds", "2", "--kernel", "avx2")
        self.assertEqual(code, 0)
        own = ("lockstep avx2 bench --shape llama-3.2-1b --prefill 512 --decode 128 --batch 0 "
               "--threads {} --repetitions 1 --rates-only --json")
        other = "llama -m a.gguf -t {} -p 512 -n 128 -r 1 -o json"
        expected = [line.format(threads) for threads in "1122" for line in (own, other)]
        self.assertEqual(self.calls(), expected)

    def test_the_ratio_is_the_median_of_the_rounds_own_ratios(self):
        # llama.cpp's prefill is 100, 200, ... 500 here: ratios 3, 1.5, 1, 0.75, 0.6.
        code, out, _ = self.compare("--model", "m", "--gguf", "dir/x-Q8_0.gguf", "--json")
        self.assertEqual(code, 0)
        self.assertIn("| prefill 512 | 1 | x-Q8_0 | 300 (300-300) | 300 (100-500) "
                      "| 1.00 (0.60-3.00) |", out)
        self.assertIn("| decode 128 | 1 | x-Q8_0 | 15.0 (15.0-15.0) | 10.0 (10.0-10.0) "
                      "| 1.50 (1.50-1.50) |", out)
        facts = json.loads(out.splitlines()[-1])["comparisons"]
        self.assertEqual([fact["ratio"] for fact in facts], [1.0, 1.5])
        self.assertEqual(facts[0]["kernel"], "fake")

    def test_every_file_is_run_in_every_round(self):
        self.compare("--model", "m", "--gguf", "a.gguf", "--gguf", "b.gguf", "--rounds", "2")
        files = [line.split()[2] for line in self.calls() if line.startswith("llama")]
        self.assertEqual(files, ["a.gguf", "b.gguf"] * 2)

    def test_a_failing_or_strange_program_is_named_with_its_message(self):
        code, _, err = self.compare("--model", "m", "--gguf", "a.gguf", llama=BROKEN)
        self.assertEqual(code, 1)
        self.assertIn("exit code 1: no such model", err)
        strange = '#!{python}\nprint("hello")\n'
        code, _, err = self.compare("--model", "m", "--gguf", "a.gguf", own=strange)
        self.assertEqual(code, 1)
        self.assertIn("not the JSON of `bench`", err)
        code, _, err = self.compare("--model", "m", "--gguf", "a.gguf", "--lockstep", "/nowhere/x")
        self.assertEqual(code, 1)
        self.assertIn("can't run /nowhere/x", err)

    def test_bad_arguments_are_usage_errors(self):
        for bad in [["--threads", "0"], ["--threads", "x"], ["--rounds", "0"], ["--shape", "s"]]:
            with self.subTest(bad), self.assertRaises(SystemExit) as exit_:
                self.compare("--model", "m", "--gguf", "a.gguf", *bad)
            self.assertEqual(exit_.exception.code, 2)


if __name__ == "__main__":
    unittest.main()
