"""The pickle interpreter: plain data comes out as it went in, everything else is refused by name and not executed."""

import collections
import functools
import os
import pathlib
import pickle
import random
import subprocess

import numpy as np
import pytest

from metro_jax.convert.errors import ConversionError, UnsafePickleError
from metro_jax.convert.pickle_machine import MAX_BYTES, PickleMachine, Policy, Record

from .torch_files import Call, Global, Persistent, Raw, assemble

PLAIN = {
    "numbers": [0, 1, -1, 255, 256, 65535, 65536, -(2**31), 2**31, 2**62, 0.5, -1e300],
    "text": ("", "a", "ä" * 300, "x" * 70000),
    "bytes": b"\x00\xff",
    7: {None: True, False: None, 2.5: {"deep": [(), [], {}, ((1,), (1, 2), (1, 2, 3), (1, 2, 3, 4))]}},
}
POLICY = Policy({"collections.OrderedDict": dict, "_codecs.encode": lambda text, how: text.encode(how)})


def run(data: bytes, policy: Policy = POLICY) -> object:
    return PickleMachine(policy, "test.bin").run(data)


class Reduce:
    """Pickles as a call of an arbitrary function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_plain_containers_come_back(protocol):
    assert run(pickle.dumps(PLAIN, protocol)) == PLAIN
    if protocol >= 4:
        assert run(pickle.dumps({1, 2, "x"}, protocol)) == {1, 2, "x"}


def test_shared_objects_stay_shared():
    inner = [1]
    result = run(pickle.dumps([inner, inner], 2))
    assert result == [[1], [1]]
    assert result[0] is result[1]


def test_attributes_of_an_ordered_dict_are_dropped():
    value = collections.OrderedDict(a=1)
    value._metadata = {"version": 2}
    result = run(pickle.dumps(value, 2))
    assert result == {"a": 1}
    assert type(result) is dict


def attacks(target: pathlib.Path) -> dict[str, tuple[bytes, str]]:
    """Pickles that would create `target`, or do other harm, and what the refusal names."""
    shell, code = f"touch {target}", f"open({str(target)!r}, 'w').close()"
    name = f"{os.system.__module__}.system"
    return {
        "os.system": (pickle.dumps(Reduce(os.system, shell)), name),
        "eval": (pickle.dumps(Reduce(eval, code)), "builtins.eval"),
        "exec": (pickle.dumps(Reduce(exec, code), 2), "__builtin__.exec"),
        "open": (pickle.dumps(Reduce(open, str(target), "w")), "io.open"),
        "subprocess": (
            pickle.dumps(Reduce(subprocess.Popen, shell, -1, None, None, None, None, None, True, True)),
            "Popen",
        ),
        "nested": (pickle.dumps([{"a": (1, Reduce(getattr, Reduce(__import__, "os"), "system"))}]), "builtins.getattr"),
        "hidden": (pickle.dumps(Reduce(functools.partial, Reduce(eval, code))), "functools.partial"),
        "numpy": (pickle.dumps(np.arange(3)), "numpy"),
        "numpy gadget": (assemble(Call(Global("numpy.testing._private.utils", "runstring"), (code, {}))), "runstring"),
        "torch gadget": (assemble(Call(Global("torch.hub", "load"), ("a/b", "c"))), "torch.hub.load"),
        "torch.load": (assemble(Call(Global("torch.serialization", "load"), ("x",))), "torch.serialization.load"),
        "inst": (b"\x80\x02(X\x04\x00\x00\x00" + b"true" + b"ios\nsystem\n.", "os.system"),
        "obj": (b"\x80\x02(cos\nsystem\nX\x04\x00\x00\x00" + b"trueo.", "os.system"),
        "extension": (b"\x80\x02\x82\x01.", "EXT1"),
        "dotted name": (assemble(Raw(b"X\x08\x00\x00\x00builtinsX\x04\x00\x00\x00eval\x93")), "builtins.eval"),
        "dotted allowed": (
            assemble(Call(Global("collections", "OrderedDict.fromkeys"), ([],))),
            "OrderedDict.fromkeys",
        ),
        "build on a function": (assemble(Raw(b"ccollections\nOrderedDict\n}b")), "collections.OrderedDict"),
        "call of a list": (assemble(Call([], ())), "list"),
        "call of a result": (assemble(Call(Call(Global("collections", "OrderedDict"), ()), ())), "dict"),
        "wrong arguments": (assemble(Call(Global("_codecs", "encode"), (1, 2, 3, 4))), "_codecs.encode"),
        "keywords": (assemble(Raw(b"ccollections\nOrderedDict\n)}(K\x01K\x02u\x92")), "keywords"),
        "text persistent id": (b"\x80\x02Pabc\n.", "PERSID"),
        "buffer": (b"\x80\x05\x97.", "NEXT_BUFFER"),
        "tuple key": (assemble({(1,): 2}), "tuple"),
        "list key": (assemble(Raw(b"}](K\x01eK\x01s")), "list"),
        "huge integer": (b"\x80\x02\x8a\xff" + b"\x7f" * 255 + b".", "64 bits"),
        "name that is no text": (assemble(Raw(b"K\x01K\x02\x93")), "global"),
        "items of a list": (assemble(Raw(b"](K\x01K\x02u")), "list"),
        "items in a dict": (assemble(Raw(b"}K\x01a")), "dict"),
    }


@pytest.mark.parametrize("name", attacks(pathlib.Path("unused")))
def test_everything_else_is_refused_by_name_and_not_executed(name, tmp_path):
    target = tmp_path / "executed"
    data, named = attacks(target)[name]
    with pytest.raises(UnsafePickleError) as caught:
        run(data)
    assert named in str(caught.value)
    assert "nothing was executed" in str(caught.value)
    assert not target.exists()


@pytest.mark.parametrize("name", ["os.system", "eval", "exec", "open"])
def test_the_attacks_are_real(name, tmp_path):
    target = tmp_path / "executed"
    result = pickle.loads(attacks(target)[name][0])
    if hasattr(result, "close"):
        result.close()
    assert target.exists()


def test_persistent_ids_need_a_reader():
    with pytest.raises(UnsafePickleError, match="outside itself"):
        run(assemble(Persistent("x")))


def test_records_describe_without_building():
    policy = Policy({}, records=lambda name: name.startswith("os."))
    result = run(assemble(Call(Global("os", "system"), ("true",), {"a": [1]})), policy)
    assert isinstance(result, Record)
    assert (result.name, result.arguments, result.state) == ("os.system", ("true",), {"a": [1]})


def test_constants_cannot_be_called():
    policy = Policy({}, constants=frozenset({"torch.HalfStorage"}))
    with pytest.raises(UnsafePickleError, match=r"torch\.HalfStorage"):
        run(assemble(Call(Global("torch", "HalfStorage"), (10**12,))), policy)


def test_a_pickle_cut_anywhere_is_damaged():
    data = pickle.dumps(PLAIN | {"text": "short"}, 4)
    for cut in range(len(data)):
        with pytest.raises(ConversionError, match=r"test\.bin"):
            run(data[:cut])


def test_random_damage_never_surprises():
    rng = random.Random(0)
    data = pickle.dumps(PLAIN | {"text": "short", "more": collections.OrderedDict(a=[1])}, 2)
    outcomes = collections.Counter()
    for _ in range(2000):
        mutant = bytearray(data)
        for _ in range(rng.randint(1, 4)):
            mutant[rng.randrange(len(mutant))] = rng.randrange(256)
        try:
            run(bytes(mutant))
            outcomes["read"] += 1
        except ConversionError:
            outcomes["refused"] += 1
    assert outcomes["refused"] > 200


def test_size_is_bounded():
    with pytest.raises(UnsafePickleError, match="no checkpoint needs"):
        run(b"N" * (MAX_BYTES + 1))
