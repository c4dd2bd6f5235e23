"""A pickle interpreter that cannot execute anything.

A pickle is a program for a stack machine: literals and containers are pushed, GLOBAL names an importable object, REDUCE
calls it, BUILD writes into an object's attributes. Python's own machine imports what is named; an allow-list in front
of it still leaves real functions and classes on the stack for BUILD and NEWOBJ to work on. Here nothing is ever
imported: a name is a string, calling it looks the string up in a table of our own functions, and whatever else the
pickle asks for is refused by name. Opcodes are decoded by `pickletools`, which only reads.
"""

import dataclasses
import pickletools
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from metro_jax.convert.errors import ConversionError, UnsafePickleError

# Bounds on what a pickle may cost, far above any checkpoint: large++ with its optimiser takes about 10^5 opcodes.
MAX_BYTES = 32 * 2**20
MAX_OPCODES = 4_000_000

# Keys of dictionaries and members of sets. Tuples are left out: hashing a deeply nested one can exhaust the C stack.
_KEYS = (str, bytes, int, float, bool, type(None))

_LITERALS = frozenset(
    "BININT BININT1 BININT2 LONG1 LONG4 BINFLOAT BINUNICODE SHORT_BINUNICODE BINUNICODE8 "  # noqa: SIM905
    "BINBYTES SHORT_BINBYTES BINBYTES8".split()
)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}


@dataclasses.dataclass(frozen=True)
class Symbol:
    """A name that the pickle mentioned and that is allowed: "module.name", never imported."""

    name: str


@dataclasses.dataclass(eq=False)
class Record:
    """An object of the pickle that is described instead of built: its class, arguments, state and items."""

    name: str
    arguments: tuple[Any, ...] = ()
    state: Any = None
    items: dict[Any, Any] = dataclasses.field(default_factory=dict)


def _nothing(*arguments: Any) -> Any:
    raise UnsafePickleError("the pickle refers to storage outside itself; only torch checkpoints may do that")


@dataclasses.dataclass(frozen=True)
class Policy:
    """What a pickle may ask for.

    Args:
        constructors: "module.name" to the function of ours that stands for it; called with the pickle's arguments.
        constants: names that may be mentioned (passed to constructors or `persistent`) but not called.
        records: says which further names become a `Record`.
        persistent: turns a persistent id into an object; refuses by default.
    """

    constructors: Mapping[str, Callable[..., Any]]
    constants: frozenset[str] = frozenset()
    records: Callable[[str], bool] = lambda name: False
    persistent: Callable[[Any], Any] = _nothing


class PickleMachine:
    """One run over one pickle."""

    def __init__(self, policy: Policy, what: str) -> None:
        self.policy = policy
        self.what = what
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def run(self, data: bytes) -> Any:
        """The object that `data` describes.

        Raises:
            UnsafePickleError: it names something that is not allowed, or uses an opcode that is not needed.
            ConversionError: it is damaged, cut short, or absurdly large.
        """
        if len(data) > MAX_BYTES:
            raise UnsafePickleError(f"{self.what}: the pickle has {len(data)} bytes; no checkpoint needs {MAX_BYTES}")
        try:
            with warnings.catch_warnings():
                # pickletools decodes text opcodes, which Python may frown upon, before they can be refused here.
                warnings.simplefilter("ignore", DeprecationWarning)
                return self._run(data)
        except ConversionError:
            raise
        except (ValueError, TypeError, LookupError, OverflowError) as error:
            # What pickletools and an empty stack raise; the error's text is a few words of either.
            raise ConversionError(
                f"{self.what}: the pickle is damaged or cut short ({error}); copy or download the file again"
            ) from error

    def _run(self, data: bytes) -> Any:
        for count, (opcode, argument, position) in enumerate(pickletools.genops(data)):
            name = opcode.name
            if name in _LITERALS:
                self._literal(argument)
            elif name in _CONSTANTS:
                self.stack.append(_CONSTANTS[name])
            elif name == "STOP":
                return self.stack.pop()
            elif name in _HANDLERS:
                _HANDLERS[name](self, argument)
            else:
                raise self._refuse(f"opcode {name} ({_short(argument)}) at byte {position}")
            if count > MAX_OPCODES:
                raise self._refuse(f"more than {MAX_OPCODES} opcodes")
        raise ValueError("it does not end in STOP")

    def _refuse(self, what: str) -> UnsafePickleError:
        return UnsafePickleError(
            f"{self.what}: refused {what}. Only tensors and plain containers are read, nothing was executed; if you "
            "trust the file, load it in PyTorch and save its state dict as safetensors"
        )

    # -- literals, stack and memo

    def _literal(self, value: Any) -> None:
        if isinstance(value, int) and not -(2**64) < value < 2**64:
            raise self._refuse("an integer of more than 64 bits")
        self.stack.append(value)

    def _mark(self, _: Any) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def _to_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.marks.pop()
        return items

    def _pop(self, _: Any) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self._to_mark()

    def _put(self, index: Any) -> None:
        self.memo[len(self.memo) if index is None else index] = self.stack[-1]

    def _get(self, index: Any) -> None:
        self.stack.append(self.memo[index])

    # -- containers

    def _tuple(self, size: int) -> None:
        if size > len(self.stack):
            raise IndexError("too few items for a tuple")
        cut = len(self.stack) - size
        self.stack[cut:] = [tuple(self.stack[cut:])]

    def _extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not list:
            raise self._refuse(f"appending to {_kind(target)}")
        target.extend(items)

    def _set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        target = target.items if isinstance(target, Record) else target
        if type(target) is not dict:
            raise self._refuse(f"setting items of {_kind(target)}")
        if len(items) % 2:
            raise ValueError("a key without a value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[self._key(key)] = value

    def _add_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not set:
            raise self._refuse(f"adding items to {_kind(target)}")
        target.update(map(self._key, items))

    def _key(self, key: Any) -> Any:
        if type(key) not in _KEYS:
            raise self._refuse(f"{_kind(key)} as a key")
        return key

    # -- names and calls

    def _global(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise self._refuse("a global whose name is not text")
        full = f"{module}.{name}"
        policy = self.policy
        if full not in policy.constructors and full not in policy.constants and not policy.records(full):
            raise self._refuse(f"the global {_short(full)}")
        self.stack.append(Symbol(full))

    def _stack_global(self, _: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self._global(module, name)

    def _call(self, keywords: bool = False) -> None:
        if keywords and self.stack.pop() != {}:
            raise self._refuse("a call with keywords")
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, Symbol):
            raise self._refuse(f"a call of {_kind(function)}")
        if type(arguments) is not tuple:
            raise self._refuse(f"a call of {function.name} with {_kind(arguments)} for arguments")
        constructor = self.policy.constructors.get(function.name)
        if constructor is not None:
            try:
                result = constructor(*arguments)
            except TypeError as error:
                raise self._refuse(f"a call of {function.name} with unfit arguments ({error})") from error
        elif self.policy.records(function.name):
            result = Record(function.name, arguments)
        else:
            raise self._refuse(f"a call of {function.name}")
        self.stack.append(result)

    def _build(self, _: Any) -> None:
        """Attributes: kept as data for a Record, dropped for an OrderedDict (torch hangs its `_metadata` there)."""
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, Record):
            target.state = state
        elif type(target) is not dict:
            raise self._refuse(f"setting attributes of {_kind(target)}")

    def _persistent(self, _: Any) -> None:
        self.stack.append(self.policy.persistent(self.stack.pop()))


def _kind(value: Any) -> str:
    """What `value` is, for a message: a name where it has one, never its contents."""
    return value.name if isinstance(value, (Symbol, Record)) else f"a {type(value).__name__}"


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else "" if value is None else repr(value)
    text = text.replace(" ", ".", 1)  # pickletools gives "module name"
    return text if len(text) <= 120 else text[:120] + "..."


_HANDLERS: dict[str, Callable[[PickleMachine, Any], Any]] = {
    "PROTO": lambda m, a: None,
    "FRAME": lambda m, a: None,
    "MARK": PickleMachine._mark,
    "POP": PickleMachine._pop,
    "POP_MARK": lambda m, a: m._to_mark(),
    "DUP": lambda m, a: m.stack.append(m.stack[-1]),
    "BINPUT": PickleMachine._put,
    "LONG_BINPUT": PickleMachine._put,
    "MEMOIZE": PickleMachine._put,
    "BINGET": PickleMachine._get,
    "LONG_BINGET": PickleMachine._get,
    "EMPTY_TUPLE": lambda m, a: m._tuple(0),
    "TUPLE1": lambda m, a: m._tuple(1),
    "TUPLE2": lambda m, a: m._tuple(2),
    "TUPLE3": lambda m, a: m._tuple(3),
    "TUPLE": lambda m, a: m._literal(tuple(m._to_mark())),
    "EMPTY_LIST": lambda m, a: m.stack.append([]),
    "APPEND": lambda m, a: m._extend([m.stack.pop()]),
    "APPENDS": lambda m, a: m._extend(m._to_mark()),
    "EMPTY_DICT": lambda m, a: m.stack.append({}),
    "SETITEM": lambda m, a: m._set_items([m.stack.pop(), m.stack.pop()][::-1]),
    "SETITEMS": lambda m, a: m._set_items(m._to_mark()),
    "EMPTY_SET": lambda m, a: m.stack.append(set()),
    "ADDITEMS": lambda m, a: m._add_items(m._to_mark()),
    "GLOBAL": lambda m, a: m._global(*a.split(" ", 1)),
    "STACK_GLOBAL": PickleMachine._stack_global,
    "REDUCE": lambda m, a: m._call(),
    "NEWOBJ": lambda m, a: m._call(),
    "NEWOBJ_EX": lambda m, a: m._call(keywords=True),
    "BUILD": PickleMachine._build,
    "BINPERSID": PickleMachine._persistent,
}
