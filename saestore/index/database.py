"""The MongoDB database that holds an index: how it is reached, and what it says when it is not.

No message ever has the password, whatever the driver puts into its own.
"""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from types import TracebackType
from typing import Any, TypeAlias
from urllib.parse import unquote_plus

from pymongo import MongoClient
from pymongo.collection import Collection
from pymongo.database import Database as MongoDatabase
from pymongo.errors import (
    AutoReconnect,
    ConnectionFailure,
    DocumentTooLarge,
    OperationFailure,
    PyMongoError,
)

from saestore.errors import ConfigError, IndexUnavailableError, UnsupportedError


URI, NAME = "SAESTORE_MONGO_URI", "SAESTORE_MONGO_DB"
"""Where the settings of an index stand."""

Document: TypeAlias = dict[str, Any]

_HOSTS = re.compile(r"[\w.\-%]*(:\d{1,5})?|\[[\da-fA-F:.%]+\](:\d{1,5})?")
_DATABASE = re.compile(r"[^/\\. \"$*<>:|?\x00]{1,63}")
_UNAUTHORIZED, _LOGIN_FAILED = 13, 18
"""MongoDB's codes of errors."""


@dataclass(frozen=True)
class Place:
    """Where an index is.

    Attributes:
        uri: MongoDB's connection string, with the password if it has one.
        name: The database.
    """

    uri: str = field(repr=False)
    name: str

    @property
    def label(self) -> str:
        """The place in words that may be shown: no user, no password, no options."""
        scheme, named, rest = self.uri.partition("://")
        if not named:  # a host alone
            scheme, rest = "mongodb", self.uri
        hosts = re.split(r"[/?]", rest.rpartition("@")[2])[0]
        known = scheme in {"mongodb", "mongodb+srv"} and all(
            _HOSTS.fullmatch(host) for host in hosts.split(",")
        )
        return f"{scheme}://{hosts}/{self.name}" if known else f"mongodb://?/{self.name}"

    def clean(self, message: str) -> str:
        """Return what the driver said, without the password."""
        login = self.uri.partition("://")[2].rpartition("@")[0]
        password = login.partition(":")[2]
        for secret in sorted({password, unquote_plus(password), login}, key=len, reverse=True):
            message = message.replace(secret, "***") if secret else message
        return " ".join(message.split())


class Database:
    """An open connection to one database of an index; `with` it, or `close` it."""

    def __init__(self, place: Place, *, wait_s: float = 5.0) -> None:
        """Prepare to connect: the first request does.

        Args:
            place: Where.
            wait_s: Seconds until a server that does not answer counts as unreachable, unless the
                connection string says.

        Raises:
            ConfigError: The connection string or the database's name is malformed.
        """
        self.place = place
        if not _DATABASE.fullmatch(place.name):
            raise ConfigError(
                field=NAME,
                found=place.name,
                expected='the name of a database, without any of / \\ . " $ * < > : | ? and spaces',
                hint=f"for example {NAME}=saestore",
            )
        names = ("serverSelectionTimeoutMS", "connectTimeoutMS")
        waits: dict[str, Any] = {
            each: int(wait_s * 1000) for each in names if each.lower() not in place.uri.lower()
        }
        try:
            with warnings.catch_warnings(action="error"):  # of options it does not know
                self._client: MongoClient[Document] = MongoClient(
                    place.uri, appname="saestore", tz_aware=True, **waits
                )
        except (ValueError, PyMongoError, UserWarning):
            raise ConfigError(
                field=URI,
                problem="is no connection string of MongoDB",
                expected="mongodb://[USER:PASSWORD@]HOST[:PORT]/[?OPTIONS]",
                hint="the characters : / ? # @ in a user or password are percent-encoded, as %40 for @; options are "
                "those of MongoDB",
            ) from None  # its own message may hold the password

    def __enter__(self) -> "Database":
        """Return it."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the connection."""
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    @cached_property
    def database(self) -> MongoDatabase[Document]:
        """What the driver calls a database."""
        return self._client[self.place.name]

    def __getitem__(self, name: str) -> Collection[Document]:
        """Return one of its collections."""
        return self.database[name]

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Raise what goes wrong with a request as an error of ours.

        Raises:
            IndexUnavailableError: It cannot be reached, or refuses.
            UnsupportedError: A feature has more to show than a document of MongoDB can hold.
        """
        try:
            yield
        except DocumentTooLarge as error:
            raise UnsupportedError(
                "a feature's examples do not fit into one document of MongoDB",
                found=self.place.clean(str(error)),
                expected="at most 16 MB",
                hint="analyze with a smaller `window` of its subsamples; everything also reads from the lake",
            ) from error
        except PyMongoError as error:
            raise self._unavailable(error) from None  # its own message may hold the password

    def _unavailable(self, error: PyMongoError) -> IndexUnavailableError:
        said = self.place.clean(str(error)).partition(", full error")[0]
        code = error.code if isinstance(error, OperationFailure) else None
        # after a first refusal the driver only says so of the server, without the code
        if code == _LOGIN_FAILED or "Authentication failed" in said:
            how = ("refuses the user or the password", "a login it knows", f"correct {URI}")
        elif code == _UNAUTHORIZED:
            how = (
                "does not allow this",
                "a user who may read and write the database",
                f"put a user into {URI}, as mongodb://USER:PASSWORD@HOST/, with the role readWrite",
            )
        elif isinstance(error, AutoReconnect | ConnectionFailure):
            known = re.split(r" \(configured timeouts|, Timeout: ", said)[0]
            how = (
                f"cannot be reached: {known}",
                "a MongoDB that listens there",
                (
                    f"start it, or correct {URI}; if it ended by itself, its log says why, as of a full disk. "
                    "A sync that it interrupted goes on when run again"
                ),
            )
        else:
            how = (f"refused: {said}", "a request that it carries out", "see the server's log")
        reason, expected, hint = how
        return IndexUnavailableError(
            place=self.place.label, reason=reason, expected=expected, hint=hint
        )
