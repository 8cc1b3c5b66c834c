"""What can go wrong, and what to do about it.

    SaestoreError                              .found .expected .hint
    ├── ConfigError (ValueError)               a setting is wrong
    ├── ArtefactNotFoundError (FileNotFoundError)  nothing has that name
    ├── ArtefactExistsError (FileExistsError)  same name, other settings
    ├── ArtefactBusyError                      another process is writing it
    ├── IncompleteArtefactError                started, not finished
    ├── DamagedArtefactError                   bytes do not match the manifest
    ├── FormatVersionError                     written by another major version
    ├── HookpointNotFoundError (LookupError)   the model or store has no such hookpoint
    ├── FeatureNotFoundError (LookupError)     the dictionary has no such feature
    ├── UnsupportedError                       it cannot be done exactly, and why
    ├── OverflowRowError (ArithmeticError)     a value does not fit the chosen type
    ├── DivergedError                          training produced NaN or infinity
    ├── StoppedError                           it was asked to stop before its end
    ├── QueryError (ValueError)                SQL or a named query failed
    ├── StorageError (OSError)                 disk full, read-only, unreachable
    ├── IndexUnavailableError (ConnectionError)  MongoDB cannot be reached, or refuses
    ├── EndpointError (ConnectionError)        a language model's endpoint cannot be asked, or refuses
    ├── BudgetError                            a run would use more than it may
    ├── ReplayError (LookupError)              a request is not in the cassette that is replayed
    └── MissingExtraError (ImportError)        an optional package is not installed

Every message says what was found and what was expected; `hint` says what to do now.
"""

from difflib import get_close_matches
from typing import Any

from typing_extensions import override


_SHOWN = 20
"""Damaged files named in a message; `.damage` has them all."""


def nearest(name: str, known: list[str] | tuple[str, ...], *, n: int = 3) -> list[str]:
    """Return up to `n` known names that resemble `name`, best first."""
    folded = {k.lower(): k for k in known}
    return [folded[m] for m in get_close_matches(name.lower(), list(folded), n=n, cutoff=0.5)]


class SaestoreError(Exception):
    """Base of all errors a user can cause or must know about."""

    def __init__(
        self, message: str, *, found: Any = None, expected: str | None = None, hint: str = ""
    ) -> None:
        super().__init__(message)
        self.message = message
        self.found = found
        self.expected = expected
        self.hint = hint

    @override
    def __str__(self) -> str:
        """Return the message without the hint."""
        return self.message

    @override
    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by state: workers raise these too, whatever a subclass's signature."""
        return (_rebuild, (type(self), self.args, self.__dict__.copy()))


def _rebuild(
    kind: type[SaestoreError], args: tuple[Any, ...], state: dict[str, Any]
) -> SaestoreError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class ConfigError(SaestoreError, ValueError):
    """A setting is unknown, misspelt, out of range or contradicts another.

    Attributes:
        field: Dotted path of the setting.
        file: Where it stands, or None.
        others: One line for each further problem in the same settings.
    """

    def __init__(
        self,
        *,
        field: str,
        found: Any = None,
        expected: str = "",
        hint: str = "",
        file: str | None = None,
        problem: str = "",
        others: tuple[str, ...] = (),
    ) -> None:
        where = f"{file}: " if file else ""
        wanted = f"; expected {expected}" if expected else ""
        also = "".join(f"\n  also {line}" for line in others)
        super().__init__(
            f"{where}{field}: {problem or f'found {found!r}'}{wanted}{also}",
            found=found,
            expected=expected,
            hint=hint,
        )
        self.field = field
        self.file = file
        self.others = others


class ArtefactNotFoundError(SaestoreError, FileNotFoundError):
    """The lake holds nothing of that name."""

    def __init__(
        self, *, kind: str, name: str, looked: str, known: tuple[str, ...] = (), hint: str = ""
    ) -> None:
        close = nearest(name, known)
        if not hint:
            if close:
                hint = f"did you mean {', '.join(close)}?"
            elif known:
                hint = f"there are: {', '.join(sorted(known)[:10])}"
            else:
                hint = f"the lake holds no {kind} yet; `saestore ls` lists what it holds"
        super().__init__(
            f"no {kind} named {name!r} in {looked}",
            found=None,
            expected=f"one of {len(known)} names",
            hint=hint,
        )
        self.kind = kind
        self.name = name


class ArtefactExistsError(SaestoreError, FileExistsError):
    """The name is taken by an artefact made with other settings."""

    def __init__(
        self, *, kind: str, name: str, differences: tuple[str, ...], finished: bool = True
    ) -> None:
        lines = "".join(f"\n  {d}" for d in differences)
        how = "exists" if finished else "is unfinished and was begun"
        super().__init__(
            f"{kind} {name!r} {how} with other settings:{lines}",
            found="other settings",
            expected="the settings it was made with",
            hint="choose another name, as with --set name=..., or `saestore remove` the old artefact first",
        )
        self.differences = differences


class ArtefactBusyError(SaestoreError):
    """Another process holds the lock of this artefact."""

    def __init__(self, *, name: str, owner: str, age_s: float, hint: str = "") -> None:
        super().__init__(
            f"{name!r} is being written by {owner}, for {age_s:.0f} s",
            found=owner,
            expected="no other writer",
            hint=hint
            or "wait for it, or stop it: a lock whose process is gone is taken over by itself",
        )


class IncompleteArtefactError(SaestoreError):
    """An artefact was started and not finished."""

    def __init__(
        self,
        *,
        kind: str,
        name: str,
        missing: str,
        command: str | None = None,
        meanwhile: str | None = None,
    ) -> None:
        finish = (
            f"finish it with: {command}"
            if command
            else "run the command that started it again: it goes on from what is there"
        )
        super().__init__(
            f"{kind} {name!r} is not finished: {missing}",
            found="an unfinished run",
            expected="a manifest",
            hint=finish if meanwhile is None else f"{finish}; {meanwhile}",
        )


class DamagedArtefactError(SaestoreError):
    """Files are missing, or their bytes are not what the manifest says."""

    def __init__(self, *, name: str, damage: tuple[str, ...], hint: str = "") -> None:
        lines = "".join(f"\n  {d}" for d in damage[:_SHOWN])
        hidden = len(damage) - _SHOWN
        more = f"\n  and {hidden} more" if hidden > 0 else ""
        super().__init__(
            f"{name!r} is damaged:{lines}{more}",
            found=f"{len(damage)} damaged or missing",
            expected="the bytes the manifest lists",
            hint=hint or f"restore these files, or remove {name!r} and make it again",
        )
        self.name = name
        self.damage = damage


class FormatVersionError(SaestoreError):
    """A file was written by another major version of the format."""

    def __init__(self, *, file: str, found: Any, supported: Any) -> None:
        super().__init__(
            f"{file}: format version {found}; this release reads {supported}",
            found=found,
            expected=str(supported),
            hint="read it with the saestore release that wrote it (its manifest names the version)",
        )


class HookpointNotFoundError(SaestoreError, LookupError):
    """The model, store or dictionary has no hookpoint of that name."""

    def __init__(self, *, pattern: str, where: str, known: tuple[str, ...]) -> None:
        close = nearest(pattern, known)
        super().__init__(
            f"no hookpoint matches {pattern!r} in {where}",
            found=pattern,
            expected=f"one of {len(known)} hookpoints",
            hint=f"did you mean {', '.join(close)}?"
            if close
            else "list them with `saestore hookpoints MODEL`",
        )


class FeatureNotFoundError(SaestoreError, LookupError):
    """The dictionary has no feature with that index."""

    def __init__(self, *, dictionary: str, feature: int, n_features: int) -> None:
        super().__init__(
            f"{dictionary} has no feature {feature}",
            found=feature,
            expected=f"0 to {n_features - 1}",
            hint=f"features are numbered 0 to {n_features - 1}",
        )


class UnsupportedError(SaestoreError):
    """What was asked for cannot be done, or not exactly; the message says why."""


class OverflowRowError(SaestoreError, ArithmeticError):
    """A value does not fit the type it was to be stored in."""


class DivergedError(SaestoreError):
    """Training produced NaN or infinity."""

    def __init__(self, *, step: int, loss: float, checkpoint: str | None) -> None:
        super().__init__(
            f"training diverged at step {step}: loss is {loss}",
            found=loss,
            expected="a finite loss",
            hint=f"last good checkpoint: {checkpoint}; try a smaller optimizer.lr"
            if checkpoint
            else "no checkpoint had been written; try a smaller optimizer.lr",
        )
        self.step = step


class StoppedError(SaestoreError):
    """A run was asked to stop before its end: its time is up, or the system ends the process."""

    def __init__(self, *, name: str, reason: str, done: str) -> None:
        super().__init__(
            f"{name} stopped after {done}: {reason}",
            found=reason,
            expected="a run to its end",
            hint="a checkpoint holds its state: run the same command again to go on",
        )


class QueryError(SaestoreError, ValueError):
    """SQL was refused by the engine, or a named query or its parameter does not exist."""


class StorageError(SaestoreError, OSError):
    """The disk is full or read-only, or the storage cannot be reached."""


class IndexUnavailableError(SaestoreError, ConnectionError):
    """The MongoDB index cannot be reached, refuses the login or the request; no message has the password."""

    def __init__(self, *, place: str, reason: str, expected: str, hint: str) -> None:
        super().__init__(
            f"the index at {place} {reason}", found=reason, expected=expected, hint=hint
        )
        self.place = place


class EndpointError(SaestoreError, ConnectionError):
    """An endpoint cannot be reached, refuses the key or the request; no message has the key."""

    def __init__(self, *, place: str, reason: str, expected: str, hint: str) -> None:
        super().__init__(
            f"the endpoint {place} {reason}", found=reason, expected=expected, hint=hint
        )
        self.place = place


class BudgetError(SaestoreError):
    """A run stopped before it would use more tokens or money than its budget."""

    def __init__(self, *, name: str, used: str, budget: str, done: str) -> None:
        super().__init__(
            f"{name} stopped after {done}: {used} of {budget} are used, and the next request could "
            "take more than is left",
            found=used,
            expected=f"at most {budget}",
            hint="what was answered is kept: raise the budget and run the same command again to go on",
        )


class ReplayError(SaestoreError, LookupError):
    """A request is not in the cassette, and nobody may be asked."""

    def __init__(self, *, cassette: str, request: str, purpose: str) -> None:
        super().__init__(
            f"{cassette} has no answer to {purpose} (request {request[:12]})",
            found=f"no request {request[:12]}",
            expected="a cassette of the same settings, analysis and prompts",
            hint="replay with the settings that made it; without --replay the endpoint is asked",
        )
        self.request = request


class MissingExtraError(SaestoreError, ImportError):
    """An optional package is needed and not installed."""

    def __init__(self, *, package: str, extra: str, purpose: str, hint: str = "") -> None:
        super().__init__(
            f"{purpose} needs {package}, which is not installed",
            found="no " + package,
            expected=package,
            hint=hint or f"pip install 'saestore[{extra}]'",
        )
