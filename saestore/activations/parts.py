"""Who may write a store: one process all of it, or several a part each, never both.

Parts begin under the store's own lock, held for a moment, so that two processes cannot choose
different numbers of parts; each then holds the lock of its part while it writes.
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from saestore.activations import commits
from saestore.errors import ArtefactBusyError, ConfigError, IncompleteArtefactError
from saestore.lake import Storage, layout, manifest as manifests, parts
from saestore.lake.lock import writing
from saestore.lake.parts import Part


_PATIENCE_S = 20.0
"""How long a part waits for the store's lock, which other parts hold for a moment each."""


@contextmanager
def claimed(artefact: Storage, run: manifests.Run, part: Part) -> Iterator[Storage]:
    """Hold one part of a store while the block runs; give the part's folder.

    Args:
        artefact: The store's folder.
        run: The run that makes the whole store.
        part: Which part.

    Raises:
        ArtefactBusyError: A living process writes this part, or all of the store.
        ArtefactExistsError: The name is taken by other settings.
        ConfigError: There are parts of another number already.
        IncompleteArtefactError: One process began to write all of the store.
    """
    with ExitStack() as stack:
        with _lock(artefact, name=run.ref.name):
            _remove_empty(artefact, run.ref.name)
            _same_count(artefact, run.ref, part)
            commits_there = artefact.exists(layout.commit_file(0))
            if commits_there and not parts.begun(artefact):
                raise IncompleteArtefactError(
                    kind=run.ref.kind,
                    name=run.ref.name,
                    missing="one process began to make all of it",
                    command=f"the same command without --shard; or begin anew after "
                    f"`saestore remove {run.ref.name}`",
                )
            if not parts.begun(artefact):
                commits.clear(artefact)
            manifests.begin(artefact, run)
            folder = artefact.child(part.folder)
            stack.enter_context(writing(folder, name=f"{run.ref.name}, part {part}"))
        manifests.begin(folder, run)
        yield folder


def refuse(artefact: Storage, ref: layout.Ref) -> None:
    """Refuse to write all of a store of which there are parts; the caller holds its lock.

    Raises:
        IncompleteArtefactError: There are parts.
    """
    _remove_empty(artefact, ref.name)
    found = parts.states(artefact)
    if found:
        raise IncompleteArtefactError(
            kind=ref.kind,
            name=ref.name,
            missing=parts.described(found),
            command=f"{parts.continuation(found, ref)}; or begin anew, as one process, after "
            f"`saestore remove {ref.name}`",
        )


def sweep(artefact: Storage, name: str) -> None:
    """Remove progress that outlived the manifest, because its process was killed between the two.

    Nothing happens on storage that cannot be written, or while another process does the same.
    """
    if not artefact.names(layout.PARTS):
        return
    try:
        with writing(artefact, name=name):
            manifests.drop_progress(artefact)
    except (ArtefactBusyError, OSError):
        return


@contextmanager
def _lock(artefact: Storage, *, name: str) -> Iterator[None]:
    """Hold the store's lock, waiting for processes that hold it for a moment."""
    began = time.monotonic()
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(writing(artefact, name=name))
            except ArtefactBusyError:
                if time.monotonic() - began > _PATIENCE_S:
                    raise
                time.sleep(0.05)
            else:
                break
        yield


def _remove_empty(artefact: Storage, name: str) -> None:
    """Remove parts without a finished shard that no living process writes: nothing is lost.

    Otherwise a run that failed at once, over a misspelt hookpoint say, would occupy the name.
    """
    for part in parts.begun(artefact):
        folder = artefact.child(part.folder)
        if folder.exists(layout.MANIFEST) or folder.exists(layout.commit_file(0)):
            continue
        try:
            with writing(folder, name=f"{name}, part {part}"):
                artefact.remove(part.folder)
        except ArtefactBusyError:
            continue


def _same_count(artefact: Storage, ref: layout.Ref, part: Part) -> None:
    there = parts.begun(artefact)
    if there and there[0].count != part.count:
        found = parts.states(artefact)
        raise ConfigError(
            field="--shard",
            found=str(part),
            expected=f"I/{there[0].count}, because {ref.name!r} is {parts.described(found)}",
            hint=f"{parts.continuation(found, ref)}; or begin anew after "
            f"`saestore remove {ref.name}`",
        )
