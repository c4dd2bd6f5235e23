"""The PyTorch original beside this project's network, on a copy of its code that the user names.

Nothing here is reached unless that folder is given: it holds modeling_fairseq_t5.py and configuration_fairseq_t5.py, as
in the code's repository (model_release/src/fairseq_t5) or in a downloaded model. Its modules are imported, which runs
them; code that a checkpoint brings is never looked at.
"""

import contextlib
import importlib
import importlib.util
import json
import logging
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from metro_jax.convert.errors import ConversionError, MissingFileError
from metro_jax.convert.source import Source
from metro_jax.convert.tensors import open_file
from metro_jax.convert.verify_network import Answers, Prompts, greedy_texts
from metro_jax.text.ids import swap_ids

MODULES = ("configuration_fairseq_t5", "modeling_fairseq_t5")
_PACKAGE = "metro_t0_pytorch_original"


def run_original(hub: Source, code: pathlib.Path, prompts: Prompts) -> tuple[Answers, dict[str, str]]:
    """What the original makes of the prompts, and the versions that it ran on.

    Raises:
        ConversionError: no Hub folder on either side, no such code, or it does not run here.
    """
    if hub.form != "hub":
        raise ConversionError("the PyTorch original reads Hub folders, and neither side of this conversion is one")
    missing = [f"{name}.py" for name in MODULES if not (code / f"{name}.py").is_file()]
    if missing:
        raise MissingFileError(
            f"{code}: has no {', '.join(missing)}; give the folder model_release/src/fairseq_t5 of a copy of "
            "github.com/gonglinyuan/metro_t0"
        )
    try:
        import torch  # pyright: ignore[reportMissingImports]
        import transformers  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ConversionError(
            f"the PyTorch original needs torch and transformers ({error}); install them: pip install torch "
            "'transformers<4.37'"
        ) from error
    versions = {"torch": str(torch.__version__), "transformers": str(transformers.__version__)}
    try:
        with _imported(code) as (configuration, modeling):
            return _run(torch, configuration, modeling, hub, prompts), versions
    except ConversionError:
        raise
    except Exception as error:  # of code that is not ours
        raise ConversionError(
            f"{code}: the original failed under torch {versions['torch']} and transformers {versions['transformers']} "
            f"({type(error).__name__}: {error}); it was written for transformers 4.17 to 4.36"
        ) from error


def _run(torch: Any, configuration: Any, modeling: Any, hub: Source, prompts: Prompts) -> Answers:
    config = configuration.FairseqT5Config(**json.loads((hub.path / "config.json").read_text(encoding="utf-8")))
    if (hub.path / "model.safetensors").is_file():
        # As its users do, with nothing to unpickle and no code of the folder's.
        model = modeling.FairseqT5ForConditionalGeneration.from_pretrained(hub.path, config=config)
    else:
        model = modeling.FairseqT5ForConditionalGeneration(config)
        tensors = {name: tensor for path in hub.files for name, tensor in open_file(path).items()}
        state = {name: torch.from_numpy(np.asarray(tensor, np.float32).copy()) for name, tensor in tensors.items()}
        model.load_state_dict(state, strict=False)
        model.tie_weights()
    model = model.float().eval()

    def ids(tokens: np.ndarray) -> Any:
        return torch.from_numpy(np.asarray(swap_ids(tokens), np.int64))

    inputs = {"input_ids": ids(prompts.tokens), "attention_mask": torch.from_numpy(prompts.mask.astype(np.int64))}

    def forward(decoder_tokens: np.ndarray) -> Any:
        with torch.no_grad():
            return model(**inputs, decoder_input_ids=ids(decoder_tokens), output_hidden_states=True, use_cache=False)

    def logits(output: Any) -> np.ndarray:
        return _swapped(output.logits.numpy())

    output = forward(prompts.decoder_tokens)
    states = {
        "encoder": np.stack([state.numpy() for state in output.encoder_hidden_states]),
        "decoder": np.stack([state.numpy() for state in output.decoder_hidden_states]),
    }
    texts = greedy_texts(lambda written: logits(forward(written)), hub.config, prompts)
    return Answers(states, logits(output), texts)


def _swapped(logits: np.ndarray) -> np.ndarray:
    """Logits in metro_jax numbering, where the first two ids change places."""
    swapped = logits.copy()
    swapped[..., [0, 1]] = logits[..., [1, 0]]
    return swapped


@contextlib.contextmanager
def _imported(code: pathlib.Path) -> Iterator[tuple[Any, Any]]:
    """The two modules of the folder, under a package name of our own that is gone afterwards."""
    spec = importlib.util.spec_from_loader(_PACKAGE, loader=None, is_package=True)
    assert spec is not None
    package = importlib.util.module_from_spec(spec)
    package.__path__ = [str(code)]
    sys.modules[_PACKAGE] = package
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield tuple(importlib.import_module(f"{_PACKAGE}.{name}") for name in MODULES)  # type: ignore[misc]
    finally:
        logger.setLevel(level)
        for name in [name for name in sys.modules if name == _PACKAGE or name.startswith(f"{_PACKAGE}.")]:
            del sys.modules[name]
