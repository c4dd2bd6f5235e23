"""Fetching from the Hub just those folders of bigscience/P3 that the wanted mixtures need.

Any server of the Hub's protocol will do (HF_ENDPOINT). Files that are complete are not fetched again, and a file that
was broken off goes on.
"""

import os
import pathlib
import re
from collections.abc import Iterable, Mapping

from metro_jax.data.t0 import catalogue

REPOSITORY = "bigscience/P3"
_PATH = re.compile(r"(?:data/)?(?P<task>[^/]+)/[^/]+")


def download(
    folder: pathlib.Path, mixtures: Iterable[str], revision: str | None = None, repository: str = REPOSITORY
) -> dict[str, str]:
    """Fetches into `folder` what `mixtures` need, in whichever layout the repository has.

    Returns:
      Tasks that the repository does not have, each with that as the reason.

    Raises:
      FileNotFoundError: no such repository or revision. ConnectionError: the Hub cannot be reached, or went away.
      ValueError: the repository holds none of the tasks.
    """
    import huggingface_hub
    from huggingface_hub import errors

    api = huggingface_hub.HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
    try:
        files = api.list_repo_files(repository, repo_type="dataset", revision=revision)
        found = files_of_tasks(files)
        wanted, absent = choose(found, mixtures)
        if not wanted:
            raise ValueError(
                f"{repository} at {revision or 'its main revision'} has none of the {len(absent)} wanted tasks: it "
                f"lists {len(found)} folders, such as {', '.join(sorted(found)[:3]) or 'none'}; try another --revision"
            )
        # Where a task is there in both layouts, one is enough.
        paths = [path for task in wanted for path in _one_layout(found[task])]
        api.snapshot_download(
            repository,
            repo_type="dataset",
            revision=revision,
            local_dir=folder,
            allow_patterns=[_literal(path) for path in paths],
        )
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise FileNotFoundError(
            f"{repository} at {revision or 'its main revision'} is not on the Hub, or not for you ({error}); check "
            "--revision, HF_ENDPOINT and, for what needs a login, HF_TOKEN"
        ) from error
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError) as error:
        raise ConnectionError(_unreachable(error)) from error
    except Exception as error:
        if type(error).__module__.split(".")[0] not in ("httpx", "httpcore", "requests", "urllib3"):
            raise
        raise ConnectionError(_unreachable(error)) from error
    reason = f"not in {repository}" + (f" at {revision}" if revision else "")
    return {task: why for task, why in _explained(absent, reason).items() if not (folder / task).exists()}


def _unreachable(error: Exception) -> str:
    return (
        f"the Hub did not deliver ({error}); run the same command again when it can be reached: what is here already "
        "is kept and not fetched twice"
    )


def files_of_tasks(files: Iterable[str]) -> dict[str, list[str]]:
    """Task -> its files in the repository, in either layout."""
    found: dict[str, list[str]] = {}
    for path in files:
        if match := _PATH.fullmatch(path):
            found.setdefault(match["task"], []).append(path)
    return found


def choose(found: Mapping[str, list[str]], mixtures: Iterable[str]) -> tuple[list[str], list[str]]:
    """The tasks to fetch, and the wanted ones that are not there.

    Where a ranked task is not there the task it belongs to will do: its answer choices are there.
    """
    fetched: dict[str, None] = {}
    absent: dict[str, None] = {}
    for name in mixtures:
        for task in catalogue.mixtures()[name]:
            plain = task.removesuffix(catalogue.SCORE_EVAL)
            present = next((candidate for candidate in (task, plain) if candidate in found), None)
            if present is None:
                absent[task] = None
            else:
                fetched[present] = None
    return list(fetched), list(absent)


def _one_layout(paths: list[str]) -> list[str]:
    parquet = [path for path in paths if path.endswith(".parquet")]
    return parquet or paths


def _literal(path: str) -> str:
    """A pattern that matches this path only."""
    return re.sub(r"([\[*?])", r"[\1]", path)


def _explained(absent: Iterable[str], reason: str) -> dict[str, str]:
    licence = "; Story Cloze's licence asks for a form: render it from your copy (--render)"
    return {task: reason + (licence if task.startswith("story_cloze") else "") for task in absent}
