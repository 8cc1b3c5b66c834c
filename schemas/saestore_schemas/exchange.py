"""Settings and records of imports and exports: activations and dictionaries of other tools."""

from typing import Annotated, Literal

from pydantic import Field

from saestore_schemas.activations import StoreDtype, StoreRecord, StoreSettings
from saestore_schemas.base import Model
from saestore_schemas.lm import LmSettings
from saestore_schemas.names import ArtefactName, HookpointName


FileDtype = Literal["float16", "bfloat16", "float32", "float64"]
"""What the numbers of a file are. A file that cannot say bfloat16 holds its bits as uint16."""


FilesAre = Literal["safetensors", "parquet", "llamascopium"]
"""Formats that activations are exported in."""


WrittenTool = Literal[
    "sae-lens", "dictionary-learning", "sparsify", "llamascopium", "circuit-tracer"
]
"""Tools whose dictionaries are read and written."""

DictionaryTool = WrittenTool | Literal["openai", "gemma-scope", "llama-scope"]
"""Tools whose dictionaries are read."""

FoldState = Literal["external", "folded"]
"""Whether a normalisation of the rows has to be applied, or is in the weights already."""


class LlamascopiumActivations(Model):
    """Chunk files of llamascopium or lm-saes: one folder for each hookpoint."""

    kind: Literal["llamascopium"] = "llamascopium"
    """Discriminator."""
    path: str
    """The folder that holds one folder of `chunk-*.safetensors` (or `.pt`) for each hookpoint."""
    axes: Literal["auto", "contexts", "rows"] = "auto"
    """What the axes before the last one are: contexts of tokens, or rows that were filtered and
    mixed. `auto` tells from the chunks' meta records, and asks where that is not enough."""
    chunks: int | None = Field(default=None, ge=1)
    """Import the first so many chunks of each hookpoint, by shard and number; absent, all."""
    stale: Literal["refuse", "keep"] = "refuse"
    """What to do with chunks that look left over from an older, longer run: their files are older
    than the first, or they repeat contexts. `keep` takes them for part of the set, which is right
    for a folder that was copied without its times."""


class SaeLensActivations(Model):
    """A data set of activations that SAELens cached, in Arrow files."""

    kind: Literal["sae-lens"] = "sae-lens"
    """Discriminator."""
    path: str
    """The folder that holds `state.json` and the Arrow files."""
    tokens: str = "token_ids"
    """Column of token ids; a data set without it has no tokens."""


class NpyActivations(Model):
    """Arrays: `.npy` files, or raw numbers as `numpy.memmap` writes them."""

    kind: Literal["npy"] = "npy"
    """Discriminator."""
    path: str
    """A file of activations [row, d] or [context, position, d]; or a folder of such files, one for
    each hookpoint, whose names `hookpoints` translates."""
    dtype: FileDtype | None = None
    """Type of the numbers; absent, what the `.npy` header says. A raw file needs it, and so does
    bfloat16, which lies in a `.npy` as uint16."""
    shape: tuple[int, ...] | None = Field(default=None, min_length=2, max_length=3)
    """Shape of a raw file; one length may be -1, to be told from the size. A `.npy` says its own."""
    tokens: str | None = None
    """A `.npy` of token ids, [row] or [context, position]; absent, there are no tokens."""
    mask: str | None = None
    """A `.npy` of the tokens' shape, 0 where a row is not to be used."""


class SafetensorsActivations(Model):
    """Tensors in safetensors files, ours (`saestore export activations`) or anybody's."""

    kind: Literal["safetensors"] = "safetensors"
    """Discriminator."""
    path: str
    """A file, or a folder of files that are read in the order of their names. Each holds the
    same tensors: activations [row, d] or [context, position, d] for each hookpoint, and what
    belongs to them."""
    tokens: str = "tokens"
    """Tensor of token ids, [row] or [context, position]; files without it have no tokens."""
    mask: str = "mask"
    """Tensor of the tokens' shape, 0 where a row is not to be used; files need not have it."""


Activations = Annotated[
    LlamascopiumActivations | SaeLensActivations | NpyActivations | SafetensorsActivations,
    Field(discriminator="kind"),
]


class ImportSettings(Model):
    """Another tool's activations as a store of the lake."""

    name: ArtefactName
    """Name of the activations artefact."""
    source: Activations
    """What is imported."""
    hookpoints: tuple[str, ...] = ()
    """Which hookpoints: the source's own name, or `ITS-NAME=HOOKPOINT` where that is not how
    TransformerLens spells it; absent, all, with common spellings translated."""
    lm: LmSettings | None = None
    """The language model they are of: its vocabulary shows text, its special tokens are flagged.
    Absent, tokens are shown as their ids, and what needs the model asks for it."""
    dtype: StoreDtype | None = None
    """How activations are stored; absent, as they are in the source, bit for bit."""
    context_size: int | None = Field(default=None, ge=1, le=65_535)
    """Cut rows that lie one after the other into contexts of this many tokens; absent, each such
    row is a context of its own. A source that has contexts keeps them."""
    padding: Literal["drop", "keep"] = "drop"
    """What becomes of the rows at the end of a context that the source's mask leaves out: not
    stored, or stored and flagged."""
    special_tokens: tuple[int, ...] = ()
    """Token ids flagged special, beside those of the language model."""
    ignore_tokens: tuple[int, ...] = ()
    """Token ids flagged ignored: their rows are stored, training and statistics skip them."""
    store: StoreSettings = StoreSettings()
    """Shape of the store on disk."""
    digest: str | None = None
    """Digest of the source's files: their names, sizes and both ends. It is filled in when the
    import runs, so that other files under the same path are another import; given, the source must
    have it."""


class ExportedFile(Model):
    """One file of an export."""

    path: str
    """Its name in the folder."""
    bytes: int = Field(ge=0)
    """Its size."""
    checksum: str
    """`crc32c:` and eight hexadecimal digits."""
    rows: int = Field(ge=1)
    """Rows in it."""
    contexts: int = Field(ge=1)
    """Contexts in it, all of them whole."""


class ExportIndex(Model):
    """`index.json` of an export: what its files hold, written last."""

    format: Literal["saestore.export"] = "saestore.export"
    """File type."""
    format_version: Literal[1] = 1
    """Version of the files' layout."""
    files_are: FilesAre
    """Which format the files are in."""
    saestore: str
    """Version of saestore that wrote it."""
    store: str
    """The store it was made from."""
    fingerprint: str
    """Fingerprint of that store."""
    record: StoreRecord
    """What the activations are; `dtype` is that of the export."""
    hookpoints: dict[str, int]
    """Width of each hookpoint."""
    first_context: int = Field(ge=0)
    """The store's context with which the chosen range begins."""
    rows: int = Field(ge=1)
    """Rows in all files."""
    contexts: int = Field(ge=1)
    """Contexts in all files."""
    files: tuple[ExportedFile, ...]
    """The files, in the order of their rows."""
    documents: str
    """File with the documents whose indices the segments name."""
    vocabulary: str
    """File with the tokenizer's vocabulary."""


class ImportDictionarySettings(Model):
    """Another tool's dictionary as one of the lake."""

    series: ArtefactName
    """First half of the dictionary's name."""
    name: ArtefactName
    """Second half."""
    tool: DictionaryTool
    """Whose files these are."""
    path: str
    """A file or folder; or a name on the hub, `ORGANISATION/REPOSITORY` or
    `ORGANISATION/REPOSITORY:FOLDER`."""
    revision: str | None = None
    """Revision of the repository on the hub; absent, its main one."""
    hookpoint: HookpointName | None = None
    """What it reads, as TransformerLens spells it, of several hookpoints the first; absent, what the
    files say."""
    hookpoint_out: HookpointName | None = None
    """What a transcoder reconstructs, likewise."""
    model: str | None = None
    """The language model it is of; absent, what the files say."""
    fold_state: FoldState | None = None
    """Whether the weights contain the normalisation, where the files do not say it."""
    approximate: bool = False
    """Import what is not computed exactly as its tool computes it; why stands in the record."""
    digest: str | None = None
    """Digest of the files. It is filled in when the import runs, so that other files under the same
    path are another import; given, the files must have it."""


class DictionaryExport(Model):
    """`saestore-export.json` beside an exported dictionary: what was written, and how exact it is."""

    format: Literal["saestore.dictionary-export"] = "saestore.dictionary-export"
    """File type."""
    format_version: Literal[1] = 1
    """Version of this record."""
    tool: WrittenTool
    """Whose format the files are in."""
    tool_version: str
    """Which of its releases."""
    dictionary: str
    """The dictionary it was made from."""
    fingerprint: str | None
    """Its fingerprint; null if it is in no lake."""
    saestore: str
    """Version of saestore that wrote it."""
    hookpoint: str
    """What it reads; several hookpoints with commas."""
    rewrites: tuple[str, ...]
    """Exact rewrites that were needed, in order."""
    inexact: tuple[str, ...]
    """Why the tool does not compute exactly the same; empty where it does."""
    max_error_codes: float
    """Largest difference of a feature, relative to the largest feature."""
    max_error_reconstruction: float
    """Largest difference of a row, relative to the row's length."""
    files: dict[str, str]
    """Path to checksum, `crc32c:` and eight hexadecimal digits."""
