"""Runs a WebAssembly module with the WASI preview 1 interface: `python3 dev/wasm.py MODULE ARGS`.

`cargo xtask wasm` gives it to cargo as the runner of test binaries. The module sees this process's
output, environment and the current folder, and its exit status becomes that of this process.
"""

import os
import sys

from wasmtime import Engine, ExitTrap, Linker, Module, Store, WasiConfig


def main() -> int:
    engine = Engine()
    linker = Linker(engine)
    linker.define_wasi()
    wasi = WasiConfig()
    wasi.argv = sys.argv[1:]
    wasi.inherit_env()
    wasi.inherit_stdout()
    wasi.inherit_stderr()
    # Tests read golden files by paths from the repository's root.
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    wasi.preopen_dir(root, root)
    store = Store(engine)
    store.set_wasi(wasi)
    instance = linker.instantiate(store, Module.from_file(engine, sys.argv[1]))
    try:
        instance.exports(store)["_start"](store)
    except ExitTrap as exit:
        return exit.code
    return 0


if __name__ == "__main__":
    sys.exit(main())
