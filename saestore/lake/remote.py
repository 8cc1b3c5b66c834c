"""Object stores through fsspec: how one is opened, how an object is created once, errors in our words.

Nothing is listed from memory: another process may have written since.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
from fsspec.registry import known_implementations

from saestore.errors import MissingExtraError, SaestoreError, StorageError


_OPTIONS: dict[str, dict[str, Any]] = {
    "s3": {"use_listings_cache": False},
    "s3a": {"use_listings_cache": False},
    "gs": {"use_listings_cache": False},
    "gcs": {"use_listings_cache": False},
    "abfs": {"use_listings_cache": False},
    "az": {"use_listings_cache": False},
}
"""What each protocol's file system is told beside the URL."""

_PART = 16 << 20
"""Bytes of one part of a large upload; four are in memory at once."""
_TAKEN = {"PreconditionFailed", "ConditionalRequestConflict"}
"""What S3 answers when an object that was to be created is there."""

_CREDENTIALS = {
    "NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "PermissionError",
    "PermissionDeniedError", "UnauthenticatedError", "CredentialRetrievalError",
    "NoAuthTokenError", "TokenRetrievalError",
}  # fmt: skip
_ASK = (
    "check the credentials (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE) and what "
    "they may do in this bucket"
)
_UNREACHABLE = (
    "check the network and the endpoint (AWS_ENDPOINT_URL), then run the same command again: what "
    "was finished stays"
)


def connect(url: str) -> tuple[Any, str]:
    """Return the file system of a path or URL, and the path in it; nothing is touched.

    Raises:
        MissingExtraError: The URL's protocol needs a package that is not installed.
        StorageError: No protocol has that name.
    """
    protocol = url.split("://", 1)[0] if "://" in url else "file"
    try:
        fs, path = fsspec.core.url_to_fs(url, **_OPTIONS.get(protocol, {}))
    except ImportError as error:
        known = known_implementations.get(protocol, {})
        package = str(known.get("class", error)).partition(".")[0]
        raise MissingExtraError(
            package=package,
            extra="remote",
            purpose=f"a lake at {url}",
            hint="" if package == "s3fs" else f"pip install {package}",
        ) from error
    except ValueError as error:
        raise StorageError(
            f"{url}: {error}",
            found=url,
            expected="a folder, or a URL whose protocol fsspec knows",
            hint="s3://bucket/prefix is an object store; a folder needs no protocol",
        ) from error
    return fs, str(path)


def create(fs: Any, path: str, data: bytes) -> None:
    """Write an object where none may be; the store decides, so of two writers one is refused.

    Raises:
        FileExistsError: There is one.
        StorageError: The store does not create conditionally.
    """
    try:
        fs.pipe_file(path, data, mode="create")
    except FileExistsError:
        raise
    except OSError as error:
        answer = getattr(error.__cause__, "response", {}).get("Error", {})
        if answer.get("Code") in _TAKEN:
            raise FileExistsError(path) from error
        raise
    except (NotImplementedError, TypeError) as error:
        raise StorageError(
            f"{path}: this storage cannot create an object only if there is none",
            found=type(fs).__name__,
            expected="conditional writes, as S3 and Google Cloud Storage have them",
            hint="write to a local lake, then copy it there",
        ) from error


def upload(fs: Any, source: Path, path: str) -> None:
    """Put a local file, whole: a large one in parts, of which nothing is seen until the last."""
    parts = {"chunksize": _PART, "max_concurrency": 4} if "s3" in fs.protocol else {}
    fs.put_file(str(source), path, **parts)


def no_bucket(error: Exception) -> bool:
    """Return whether what is not there is the bucket itself."""
    return "bucket does not exist" in str(error)


@contextmanager
def remote_errors(what: str) -> Iterator[None]:
    """Turn the errors of object stores into ours; that something is not there stays what it is.

    Raises:
        StorageError: No such bucket, no credentials, no permission, or the store is unreachable.
    """
    try:
        yield
    except (SaestoreError, FileExistsError):
        raise
    except FileNotFoundError as error:
        if no_bucket(error):
            raise StorageError(
                f"{what}: there is no such bucket",
                found=str(error),
                expected="a bucket that exists",
                hint="create the bucket first, or check its name and the endpoint",
            ) from error
        raise
    except Exception as error:
        kind = type(error)
        vendor = kind.__module__.partition(".")[0]
        if kind.__name__ in _CREDENTIALS:
            hint = _ASK
        elif isinstance(error, OSError) or vendor in {"botocore", "aiohttp", "obstore", "fsspec"}:
            hint = _UNREACHABLE
        else:
            raise
        lines = str(error).strip().splitlines() or [kind.__name__]
        raise StorageError(f"{what}: {lines[0]}", found=kind.__name__, hint=hint) from error
