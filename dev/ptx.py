#!/usr/bin/env python3
"""Compiles the CUDA kernels to PTX text, or checks that the text in the repository is what they give.

    python3 dev/ptx.py            check: every text byte for byte, then assemble each for its chips
    python3 dev/ptx.py --write    write the texts

The compiler (NVRTC) and the assembler (ptxas) come from wheels that dev/ptx-requirements.txt pins
by digest; no CUDA toolkit, host compiler or GPU is needed. They run on Linux on x86-64. Where they
can't be had, the check says NOT RUN and exits with 0.
"""

import ctypes
import hashlib
import pathlib
import platform
import re
import subprocess
import sys
import tempfile
import zipfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
CRATE = ROOT / "crates" / "lockstep-cuda"
TOOLS = ROOT / "target" / "ptx-tools"
# Each text, and the chips that load it: those are assembled for real in the check.
TEXTS = {"75": ["sm_75"], "80": ["sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120"],
         "90a": ["sm_90a"]}
# Exact arithmetic: nothing fused, flushed or estimated.
OPTIONS = ["--fmad=false", "--ftz=false", "--prec-div=true", "--prec-sqrt=true", "--std=c++17"]


# Bytes that a kernel may keep on its stack around calls of its own functions, and that each of these
# may store there.
SAVED = 512
SPILLED = 320


class Unavailable(Exception):
    """The tools can't be had here."""


def tools():
    """The folder with the unpacked wheels."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        raise Unavailable(f"the tools are for Linux on x86-64, not {platform.platform()}")
    requirements = ROOT / "dev" / "ptx-requirements.txt"
    folder = TOOLS / hashlib.sha256(requirements.read_bytes()).hexdigest()[:16]
    if (folder / "ready").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check",
               "--no-deps", "--require-hashes", "--only-binary=:all:", "--dest", str(folder),
               "--requirement", str(requirements)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    except subprocess.TimeoutExpired as late:
        raise Unavailable("pip took over 600 s") from late
    if done.returncode != 0:
        raise Unavailable(done.stderr.strip().splitlines()[-1:] or "pip failed")
    for wheel in folder.glob("*.whl"):
        zipfile.ZipFile(wheel).extractall(folder)
        wheel.unlink()
    (folder / "ready").touch()
    return folder


def sources():
    """The kernels' files by name, in order, and their common digest."""
    files = {path.name: path.read_bytes() for path in sorted((CRATE / "kernels").glob("*.cu*"))}
    digest = hashlib.sha256()
    for name, text in files.items():
        digest.update(f"{name} {len(text)}\n".encode() + text)
    return files, digest.hexdigest()


def library(folder):
    """NVRTC, with the library that it opens by name beside it already loaded."""
    found = folder / "nvidia" / "cuda_nvrtc" / "lib"
    for builtins in found.glob("libnvrtc-builtins.so.*"):
        ctypes.CDLL(str(builtins), mode=ctypes.RTLD_GLOBAL)
    return ctypes.CDLL(str(next(found.glob("libnvrtc.so.*"))))


def compile_text(nvrtc, files, digest, chip):
    """The PTX text of the kernels for `compute_<chip>`."""
    headers = {name: text for name, text in files.items() if name.endswith(".cuh")}
    texts = (ctypes.c_char_p * len(headers))(*headers.values())
    names = (ctypes.c_char_p * len(headers))(*(name.encode() for name in headers))
    program = ctypes.c_void_p()
    main = files["lockstep.cu"]
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), main, b"lockstep.cu", len(headers), texts, names)
    options = [f"--gpu-architecture=compute_{chip}", *OPTIONS]
    array = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
    code = nvrtc.nvrtcCompileProgram(program, len(options), array)
    if code != 0:
        sys.exit(f"compute_{chip}: NVRTC says {code}\n{read(nvrtc, program, 'ProgramLog')}")
    ptx = calls_from_zero(read(nvrtc, program, "PTX"))
    return f"// Made by dev/ptx.py of kernels with the SHA-256 {digest}\n{ptx}"


def calls_from_zero(ptx):
    """A text whose calls are numbered from 0: NVRTC counts on through all that a process compiles,
    so that a text would hang on those that were compiled before it."""
    number = re.compile(r"(?<=// callseq )[0-9]+")
    first = min((int(found) for found in number.findall(ptx)), default=0)
    return number.sub(lambda found: str(int(found[0]) - first), ptx)


def read(nvrtc, program, what):
    """One of the texts that a program has."""
    size = ctypes.c_size_t()
    getattr(nvrtc, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
    text = ctypes.create_string_buffer(size.value)
    getattr(nvrtc, f"nvrtcGet{what}")(program, text)
    return text.value.decode()


def assemble(folder, text, chip):
    """Assembles a text for a chip; what ptxas says of a kernel that spills much, or of an error."""
    ptxas = folder / "nvidia" / "cuda_nvcc" / "bin" / "ptxas"
    ptxas.chmod(0o755)
    with tempfile.TemporaryDirectory() as scratch:
        command = [str(ptxas), f"--gpu-name={chip}", "-v", "-o", f"{scratch}/out", str(text)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    if done.returncode != 0:
        sys.exit(f"{text.name} for {chip}: {done.stderr}")
    frames = [line for line in done.stderr.splitlines() if "bytes stack frame" in line]
    numbers = [[int(word) for word in line.split() if word.isdigit()] for line in frames]
    spills = [line for line, (saved, stored, _) in zip(frames, numbers)
              if saved > SAVED or stored > SPILLED]
    if spills:
        sys.exit(f"{text.name} for {chip}: registers spill: {spills}")
    most = max((stored for _, stored, _ in numbers), default=0)
    print(f"{text.name} for {chip}: assembled, {most} bytes of registers spill at most")


def main():
    """See the module's text."""
    try:
        folder = tools()
    except Unavailable as reason:
        print(f"NOT RUN: PTX texts were not rebuilt ({reason})")
        return
    files, digest = sources()
    nvrtc = library(folder)
    for chip, targets in TEXTS.items():
        path = CRATE / "ptx" / f"lockstep_sm{chip}.ptx"
        text = compile_text(nvrtc, files, digest, chip)
        if "--write" in sys.argv[1:]:
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            sys.exit(f"{path.name} is not what kernels give: python3 dev/ptx.py --write")
        for target in targets:
            assemble(folder, path, target)
    print("PTX texts are those of the kernels")


main()
