"""`export`: analyses as other tools read them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from saestore_cli.options import SetOption
from saestore_cli.session import Session, command


if TYPE_CHECKING:
    from saestore.exchange.features.format import FeatureFormat


AnalysisArgument = Annotated[
    str,
    typer.Argument(
        metavar="SERIES/NAME[/ANALYSIS]",
        help="An analysis; of a dictionary, the only one.",
        show_default=False,
    ),
]
FolderArgument = Annotated[
    Path,
    typer.Argument(
        metavar="FOLDER",
        help="Where to write; an earlier export there is replaced.",
        show_default=False,
    ),
]
ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="A TOML file of settings.", show_default=False),
]
ModelIdOption = Annotated[
    str | None,
    typer.Option(
        metavar="ID",
        help="The language model's id there; absent, the last part of its name here.",
        show_default=False,
    ),
]
LayerOption = Annotated[
    int | None,
    typer.Option(min=0, help="Layer; absent, the one in the hookpoint's name.", show_default=False),
]
SetNameOption = Annotated[
    str | None,
    typer.Option(
        metavar="ID",
        help="Set of sources it belongs to, without the layer; absent, SERIES-NAME.",
        show_default=False,
    ),
]
VectorsOption = Annotated[
    bool, typer.Option("--vectors", metavar="", help="Write decoder vectors too.")
]


def add(exports: typer.Typer) -> None:
    """Add a command for each format."""
    uses = ("lake", "no_progress")
    command(
        exports,
        "delphi",
        "saestore export delphi demo/topk-32 cache/",
        "saestore export delphi demo/topk-32/first-million cache/ --files 20 --fill 2",
        uses=uses,
    )(export_delphi)
    command(
        exports,
        "saedashboard",
        "saestore export saedashboard demo/topk-32 dashboards/",
        "saestore export saedashboard gpt2/layer-8 dashboards/ --model-id gpt2-small --set-name res-16k "
        "--set suffix=v2",
        uses=uses,
    )(export_saedashboard)
    command(
        exports,
        "neuronpedia",
        "saestore export neuronpedia demo/topk-32 np/ --creator-id MY-ID --creator-name 'My group' "
        "--release my-release",
        "saestore export neuronpedia demo/topk-32 np/ --config neuronpedia.toml --set hf_repo=me/saes",
        uses=uses,
    )(export_neuronpedia)


def export_delphi(
    session: Session,
    *,
    analysis: AnalysisArgument,
    folder: FolderArgument,
    files: Annotated[int, typer.Option(min=1, help="Files the features are cut into.")] = 5,
    fill: Annotated[
        int, typer.Option(metavar="TOKEN", min=0, help="Token that fills up shorter contexts.")
    ] = 0,
) -> None:
    """An analysis as delphi's latent cache, which its explainers and scorers read.

    Give delphi FOLDER/latents. Values are rounded to float16; every context is as long as the longest
    may be.
    """
    from saestore.exchange.features.delphi import Delphi

    _export(session, analysis, folder, Delphi(files=files, fill=fill))


def export_saedashboard(
    session: Session,
    *,
    analysis: AnalysisArgument,
    folder: FolderArgument,
    model_id: ModelIdOption = None,
    layer: LayerOption = None,
    set_name: SetNameOption = None,
    vectors: VectorsOption = False,
    config: ConfigOption = None,
    overrides: SetOption = None,
) -> None:
    """An analysis as SAEDashboard's batches, which Neuronpedia's converter reads.

    The strongest examples are those of the subsample of kind `top`, the others those of kind `interval`,
    if the analysis has one. What it lacks is said, with the setting that makes it.
    """
    from saestore.api import config as settings_files
    from saestore.exchange.features import SaeDashboard
    from saestore_schemas.dashboards import SaeDashboardSettings

    given = _given(model_id=model_id, layer=layer, set_name=set_name, vectors=vectors or None)
    settings = settings_files.load(SaeDashboardSettings, config, overrides or (), options=given)
    _export(session, analysis, folder, SaeDashboard(settings))


def export_neuronpedia(
    session: Session,
    *,
    analysis: AnalysisArgument,
    folder: FolderArgument,
    creator_id: Annotated[
        str | None, typer.Option(metavar="ID", help="Your id there.", show_default=False)
    ] = None,
    creator_name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Who made the dictionary.", show_default=False),
    ] = None,
    release: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Release that it belongs to.", show_default=False),
    ] = None,
    model_id: ModelIdOption = None,
    layer: LayerOption = None,
    set_name: SetNameOption = None,
    vectors: VectorsOption = False,
    config: ConfigOption = None,
    overrides: SetOption = None,
) -> None:
    """An analysis as Neuronpedia imports it: a folder of JSON lines for a source.

    Neuronpedia's operators import such a folder. Exporting again gives the same bytes. Examples are chosen
    as for saedashboard.
    """
    from saestore.api import config as settings_files
    from saestore.exchange.features import Neuronpedia
    from saestore_schemas.dashboards import NeuronpediaSettings

    given = _given(
        creator_id=creator_id,
        creator_name=creator_name,
        release=release,
        model_id=model_id,
        layer=layer,
        set_name=set_name,
        vectors=vectors or None,
    )
    settings = settings_files.load(NeuronpediaSettings, config, overrides or (), options=given)
    _export(session, analysis, folder, Neuronpedia(settings))


def _export(session: Session, analysis: str, folder: Path, form: "FeatureFormat") -> None:
    report = session.lake.export_features(analysis, folder, form, progress=session.progress)
    session.output.exported_features(report)


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}
