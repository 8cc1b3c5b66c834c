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
    "NoAuthTokenError", "TokenRetrievalError", "ClientAuthenticationError",
    "DefaultCredentialsError", "RefreshError",
}  # fmt: skip
_REFUSED = {401, 403}
"""What a server answers to who may not."""
_AWS = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
_AZURE = (
    "AZURE_STORAGE_CONNECTION_STRING, or AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY"
)
_GOOGLE = "GOOGLE_APPLICATION_CREDENTIALS"
_SAID = {
    "s3": (_AWS, "AWS_ENDPOINT_URL"),
    "s3a": (_AWS, "AWS_ENDPOINT_URL"),
    "gs": (_GOOGLE, "STORAGE_EMULATOR_HOST"),
    "gcs": (_GOOGLE, "STORAGE_EMULATOR_HOST"),
    "az": (_AZURE, "AZURE_STORAGE_CONNECTION_STRING"),
    "abfs": (_AZURE, "AZURE_STORAGE_CONNECTION_STRING"),
}
"""Environment variables that say credentials and endpoint, by protocol."""


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
        cause = error.__cause__ or error
        if isinstance(cause, ImportError) and (cause.name or package) != package:
            raise StorageError(
                f"a lake at {url} needs {package}, which is installed and cannot be loaded: {cause}",
                found=str(cause),
                expected=f"what {package} itself needs",
                hint=f"pip install --upgrade {package}",
            ) from error
        raise MissingExtraError(
            package=package,
            extra="remote",
            purpose=f"a lake at {url}",
            hint="" if package == "s3fs" else f"pip install {package}",
        ) from error
    except ValueError as error:
        if protocol in _SAID:
            raise StorageError(f"{url}: {error}", found=url, hint=_remedy(error, url)) from error
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
    return "bucket does not exist" in str(error) or "container does not exist" in str(error)


@contextmanager
def remote_errors(doing: str, url: str, *, writing: bool = False) -> Iterator[None]:
    """Turn the errors of object stores into ours; that something is not there stays what it is.

    Args:
        doing: What is being done, for the message.
        url: To what.
        writing: Then it is the bucket that is not there.

    Raises:
        StorageError: No such bucket, no credentials, no permission, or the store is unreachable.
    """
    try:
        yield
    except (SaestoreError, FileExistsError):
        raise
    except Exception as error:
        absent = isinstance(error, FileNotFoundError)
        if no_bucket(error) or (absent and writing):
            raise StorageError(
                f"{doing} {url}: there is no such bucket",
                found=str(error),
                expected="a bucket that exists",
                hint="create the bucket first, or check its name and the endpoint",
            ) from error
        # All that runs here is file systems' code: what is no plain Python error is the store's.
        if absent or (type(error).__module__ == "builtins" and not isinstance(error, OSError)):
            raise
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise StorageError(
            f"{doing} {url}: {lines[0]}", found=type(error).__name__, hint=_remedy(error, url)
        ) from error


def _remedy(error: Exception, url: str) -> str:
    """Return what to do when a store refuses or does not answer."""
    said = _SAID.get(url.partition("://")[0])
    credentials, endpoint = (f" ({each})" for each in said) if said else ("", "")
    status = getattr(error, "status_code", None) or getattr(error, "code", None)
    named = type(error).__name__ in _CREDENTIALS or isinstance(error, ValueError)
    if named or status in _REFUSED:
        return f"check the credentials{credentials} and what they may do in this bucket"
    return (
        f"check the network and the endpoint{endpoint}, then run the same command again: what "
        "was finished stays"
    )
