"""What a run's gin files say, for devices that are not there and without its data: model, trainer, shapes."""

import copy
import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import gin
import jax
from jax.sharding import Mesh

from metro_jax import train as train_script
from metro_jax.training import gin_utils
from metro_jax.training.errors import UserError, nearest
from metro_jax.training.models import BaseModel
from metro_jax.training.partitioning import AXES, PjitPartitioner
from metro_jax.training.trainer import Trainer
from metro_jax.training.utils import DatasetConfig

FOLDER = "recipes"


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A run as its gin files describe it.

    Args:
        name: file name without folder and ending.
        partitioner_cls: with the arguments that the gin files bind; takes `devices` and the sizes of axes.
        trainer_cls: likewise.
        dataset: training batches; nothing is read.
        steps: updates of the whole run.
    """

    name: str
    model: BaseModel
    partitioner_cls: Any
    trainer_cls: Any
    dataset: DatasetConfig
    steps: int
    options: Mapping[str, Any]

    def features(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shape and type of every feature of a training batch, as the feature converter makes them."""
        cfg = self.dataset
        converter = self.model.FEATURE_CONVERTER_CLS
        lengths = converter(pack=cfg.pack).get_model_feature_lengths(cfg.task_feature_lengths)
        types = {name: spec.dtype.as_numpy_dtype for name, spec in converter.MODEL_FEATURES.items()}
        types |= {name: dtype.as_numpy_dtype for name, dtype in converter.PACKING_FEATURE_DTYPES.items()}
        return {name: jax.ShapeDtypeStruct((cfg.batch_size, length), types[name]) for name, length in lengths.items()}

    def partitioner(self, devices: Sequence[Any], mesh: Mapping[str, int] | None = None) -> PjitPartitioner:
        """The mesh over `devices`: as the gin files say, or of the given sizes.

        Raises:
            ValueError: sizes that do not fit the devices.
        """
        sizes = {"data": 0, "fsdp": 1, "model": 1} | dict(mesh or {})
        options: dict[str, Any] = {}
        if mesh:
            options = {
                "num_partitions": sizes["model"],
                "model_parallel_submesh": None,
                "fsdp_partitions": sizes["fsdp"],
            }
            if sizes["fsdp"] * sizes["model"] > 1:  # what the gin files ask of `data` is for their own mesh
                options["optimizer_partitions"] = None
        try:
            made = self.partitioner_cls(devices=devices, **options)
        except NotImplementedError as error:
            asked = ",".join(f"{axis}={size}" for axis, size in mesh.items()) if mesh else "the recipe's"
            raise ValueError(
                f"--mesh: {asked} cannot be laid onto this torus of chips: its axes cannot be split, so each axis of "
                "the mesh must be one physical axis, or several of them together (on 4x4x8: 4, 8, 16, 32 or 128)"
            ) from error
        if not mesh:
            return made
        if sizes["data"] not in (0, made.mesh.shape["data"]):
            raise ValueError(
                f"--mesh: data={sizes['data']} x fsdp={sizes['fsdp']} x model={sizes['model']} is not the "
                f"{len(devices)} devices of the topology; data={made.mesh.shape['data']} would be"
            )
        return made

    def trainer(self, partitioner: PjitPartitioner, microbatches: int | None = None) -> Trainer:
        """The runtime's trainer on a mesh; nothing is computed."""
        shapes = {name: feature.shape for name, feature in self.features().items()}
        override = {} if microbatches is None else {"num_microbatches": microbatches}
        return self.trainer_cls(
            model=self.model, partitioner=partitioner, input_shapes=shapes, **self.options, **override
        )


def load(file: str, bindings: Sequence[str] = (), more_files: Sequence[str] = ()) -> Recipe:
    """Reads a recipe and what is set on top of it.

    Args:
        file: a gin file, or the name of one in gin_configs/recipes, with or without `.gin`.
        bindings: NAME=VALUE, as after `--gin.`.
        more_files: gin files read after it.

    Raises:
        UserError: unknown file, name or value; says which would be right.
    """
    gin_utils.parse_configuration([find(file), *more_files], bindings)
    function = gin_utils.configurable(train_script.train, "train_script.train", "a recipe, or runs/pretrain.gin")
    bound = gin.get_bindings(function, resolve_references=False)

    def value(name: str, default: Any = None) -> Any:
        # References are called when they are copied; the others stay as they are: they need data or devices.
        return copy.deepcopy(bound[name]) if name in bound else default

    partitioner = bound.get("partitioner")
    return Recipe(
        name=os.path.basename(file).removesuffix(".gin"),
        model=value("model"),
        partitioner_cls=partitioner.scoped_configurable_fn if partitioner is not None else PjitPartitioner,
        trainer_cls=value("trainer_cls", Trainer),
        dataset=value("train_dataset_cfg"),
        steps=value("total_steps"),
        options={"random_seed": value("random_seed", 1), "use_hardware_rng": value("use_hardware_rng", False)},
    )


def find(file: str) -> str:
    """A recipe's path: as given, or by its name among the installed recipes.

    Raises:
        UserError: there is none; names the nearest.
    """
    root = os.path.join(gin_utils.installed_configs(), FOLDER)
    if os.path.isfile(file) or os.path.isfile(os.path.join(gin_utils.installed_configs(), file)):
        return file
    known = names()
    name = file.removesuffix(".gin").removeprefix(f"{FOLDER}/")
    if name in known:
        return os.path.join(root, f"{name}.gin")
    raise UserError(f"{file}: no such gin file or recipe{nearest(name, known)}. Recipes: {', '.join(known)}")


def names() -> list[str]:
    """The installed recipes, ablations as `ablations/NAME`."""
    root = os.path.join(gin_utils.installed_configs(), FOLDER)
    found = [
        os.path.relpath(os.path.join(folder, file), root).removesuffix(".gin")
        for folder, _, files in os.walk(root)
        for file in files
        if file.endswith(".gin") and os.path.basename(folder) != "topologies"
    ]
    return sorted(found)


def mesh_sizes(text: str) -> dict[str, int]:
    """`data=16,fsdp=8,model=1` as sizes.

    Raises:
        ValueError: an unknown axis or a size that is not a whole number.
    """
    sizes = {}
    for part in text.split(","):
        name, _, size = part.strip().partition("=")
        if name not in AXES or not size.isdigit() or int(size) < 1:
            raise ValueError(f"--mesh {text}: give sizes of {', '.join(AXES)}, such as data=16,fsdp=8,model=1")
        sizes[name] = int(size)
    return sizes


def describe_mesh(mesh: Mesh) -> str:
    """`data=16 fsdp=8 model=1`."""
    return " ".join(f"{axis}={size}" for axis, size in mesh.shape.items())
