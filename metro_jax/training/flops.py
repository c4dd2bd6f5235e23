"""Matrix-product FLOPs of a function, and the peak rates of known chips: for model FLOPs utilisation."""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import jaxprs_in_params

# Dense bfloat16 peak per JAX device in FLOP/s, by `device_kind`: the vendors' data sheets. On TPU v2 and v3 a device is
# one of a chip's two cores.
PEAK_FLOPS = {
    "TPU v2": 22.5e12,
    "TPU v3": 61.5e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H200": 989e12,
}
# A training step multiplies with every weight and activation once forward and twice backward.
BACKWARD_FACTOR = 3


def peak_flops(device: Any) -> float | None:
    """Peak of one device, or None where it is not known."""
    return PEAK_FLOPS.get(device.device_kind)


def dot_flops(function: Callable[..., Any], *args: Any) -> float:
    """Multiplications and additions of all matrix products of `function(*args)`, over all devices.

    Read from the trace, so the body of a scan counts as often as it runs (that of a while loop once); nothing is
    compiled or computed.
    """
    return _of_jaxpr(jax.make_jaxpr(function)(*args).jaxpr)


def _of_jaxpr(jaxpr: Any) -> float:
    total = 0.0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            total += _of_dot(equation)
            continue
        if equation.primitive.name == "cond":
            # One of several forms of the same, chosen by platform: the least is what has to be computed.
            total += min(_of_jaxpr(branch.jaxpr) for branch in equation.params["branches"])
            continue
        times = equation.params["length"] if equation.primitive.name == "scan" else 1
        for inner in jaxprs_in_params(equation.params):
            total += times * _of_jaxpr(inner)
    return total


def _of_dot(equation: Any) -> float:
    contracted = equation.params["dimension_numbers"][0][0]
    shape = equation.invars[0].aval.shape
    return 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(shape[axis] for axis in contracted)
