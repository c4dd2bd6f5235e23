"""`metro-jax ask` and `metro-jax rank`: texts from the command line, a file, standard input, or a prompt."""

import argparse
import contextlib
import json
import pathlib
import sys
import time
from collections.abc import Iterator
from typing import Any

DTYPES = ("float32", "bfloat16", "float16")
HELP = """Type a text; a backslash at the end of a line continues it on the next.
  /choices yes | no     rank these choices for every text instead of answering; /choices alone stops that
  /beams N              search with N beams        /tokens N    answers of at most N tokens
  /help                 this text                  Ctrl-D       leave"""


def add_parsers(command: Any) -> None:
    """Adds both commands; `command(name, function, text)` makes a parser for one."""
    ask = command("ask", ask_command, "Answer texts: from the command line, a file, standard input, or a prompt.")
    rank = command("rank", rank_command, "Rank choices by their probability, as the zero-shot evaluation does.")
    for parser in (ask, rank):
        parser.add_argument("model", metavar="MODEL", help="a folder, or a name of the Hub: owner/name")
        parser.add_argument("--dtype", default="float32", help=f"{', '.join(DTYPES)} (default: %(default)s)")
        parser.add_argument("--int8", action="store_true", help="weights in eight bits: faster on a CPU, less memory")
        parser.add_argument("--json", action="store_true", help="one JSON object per line")
    ask.add_argument("text", metavar="TEXT", nargs="*", help="prompts; - reads one from standard input; none: a prompt")
    ask.add_argument(
        "--file",
        metavar="FILE",
        help='one prompt per line, or with .jsonl one object with "text"; - for standard input',
    )
    ask.add_argument("--max-new-tokens", type=int, default=256, metavar="N", help="at most 1023 (default: %(default)s)")
    ask.add_argument("--num-beams", type=int, default=1, metavar="N", help="beam search (default: greedy)")
    ask.add_argument("--batch-size", type=int, default=32, metavar="N", help="texts at once (default: %(default)s)")
    rank.add_argument("text", metavar="TEXT", nargs="?", help="a prompt; - reads standard input")
    rank.add_argument("choices", metavar="CHOICE", nargs="*", help="one or more texts")
    rank.add_argument("--file", metavar="FILE", help='JSON lines with "text" and "choices"; - for standard input')


def load(arguments: argparse.Namespace) -> Any:
    """The model that the arguments name."""
    from metro_jax import MetroT0

    quantize = "int8" if arguments.int8 else None
    return MetroT0.from_pretrained(arguments.model, dtype=arguments.dtype, quantize=quantize)


def ask_command(arguments: argparse.Namespace) -> int:
    """Answers on standard output, in order; without texts on a terminal a prompt."""
    if arguments.text and arguments.file:
        raise ValueError("give texts or --file, not both")
    if not arguments.text and not arguments.file and sys.stdin.isatty():
        return Prompt(load(arguments), arguments).run()
    if arguments.text:
        texts = [read_text(text) for text in arguments.text]
    else:
        texts = [record["text"] for record in read_records(arguments.file or "-", ("text",), plain=True)]
    model = load(arguments)
    answers = model.generate(
        texts,
        max_new_tokens=arguments.max_new_tokens,
        num_beams=arguments.num_beams,
        batch_size=arguments.batch_size,
    )
    for text, answer in zip(texts, answers, strict=True):
        print(json.dumps({"text": text, "answer": answer}, ensure_ascii=False) if arguments.json else answer)
    return 0


def rank_command(arguments: argparse.Namespace) -> int:
    """Scores on standard output, the best choice marked."""
    if arguments.file:
        if arguments.text is not None:
            raise ValueError("give TEXT and CHOICES or --file, not both")
        records = list(read_records(arguments.file, ("text", "choices"), plain=False))
    else:
        if arguments.text is None or not arguments.choices:
            raise ValueError("give a TEXT and its CHOICES, or --file with JSON lines of both")
        records = [{"text": read_text(arguments.text), "choices": arguments.choices}]
    for record in records:
        choices = record["choices"]
        if not isinstance(choices, list) or not all(isinstance(c, str) and c.strip() for c in choices) or not choices:
            raise ValueError(f"choices {choices!r} hold an empty one or are no texts: give each choice as a text")
    rankings = load(arguments).rank([r["text"] for r in records], [r["choices"] for r in records])
    for record, ranking in zip(records, rankings, strict=True):
        if arguments.json:
            found = {**record, "scores": ranking.scores, "best": ranking.best}
            print(json.dumps(found, ensure_ascii=False))
        else:
            if len(records) > 1:
                print(record["text"])
            show(record["choices"], ranking)
    return 0


def show(choices: list[str], ranking: Any) -> None:
    """One line per choice."""
    for index, (choice, score) in enumerate(zip(choices, ranking.scores, strict=True)):
        print(f"{'*' if index == ranking.best else ' '} {score:10.4f}  {choice}")


def read_text(value: str) -> str:
    """A text argument: not empty, and `-` stands for all of standard input."""
    text = sys.stdin.read() if value == "-" else value
    if not text.strip():
        raise ValueError("the text is empty: give a question or a prompt, or - to read it from standard input")
    return text


def read_records(source: str, fields: tuple[str, ...], plain: bool) -> Iterator[dict[str, Any]]:
    """Objects of a file of JSON lines, or with `plain` the lines of any other file as {"text": line}; not blank ones.

    Raises:
        ValueError: a line that is no such object, by its number; a source without any.
    """
    text = sys.stdin.read() if source == "-" else pathlib.Path(source).read_text(encoding="utf-8")
    objects = not plain or source.endswith(".jsonl")
    found = 0
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        found += 1
        if not objects:
            yield {"text": line}
            continue
        where = f"line {number} of {'standard input' if source == '-' else source}"
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{where} is no JSON: {error}") from None
        missing = [name for name in fields if not isinstance(record, dict) or name not in record]
        if missing or not isinstance(record["text"], str) or not record["text"].strip():
            raise ValueError(f"{where} must be an object with {' and '.join(map(repr, fields))}, the text not empty")
        yield record
    if not found:
        raise ValueError(f"{'standard input' if source == '-' else source} holds no text: one per line is expected")


class Prompt:
    """Question and answer on a terminal, with a history that is kept."""

    def __init__(self, model: Any, arguments: argparse.Namespace) -> None:
        self.model, self.json = model, arguments.json
        self.beams, self.tokens = arguments.num_beams, arguments.max_new_tokens
        self.choices: list[str] = []

    def run(self) -> int:
        """Until Ctrl-D. Ctrl-C drops the line or stops the answer, and mistakes are messages."""
        history = self._open_history()
        print("Ask away; /help says more, Ctrl-D leaves.")
        try:
            while True:
                try:
                    line = self._read()
                    if line.strip():
                        self._act(line)
                except KeyboardInterrupt:
                    print()
                except (ValueError, TypeError) as error:
                    print(f"error: {error}", file=sys.stderr)
        except EOFError:
            print()
        finally:
            if history is not None:
                history()
        return 0

    def _read(self) -> str:
        lines = [input("> ")]
        while lines[-1].endswith("\\"):
            lines[-1] = lines[-1][:-1]
            lines.append(input(". "))
        return "\n".join(lines)

    def _act(self, line: str) -> None:
        if line.startswith("/"):
            self._set(*line[1:].strip().partition(" ")[::2])
            return
        start = time.perf_counter()
        if self.choices:
            (ranking,) = self.model.rank([line], [self.choices])
            found: dict[str, Any] = {"choices": self.choices, **ranking._asdict()}
        else:
            (answer,) = self.model.generate([line], max_new_tokens=self.tokens, num_beams=self.beams)
            found = {"answer": answer}
        if self.json:
            print(json.dumps({"text": line, **found}, ensure_ascii=False))
        elif self.choices:
            show(self.choices, ranking)
        else:
            print(f"{answer}\n  ({time.perf_counter() - start:.1f} s)")

    def _set(self, name: str, value: str) -> None:
        if name == "choices":
            self.choices = [choice.strip() for choice in value.split("|") if choice.strip()]
            print(f"ranking {' | '.join(self.choices)}" if self.choices else "answering")
        elif name in ("beams", "tokens"):
            if not value.strip().isdecimal() or int(value) < 1:
                raise ValueError(f"/{name} {value}: give a number of at least 1")
            setattr(self, name, int(value))
        elif name == "help":
            print(HELP)
        else:
            raise ValueError(f"/{name} is not known; choose one of /choices, /beams, /tokens, /help")

    def _open_history(self) -> Any:
        """Loads the history where the system has line editing; returns what saves it."""
        from metro_jax.compile_cache import cache_folder

        folder = cache_folder()
        try:
            import readline
        except ImportError:  # Windows
            return None
        if folder is None:
            return None
        path = folder / "history"
        with contextlib.suppress(OSError):  # the first time there is none
            readline.read_history_file(path)
        readline.set_history_length(1000)

        def save() -> None:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                readline.write_history_file(path)
            except OSError as error:
                print(f"the history was not kept: {error}", file=sys.stderr)

        return save
