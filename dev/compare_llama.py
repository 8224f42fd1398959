#!/usr/bin/env python3
"""Compares lockstep's speed with llama.cpp's: both on this machine, interleaved, same threads.

    python3 dev/compare_llama.py --llama llama.cpp/build/bin/llama-bench \\
        --model smollm2 --gguf smollm2-Q8_0.gguf --gguf smollm2-Q4_0.gguf --threads 1,2
    python3 dev/compare_llama.py --llama llama.cpp/build/bin/llama-bench \\
        --shape llama-3.2-1b --gguf random-1b-Q8_0.gguf

Every round runs each program once, prefill of 512 tokens and decoding of 128 from an empty session.
Printed are medians (min-max) in tokens/s, and the ratio to each file: the median of the rounds' own
ratios (min-max), because machines drift from minute to minute. llama.cpp is built as its own
documents say, with its bench tool:

    cmake -B build -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON
    cmake --build build --target llama-bench llama-quantize

To compare one instruction set, build llama.cpp for it (GGML_NATIVE=OFF, GGML_AVX2=ON, ...) and give
--kernel avx2 or --kernel portable, which forces lockstep's. Standard library only.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys

TESTS = ("prefill", "decode")


class Failure(Exception):
    """A program did not give what it should."""


def run(command, env=None):
    """Standard output of a command that must succeed."""
    try:
        done = subprocess.run(command, env=env, capture_output=True, text=True)
    except OSError as error:
        raise Failure(f"can't run {command[0]}: {error.strerror}") from error
    if done.returncode != 0:
        detail = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise Failure(f"{' '.join(command)}: exit code {done.returncode}: {detail[0]}")
    return done.stdout


def llama(args, gguf, threads):
    """One run of llama-bench: tokens/s by test."""
    sizes = ["-p", str(args.prefill), "-n", str(args.decode)]
    command = [args.llama, "-m", gguf, "-t", str(threads), *sizes, "-r", "1", "-o", "json"]
    rates = {}
    try:
        for test in json.loads(run(command)):
            name = "decode" if test["n_gen"] else "prefill"
            rates[name] = test["avg_ts"]
        return {name: float(rates[name]) for name in TESTS}
    except (ValueError, KeyError, TypeError) as error:
        raise Failure(f"{args.llama}: not the JSON of llama-bench ({error!r})") from error


def lockstep(args, threads):
    """One run of `lockstep bench`: tokens/s by test, and the whole report."""
    subject = ["--shape", args.shape] if args.shape else [args.model, "--servers", "0"]
    sizes = ["--prefill", str(args.prefill), "--decode", str(args.decode), "--batch", "0"]
    rest = ["--threads", str(threads), "--repetitions", "1", "--rates-only", "--json"]
    env = dict(os.environ)
    if args.kernel:
        env["LOCKSTEP_KERNEL"] = args.kernel
    lines = run([args.lockstep, "bench", *subject, *sizes, *rest], env).strip().splitlines()
    try:
        report = json.loads(lines[-1])
        return {name: float(report[f"{name}_tokens_per_s"]) for name in TESTS}, report
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise Failure(f"{args.lockstep}: not the JSON of `bench` ({error!r})") from error


def span(values, digits):
    """Median (min-max)."""
    low, high = min(values), max(values)
    return f"{statistics.median(values):.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


def digits(values):
    return 0 if statistics.median(values) >= 200 else 1


def compare(args, threads):
    """Rows of the table for one number of threads, and the same for programs."""
    ours, theirs, kernel = [], {gguf: [] for gguf in args.gguf}, "?"
    for number in range(args.rounds):
        print(f"threads {threads}: round {number + 1} of {args.rounds}", file=sys.stderr)
        rates, report = lockstep(args, threads)
        ours.append(rates)
        kernel = report.get("kernel", "?")
        for gguf in args.gguf:
            theirs[gguf].append(llama(args, gguf, threads))
    rows, facts = [], []
    for test in TESTS:
        own = [rates[test] for rates in ours]
        length = args.prefill if test == "prefill" else args.decode
        for gguf in args.gguf:
            other = [rates[test] for rates in theirs[gguf]]
            ratios = [a / b for a, b in zip(own, other)]
            label = os.path.basename(gguf).removesuffix(".gguf")
            rows.append((f"{test} {length}", str(threads), label, span(own, digits(own)),
                         span(other, digits(other)), span(ratios, 2)))
            facts.append({"test": test, "tokens": length, "threads": threads, "gguf": label,
                          "kernel": kernel, "lockstep_tokens_per_s": own,
                          "llama_tokens_per_s": other, "ratio": statistics.median(ratios),
                          "ratio_min": min(ratios), "ratio_max": max(ratios)})
    return rows, facts


def number_list(text):
    numbers = [int(part) for part in text.split(",")]
    if min(numbers) < 1:
        raise ValueError(text)
    return numbers


def arguments(argv):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama", required=True, help="path of llama-bench")
    parser.add_argument("--lockstep", default="target/release/lockstep", help="path of lockstep")
    subject = parser.add_mutually_exclusive_group(required=True)
    subject.add_argument("--model", help="model that lockstep has; the files hold the same weights")
    subject.add_argument("--shape", help="sizes of random weights, as `lockstep bench` names them")
    parser.add_argument("--gguf", action="append", required=True, help="llama.cpp's file; may repeat")
    parser.add_argument("--threads", type=number_list, default=[1], help="such as 1,2")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prefill", type=int, default=512)
    parser.add_argument("--decode", type=int, default=128)
    parser.add_argument("--kernel", help="force lockstep's instruction set")
    parser.add_argument("--json", action="store_true", help="end with one JSON line")
    args = parser.parse_args(argv)
    if min(args.rounds, args.prefill, args.decode) < 1:
        parser.error("rounds and lengths are at least 1")
    return args


def main(argv):
    args = arguments(argv)
    rows, facts = [], []
    try:
        for threads in args.threads:
            more_rows, more_facts = compare(args, threads)
            rows += more_rows
            facts += more_facts
    except Failure as failure:
        print(f"error: {failure}", file=sys.stderr)
        return 1
    print("| tokens/s | threads | against | lockstep | llama.cpp | ratio |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        print(f"| {' | '.join(row)} |")
    if args.json:
        print(json.dumps({"rounds": args.rounds, "comparisons": facts}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
