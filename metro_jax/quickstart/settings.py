"""How large a quickstart is: the full one for people, a small one of the same path for tests."""

import dataclasses
import difflib


@dataclasses.dataclass(frozen=True)
class Settings:
    """Sizes of everything that is not in the two recipes, and what a setting changes in them.

    Args:
        vocab_size, n_sentinel_tokens: of the vocabulary, specials and sentinels included.
        corpus_words: ceiling on the words of the corpus; None takes all.
        prompts_per_template: training examples of each template.
        examples_per_template: evaluation examples of each held-out template.
        pretrain, finetune: gin bindings added to the recipes.
        required_review_accuracy: share of held-out reviews that must be right, and with it the closing answer; None
            asks for neither.
    """

    name: str
    vocab_size: int
    n_sentinel_tokens: int
    corpus_words: int | None
    prompts_per_template: int
    examples_per_template: int
    pretrain: tuple[str, ...] = ()
    finetune: tuple[str, ...] = ()
    required_review_accuracy: float | None = None


_TINY = (
    "MetroConfig.d_model=32",
    "MetroConfig.d_ff=64",
    "MetroConfig.num_encoder_layers=1",
    "MetroConfig.num_decoder_layers=1",
    "BATCH_SIZE=16",
    "EVAL_STEPS=1",
    "create_learning_rate_scheduler.warmup_steps=5",
)

SETTINGS = {
    "full": Settings(
        name="full",
        vocab_size=3072,
        n_sentinel_tokens=128,
        corpus_words=None,
        prompts_per_template=2500,
        examples_per_template=100,
        required_review_accuracy=0.9,
    ),
    "small": Settings(
        name="small",
        vocab_size=1024,
        n_sentinel_tokens=16,
        corpus_words=12_000,
        prompts_per_template=40,
        examples_per_template=4,
        pretrain=(*_TINY, "TRAIN_STEPS=30", "EVAL_PERIOD=30", "SAVE_PERIOD=10", "STATS_PERIOD=5"),
        finetune=(*_TINY, "TRAIN_STEPS=30", "EVAL_PERIOD=30", "SAVE_PERIOD=10", "STATS_PERIOD=5"),
    ),
}


def find_settings(name: str) -> Settings:
    """The settings of a name.

    Raises:
      ValueError: no such setting; says which there are.
    """
    if name not in SETTINGS:
        near = difflib.get_close_matches(name, SETTINGS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"setting {name!r} is not known: choose one of {', '.join(SETTINGS)}{hint}")
    return SETTINGS[name]
