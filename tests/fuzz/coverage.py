"""A reader with bytes that atheris changes for as long as that reaches other code.

python tests/fuzz/coverage.py READER CORPUS [OPTION OF LIBFUZZER...]
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["holdfast"]):
    from properties import HISTORY
    from readers import READERS

    import holdfast.cli.append
    import holdfast.cli.tail  # noqa: F401 - what is imported when it is first used counts, too

LINES = [b'{"a": 1}\n{"b": [2, null]}\nhalf', b'"\xc3\xa9"\r\n\n \nNaN\n1e5\n\0\n']
SEEDS = {
    "owner": [b"99\nhost\n5\n"],
    "soft_lock": [b"99\nhost\n5\n"],
    "log": LINES,
    "zipped": [bytes.fromhex("1f8b08000000000000ff334be10200ed4b9c6e03000000")],
    "compressed_log": LINES,
    "checkpoint": [
        b'{"v":1,"file":[1,2],"segment":1,"offset":9,"head":[0,"%b"],"before":"%b"}' % (b"0" * 32, b"0" * 32)
    ],
    "segment_names": [b"a.00000001.jsonl/a.00000002.jsonl.gz/%4a.json/.a.1-0000000000000000-5-0000000000000000.tmp"],
    "append_command": LINES,
    "tail_command": LINES,
    "json_state": [b'{"revision": 3, "a": {"b": [1, 2.5, null, true, "x"]}}'],
    "yaml_state": [b"# one\na: &x {b: 1}\nc: [*x, 2]\nd: |\n  text\n", b"revision: 1\na:\n  - 2026-01-01\n"],
    "toml_state": [b"# one\na = 1\n[b]\nc = 'x' # two\n[[d]]\ne = 2026-01-01\n"],
    "history": [(str(HISTORY).replace("'", '"') + "\n").encode()],
    "document": [b'{"a": [1, "b"]}'],
}


def main() -> None:
    name, corpus, *options = sys.argv[1:]
    for number, seed in enumerate(SEEDS[name]):
        Path(corpus, f"seed-{number}").write_bytes(seed)
    atheris.Setup([sys.argv[0], *options, corpus], READERS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
