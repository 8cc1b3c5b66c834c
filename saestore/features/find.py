"""Which analysis a name means."""

from saestore.errors import ArtefactNotFoundError, QueryError
from saestore.lake import Lake, Ref, layout


def chosen(lake: Lake, name: str | None) -> Ref:
    """Return the analysis that was named, or the only one where none was.

    Raises:
        ArtefactNotFoundError: There is none of that name, or none at all.
        QueryError: There are several and none was named.
    """
    return only_analysis(lake) if name is None else analysis_named(lake, name)


def analysis_named(lake: Lake, name: str) -> Ref:
    """Return the analysis `series/name/analysis`, or the only one of `series/name`.

    Raises:
        ArtefactNotFoundError: There is none, or there are several.
    """
    name = name.strip("/")
    if name.count("/") >= layout.DEPTH["features"] - 1:
        return Ref("features", name)
    every = lake.refs("features")
    there = [ref for ref in every if ref.name.startswith(f"{name}/")]
    if len(there) == 1:
        return there[0]
    started = [
        ref
        for ref in lake.refs("features", unfinished=True)
        if not there and ref.name.startswith(f"{name}/")
    ]
    if len(started) == 1:
        return started[0]
    hint = f"say which: {', '.join(ref.name for ref in there)}" if there else ""
    if not there and Ref("dictionary", name) in lake.refs("dictionary"):
        hint = f"it was not analysed yet: saestore analyze CONFIG.toml --set dictionary={name}"
    raise ArtefactNotFoundError(
        kind="analysis",
        name=name,
        looked=lake.storage.url,
        known=tuple(name for ref in every for name in (ref.name, ref.name.rpartition("/")[0])),
        hint=hint,
    )


def only_analysis(lake: Lake) -> Ref:
    """Return the only analysis of the lake.

    Raises:
        ArtefactNotFoundError: There is none.
        QueryError: There are several; they are listed.
    """
    every = lake.refs("features")
    if len(every) == 1:
        return every[0]
    if not every:
        raise ArtefactNotFoundError(
            kind="analysis",
            name="SERIES/NAME",
            looked=lake.storage.url,
            hint="make one with `saestore analyze`",
        )
    raise QueryError(
        f"the lake holds {len(every)} analyses and none was chosen",
        found=f"{len(every)} analyses",
        expected="one, or a choice",
        hint="choose with --in: " + ", ".join(ref.name for ref in every),
    )
