"""Chunks against a plain reading of the rule: whole documents, of about a size, never beyond a limit."""

import random

import pytest

from metro_jax.data.prepare import inputs


def plain_chunks(data: bytes, size: int, lines_format: bool) -> list[bytes]:
    """Line by line: a chunk ends with the first line that makes it `size` long and ends a document, or fills it."""
    found, chunk = [], b""
    for line in data.splitlines(keepends=True):
        chunk += line
        boundary = not lines_format or not line.strip()
        if (len(chunk) >= size and boundary) or len(chunk) >= inputs.MAX_DOCUMENT:
            found.append(chunk)
            chunk = b""
    return [*found, chunk]


@pytest.mark.parametrize("format_", [inputs.LINES, inputs.DOCUMENTS])
def test_chunks_are_those_of_a_plain_reading(tmp_path, monkeypatch, format_):
    monkeypatch.setattr(inputs, "MAX_LINE", 400)
    monkeypatch.setattr(inputs, "MAX_DOCUMENT", 900)
    draw, path = random.Random(4), tmp_path / "text"
    blanks = [b"\n", b" \n", b"\t\x0b\x0c\r\n"]
    for _ in range(200):
        monkeypatch.setattr(inputs, "BLOCK", draw.choice([7, 50, 400, 5000]))
        lengths = draw.choices([1, 20, 60, 300], [9, 9, 9, 1], k=draw.randint(0, 80))
        often = draw.choice([0.02, 0.1, 0.5])
        lines = [draw.choice(blanks) if draw.random() < often else b"x" * length + b"\n" for length in lengths]
        data = b"".join(lines)[: -1 if draw.random() < 0.3 else None]
        path.write_bytes(data)
        file = inputs.InputFile(str(path), len(data), 0, format_)
        size = draw.choice([1, 30, 200, 800])
        found = [chunk.data for chunk in inputs.chunks(file, size)]
        expected = plain_chunks(data, size, format_ == inputs.LINES)
        assert b"".join(found) == data
        assert [chunk for chunk in found if chunk] == [chunk for chunk in expected if chunk]
