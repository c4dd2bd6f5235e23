"""`metro-jax data corpus` and `metro-jax data vocab` from the command line."""

import json

import pytest

from metro_jax import cli
from metro_jax.data.prepare import vocabulary
from metro_jax.data.prepare.errors import BadInputError
from metro_jax.data.vocabulary import MetroVocabulary
from metro_jax.text.tokenizer import MetroTokenizer


def test_vocabulary_then_corpus(formats, tmp_path, capsys):
    vocab, out = str(tmp_path / "vocab"), str(tmp_path / "out")
    files = [str(formats["lines.txt.gz"]), str(formats["rows.jsonl"])]
    assert cli.main(["data", "vocab", "--input", *files, "--output", vocab, "--size", "128", "--sentinels", "80"]) == 0
    assert "128 entries, 80 of them sentinels" in capsys.readouterr().out
    tokenizer = MetroTokenizer.from_pretrained(vocab)
    assert MetroVocabulary(vocab).vocab_size == tokenizer.vocab_size == 128
    assert tokenizer.unk_id not in tokenizer.encode("The dog helps a teacher.")

    command = ["data", "corpus", "--input", *files, "--vocab", vocab, "--output", out, "--workers", "2"]
    assert cli.main(command) == 0
    printed = capsys.readouterr().out
    assert "240 documents" in printed
    info = json.loads((tmp_path / "out" / "corpus" / "info.train.json").read_text())
    assert info["vocabulary"] == tokenizer.fingerprint() == MetroVocabulary(tmp_path / "out" / "vocab").fingerprint()

    assert cli.main(["data", "vocab", "--input", *files, "--output", vocab, "--size", "128"]) == cli.USER_ERROR
    assert "holds a vocabulary; choose another --output, or --overwrite" in capsys.readouterr().err


def test_bad_input_is_told(tmp_path, vocabulary_folder, capsys):
    (tmp_path / "in.jsonl").write_text('{"text": "A dog."}\nA dog.\n')
    command = ["data", "corpus", "--input", str(tmp_path), "--vocab", str(vocabulary_folder), "--workers", "1",
               "--output", str(tmp_path / "out")]  # fmt: skip
    command[3] = str(tmp_path / "*.jsonl")
    assert cli.main(command) == cli.USER_ERROR
    assert "in.jsonl:2: not JSON" in capsys.readouterr().err
    assert cli.main([*command, "--skip-bad"]) == 0
    assert "1 pieces of bad input left out" in capsys.readouterr().out


def test_help_and_unknown_commands(capsys):
    for command in ("corpus", "vocab"):
        with pytest.raises(SystemExit, match="0"):
            cli.main(["data", command, "--help"])
        assert "--input" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        cli.main(["data", "korpus"])
    assert "did you mean 'corpus'" in capsys.readouterr().err


def test_a_sample_is_even_and_the_same_each_time(tmp_path):
    path = tmp_path / "in.txt"
    path.write_text("".join(f"line {number}\n" for number in range(3000)))
    sample = vocabulary.sample_lines([str(path)], 300, format_="documents")
    assert sample == vocabulary.sample_lines([str(path)], 300, format_="documents")
    assert len(set(sample)) == 300
    assert 60 < sum(int(line.split()[1]) < 1000 for line in sample) < 140
    assert len(vocabulary.sample_lines([str(path)], 10_000)) == 3000


def test_a_sample_of_bad_input(tmp_path):
    (tmp_path / "in.txt").write_bytes(b"a dog\ncaf\xe9\n" + b"x" * 5000 + b"\n")
    with pytest.raises(BadInputError, match=r"in\.txt:2: not UTF-8.*--skip-bad"):
        vocabulary.sample_lines([str(tmp_path / "in.txt")])
    assert vocabulary.sample_lines([str(tmp_path / "in.txt")], skip_bad=True) == ["a dog"]
    (tmp_path / "empty.txt").write_bytes(b"")
    with pytest.raises(BadInputError, match="the file is empty"):
        vocabulary.sample_lines([str(tmp_path / "empty.txt")])
    with pytest.raises(BadInputError, match="no lines of text to train on"):
        vocabulary.sample_lines([str(tmp_path / "empty.txt")], skip_bad=True)


def test_a_cased_vocabulary_keeps_capitals(tmp_path):
    lines = [
        f"{name} Saw The {thing}" for name in ("Anna", "Ben", "Tom", "Eva") for thing in ("Lamp", "Sea", "Sun")
    ] * 9
    vocabulary.train_vocabulary(lines, tmp_path, 128, 100, cased=True)
    tokenizer = MetroTokenizer.from_pretrained(tmp_path)
    assert tokenizer.config.lower is False
    assert "".join(tokenizer.pieces("Anna")) == "▁Anna"
    assert tokenizer.unk_id not in tokenizer.encode("Tom Saw")
