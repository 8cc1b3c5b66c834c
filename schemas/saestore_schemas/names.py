"""Names: what an artefact, a series and a hookpoint may be called."""

from typing import Annotated, Literal

from pydantic import StringConstraints


NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
"""Path-safe on every file system and object store; no leading dot, so nothing hidden."""

ArtefactName = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
"""One path segment: letters, digits, '.', '_' and '-', at most 100 characters."""

DictionaryName = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}/[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"),
]
"""A dictionary: `series/name`."""

DictionaryOrCheckpoint = Annotated[
    str,
    StringConstraints(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}/[A-Za-z0-9][A-Za-z0-9._-]{0,99}(@(\d+|latest))?$"
    ),
]
"""A dictionary, or a checkpoint of it: `series/name@step` or `series/name@latest`."""

HookpointName = Annotated[str, StringConstraints(min_length=1, max_length=200)]
"""A hookpoint as TransformerLens spells it, such as `blocks.8.hook_resid_post`."""

ArtefactKind = Literal[
    "activations", "dictionary", "features", "evaluation", "sweep", "interpretation"
]
"""What the lake holds."""
