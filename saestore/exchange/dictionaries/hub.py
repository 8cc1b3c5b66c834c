"""Where another tool's files lie: a local path, or a repository on the hub.

`ORGANISATION/REPOSITORY` means the files of its top folder, `ORGANISATION/REPOSITORY:FOLDER` those of
a folder in it. What is on this disk comes first; the hub's cache is used without a network.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from saestore.errors import ConfigError, StorageError, nearest
from saestore.exchange.place import existing


NAME = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+?)(?::(?P<folder>[^:]+))?")
"""A name on the hub, the whole of it."""

_NO_ANSWER: tuple[type[Exception], ...] = (OSError, *HfHubHTTPError.__bases__)
"""What the client raises without an answer: its HTTP library's error, whichever library that is."""
_NOT_ASKED: tuple[type[Exception], ...] = (OfflineModeIsEnabled, *_NO_ANSWER)
"""The same, or it was told not to ask."""


@dataclass(frozen=True)
class Located:
    """Files on this disk.

    Attributes:
        place: File or folder.
        name: Repository and folder on the hub; empty for local files.
        revision: Commit they are of; None for local files.
    """

    place: Path
    name: str = ""
    revision: str | None = None


def locate(path: str, *, revision: str | None = None) -> Located:
    """Return where a path or a name on the hub lies on this disk, downloaded if need be.

    Args:
        path: What the user named.
        revision: Revision on the hub.

    Raises:
        ConfigError: There is no such path, repository or folder.
        StorageError: The hub cannot be reached, and its cache does not hold it.
    """
    local = Path(path).expanduser()
    found = NAME.fullmatch(path)
    if local.exists() or found is None or local.parent.is_dir():
        return Located(existing(path, field="path"))
    return _downloaded(found["repo"], (found["folder"] or "").strip("/"), revision)


def _downloaded(repo: str, folder: str, revision: str | None) -> Located:
    try:
        names = HfApi().list_repo_files(repo, revision=revision)
    except (RepositoryNotFoundError, RevisionNotFoundError, GatedRepoError) as error:
        raise _refused(repo, revision, error) from error
    except _NOT_ASKED as error:
        return _cached(repo, folder, revision, error)
    wanted = _wanted(names, repo, folder)
    try:
        top = snapshot_download(repo, revision=revision, allow_patterns=wanted)
    except _NO_ANSWER as error:
        raise _unreachable(repo, folder, error) from error
    return _located(Path(top), repo, folder)


def _wanted(names: Sequence[str], repo: str, folder: str) -> list[str]:
    """Return which files belong to one dictionary.

    Raises:
        ConfigError: The folder is none of the repository's, or none was named and there are many.
    """
    if folder:
        inside = [name for name in names if name == folder or name.startswith(f"{folder}/")]
        if inside:  # sparsify's config of the whole run lies beside
            beside = f"{folder.rpartition('/')[0]}/config.json".lstrip("/")
            return [*inside, *({beside} & set(names))]
    else:
        inside = [name for name in names if "/" not in name or name.startswith("checkpoints/")]
        if any(name.endswith(_WEIGHTS) for name in inside):
            return inside
    folders = sorted({name.rpartition("/")[0] for name in names if name.endswith(_WEIGHTS)} - {""})
    close = nearest(folder, folders) if folder else []
    raise ConfigError(
        field="path",
        found=f"{repo}:{folder}" if folder else repo,
        problem=f"{repo} has no folder {folder!r}"
        if folder
        else f"{repo} holds several dictionaries",
        expected=f"one of its {len(folders)} folders",
        hint=f"name one: {repo}:{(close or folders or ['FOLDER'])[0]}",
    )


_WEIGHTS = (".safetensors", ".npz", ".pt")


def _cached(repo: str, folder: str, revision: str | None, error: Exception) -> Located:
    """Return what the hub's cache holds.

    Raises:
        StorageError: It holds nothing of it.
    """
    try:
        wanted = [folder, f"{folder}/*"] if folder else None
        top = snapshot_download(
            repo, revision=revision, allow_patterns=wanted, local_files_only=True
        )
    except (LocalEntryNotFoundError, OSError) as missing:
        raise _unreachable(repo, folder, error) from missing
    if not (Path(top) / folder).exists():
        raise _unreachable(repo, folder, error) from error
    return _located(Path(top), repo, folder)


def _located(top: Path, repo: str, folder: str) -> Located:
    # The snapshot's own folder is named by its commit.
    return Located(top / folder, f"{repo}/{folder}".rstrip("/"), top.name)


def _unreachable(repo: str, folder: str, error: Exception) -> StorageError:
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    inside = f" --include '{folder}/*'" if folder else ""
    return StorageError(
        f"there is no local {repo}, and it cannot be had from the hub: {first}",
        found="no network, or no answer",
        expected="a path on this disk, or a hub that answers",
        hint=f"where there is a network: hf download {repo}{inside} --local-dir FOLDER; then import "
        f"FOLDER{f'/{folder}' if folder else ''} here",
    )


def _refused(repo: str, revision: str | None, error: Exception) -> ConfigError:
    if isinstance(error, RevisionNotFoundError):
        problem, hint = (
            f"{repo} has no revision {revision!r}",
            "leave --revision out for the newest",
        )
    elif isinstance(error, GatedRepoError):
        problem = f"{repo} is only for those who accepted its terms"
        hint = "accept them on its page, then `hf auth login`"
    else:
        problem = f"there is no {repo}: neither on this disk nor on the hub"
        hint = "check the spelling; for a private repository `hf auth login` first"
    return ConfigError(
        field="path",
        found=repo,
        problem=problem,
        expected="a path, or a name on the hub",
        hint=hint,
    )
