"""Reading compiled programs."""

import pytest

from metro_jax.training.plan.hlo import Program, parse_instruction, shape_bytes
from tests.training.plan.programs import LAYERS


def test_loops_multiply_what_is_in_them():
    times = Program(LAYERS).times
    assert times["main.9"] == 1
    assert times["body.1"] == times["fused_computation.1"] == times["all-reduce-scatter.1"] == 12
    assert "add.1" not in times  # what a reduction applies is no computation that runs by itself


def test_a_stated_trip_count_wins():
    text = LAYERS.replace("body=%body.1,", 'body=%body.1, backend_config={"known_trip_count":{"n":"5"}},')
    assert Program(text).times["body.1"] == 5


def test_a_loop_of_unknown_length_counts_once():
    text = LAYERS.replace("direction=LT", "direction=NE")
    assert Program(text).times["body.1"] == 1
    assert Program(text, loop=256).times["body.1"] == 256


def test_lines_of_custom_calls_are_no_instructions():
    program = Program(LAYERS)
    assert "not.an.instruction" not in program.computations["main.9"]
    assert program.computations["main.9"]["all-reduce.2"].root


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ("bf16[64,768]{1,0:T(8,128)(2,1)}", 64 * 768 * 2),
        ("f32[]{:T(256)}", 4),
        ("(s32[]{:T(128)}, /*index=1*/pred[8]{0}, f8e4m3fn[16]{0}, s4[6]{0})", 4 + 8 + 16 + 3),
        ("token[]", 0),
    ],
)
def test_bytes_of_shapes(shape, size):
    assert shape_bytes(shape) == size


def test_memory_on_the_chip_can_be_left_out():
    shape = "(f32[1000]{0:T(1024)S(1)}, f32[10]{0:T(1024)})"
    assert (shape_bytes(shape), shape_bytes(shape, main_memory_only=True)) == (4040, 40)


def test_a_tuple_is_parsed_to_its_end():
    found = parse_instruction(
        "  ROOT %t.1 = (s32[]{:T(128)}, f32[2]{0:T(256)}) tuple(%a, /*index=1*/%b.2), metadata={}"
    )
    assert (found.opcode, found.operands, found.root) == ("tuple", ("a", "b.2"), True)
    assert found.bytes == 12


def test_what_is_no_program_is_refused():
    with pytest.raises(ValueError, match="no ENTRY"):
        Program("HloModule nothing\n")
