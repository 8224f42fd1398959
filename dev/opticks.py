#!/usr/bin/env python3
"""Prepares the text that perplexity is measured on: Newton's Opticks (4th edition, 1730, public
domain), 298,642 bytes.

    apt-get download golang-1.19-src && dpkg-deb -x golang-1.19-src_*.deb go
    python3 dev/opticks.py go/usr/share/go-1.19/src/testdata/Isaac.Newton-Opticks.txt opticks.txt
    lockstep quality smollm2 --text opticks.txt

The transcriber's credit is cut, white space inside paragraphs is joined, the underscores of italics
and paragraphs that start with "[Illustration" are removed, and whole paragraphs are kept up to
300,000 bytes.
"""
import hashlib
import re
import sys

LIMIT = 300_000
SHA256 = "443d779b60f26b8bbbc27f3d8f8e301a27292ed887554fafd0dcfb690196dd86"


def prepare(text):
    kept, size = [], 0
    for index, paragraph in enumerate(re.split(r"\n\s*\n", text)):
        paragraph = " ".join(paragraph.split()).replace("_", "")
        is_credit = index == 0 and paragraph.startswith("Produced")
        if not paragraph or is_credit or paragraph.startswith("[Illustration"):
            continue
        size += len(paragraph.encode()) + 2
        if size > LIMIT:
            break
        kept.append(paragraph + "\n\n")
    return "".join(kept).encode()


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    with open(sys.argv[1], encoding="utf-8") as source:
        prepared = prepare(source.read())
    if hashlib.sha256(prepared).hexdigest() != SHA256:
        sys.exit(f"{sys.argv[1]} is another edition: the prepared text has another digest")
    with open(sys.argv[2], "wb") as out:
        out.write(prepared)


main()
