"""Makes tests/text/data: a small vocabulary of our own and what a plain reading of the specification gives with it.

    python -m tests.text.make_data

The sentences come from the word lists below with a fixed seed. SentencePiece is trained with a normalisation table of
a few rules (a full NFKC table would be 240 kB) that covers each kind of rule: replaced, expanded, removed characters.
"""

import contextlib
import io
import json
import pathlib
import random
import tempfile

import sentencepiece

from . import plain

DATA = pathlib.Path(__file__).parent / "data"
N_SENTINEL_TOKENS = 16
NUM_PIECES = 220

SUBJECTS = ["the cook", "a gardener", "my neighbour", "the old sailor", "her sister", "our teacher", "a young painter"]
VERBS = ["bought", "repaired", "returned", "described", "forgot", "painted", "carried", "praised", "hated", "borrowed"]
OBJECTS = ["kettle", "bicycle", "lamp", "novel", "garden chair", "violin", "coat", "map of the harbour", "wooden spoon"]
JUDGEMENTS = ["it is wonderful", "it was dreadful", "it doesn't work", "they're happy", "i'd buy it again"]
QUESTIONS = ["is this positive or negative?", "can we infer that?", "what happened next?", "yes or no?"]
# Characters in the order of the kinds of rules: two for one, nothing for one, one for one.
RULES = {"ﬁ": "fi", "ﬂ": "fl", "\u200b": "", "\x07": "", "é": "e"} | {chr(0xFF41 + i): chr(0x61 + i) for i in range(26)}

PARAGRAPH = """
The harbour lies between two hills, and every morning the fishing boats come in before the sun has reached the
market. Nobody there is in a hurry: the baker opens when the bread is ready, the ferry leaves when the last
passenger has found a seat, and letters are brought up the steep streets by a woman who knows each door. In
winter, when storms keep the boats at anchor, people mend nets, tell stories about whales, and argue whether
the lighthouse was built by a king or a merchant. A visitor once asked how many stairs lead to the chapel. "As
many as you have breath for," said the priest, "plus one." Children learn to swim early, to sail a little
later, and to read the clouds without ever being taught. Summer brings guests, music in the square, grilled
sardines, lemonade, and a small quarrel over chairs; autumn takes them away again.
"""

CASES = [
    "",
    " ",
    "\t\n\u3000",
    "\u200b",
    "The cook bought a kettle.",
    "THE OLD SAILOR REPAIRED THE LAMP!",
    "It doesn't work; they're unhappy -- we've seen better...",
    "“Quoted” and ‘single’, ``back'' and ´acute´",
    "They ' ve gone ' S' LLama ' RE-tired ' LL",
    "naïve café, 12.5 % — or $3,000 (U.S.)",
    "ﬁve ﬂats, ＷＩＤＥ letters",
    "emoji \U0001f600\U0001f680 and 漢字かな",
    "a\u00a0b\u2003c\u2028d\x85e\x1ff",
    "<s> the map </s>of <pad> the<unk>harbour <sen000> [MASK]",
    "</s></s>",
    "  </s>  \u200b",
    "<S> < s> <sen001>",
    "¿Qué? «¡No!» 。「は」",
    "... --- !?",
    "it ' s John's, y'all, rock'n'roll, 'tis 'M",
    "\u2581literal\u2581mark",
    "nul \x00 and bell \x07 inside",
    "a kettle " * 30,
]


def sentences() -> list[str]:
    """The training text."""
    draw = random.Random(0)
    rows = [plain.normalize(line, lower=True) for line in PARAGRAPH.strip().split("\n")] * 3
    for number in range(400):
        subject, verb, thing = draw.choice(SUBJECTS), draw.choice(VERBS), draw.choice(OBJECTS)
        tail = draw.choice(
            [f"{draw.choice(JUDGEMENTS)} .", draw.choice(QUESTIONS), f"number {number} , ( {number % 7} )"]
        )
        rows.append(plain.normalize(f'{subject} {verb} the {thing} . " {tail} "', lower=True))
    return rows


def train(folder: pathlib.Path) -> None:
    """Write sp.model and dict.txt; the same four control pieces and `[MASK]` as in the published vocabularies."""
    model_file = io.BytesIO()
    # The model file records the name of the rules file: a relative one keeps this machine's folders out of it.
    with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):
        rules = ["\t".join(" ".join(f"{ord(c):X}" for c in side) for side in rule) for rule in RULES.items()]
        pathlib.Path("rules.tsv").write_text("\n".join(rules) + "\n", encoding="utf-8")
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences()),
            model_writer=model_file,
            vocab_size=NUM_PIECES,
            normalization_rule_tsv="rules.tsv",
            bos_id=0,
            pad_id=1,
            eos_id=2,
            unk_id=3,
            bos_piece="[CLS]",
            pad_piece="[PAD]",
            eos_piece="[SEP]",
            unk_piece="[UNK]",
            user_defined_symbols=["[MASK]"],
            num_threads=1,
            minloglevel=2,
        )
    (folder / "sp.model").write_bytes(model_file.getvalue())
    model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "sp.model"))
    pieces = [model.id_to_piece(index) for index in range(4, model.get_piece_size())]
    (folder / "dict.txt").write_text("".join(f"{piece} 1\n" for piece in pieces), encoding="utf-8")
    settings = {"lower": True, "n_sentinel_tokens": N_SENTINEL_TOKENS, "clean_up_tokenization_spaces": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def expected(folder: pathlib.Path) -> list[dict]:
    """Every case with the values of the plain implementation, ids in metro_jax numbering."""
    tokenizer = plain.Tokenizer(folder, lower=True, n_sentinel_tokens=N_SENTINEL_TOKENS)
    cases = []
    for text in CASES:
        ids = tokenizer.encode(text)
        cases.append(
            {
                "text": text,
                "normalized": plain.normalize(text, lower=True),
                "pieces": tokenizer.pieces(text),
                "ids": ids,
                "training_ids": tokenizer.training_ids(text),
                "decoded": tokenizer.decode(ids, skip_special_tokens=True, clean_up=True),
                "decoded_no_cleanup": tokenizer.decode(ids, skip_special_tokens=True, clean_up=False),
                "decoded_with_special": tokenizer.decode(ids, skip_special_tokens=False, clean_up=False),
            }
        )
    return cases


if __name__ == "__main__":
    DATA.mkdir(exist_ok=True)
    train(DATA)
    (DATA / "expected.json").write_text(json.dumps(expected(DATA), indent=1) + "\n", encoding="utf-8")
