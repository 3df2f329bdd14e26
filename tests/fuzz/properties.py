"""Every reader, with bytes that hypothesis makes of what such files are made of. `make fuzz` runs this."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from readers import READERS

import evidence
from holdfast._checkpoint import BEGINNING
from holdfast.owner import Owner, host_name

EXAMPLES = 3000 if evidence.FULL else 60

ME = Owner.myself()
HISTORY = {
    "revision": 2,
    "behind": 0,
    "time": "2026-01-01T00:00:00+00:00",
    "pid": 1,
    "host": "x",
    "before": "",
    "after": "",
    "changes": [{"path": "/number", "old": 0, "new": 1}],
    "state": {"number": 1},
}
VALUES = [
    "1e999",
    "-1",
    "null",
    "[]",
    "{}",
    '"/a~1b"',
    '{"$date":"2026-01-01"}',
    '{"$items":[[1,2]]}',
    "9" * 30,
    '"\\ud800"',
]


def history_lines() -> st.SearchStrategy[bytes]:
    """Records of a history, in which some values are others."""
    record = st.dictionaries(st.sampled_from([*HISTORY]), st.sampled_from(VALUES)).map(
        lambda others: ",".join(
            f"{json.dumps(key)}:{others.get(key, json.dumps(value))}" for key, value in HISTORY.items()
        )
    )
    return st.lists(record.map(lambda text: f"{{{text}}}\n".encode()), max_size=4).map(b"".join)


def tokens(*parts: bytes) -> st.SearchStrategy[bytes]:
    """Pieces of such a file in any order, and other bytes between them."""
    return st.lists(st.sampled_from(parts) | st.binary(max_size=4), max_size=30).map(b"".join)


LINES = tokens(
    b"\n",
    b"{}\n",
    b'{"a":1}\n',
    b"[",
    b"]",
    b'"',
    b"\\u",
    b"\xc3",
    b"\xa9",
    b"\0",
    b"\r\n",
    b"NaN\n",
    b"1\n",
    b" \n",
    b"\xef\xbb\xbf",
    b"\xed\xa0\x80",
    b"9" * 5000,
    b"[" * 1500,
    b"-Infinity\n",
)
INPUTS = {
    "owner": tokens(b"\n", b"1", b"99", host_name().encode(), b"0", b"\0", b"-", b"9" * 400, ME.record()),
    "soft_lock": tokens(b"\n", b"%d" % ME.pid, b"999999999", host_name().encode(), b"5", b"0", ME.record()),
    "log": LINES,
    "zipped": tokens(b"\x1f\x8b\x08\0\0\0\0\0\0\xff", b"\x03\0", b"\0" * 8, b"\xab\xe6\x02\0"),
    "compressed_log": LINES,
    "checkpoint": tokens(
        str(BEGINNING).encode(), b'{"v":1,', b'"file":[1,2]', b"[", b"]", b",", b"1e999", b'"offset":5', b"}"
    ),
    "segment_names": tokens(
        b"/",
        b"a.",
        b"00000001",
        b".jsonl",
        b".gz",
        b".json",
        b"%4a",
        b"%41",
        b"~",
        b"a.00000007.jsonl/",
        b"a.00000007.jsonl.gz/",
        b"9" * 18,
        b".a.1-",
        b"0" * 16,
        b"-",
        b".tmp/",
        b"b.json/",
    ),
    "append_command": LINES,
    "tail_command": LINES,
    "json_state": tokens(
        b"{", b"}", b'"revision":', b'"a":', b"1", b",", b"[", b"]", b"null", b"1e999", b"NaN", b'"\\ud800"', b"{}"
    ),
    "yaml_state": tokens(
        b"a: ",
        b"b: ",
        b"\n",
        b"- ",
        b"  ",
        b"&x ",
        b"*x",
        b"!!int ",
        b"!!python/name:os.system ",
        b"[",
        b"]",
        b"{",
        b"}",
        b"<<: ",
        b"? ",
        b"|\n",
        b"'",
        b'"',
        b"#",
        b"2026-01-01",
        b"0x1",
        b"revision: 1\n",
        b"---\n",
        b"1.5",
    ),
    "toml_state": tokens(
        b"a = ",
        b"b = ",
        b"\n",
        b"[a]\n",
        b"[[b]]\n",
        b"1",
        b"'",
        b'"',
        b"{",
        b"}",
        b"=",
        b".",
        b"2026-01-01",
        b"#",
        b"[1, 2]",
        b"revision = 1\n",
        b"1e5",
        b"nan",
        b"true",
    ),
    "history": history_lines() | LINES,
    "document": tokens(b"{", b"}", b'"a":', b"1", b",", b"[", b"]", b"NaN", b"\0", b"A" * 300),
}


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", READERS)
def test_of_any_bytes_what_must_be_so_is_so(name):
    @settings(
        max_examples=EXAMPLES, deadline=None, database=None, derandomize=True, suppress_health_check=[*HealthCheck]
    )
    @given(INPUTS[name] | st.binary(max_size=100))
    def check(text: bytes) -> None:
        READERS[name](text)

    check()
