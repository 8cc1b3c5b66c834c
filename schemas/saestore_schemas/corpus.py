"""Settings of a corpus: which documents, and how they are cut into contexts."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from saestore_schemas.base import Model


class TextSource(Model):
    """Plain text files: one document per file."""

    kind: Literal["text"] = "text"
    """Discriminator."""
    path: str
    """A file, a folder (searched recursively) or a glob such as `books/**/*.txt`."""
    suffixes: tuple[str, ...] = (".txt", ".md", ".rst", ".py")
    """Which files of a folder are read; a named file or a glob is read whatever its suffix."""
    encoding: str = "utf-8"
    """Text encoding of the files."""


class JsonlSource(Model):
    """JSON Lines files (also .jsonl.gz): one document per line."""

    kind: Literal["jsonl"] = "jsonl"
    """Discriminator."""
    path: str
    """A file, a folder or a glob."""
    field: str = "text"
    """Key that holds the document's text."""
    id_field: str | None = None
    """Key that holds the document's id; absent, the id is file name and line number."""
    metadata: tuple[str, ...] = ()
    """Further keys kept as metadata columns of the documents table."""


class ParquetSource(Model):
    """Parquet files: one document per row."""

    kind: Literal["parquet"] = "parquet"
    """Discriminator."""
    path: str
    """A file, a folder or a glob."""
    field: str = "text"
    """Column that holds the document's text."""
    id_field: str | None = None
    """Column that holds the document's id; absent, the id is file name and row number."""
    metadata: tuple[str, ...] = ()
    """Further columns kept as metadata columns of the documents table."""


class DatasetSource(Model):
    """A Hugging Face data set: hub name, or a folder written by `save_to_disk`."""

    kind: Literal["dataset"] = "dataset"
    """Discriminator."""
    path: str
    """Hub name such as `monology/pile-uncopyrighted`, or a local folder."""
    subset: str | None = None
    """Configuration name on the hub."""
    split: str = "train"
    """Split to read."""
    revision: str | None = None
    """Commit, tag or branch on the hub; recorded."""
    field: str = "text"
    """Column that holds the document's text."""
    id_field: str | None = None
    """Column that holds the document's id; absent, the id is the row number."""
    metadata: tuple[str, ...] = ()
    """Further columns kept as metadata columns of the documents table."""
    streaming: bool = False
    """Read from the hub while running instead of downloading first."""


class StdlibSource(Model):
    """English that every machine has: the Python standard library.

    The documentation topics of `pydoc`, then the library's source files with their docstrings, read
    where Python is installed. The text depends on the Python version, which is recorded.
    """

    kind: Literal["stdlib"] = "stdlib"
    """Discriminator."""
    parts: tuple[Literal["topics", "docstrings", "sources"], ...] = ("topics", "docstrings")
    """Topics (prose), docstrings (one document per module) and whole source files."""


Source = Annotated[
    TextSource | JsonlSource | ParquetSource | DatasetSource | StdlibSource,
    Field(discriminator="kind"),
]


class CorpusSettings(Model):
    """Documents and how they become contexts of token ids."""

    sources: tuple[Source, ...] = Field(min_length=1)
    """Where documents come from, read one source after the other."""
    context_size: int = Field(default=256, ge=2, le=65_535)
    """Tokens in a context, the prepended BOS included."""
    packing: Literal["pack", "split", "truncate"] = "pack"
    """How documents fill contexts.

    `pack`: consecutive documents share contexts, a separator between them. `split`: a document
    starts a context of its own and continues in further ones. `truncate`: a document is cut after
    one context; how many tokens that lost is counted in the manifest.
    """
    separator: Literal["eos", "bos", "none"] | None = None
    """Token put between documents that are packed together; absent, `eos`."""
    block_documents: int = Field(default=64, ge=1)
    """Documents in a block. Packing and document order never cross a block, so that any number of
    processes and any interruption give the same contexts."""
    shuffle_seed: int | None = Field(default=None, ge=0)
    """Permute the documents of each block with this seed; absent, the corpus's own order."""
    store_text: bool = False
    """Keep each document's whole text in the documents table (contexts keep theirs anyway)."""
    limit_documents: int | None = Field(default=None, ge=1)
    """Stop after this many documents; absent, all of them."""

    @model_validator(mode="after")
    def _separator_needs_packing(self) -> Self:
        if self.packing != "pack" and self.separator is not None:
            msg = f"separator applies to packing = 'pack' only, and packing is '{self.packing}'"
            raise ValueError(msg)
        return self
