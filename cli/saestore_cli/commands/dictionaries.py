"""Dictionaries of other tools: a command of `import` and of `export` for each of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from saestore_cli.session import Session, command


class FoldStateName(StrEnum):
    """Whether the normalisation of the rows is in the weights."""

    EXTERNAL = "external"
    FOLDED = "folded"


PathArgument = Annotated[
    str,
    typer.Argument(
        metavar="PATH",
        help="File or folder; or a name on the hub, ORG/REPO or ORG/REPO:FOLDER.",
        show_default=False,
    ),
]
NameArgument = Annotated[
    str,
    typer.Argument(metavar="SERIES/NAME", help="What it is called here.", show_default=False),
]
HookpointOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="What it reads; absent, what its files say.", show_default=False
    ),
]
HookpointOutOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="What a transcoder reconstructs; absent, what its files say.",
        show_default=False,
    ),
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="The language model it is of; absent, what its files say.",
        show_default=False,
    ),
]
StoreOption = Annotated[
    str | None,
    typer.Option(
        metavar="STORE",
        help="A store of what it reads: its rows are computed on both sides too, and a missing "
        "BatchTopK threshold is found on them.",
        show_default=False,
    ),
]
FoldStateOption = Annotated[
    FoldStateName | None,
    typer.Option(
        help="Whether the weights contain the normalisation; absent, it is measured on --store.",
        show_default=False,
    ),
]
RevisionOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Revision on the hub; absent, the main one.", show_default=False
    ),
]
ApproximateOption = Annotated[
    bool,
    typer.Option(
        "--approximate", metavar="", help="Convert what cannot be exact; the report says why."
    ),
]


@dataclass(frozen=True)
class Tool:
    """One tool, for its commands.

    Attributes:
        reads: What `import` says it does.
        imports: Examples of `import`.
        writes: What `export` says it does; empty where nothing is written for it.
        exports: Examples of `export`.
    """

    reads: str
    imports: tuple[str, ...]
    writes: str = ""
    exports: tuple[str, ...] = ()


TOOLS: Mapping[str, Tool] = {
    "sae-lens": Tool(
        reads="A dictionary of SAELens: `cfg.json` and `sae_weights.safetensors`.",
        imports=(
            "saestore import sae-lens trained/ lens/layer-8",
            (
                "saestore import sae-lens jbloom/GPT2-Small-SAEs-Reformatted:blocks.8.hook_resid_pre "
                "gpt2/layer-8 --store gpt2"
            ),
        ),
        writes="A dictionary as SAELens reads it.",
        exports=("saestore export sae-lens demo/topk-32 sae-lens-demo",),
    ),
    "dictionary-learning": Tool(
        reads="A dictionary of dictionary_learning: `ae.pt` and `config.json`.",
        imports=(
            "saestore import dictionary-learning run/trainer_0 dl/topk",
            "saestore import dictionary-learning run/trainer_0/checkpoints/ae_500.pt dl/early",
        ),
        writes="A dictionary as dictionary_learning reads it.",
        exports=("saestore export dictionary-learning demo/topk-32 dl-demo",),
    ),
    "sparsify": Tool(
        reads="A sparse autoencoder of sparsify: a hookpoint's folder, or a run with one hookpoint.",
        imports=(
            "saestore import sparsify run/layers.5 sparsify/layer-5",
            "saestore import sparsify EleutherAI/sae-SmolLM2-135M-64x:layers.9 smol/layer-9",
        ),
        writes="A top-k dictionary as sparsify reads it: a run with one hookpoint.",
        exports=("saestore export sparsify demo/topk-32 sparsify-demo",),
    ),
    "llamascopium": Tool(
        reads="A dictionary of any family of llamascopium or lm-saes: "
        "`config.json` and its weights.\n\n"
        "Its files do not say whether the weights contain the normalisation: say it, or name a store "
        "of what the dictionary reads, and the reading that explains its rows is taken.",
        imports=(
            "saestore import llamascopium results/L8R scope/layer-8 --fold-state folded",
            "saestore import llamascopium results/L8R scope/layer-8 --store llama",
        ),
        writes="A dictionary as llamascopium reads it, in raw units.",
        exports=("saestore export llamascopium demo/topk-32 llamascopium-demo",),
    ),
    "circuit-tracer": Tool(
        reads="A cross-layer transcoder of circuit-tracer: `W_enc_0.safetensors`, `W_dec_0.safetensors` and "
        "so on, and `config.yaml`.\n\n"
        "Its layer 0 is block 0 of the model; where it is another, --hookpoint says what layer 0 reads.",
        imports=(
            "saestore import circuit-tracer mntss/clt-gemma-2-2b-426k gemma/clt",
            "saestore import circuit-tracer clt/ smol/clt --hookpoint blocks.9.hook_resid_mid",
        ),
        writes="A cross-layer transcoder as circuit-tracer reads it, in raw units.",
        exports=("saestore export circuit-tracer main/clt-16 for-circuit-tracer --approximate",),
    ),
    "openai": Tool(
        reads="A dictionary of openai/sparse_autoencoder: one `.pt` file, which does not say what it "
        "reads.",
        imports=(
            "saestore import openai autoencoders/8.pt openai/8 --hookpoint blocks.8.hook_resid_post",
        ),
    ),
    "gemma-scope": Tool(
        reads="A dictionary of Gemma Scope: `params.npz`, or `params.safetensors` of Gemma Scope 2.",
        imports=(
            (
                "saestore import gemma-scope google/gemma-scope-2b-pt-res:"
                "layer_20/width_16k/average_l0_71 gemma/layer-20"
            ),
        ),
    ),
    "llama-scope": Tool(
        reads="A dictionary of Llama Scope's first release: `hyperparams.json` and `checkpoints/`.",
        imports=(
            (
                "saestore import llama-scope fnlp/Llama3_1-8B-Base-LXR-8x:Llama3_1-8B-Base-L8R-8x "
                "llama/layer-8"
            ),
        ),
    ),
}
"""Tool to its commands."""

_ASKS_FOLD_STATE = frozenset({"llamascopium"})


def add(imports: typer.Typer, exports: typer.Typer) -> None:
    """Add a command for each tool."""
    for name, tool in TOOLS.items():
        make = _import_folded if name in _ASKS_FOLD_STATE else _import
        command(imports, name, *tool.imports, uses=("lake", "no_progress"))(make(name, tool.reads))
        if tool.writes:
            command(exports, name, *tool.exports)(_export(name, tool.writes))


def _import(tool: str, says: str) -> Callable[..., None]:
    def run(
        session: Session,
        *,
        path: PathArgument,
        name: NameArgument,
        hookpoint: HookpointOption = None,
        hookpoint_out: HookpointOutOption = None,
        model: ModelOption = None,
        store: StoreOption = None,
        revision: RevisionOption = None,
        approximate: ApproximateOption = False,
    ) -> None:
        given = {
            "hookpoint": hookpoint,
            "hookpoint_out": hookpoint_out,
            "model": model,
            "revision": revision,
        }
        _read(session, tool, path, name, store, {**given, "approximate": approximate})

    run.__doc__ = says
    return run


def _import_folded(tool: str, says: str) -> Callable[..., None]:
    def run(
        session: Session,
        *,
        path: PathArgument,
        name: NameArgument,
        fold_state: FoldStateOption = None,
        hookpoint: HookpointOption = None,
        hookpoint_out: HookpointOutOption = None,
        model: ModelOption = None,
        store: StoreOption = None,
        revision: RevisionOption = None,
        approximate: ApproximateOption = False,
    ) -> None:
        given = {
            "hookpoint": hookpoint,
            "hookpoint_out": hookpoint_out,
            "model": model,
            "revision": revision,
        }
        state = None if fold_state is None else fold_state.value
        given |= {"fold_state": state}
        _read(session, tool, path, name, store, {**given, "approximate": approximate})

    run.__doc__ = says
    return run


def _export(tool: str, says: str) -> Callable[..., None]:
    def run(
        session: Session,
        *,
        dictionary: Annotated[
            str, typer.Argument(metavar="SERIES/NAME", help="A dictionary.", show_default=False)
        ],
        folder: Annotated[
            Path,
            typer.Argument(
                metavar="FOLDER",
                help="Where to write; only an earlier export of the same dictionary is replaced.",
                show_default=False,
            ),
        ],
        approximate: ApproximateOption = False,
    ) -> None:
        report = session.lake.export_dictionary(
            dictionary,
            tool,  # type: ignore[arg-type] # one of TOOLS that is written
            folder,
            approximate=approximate,
        )
        session.output.exported(report)

    run.__doc__ = says
    return run


def _read(
    session: Session, tool: str, path: str, name: str, store: str | None, given: dict[str, Any]
) -> None:
    """Import a dictionary and say how exact it is."""
    from saestore.errors import ConfigError

    series, found, rest = name.partition("/")
    if not found or "/" in rest:
        raise ConfigError(
            field="name",
            found=name,
            expected="SERIES/NAME",
            hint=f"for example: saestore import {tool} {path} {tool}/{rest or series}",
        )
    settings = {
        "series": series,
        "name": rest,
        "tool": tool,
        "path": path,
        **{key: value for key, value in given.items() if value is not None},
    }
    report = session.lake.import_dictionary(settings, store=store, progress=session.progress)
    session.output.imported(report)
