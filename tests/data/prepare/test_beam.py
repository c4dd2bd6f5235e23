"""The Beam pipeline on Beam's local runner gives the records of the command, byte for byte."""

import json
import pathlib
import subprocess
import sys

import pytest

from metro_jax.data.prepare import corpus

from .conftest import contents

beam = pytest.importorskip("apache_beam", reason="Apache Beam is an extra: pip install 'metro_jax[beam]'")


@pytest.fixture
def pipeline(tmp_path, vocabulary_folder):
    """Runs the pipeline over files on the local runner."""
    from apache_beam.options.pipeline_options import PipelineOptions

    from metro_jax.data.prepare import beam as beam_lib

    def pipeline(*files: pathlib.Path, to: str = "beam", **settings):
        settings = {"chunk": 2000, "shards": 3} | settings
        made = corpus.Settings(tuple(map(str, files)), str(vocabulary_folder), str(tmp_path / to), **settings)
        beam_lib.run(made, PipelineOptions(["--runner=DirectRunner"]))
        return tmp_path / to / "corpus"

    return pipeline


def test_same_records_as_the_command(run, pipeline, formats):
    files = [formats["lines.txt"], formats["rows.json.gz"], formats["lines.zst"], formats["whole.txt"]]
    expected = contents(run(*files)[0])
    del expected["manifest.train.json"]
    made = contents(pipeline(*files))
    assert made.keys() == expected.keys()
    assert made == expected


def test_bad_input_is_refused_or_left_out(pipeline, formats, tmp_path):
    from metro_jax.data.prepare.errors import BadInputError

    (tmp_path / "bad.jsonl").write_text('{"text": "A dog."}\n{"text"\n')
    with pytest.raises((BadInputError, RuntimeError), match=r"bad\.jsonl:2: not JSON"):
        pipeline(formats["lines.txt"], tmp_path / "bad.jsonl")
    folder = pipeline(formats["lines.txt"], tmp_path / "bad.jsonl", skip_bad=True)
    assert json.loads((folder / "info.train.json").read_text())["examples"] == 121
    with pytest.raises(FileExistsError, match="is there already"):
        pipeline(formats["lines.txt"])


@pytest.mark.slow
def test_from_the_command_line(formats, tmp_path, vocabulary_folder):
    command = [sys.executable, "-m", "metro_jax.data.prepare.beam", "--input", str(formats["lines.txt"]), "--vocab",
               str(vocabulary_folder), "--output", str(tmp_path / "out"), "--runner", "DirectRunner"]  # fmt: skip
    for code in (0, 2):  # done; is there already
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode == code, result.stderr
    assert "is there already" in result.stderr
    assert len(contents(tmp_path / "out" / "corpus")) == 2
