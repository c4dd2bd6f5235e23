"""Destinations that appear complete or not at all: everything is built beside them and moved when it is there."""

import contextlib
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

from metro_jax.convert.errors import FolderExistsError

# Files that say that a folder is a checkpoint (Hub format, ours, fairseq's): only such a folder is ever replaced.
MARKERS = ("config.json", "metro_config.json", "model.pt")


@contextlib.contextmanager
def complete_folder(folder: str | pathlib.Path, *, overwrite: bool = False) -> Iterator[pathlib.Path]:
    """A folder to write into, which becomes `folder` at the end of the block; an error leaves nothing behind.

    Args:
        overwrite: replace a folder that already holds a checkpoint (one of MARKERS), with all that is in it.

    Raises:
        FolderExistsError: `folder` is a file, or holds something that must not be replaced.
    """
    folder = pathlib.Path(os.path.realpath(folder))
    check_free(folder, overwrite)
    with _parents(folder):
        # Beside the destination; inside it where that is an empty folder, which may be a mount or a work folder.
        place = folder if _is_empty(folder) else folder.parent
        building = pathlib.Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".partial", dir=place))
        try:
            yield building
            _move(building, folder)
        except BaseException:
            shutil.rmtree(building, ignore_errors=True)
            raise


@contextlib.contextmanager
def complete_file(path: str | pathlib.Path, *, overwrite: bool = False) -> Iterator[pathlib.Path]:
    """As `complete_folder`, for one file."""
    path = pathlib.Path(os.path.realpath(path))
    check_file_free(path, overwrite)
    with _parents(path):
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
        os.close(handle)
        building = pathlib.Path(name)
        try:
            yield building
            building.chmod(0o666 & ~_umask())  # mkstemp makes files private
            os.replace(building, path)
        except BaseException:
            building.unlink(missing_ok=True)
            raise


def check_file_free(path: pathlib.Path, overwrite: bool) -> None:
    """Raises FolderExistsError where `complete_file` would."""
    if path.is_dir():
        raise FolderExistsError(f"{path}: is a folder; choose another destination")
    if path.exists() and not overwrite:
        raise FolderExistsError(f"{path}: is there already; choose another name, or overwrite it (overwrite=True)")


def check_free(folder: pathlib.Path, overwrite: bool) -> None:
    """Raises FolderExistsError where `complete_folder` would."""
    if not folder.exists() and not folder.is_symlink():
        return
    if not folder.is_dir():
        raise FolderExistsError(f"{folder}: is a file; choose another destination")
    names = sorted(path.name for path in folder.iterdir())
    if not names:
        return
    holds = f"holds {len(names)} entries ({', '.join(names[:5])}{', ...' if len(names) > 5 else ''})"
    if not overwrite:
        raise FolderExistsError(f"{folder}: {holds}; choose an empty folder, or pass overwrite=True to replace it")
    if not set(MARKERS) & set(names):
        raise FolderExistsError(
            f"{folder}: {holds} and none of {', '.join(MARKERS)}, so it is not a checkpoint and is not replaced"
        )


@contextlib.contextmanager
def _parents(path: pathlib.Path) -> Iterator[None]:
    """Makes the folders above `path`; an error in the block removes those that did not exist before."""
    created = [parent for parent in path.parents if not parent.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        for parent in created:
            if parent.exists() and not any(parent.iterdir()):
                parent.rmdir()
        raise


def _is_empty(folder: pathlib.Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _move(building: pathlib.Path, folder: pathlib.Path) -> None:
    """Put the finished folder in its place; an old one is kept until the new one stands."""
    if building.parent == folder:
        _move_out(building, folder)
        return
    building.chmod(0o777 & ~_umask())  # mkdtemp makes folders private
    if not folder.exists():
        os.replace(building, folder)
        return
    old = pathlib.Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".old", dir=folder.parent))
    os.replace(folder, old)
    try:
        os.replace(building, folder)
    except BaseException:
        os.replace(old, folder)
        raise
    shutil.rmtree(old)


def _move_out(building: pathlib.Path, folder: pathlib.Path) -> None:
    """Move what is finished one level up, the markers last: without one the folder is no checkpoint."""
    moved: list[pathlib.Path] = []
    try:
        for path in sorted(building.iterdir(), key=lambda path: path.name in MARKERS):
            os.replace(path, folder / path.name)
            moved.append(folder / path.name)
    except BaseException:
        for path in moved:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        raise
    building.rmdir()
