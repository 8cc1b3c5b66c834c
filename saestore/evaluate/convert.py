"""`saestore convert`: a dictionary as a JumpReLU or with another gating, and how far its codes stay.

    relu, gated, batchtopk, batchlayertopk    the same codes, for all rows: gated by a threshold of each
                                              feature, batchtopk by the one it was calibrated with
    topk, layertopk                           θ such that k features fire on a row on average over the
                                              rows of calibration, one of each layer where k counts in each

A top-k keeps k features on every row, a threshold more on some and fewer on others: no conversion of it is
exact. What it does is measured on contexts that training held out: L0 with its interval, and the share of
firings that both have.

A crosscoder whose heads gate as one becomes one whose heads gate by themselves, and back, only where codes
stay the same: `dictionaries.regating`.

Source: Bussmann et al. 2024 (arXiv:2412.06410) for the threshold; Rajamanoharan et al. 2024
(arXiv:2404.16014) for gated as a JumpReLU.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int64
from pydantic import JsonValue, ValidationError

from saestore import devices, dictionaries
from saestore.dictionaries import SparseCode, SparseDictionary
from saestore.errors import ConfigError
from saestore.evaluate.calibrate import (
    HELD_OUT_ROWS,
    Part,
    exact_thresholds,
    held_out_l0,
    parts_of,
    read,
)
from saestore.lake import Lake, Ref, layout, manifest as manifests
from saestore.progress import Progress, Silent
from saestore_schemas.convert import ConvertSettings
from saestore_schemas.manifest import Manifest, Parent
from saestore_schemas.train import ActivationsSettings


_SILENT = Silent()


@dataclass(frozen=True)
class Converted:
    """A converted dictionary.

    Attributes:
        ref: Where it lies.
        manifest: Its manifest; `facts["converted"]` says what was measured.
    """

    ref: Ref
    manifest: Manifest

    @property
    def facts(self) -> dict[str, Any]:
        """What was done and measured."""
        found = self.manifest.facts["converted"]
        assert isinstance(found, dict)  # noqa: S101 - as written below
        return found


def convert(
    settings: ConvertSettings,
    lake: Lake,
    *,
    device: str = "auto",
    progress: Progress = _SILENT,
) -> Converted:
    """Write a dictionary as a JumpReLU, or with another gating; a finished one is returned as it is.

    Args:
        settings: Which dictionary, and on which rows.
        lake: Where it lies and the result is written.
        device: Torch device; `auto` takes the best there is.
        progress: Where to report.

    Raises:
        ArtefactNotFoundError: There is no such dictionary, or no store to find thresholds on.
        ArtefactExistsError: The name is taken by other settings.
        ConfigError: Thresholds are to be found, and nothing says on which rows.
        UnsupportedError: Its firings are not those above a threshold, or with another gating.
    """
    manifest = lake.manifest(Ref("dictionary", settings.dictionary))
    given = dictionaries.load(lake, settings.dictionary)
    settings = _complete(settings, manifest)
    ref = Ref("dictionary", f"{settings.series}/{settings.name}")
    run = manifests.Run.of(ref, settings, _parents(settings, manifest, lake))
    artefact = lake.artefact(ref)
    if artefact.exists(layout.MANIFEST):
        progress.note(f"dictionary {ref.name}: converted already")
        return Converted(ref, _finished(manifests.begin(artefact, run)))
    made, facts = _made(given.to(devices.resolve(device)), settings, lake, progress)
    record = made.config.model_copy(update={"parents": run.parents})
    made = made.to("cpu").with_config(record)
    dictionaries.keep(made, lake, run, facts={"converted": facts})
    return Converted(ref, lake.manifest(ref))


def _finished(manifest: Manifest | None) -> Manifest:
    assert manifest is not None  # noqa: S101 - it exists
    return manifest


def _complete(settings: ConvertSettings, manifest: Manifest) -> ConvertSettings:
    """Return settings that say the rows, and of its own stores which of them it never saw."""
    given = settings.activations
    try:
        known = ActivationsSettings.model_validate(manifest.settings.get("activations"))
    except ValidationError:  # imported: nothing says what it was trained on
        return settings
    if given is not None:
        if "held_out" in given.model_fields_set or not {*given.stores} & {*known.stores}:
            return settings
        known = given.model_copy(update={"held_out": known.held_out})
    return settings.model_copy(update={"activations": known})


def _parents(settings: ConvertSettings, manifest: Manifest, lake: Lake) -> list[Parent]:
    """Return the dictionary that is converted, and the stores of the rows."""
    own = {each.name: each for each in manifest.parents if each.kind == "activations"}
    found = [manifests.parent_of(manifest)]
    for name in () if settings.activations is None else settings.activations.stores:
        if name not in own:
            own[name] = manifests.parent_of(lake.manifest(Ref("activations", name)))
        found.append(own[name])
    return found


def _made(
    given: SparseDictionary, settings: ConvertSettings, lake: Lake, progress: Progress
) -> tuple[SparseDictionary, dict[str, JsonValue]]:
    """Return what it becomes, and what was measured of it."""
    activation = given.config.semantics.activation.model_dump()
    facts: dict[str, JsonValue] = {"from": settings.dictionary, "activation": activation}
    if settings.gating is not None:
        facts |= {"gating": settings.gating, "exact": True, "rows": None, "l0": None}
        progress.note(f"heads gate {settings.gating}, with the same codes")
        return given.with_gating(settings.gating), facts
    ranks = given.activation.ranks and given.thresholds() is None
    if not ranks:
        made = given.as_jumprelu()
        facts |= {"exact": True, "rows": None, "l0": None}
    else:
        given.as_jumprelu([0.0] * len(given.ranked))  # refuses, before rows are read
        parts = parts_of(_rows(settings), lake, "train", settings.rows)
        found = exact_thresholds(given, parts, progress)
        made = given.as_jumprelu([each.threshold for each in found])
        facts |= {"exact": False, "rows": found[0].rows, "l0": sum(each.l0 for each in found)}
    if settings.activations is not None and (ranks or _there(settings.activations, lake)):
        facts |= _compared(given, made, settings.activations, lake)
    progress.note(_said(facts))
    return made, facts


def _rows(settings: ConvertSettings) -> ActivationsSettings:
    """Return where thresholds are found.

    Raises:
        ConfigError: Nothing says it.
    """
    if settings.activations is None:
        raise ConfigError(
            field="activations",
            found=None,
            expected="a store of what the dictionary reads: a top-k's thresholds are found on its rows",
            hint="saestore convert SERIES/NAME SERIES/NEW --activations STORE",
        )
    return settings.activations


def _there(settings: ActivationsSettings, lake: Lake) -> bool:
    """Return whether all stores of some rows are in the lake."""
    known = {ref.name for ref in lake.refs("activations")}
    return known.issuperset(settings.stores)


def _compared(
    given: SparseDictionary, made: SparseDictionary, settings: ActivationsSettings, lake: Lake
) -> dict[str, JsonValue]:
    """Return how often features fire in both, on held-out rows; on those of training without any."""
    split = "held_out"
    parts = parts_of(settings, lake, "held_out", HELD_OUT_ROWS)
    if not parts:
        split, parts = "train", parts_of(settings, lake, "train", HELD_OUT_ROWS)
    unseen = held_out_l0(made, parts)
    if unseen is None:
        return {}
    before, shared, either = _firings(given, made, parts)
    return {
        "measured_on": split,
        "measured_rows": unseen.rows,
        "l0_measured": unseen.l0,
        "l0_interval": None if unseen.interval is None else list(unseen.interval),
        "l0_before": before / unseen.rows,
        "firings_shared": shared / either if either else None,
    }


def _firings(
    given: SparseDictionary, made: SparseDictionary, parts: Sequence[Part]
) -> tuple[int, int, int]:
    """Return how many firings the first has, how many both, and how many either."""
    before = shared = either = 0
    for _, inputs in read(parts, given):
        one, other = (_places(each.encode(inputs)) for each in (given, made))
        both = len(np.intersect1d(one, other, assume_unique=True))
        before, shared = before + len(one), shared + both
        either += len(one) + len(other) - both
    return before, shared, either


def _places(code: SparseCode) -> Int64[np.ndarray, " firing"]:
    """Return a number of each row and feature that fires."""
    places: Int64[np.ndarray, " firing"] = (code.row_ids * code.d_sae + code.indices).cpu().numpy()
    return places


def _said(facts: dict[str, Any]) -> str:
    """Return what was done and measured, in a sentence."""
    kind = facts["activation"]["kind"]
    if facts["exact"]:
        said = f"{kind} as the JumpReLU with the same codes"
    else:
        said = (
            f"{kind} as a JumpReLU with L0 {facts['l0']:.4g} on {facts['rows']} rows, which is not the "
            "same on each row"
        )
    if "l0_measured" not in facts:
        return f"{said}; not measured: no store of what it reads is in the lake"
    where = "held-out" if facts["measured_on"] == "held_out" else "training"
    low, high = facts["l0_interval"] or (facts["l0_measured"],) * 2
    same = facts["firings_shared"]
    of_both = "" if same is None else f", {same:.2%} of all firings are of both"
    return (
        f"{said}; L0 {facts['l0_measured']:.4g} [{low:.4g}, {high:.4g}] (before {facts['l0_before']:.4g}) on "
        f"{facts['measured_rows']} {where} rows{of_both}"
    )
