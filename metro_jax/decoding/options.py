"""How to choose tokens: small frozen dataclasses, hashable so that they can be static arguments under `jax.jit`."""

import dataclasses
import difflib
import math
import numbers
from typing import Any

# Which tokens count in the length of a beam hypothesis (spec 2.9), named after the Transformers version that counts so.
LENGTH_RULES = ("4.17", "4.36")


def whole_number(name: str, value: Any, least: int, hint: str = "") -> None:
    """Raises ValueError unless `value` is an integer of at least `least`."""
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name}={value!r} must be a whole number of at least {least}{hint}")


def _number(name: str, value: Any, hint: str = "") -> None:
    if not isinstance(value, numbers.Real) or isinstance(value, bool) or not math.isfinite(value):
        raise ValueError(f"{name}={value!r} must be a finite number{hint}")


def _truth(name: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise ValueError(f"{name}={value!r} must be True or False")


@dataclasses.dataclass(frozen=True)
class Greedy:
    """The most probable token at each step; ties go to the lower id."""


@dataclasses.dataclass(frozen=True)
class Beam:
    """Beam search (spec 2.9).

    Args:
        num_beams: open hypotheses per row, and finished ones kept per row.
        length_penalty: exponent of the length that divides the sum of log-probabilities; above 0 favours long outputs.
        early_stopping: a row ends as soon as it holds `num_beams` finished hypotheses.
        num_return_sequences: how many of them to return per row, best first.
        length_rule: "4.17", the pinned evaluation environment, counts the start token of an output that `max_length`
            cut off; "4.36" does not.
    """

    num_beams: int = 4
    length_penalty: float = 1.0
    early_stopping: bool = False
    num_return_sequences: int = 1
    length_rule: str = "4.17"

    def __post_init__(self) -> None:
        whole_number("num_beams", self.num_beams, 1)
        whole_number("num_return_sequences", self.num_return_sequences, 1)
        _number("length_penalty", self.length_penalty, "; 0 turns the normalisation by length off")
        _truth("early_stopping", self.early_stopping)
        if self.num_return_sequences > self.num_beams:
            raise ValueError(
                f"num_return_sequences={self.num_return_sequences} is more than num_beams={self.num_beams}, and only "
                "num_beams hypotheses are kept: ask for fewer sequences or search with more beams"
            )
        if self.length_rule not in LENGTH_RULES:
            near = difflib.get_close_matches(str(self.length_rule), LENGTH_RULES, n=1, cutoff=0.4)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            known = ", ".join(map(repr, LENGTH_RULES))
            raise ValueError(f"length_rule={self.length_rule!r} is not known; choose one of {known}{hint}")


@dataclasses.dataclass(frozen=True)
class Sample:
    """A random token at each step. The three restrictions are applied in the order given.

    Args:
        temperature: divides the logits; below 1 sharpens the distribution.
        top_k: only the k most probable tokens; 0 means all. Of tokens with equal logits the lower ids count as the
            more probable, so that there are never more than k.
        top_p: only the smallest set of most probable tokens whose probability reaches p; 1 means all.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        _number("temperature", self.temperature)
        if self.temperature <= 0:
            raise ValueError(
                f"temperature={self.temperature!r} must be above 0; without randomness, decode with Greedy()"
            )
        whole_number("top_k", self.top_k, 0, "; 0 keeps all tokens")
        _number("top_p", self.top_p)
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p={self.top_p!r} is a probability above 0 and at most 1; 1 keeps all tokens")


Options = Greedy | Beam | Sample
