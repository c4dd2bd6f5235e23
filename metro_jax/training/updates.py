"""How an update is shared out: moments and gradients cut along `data`, where parameters are whole (ZeRO-1).

After arXiv 1910.02054, stage 1: each of a group of places along `data` has its part of both moments, gets the sum of
its part of the gradient (a reduce-scatter, and an all-reduce over the groups), updates its part of the parameters, and
all parts are put together again (an all-gather). Together that sends what one all-reduce of the gradient would.
"""

import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

AXIS = "optimizer"  # of the mesh in which `data` is split into groups and the places within one
# More places save next to nothing, and on slices of three axes TPUs have no reduce-scatter over all of them at once:
# the compiler makes two all-reduces of the whole instead (docs/tpu_plan.md).
WIDEST = 16
# Moments of smaller parameters (biases, norms) stay whole: cutting them saves 3 MB of METRO base's 2 GB, and every
# array that is cut has to be put together again after the update.
WHOLE_BELOW = 2**16
# TPUs keep arrays in tiles of this many rows and columns, and fill up what is smaller.
TILE = (8, 128)
Axes = str | tuple[str, ...] | None


def group_sizes(places: int, wanted: int | None) -> Iterator[int]:
    """How many of the places along `data` may share an update, the best first; 1 is none.

    Raises:
        ValueError: `wanted` does not divide the places.
    """
    if wanted is None:
        yield from (n for n in range(min(places, WIDEST), 0, -1) if places % n == 0)
        return
    if wanted < 1 or places % wanted:
        divisors = ", ".join(str(n) for n in range(1, places + 1) if places % n == 0)
        raise ValueError(
            f"optimizer_partitions={wanted} does not divide the {places} places along the mesh's data axis; choose one "
            f"of {divisors}, or None for the best"
        )
    yield wanted


def as_tuple(axes: Axes) -> tuple[str, ...]:
    """Mesh axes of one dimension."""
    return (axes,) if isinstance(axes, str) else tuple(axes or ())


def update_sharding(mesh: Mesh, sharding: NamedSharding, shape: tuple[int, ...]) -> NamedSharding:
    """Layout of a parameter's moments and of its update: the parameter's own, cut along AXIS as well.

    The dimension cut is the one whose pieces take the least memory in tiles, the first of them where several do.

    Args:
        mesh: the one with AXIS.
        sharding, shape: of the parameter. Unchanged come back the layouts of small ones, of those that `data` cuts
            already, and of those of which no dimension can be cut into so many parts.
    """
    places = mesh.shape[AXIS]
    axes = [as_tuple(axis) for axis in (*sharding.spec, *[None] * (len(shape) - len(sharding.spec)))]
    if places == 1 or math.prod(shape) < WHOLE_BELOW or any("data" in axis for axis in axes):
        return sharding
    piece = sharding.shard_shape(shape)
    cuts = {i: (*piece[:i], size // places, *piece[i + 1 :]) for i, size in enumerate(piece) if size % places == 0}
    if not cuts:
        return sharding
    best = min(cuts, key=lambda i: _tiled(cuts[i]))
    axes[best] = (*axes[best], AXIS)
    return NamedSharding(mesh, PartitionSpec(*(axis[0] if len(axis) == 1 else axis or None for axis in axes)))


def sum_of_places(mesh: Mesh, local: Array, sharding: NamedSharding) -> Array:
    """The sum of an array [place along `data`, ...] over its places, in the layout of the update.

    Within each group of places first, which leaves every place its part (a reduce-scatter), then of these parts over
    the groups. Left to itself the compiler sums the whole array over all places and then cuts it.

    Args:
        mesh: the one with AXIS.
        sharding: of the result, as `update_sharding` gives it.
    """
    if sharding.mesh != mesh:  # not cut
        return jnp.sum(local, axis=0)
    axes = [as_tuple(axis) for axis in sharding.spec]
    cut = next(i for i, axis in enumerate(axes) if AXIS in axis)
    rest = (tuple(a for a in axis if a != AXIS) for axis in axes)

    def scattered(part: Array) -> Array:
        part = jax.lax.psum_scatter(part[0], AXIS, scatter_dimension=cut, tiled=True)
        return jax.lax.psum(part, "data")

    places = PartitionSpec(("data", AXIS), *(axis or None for axis in rest))
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        spread = jax.shard_map(scattered, mesh=mesh, in_specs=places, out_specs=sharding.spec, check_vma=False)
        return spread(local)


def _tiled(shape: tuple[int, ...]) -> int:
    """Numbers that an array takes with its last two dimensions filled up to whole tiles."""
    last = zip(shape[-2:], TILE[-len(shape[-2:]) :], strict=True)
    return math.prod(shape[:-2]) * math.prod(math.ceil(size / tile) * tile for size, tile in last)
