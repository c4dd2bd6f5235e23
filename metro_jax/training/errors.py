"""The errors that a user can mend, and suggestions of what was meant."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A setting, file or name that the user gave is wrong; the message has the value, the reason and the next step."""


def nearest(name: str, known: Iterable[str], most: int = 3) -> str:
    """`; did you mean 'a' or 'b'?` from the known names that look like `name`, or nothing."""
    known = sorted(set(known))
    near = difflib.get_close_matches(name, known, n=most, cutoff=0.5)
    if not near:
        # Long names that share their last part look unlike each other as a whole.
        tail = {item.rsplit(".", 1)[-1].rsplit("/", 1)[-1]: item for item in known}
        near = [tail[t] for t in difflib.get_close_matches(name.rsplit(".", 1)[-1].rsplit("/", 1)[-1], tail, n=most)]
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
