"""Many ranges of many objects under way at once: an object store takes long to answer, not to send.

S3 is read by obstore, with the endpoint, region and credentials of the file system it stands beside,
so that there is one place to set them. Whatever else fsspec knows is read through fsspec. A range goes
to its place in the thread that fetched it: nothing piles up.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed, wait
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, TypeVar

from fsspec.asyn import sync

from saestore.lake.remote import remote_errors
from saestore.lake.storage import Storage


IN_FLIGHT = 48
"""Requests under way at once."""
_RENEW = timedelta(minutes=10)
"""How often credentials are asked for anew: before those of a role, valid for an hour, run out."""

T = TypeVar("T")


@dataclass(frozen=True)
class Part:
    """Some bytes of a file.

    Attributes:
        data: The bytes, fewer than were asked for if the file ends before.
        size: Bytes of the whole file.
    """

    data: memoryview
    size: int


class Ranges:
    """Ranges of the files below a remote folder."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._fetch = _obstore(storage) or _fsspec(storage)

    def fetch(self, path: str, start: int, stop: int) -> Part:
        """Return the bytes of a file from start to stop.

        Raises:
            FileNotFoundError: It is not there.
            StorageError: The store cannot be reached, or refuses.
        """
        with remote_errors("reading", self._storage.child(path).full_url):
            return self._fetch(self._storage.join(path), start, stop)

    def each(self, jobs: Sequence[Callable[[], T]]) -> Iterator[T]:
        """Run jobs that fetch, many at once; return what they return, as soon as it is there.

        When one fails or the caller goes away, none is left running: they write into its buffers.
        """
        if len(jobs) == 1:
            yield jobs[0]()
            return
        running: list[Future[T]] = [_threads(os.getpid()).submit(job) for job in jobs]
        try:
            for done in as_completed(running):
                yield done.result()
        finally:
            for each in running:
                each.cancel()
            wait(running)


@lru_cache(maxsize=1)
def _threads(process: int) -> ThreadPoolExecutor:
    """Return the threads of this process; a forked child needs its own."""
    return ThreadPoolExecutor(IN_FLIGHT, thread_name_prefix=f"saestore-ranges-{process}")


_Fetch = Callable[[str, int, int], Part]


def _fsspec(storage: Storage) -> _Fetch:
    def fetch(path: str, start: int, stop: int) -> Part:
        size = int(storage.fs.size(path))
        data = storage.fs.cat_file(path, start=start, end=stop)
        return Part(memoryview(data), size)

    return fetch


def _obstore(storage: Storage) -> _Fetch | None:
    """Return what reads through obstore, or None where that is not possible."""
    if "s3" not in storage.fs.protocol:
        return None
    try:
        import obstore  # noqa: PLC0415 - only a remote lake needs it
    except ImportError:  # s3fs alone reads too, only slower
        return None
    bucket = storage.url.split("/", 1)[0]
    store = _s3_store(storage.fs, bucket)

    def fetch(path: str, start: int, stop: int) -> Part:
        key = path.split("/", 1)[1]
        found = obstore.get(store, key, options={"range": (start, stop)})
        return Part(memoryview(found.bytes()), found.meta["size"])

    return fetch


def _s3_store(fs: Any, bucket: str) -> Any:
    """Return obstore's view of a bucket, reached just as the file system reaches it."""
    from obstore.store import S3Store  # noqa: PLC0415 - as above

    with remote_errors("connecting to", f"s3://{bucket}"):
        fs.connect()
    client = fs.s3.meta
    settings: dict[str, Any] = {
        "endpoint": client.endpoint_url,
        "region": client.region_name or "us-east-1",
        "client_options": {
            "allow_http": client.endpoint_url.startswith("http://"),
            "timeout": timedelta(minutes=5),
        },
        "retry_config": {"max_retries": 5, "retry_timeout": timedelta(minutes=1)},
    }
    if fs.anon:
        return S3Store(bucket, skip_signature=True, **settings)
    return S3Store(bucket, credential_provider=lambda: _credentials(fs), **settings)


def _credentials(fs: Any) -> Any:
    """Return what the file system signs with: its own keys, or what botocore found."""
    if fs.key and fs.secret:
        key, secret, token = fs.key, fs.secret, fs.token
    else:
        found = sync(fs.loop, _frozen, fs.session)
        key, secret, token = found.access_key, found.secret_key, found.token
    return {
        "access_key_id": key,
        "secret_access_key": secret,
        "token": token,
        "expires_at": datetime.now(UTC) + _RENEW,
    }


async def _frozen(session: Any) -> Any:
    found = await session.get_credentials()
    if found is None:
        raise PermissionError("no credentials were found")
    return await found.get_frozen_credentials()
