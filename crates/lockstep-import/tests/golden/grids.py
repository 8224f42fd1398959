"""Writes src/gguf/decode/grids.rs: the tables of the types below 4 bits, from the `gguf` package of
Python (0.19.0), which has them from llama.cpp.

    python3 -m venv v && v/bin/pip install gguf==0.19.0 && v/bin/python grids.py > grids.rs
    rustfmt grids.rs

An element of a table is a row of eight elements in two bits each, or of four in four bits each, the
first one in the lowest bits. What the bits stand for is in `codebook.rs`.
"""

from gguf import quants

TABLES = [
    ("IQ2_XXS", 2, "Rows of eight that the codes of IQ2_XXS name."),
    ("IQ2_XS", 2, "Rows of eight that the codes of IQ2_XS name."),
    ("IQ2_S", 2, "Rows of eight that the codes of IQ2_S name."),
    ("IQ3_XXS", 4, "Rows of four that the codes of IQ3_XXS name."),
    ("IQ3_S", 4, "Rows of four that the codes of IQ3_S name."),
    ("IQ1_S", 2, "Rows of eight that the codes of IQ1_S and IQ1_M name."),
]

print("""//! The tables of the types below 4 bits, as llama.cpp has them. Made by `tests/golden/grids.py`.
//!
//! An element is a row of eight elements in two bits each, or of four in four bits each, the first
//! one in the lowest bits; `codebook.rs` says what the bits stand for.
""")
for name, bits, about in TABLES:
    kind = getattr(quants, name)
    kind.init_grid()
    rows, columns = kind.grid_shape
    packed = []
    for row in kind.grid.reshape(rows, columns):
        codes = [list(kind.grid_map).index(int(level)) for level in row]
        packed.append(sum(code << bits * at for at, code in enumerate(codes)))
    assert bits * columns <= 16 and len(packed) == rows
    print(f"/// {about}")
    print(f"pub(super) static {name}: [u16; {rows}] = [")
    for start in range(0, rows, 12):
        print("    " + " ".join(f"0x{row:04x}," for row in packed[start : start + 12]))
    print("];\n")
