"""Damage a store in every way and place, and look who finds it: verify, verify --quick, reading.

    python tests/faults/damage.py [--dtype int8] [--codec zstd]

Each case harms a copy of a small store of three hookpoint shards, then asks `verify`, `verify --quick`
and an ordinary read of the part that was harmed. `yes` means that it was found and the file named;
`other` that an error came which names another file; `no` that nothing was said. Sizes and indexes are
all that `--quick` looks at, so bits inside chunks are none of its business, and nobody reads a file
that does not belong to the store.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import saestore
from saestore.activations import ActivationStore
from saestore.errors import SaestoreError
from saestore.lake import Lake, Ref, Storage, layout
from saestore.testing.stores import HOOKPOINT, scratch_lake, synthetic_rows, synthetic_store
from saestore_schemas.activations import StoreSettings


NAME, FOREIGN = "whole", "foreign"
REF = Ref("activations", NAME)
ROWS, WIDTH = 150, 9
HOOK = layout.hook_array(HOOKPOINT)
SHARDS = {
    "hooks": f"{HOOK}/c.1.0",
    "tokens": f"{layout.TOKENS}/c.1",
    "flags": f"{layout.FLAGS}/c.1",
}
SMALL = {
    "contexts": f"{layout.CONTEXTS}/c.0.0",
    "segments": f"{layout.SEGMENTS}/c.0.0",
    "moments": f"{layout.MOMENTS}/{HOOKPOINT}/mean/c.0.0",
    "documents": f"{layout.DOCUMENTS}/part-00000.parquet",
    "vocabulary": layout.VOCABULARY,
    "array metadata": f"{HOOK}/zarr.json",
    "group metadata": "zarr.json",
    "file list": layout.FILES,
    "manifest": layout.MANIFEST,
}
OF_INT8 = {
    "scales": f"{layout.scale_array(HOOKPOINT)}/c.1",
    "deviations": f"{layout.deviation_array(HOOKPOINT)}/c.0",
}
"""A shard and a small array that int8 stores have as well."""
READ: dict[str, Callable[[ActivationStore], object]] = {
    "tokens": lambda store: store.tokens(),
    "flags": lambda store: store.flags(),
    "contexts": lambda store: store.contexts(),
    "segments": lambda store: store.segments(),
    "moments": lambda store: store.moments(HOOKPOINT),
    "documents": lambda store: store.documents(),
    "vocabulary": lambda store: store.vocabulary(),
}
"""What reads a place; the others are read with a hookpoint's rows."""

Harm = Callable[[Storage, Storage, str], None]
"""Damages a file of a store; the second folder is another store of the same shape."""


def flip(share: float, *, bit: int = 0, from_end: int = 0) -> Harm:
    """Return what turns one bit at a share of the file, or so many bytes before its end."""

    def harm(store: Storage, _: Storage, path: str) -> None:
        data = bytearray(store.read(path))
        place = len(data) - from_end if from_end else min(int(share * len(data)), len(data) - 1)
        data[place] ^= 1 << bit
        store.path(path).write_bytes(data)

    return harm


def rewrite(change: Callable[[bytes], bytes]) -> Harm:
    """Return what replaces the bytes of a file by a function of them."""

    def harm(store: Storage, _: Storage, path: str) -> None:
        store.path(path).write_bytes(change(store.read(path)))

    return harm


def missing(store: Storage, _: Storage, path: str) -> None:
    """Remove the file."""
    store.path(path).unlink()


def foreign(store: Storage, other: Storage, path: str) -> None:
    """Put the other store's file in its place."""
    store.path(path).write_bytes(other.read(path))


def neighbour(path: str) -> str:
    """Return the shard before a shard."""
    folder, _, name = path.rpartition("/")
    return f"{folder}/{name.replace('c.1', 'c.0', 1)}"


def duplicated(store: Storage, _: Storage, path: str) -> None:
    """Make it a copy of the shard before it."""
    store.path(path).write_bytes(store.read(neighbour(path)))


def swapped(store: Storage, _: Storage, path: str) -> None:
    """Exchange it with the shard before it."""
    one, two = store.read(path), store.read(neighbour(path))
    store.path(path).write_bytes(two)
    store.path(neighbour(path)).write_bytes(one)


def extra(store: Storage, _: Storage, path: str) -> None:
    """Put one more file beside it."""
    store.path(f"{path}.copy").write_bytes(store.read(path))


def renamed(store: Storage, _: Storage, path: str) -> None:
    """Give the folder of an array another name."""
    folder = store.path(path).parent
    folder.rename(folder.with_name("renamed"))


ANYWHERE: dict[str, Harm] = {
    "bit, first byte": flip(0.0),
    "bit, middle": flip(0.5, bit=3),
    "bit, last byte": flip(1.0, bit=7),
    "truncated": rewrite(lambda data: data[:-1]),
    "zeroed tail": rewrite(lambda data: data[: len(data) // 2] + bytes(len(data) - len(data) // 2)),
    "empty": rewrite(lambda data: data[:0]),
    "too long": rewrite(lambda data: data + b"\0"),
    "missing": missing,
    "of another store": foreign,
}
IN_SHARDS: dict[str, Harm] = {
    "bit, last chunk": flip(0.0),  # placed by `cases`, which knows where chunks lie
    "bit, chunk's crc": flip(0.0),
    "bit, table": flip(0.0),
    "bit, index": flip(0.0),
    "duplicated": duplicated,
    "swapped": swapped,
    "extra file": extra,
    "folder renamed": renamed,
}


@dataclass(frozen=True)
class Case:
    """One damage of one file.

    Attributes:
        place: Which part of the store.
        kind: Which damage.
        path: The file.
        harm: What does it.
    """

    place: str
    kind: str
    path: str
    harm: Harm


@dataclass(frozen=True)
class Found:
    """Who found it: `yes`, `other` or `no`; `-` where there is nothing to find."""

    verify: str
    quick: str
    reading: str


@contextmanager
def pristine(dtype: str = "float16", codec: str = "none") -> Iterator[Lake]:
    """Give a lake with two stores of one shape and different rows, tokens and texts."""
    item = {"float32": 4, "int8": 1}.get(dtype, 2)
    with scratch_lake() as lake:
        for seed, name in enumerate((NAME, FOREIGN)):
            synthetic_store(
                lake, name, seed=seed, dtype=dtype,
                values={HOOKPOINT: synthetic_rows(ROWS, WIDTH, seed=seed)},
                context_size=31 - seed,  # no two shards of flags are alike
                store=StoreSettings(chunk_kib=1, shard_mib=64 * WIDTH * item / 2**20, codec=codec),
            )  # fmt: skip
        yield lake


def cases(lake: Lake) -> Iterator[Case]:
    """Yield every kind of damage in every place."""
    store = ActivationStore.open(lake, NAME)
    artefact = lake.artefact(REF)
    int8 = store.spec.dtype == "int8"
    sharded = SHARDS | ({"scales": OF_INT8["scales"]} if int8 else {})
    small = SMALL | ({"deviations": OF_INT8["deviations"]} if int8 else {})
    for place, path in {**sharded, **small}.items():
        for kind, harm in ANYWHERE.items():
            if kind == "of another store" and _equal(lake, path):
                continue
            yield Case(place, kind, path, harm)
    for place, path in sharded.items():
        grid = store.spec.arrays()[path.rpartition("/")[0]].grid
        index = grid.chunks * 16 + 4
        table = grid.used(grid.shard_rows) * 4
        size = artefact.size(path) or 0
        at = {
            "bit, last chunk": size - (index + table + 5),
            "bit, chunk's crc": size - (index + table + 1),
            "bit, table": size - (index + 1),
            "bit, index": size - 12,
        }
        for kind, harm in IN_SHARDS.items():
            placed = flip(0.0, from_end=size - at[kind]) if kind in at else harm
            yield Case(place, kind, path, placed)


def _equal(lake: Lake, path: str) -> bool:
    """Return whether both stores hold the same file, so that it is no damage to exchange them."""
    other = lake.artefact(Ref("activations", FOREIGN))
    return other.size(path) is None or lake.artefact(REF).read(path) == other.read(path)


def look(lake: Lake, case: Case) -> Found:
    """Harm a copy of the store and ask everyone."""
    with scratch_lake() as copy:
        shutil.copytree(lake.storage.path(), copy.storage.path(), dirs_exist_ok=True)
        artefact = copy.artefact(REF)
        case.harm(artefact, copy.artefact(Ref("activations", FOREIGN)), case.path)
        opened = saestore.open_lake(copy.storage.url)
        return Found(
            _verified(opened, case, quick=False),
            _verified(opened, case, quick=True),
            "-" if case.kind == "extra file" else _read(copy, case),
        )


def _verified(lake: saestore.OpenLake, case: Case, *, quick: bool) -> str:
    try:
        found = lake.verify(REF.path, quick=quick)
    except SaestoreError as error:
        found = [str(error)]
    return _named(case, found)


def _read(lake: Lake, case: Case) -> str:
    try:
        store = ActivationStore.open(lake, NAME)
        READ.get(case.place, lambda store: store.read(HOOKPOINT, 0, store.n_rows))(store)
    except SaestoreError as error:
        return _named(case, [str(error)])
    return "no"


def _named(case: Case, lines: list[str]) -> str:
    if not lines:
        return "no"
    folder = case.path.rpartition("/")[0]
    names = {
        "swapped": [case.path, neighbour(case.path)],
        "folder renamed": [folder],
    }.get(case.kind, [case.path])
    gone = case.path == layout.MANIFEST and case.kind == "missing"
    return "yes" if gone or any(name in line for name in names for line in lines) else "other"


SEEN_BY_SIZE = {"truncated", "empty", "too long", "missing", "extra file", "folder renamed"}
"""Kinds that `--quick` must find wherever they are."""
SEEN_IN_TAILS = {"bit, last byte", "bit, table", "bit, index", "zeroed tail", "duplicated", "swapped",
                 "of another store"}  # fmt: skip
"""Kinds that `--quick` must find in shards, whose tails it reads."""


def expected_quick(case: Case) -> bool:
    """Return whether `--quick` must find it."""
    whole = case.place in {"file list", "manifest"}
    tails = case.place in {*SHARDS, "scales"} and case.kind in SEEN_IN_TAILS
    return whole or tails or case.kind in SEEN_BY_SIZE


def say(line: str) -> None:
    """Print a line."""
    sys.stdout.write(f"{line}\n")


def main() -> int:
    """Print the matrix; fail if anything was missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dtype", default="float16")
    parser.add_argument("--codec", default="none")
    parser.add_argument("--json", action="store_true", help="one JSON line a case")
    chosen = parser.parse_args()
    missed = total = 0
    if not chosen.json:
        say(f"{'place':16} {'kind':18} {'verify':8} {'quick':8} reading")
    with pristine(chosen.dtype, chosen.codec) as lake:
        for case in cases(lake):
            found = look(lake, case)
            total += 1
            good = found.verify == "yes" and found.reading in {"yes", "-"}
            good &= found.quick != "no" or not expected_quick(case)
            missed += not good
            if chosen.json:
                say(json.dumps({"place": case.place, "kind": case.kind, **vars(found)}))
            else:
                line = f"{case.place:16} {case.kind:18} {found.verify:8} {found.quick:8} "
                say(f"{line}{found.reading}{'' if good else '   MISSED'}")
    sys.stderr.write(f"{total - missed} of {total} found\n")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
