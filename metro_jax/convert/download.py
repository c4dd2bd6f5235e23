"""Models of the Hugging Face Hub: which of a repository's files are needed, and where they lie on this machine."""

import contextlib
import logging
import os
import pathlib
import re
from collections.abc import Iterator, Sequence

from metro_jax.convert.errors import ConversionError
from metro_jax.convert.source import TOKENIZER_FILES
from metro_jax.convert.tensors import WEIGHTS, read_json, shard_names

LOG = logging.getLogger(__name__)

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
NEEDED = ("config.json", "sp.model", "dict.txt")
OPTIONAL = (*(name for name in TOKENIZER_FILES if name not in NEEDED), "generation_config.json")


class DownloadError(ConversionError, OSError):
    """A model that could not be had from the Hub; the message says why, and what to do."""


def describe_cache() -> str:
    """The models of the Hub that are on this machine, and where, in words."""
    import huggingface_hub.constants

    folder = pathlib.Path(huggingface_hub.constants.HF_HUB_CACHE)
    names = sorted(path.name.removeprefix("models--").replace("--", "/") for path in folder.glob("models--*"))
    return f"{', '.join(names) or 'none downloaded yet'}; in {folder}, which HF_HOME moves"


def find_model(
    model: str | os.PathLike[str],
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
) -> pathlib.Path:
    """The folder of a model: the one that was given, or what was downloaded of a repository of the Hub.

    Downloads go through huggingface_hub: its cache, its progress bars, its settings (HF_HOME, HF_TOKEN, HF_ENDPOINT,
    HF_HUB_OFFLINE). Only the files that conversion and inference read are fetched, and code never is.

    Args:
        model: a folder or file, or "owner/name" of the Hub.
        revision: branch, tag or commit; None is the main branch.
        token: for private repositories; None takes the one that `hf auth login` stored.
        cache_dir: None takes the Hub's own cache.
        local_files_only: use what is in the cache and ask no server.

    Raises:
        FileNotFoundError: neither a path that exists nor a name that the Hub could know.
        DownloadError: unknown, not accessible, not reachable, incomplete, or not METRO's.
    """
    path = pathlib.Path(model)
    if path.exists():
        if revision is not None:
            raise ValueError(f"revision={revision!r} is for models of the Hub, and {path} is a path that exists")
        return path
    if not HUB_ID.fullmatch(os.fspath(model)):
        raise FileNotFoundError(
            f"{model}: there is no such folder, and models of the Hub have names such as "
            "gonglinyuan/metro_t0pp_basepp; give a folder, such as the model/ that `metro-jax quickstart` writes, "
            "or such a name"
        )
    return _Repository(os.fspath(model), revision, token, cache_dir, local_files_only).fetch()


class _Repository:
    """One revision of one repository."""

    def __init__(
        self,
        name: str,
        revision: str | None,
        token: str | bool | None,
        cache_dir: str | os.PathLike[str] | None,
        local_files_only: bool,
    ) -> None:
        from huggingface_hub import constants

        self.name, self.revision, self.token = name, revision or "main", token
        self.cache_dir = None if cache_dir is None else os.fspath(cache_dir)
        self.offline = local_files_only or constants.is_offline_mode()

    def fetch(self) -> pathlib.Path:
        """The snapshot's folder, with every file in it that is needed."""
        if self.offline:
            return self._from_cache()
        try:
            names = self._listing()
        except _Unreachable as error:
            try:
                folder = self._from_cache()
            except DownloadError:
                raise error from error.__cause__
            LOG.warning("%s; using the files of an earlier download in %s", error, folder)
            return folder
        weights = next((name for name in WEIGHTS if name in names), None)
        missing = [name for name in NEEDED if name not in names] + ([] if weights else [" or ".join(WEIGHTS)])
        if weights is None or missing:
            raise DownloadError(f"{self.name}: not a METRO-T0 repository: it has no {', no '.join(missing)}")
        return self._fetch([*NEEDED, *(name for name in OPTIONAL if name in names)], weights)

    def _listing(self) -> list[str]:
        from huggingface_hub import HfApi

        with self._explained():
            info = HfApi().model_info(self.name, revision=self.revision, token=self.token)
        return [sibling.rfilename for sibling in info.siblings or []]

    def _from_cache(self) -> pathlib.Path:
        """As an earlier download left it."""
        self.offline = True
        optional = [name for name in OPTIONAL if self._cached(name)]
        weights = next((name for name in WEIGHTS if self._cached(name)), WEIGHTS[0])
        return self._fetch([*NEEDED, *optional], weights)

    def _cached(self, name: str) -> bool:
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(self.name, name, cache_dir=self.cache_dir, revision=self.revision)
        return isinstance(found, str)

    def _fetch(self, names: Sequence[str], weights: str) -> pathlib.Path:
        first, *others = names
        folder = self._file(first, self.revision).parent
        # All further files are of the commit that the revision meant at first.
        for name in (*others, weights):
            self._file(name, folder.name)
        if weights.endswith(".index.json"):
            for name in shard_names(folder / weights, read_json(folder / weights).get("weight_map")):
                self._file(name, folder.name)
        return folder

    def _file(self, name: str, revision: str) -> pathlib.Path:
        from huggingface_hub import hf_hub_download

        with self._explained(name):
            path = hf_hub_download(
                self.name,
                name,
                revision=revision,
                token=self.token,
                cache_dir=self.cache_dir,
                local_files_only=self.offline,
            )
        return pathlib.Path(path)

    @contextlib.contextmanager
    def _explained(self, file: str | None = None) -> Iterator[None]:
        """Errors of the Hub's client, with what to do about them."""
        from huggingface_hub import constants, errors

        what = f"{self.name}: {file}" if file else self.name
        try:
            yield
        except errors.GatedRepoError as error:
            raise DownloadError(
                f"{what}: access must be granted first: ask for it at {constants.ENDPOINT}/{self.name}, then log in "
                "with `hf auth login` or give token="
            ) from error
        except errors.RepositoryNotFoundError as error:
            raise DownloadError(
                f"{what}: neither a folder here nor a model at {constants.ENDPOINT} that can be seen (status "
                f"{error.response.status_code}); check the name, and for a private one log in with `hf auth login` or "
                "give token="
            ) from error
        except errors.RevisionNotFoundError as error:
            raise DownloadError(
                f"{what}: has no revision {self.revision!r}; give a branch, a tag or a commit"
            ) from error
        except errors.LocalEntryNotFoundError as error:
            server = "no server may be asked" if self.offline else "no server was reached"
            raise DownloadError(
                f"{what}: not in the cache at revision {self.revision!r}, and {server}; "
                "download it once with a connection (without local_files_only and HF_HUB_OFFLINE)"
            ) from error
        except errors.HfHubHTTPError as error:
            status = error.response.status_code
            kind = _Unreachable if status >= 500 else DownloadError
            raise kind(f"{what}: {constants.ENDPOINT} answered with status {status} ({_first_line(error)})") from error
        except Exception as error:  # of the HTTP library, which is huggingface_hub's choice, or of the disk
            raise _Unreachable(
                f"{what}: the download failed ({type(error).__name__}: {_first_line(error)}); the same call goes on "
                "with the files that are still missing"
            ) from error


class _Unreachable(DownloadError):
    """No answer, or a broken one: an earlier download may do."""


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0][:300]
