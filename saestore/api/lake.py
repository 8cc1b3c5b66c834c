"""An open lake: the four verbs, questions in SQL, and the artefacts' own facts."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from saestore.api import config
from saestore.api.asking import Asking
from saestore.api.between import Between
from saestore.api.exchanging import Exchanging, Settings
from saestore.api.indexing import Indexing
from saestore.api.interpreting import Interpreting
from saestore.api.relatives import Relatives
from saestore.api.serving import Serving
from saestore.errors import (
    ConfigError,
    DamagedArtefactError,
    FormatVersionError,
)
from saestore.lake import Lake, Ref, manifest as manifests, parts
from saestore.progress import Progress, Silent
from saestore_schemas.analyze import AnalyzeSettings
from saestore_schemas.convert import ConvertSettings
from saestore_schemas.evaluate import EvaluateSettings
from saestore_schemas.generate import GenerateSettings
from saestore_schemas.manifest import Manifest
from saestore_schemas.settings import MachineSettings
from saestore_schemas.train import TrainSettings


if TYPE_CHECKING:
    from saestore.activations import ActivationStore
    from saestore.activations.same_tokens import SameTokens
    from saestore.api import pages
    from saestore.dictionaries import SparseDictionary
    from saestore.evaluate import Comparison, Converted, Evaluation
    from saestore.features import Analysis
    from saestore.generate import ModelCheck
    from saestore.lake.parts import State
    from saestore.lm import LanguageModel
    from saestore.report import artefacts


def open_lake(
    path: str | os.PathLike[str] | None = None, *, device: str | None = None
) -> "OpenLake":
    """Return the lake at a folder or fsspec URL; a lake that does not exist yet is empty.

    Args:
        path: Where; absent, `SAESTORE_LAKE`, else `./lake`.
        device: Torch device of the verbs; absent, `SAESTORE_DEVICE`, else the best there is.

    CPU threads come from `SAESTORE_THREADS`.
    """
    machine = MachineSettings()
    return OpenLake(
        Lake.at(machine.lake if path is None else path),
        device=device or machine.device,
        threads=machine.threads,
    )


@dataclass(frozen=True)
class Remark:
    """One artefact in a listing.

    Attributes:
        ref: Kind and name.
        manifest: Its manifest, or None while it is unfinished or where it cannot be read.
        parts: How far the parts of an unfinished one are, if several processes make it.
        damage: Why the manifest cannot be read; empty where it can, or is not written yet.
    """

    ref: Ref
    manifest: Manifest | None
    parts: "tuple[State, ...]" = ()
    damage: str = ""


@dataclass(frozen=True)
class OpenLake(Asking, Between, Exchanging, Indexing, Interpreting, Relatives, Serving):
    """A lake and the device on which its verbs compute.

    Attributes:
        lake: The lake.
        device: Torch device name, or `auto`.
        threads: CPU threads of the verbs; None leaves torch's choice.
    """

    lake: Lake
    device: str = "auto"
    threads: int | None = None

    def generate(
        self,
        settings: "Settings[GenerateSettings]",
        *,
        progress: Progress | None = None,
        model: "LanguageModel | None" = None,
    ) -> "ActivationStore":
        """Text to activations: return the store, made, resumed or found finished.

        Args:
            settings: What to store.
            progress: Where to report.
            model: The model of the settings, if it is loaded already; else it is loaded.

        Raises:
            SaestoreError: Any of the tree; finished parts stay and a rerun resumes.
        """
        from saestore.generate import run

        self._use_threads()
        wanted = config.as_settings(GenerateSettings, settings)
        return run(
            wanted, self.lake, device=self.device, progress=progress or Silent(), model=model
        )

    def generate_part(
        self,
        settings: "Settings[GenerateSettings]",
        shard: str | None = None,
        *,
        progress: Progress | None = None,
    ) -> "list[State]":
        """Text to one part of a store, beside other processes; return how far all parts are.

        None are returned when the store itself is finished. `merge` makes it of its parts.

        Args:
            settings: Those of the whole store.
            shard: Which part, `I/N` with I from 0; absent, torchrun's RANK and WORLD_SIZE, and
                LOCAL_RANK chooses the GPU.
            progress: Where to report.

        Raises:
            SaestoreError: Any of the tree; finished shards stay and a rerun resumes.
        """
        from saestore import generate
        from saestore.generate import launch

        self._use_threads()
        wanted = config.as_settings(GenerateSettings, settings)
        reporter = progress or Silent()
        device = launch.device_for(self.device, os.environ)
        part = launch.part_of(shard, os.environ)
        if shard is None:
            reporter.note(launch.announcement(part, device, "saestore merge NAME"))
        return generate.run_part(wanted, self.lake, part, device=device, progress=reporter)

    def merge(self, name: str, *, progress: Progress | None = None) -> "ActivationStore":
        """Make a store of the parts that several processes generated, and remove the parts.

        Raises:
            IncompleteArtefactError: Parts are missing or not finished; they are named.
            SaestoreError: Any of the tree; finished shards stay and a rerun resumes.
        """
        from saestore.activations.merge import merge

        return merge(self.lake, name.removeprefix("activations/"), progress=progress)

    def shuffle(
        self, store: str, name: str, *, seed: int = 0, progress: Progress | None = None
    ) -> "ActivationStore":
        """Return a scattered copy of a store, made, resumed or found: for training in less memory.

        Args:
            store: The store.
            name: Name of the copy.
            seed: Draws the permutation of each shard.
            progress: Where to report.

        Raises:
            SaestoreError: Any of the tree; finished shards stay and a rerun resumes.
        """
        from saestore.activations.scatter import scatter
        from saestore_schemas.scatter import ScatterSettings

        given = {"store": store.removeprefix("activations/"), "name": name, "seed": seed}
        return scatter(config.as_settings(ScatterSettings, given), self.lake, progress=progress)

    def train(
        self,
        settings: "Settings[TrainSettings]",
        *,
        progress: Progress | None = None,
        time_limit_s: float | None = None,
    ) -> "SparseDictionary":
        """Activations to a dictionary: return it, trained, resumed or found finished.

        Args:
            settings: What to train.
            progress: Where to report.
            time_limit_s: Seconds after which to stop with a checkpoint; absent,
                `SAESTORE_TIME_LIMIT_S`, else never.

        Raises:
            StoppedError: The time is up; a rerun goes on.
            SaestoreError: Any of the tree; checkpoints stay and a rerun resumes.
        """
        from saestore.api import hosts
        from saestore.evaluate import Periodic
        from saestore.train import run

        self._use_threads()
        wanted = config.as_settings(TrainSettings, settings)
        reporter = progress or Silent()
        return run(
            wanted,
            self.lake,
            device=self.device,
            progress=reporter,
            evaluate=Periodic.of(wanted, self.lake, device=self.device),
            calibrate=self._calibrate(reporter),
            host=hosts.finder(self.lake, device=self.device),
            time_limit_s=time_limit_s or MachineSettings().time_limit_s,
        )

    def sweep(
        self,
        settings: "Settings[TrainSettings]",
        *,
        progress: Progress | None = None,
        time_limit_s: float | None = None,
    ) -> "artefacts.SweepPage":
        """Activations to several dictionaries in one pass: return how they came out.

        Args:
            settings: What to train, with a section `sweep`.
            progress: Where to report.
            time_limit_s: As of `train`.

        Raises:
            ConfigError: There is no section `sweep`.
            StoppedError: The time is up; a rerun goes on.
            SaestoreError: Any of the tree; checkpoints stay and a rerun resumes.
        """
        from saestore import train
        from saestore.api import hosts
        from saestore.evaluate import Periodic
        from saestore.report import artefacts

        self._use_threads()
        wanted = config.as_settings(TrainSettings, settings)
        if wanted.sweep is None:
            raise ConfigError(
                field="sweep",
                found=None,
                expected="a section with a name, and a grid or items",
                hint="`train` trains one dictionary",
            )
        reporter = progress or Silent()
        ref = train.sweep(
            wanted,
            self.lake,
            device=self.device,
            progress=reporter,
            callbacks=train.Callbacks(
                evaluate={
                    f"{each.series}/{each.name}": measure
                    for each in wanted.runs()
                    if (measure := Periodic.of(each, self.lake, device=self.device)) is not None
                },
                calibrate=self._calibrate(reporter),
                host=hosts.finder(self.lake, device=self.device),
            ),
            time_limit_s=time_limit_s or MachineSettings().time_limit_s,
        )
        return artefacts.sweep(self.lake, ref)

    def _calibrate(
        self, progress: Progress
    ) -> "Callable[[SparseDictionary, TrainSettings], SparseDictionary]":
        """Return what finds a trained dictionary's threshold of inference, on its rows."""
        from saestore.evaluate import calibrate

        def calibrated(trained: "SparseDictionary", given: TrainSettings) -> "SparseDictionary":
            return calibrate(trained, given.activations, self.lake, progress=progress)

        return calibrated

    def evaluate(
        self, settings: "Settings[EvaluateSettings]", *, progress: Progress | None = None
    ) -> "Evaluation":
        """Return how good a dictionary is, measured or found measured.

        Raises:
            SaestoreError: Any of the tree.
        """
        from saestore.evaluate import run

        self._use_threads()
        wanted = config.as_settings(EvaluateSettings, settings)
        return run(wanted, self.lake, device=self.device, progress=progress or Silent())

    def convert(
        self, settings: "Settings[ConvertSettings]", *, progress: Progress | None = None
    ) -> "Converted":
        """A dictionary to a JumpReLU: return it, made or found made, and how far its codes are the same.

        Raises:
            UnsupportedError: Its firings are not those above a threshold.
            SaestoreError: Any other of the tree.
        """
        from saestore.evaluate import convert

        self._use_threads()
        wanted = config.as_settings(ConvertSettings, settings)
        return convert(wanted, self.lake, device=self.device, progress=progress or Silent())

    def compare(
        self,
        dictionaries: Sequence[str],
        settings: "Settings[EvaluateSettings] | None" = None,
        *,
        progress: Progress | None = None,
    ) -> "Comparison":
        """Return how good several dictionaries are on the same rows and contexts.

        Args:
            dictionaries: Two or more, `series/name` each.
            settings: What to measure, but for the dictionary; absent, the defaults.
            progress: Where to report.

        Raises:
            SaestoreError: Any of the tree; evaluations that were finished stay.
        """
        from saestore.evaluate import compare

        self._use_threads()
        names = [name.removeprefix("dictionaries/") for name in dictionaries]
        given = {"dictionary": names[0]} if settings is None and names else settings or {}
        wanted = config.as_settings(EvaluateSettings, given)
        return compare(names, wanted, self.lake, device=self.device, progress=progress or Silent())

    def analyze(
        self, settings: "Settings[AnalyzeSettings]", *, progress: Progress | None = None
    ) -> "Analysis":
        """A dictionary to feature tables: return the analysis, made or found finished.

        Raises:
            SaestoreError: Any of the tree.
        """
        from saestore.analyze import run

        self._use_threads()
        wanted = config.as_settings(AnalyzeSettings, settings)
        ref = run(wanted, self.lake, device=self.device, progress=progress or Silent())
        return self.analysis(ref.name)

    def analyze_part(
        self,
        settings: "Settings[AnalyzeSettings]",
        shard: str | None = None,
        *,
        progress: Progress | None = None,
    ) -> "list[State]":
        """Encode one part of the rows, beside other processes; return how far all parts are.

        None are returned when the analysis is finished. `analyze` makes it of its parts.

        Args:
            settings: Those of the whole analysis.
            shard: Which part, `I/N` with I from 0; absent, torchrun's RANK and WORLD_SIZE, and
                LOCAL_RANK chooses the GPU.
            progress: Where to report.

        Raises:
            SaestoreError: Any of the tree; what was encoded stays and a rerun resumes.
        """
        from saestore.analyze import run_part
        from saestore.generate import launch

        self._use_threads()
        wanted = config.as_settings(AnalyzeSettings, settings)
        reporter = progress or Silent()
        device = launch.device_for(self.device, os.environ)
        part = launch.part_of(shard, os.environ)
        if shard is None:
            reporter.note(launch.announcement(part, device, "saestore analyze CONFIG.toml"))
        return run_part(wanted, self.lake, part, device=device, progress=reporter)

    def activations(self, name: str) -> "ActivationStore":
        """Return an activation store.

        Raises:
            ArtefactNotFoundError: There is none of that name.
        """
        from saestore.activations import ActivationStore

        return ActivationStore.open(self.lake, name)

    def dictionary(self, name: str) -> "SparseDictionary":
        """Return a trained dictionary, `series/name`.

        Raises:
            ArtefactNotFoundError: There is none of that name.
        """
        from saestore import dictionaries

        return dictionaries.load(self.lake, name)

    def analysis(self, name: str) -> "Analysis":
        """Return an analysis, `series/name` or `series/name/analysis`.

        Raises:
            ArtefactNotFoundError: There is none of that name.
        """
        from saestore.features import Analysis

        return Analysis.open(self.lake, name)

    def ls(self, kind: str | None = None) -> list[Remark]:
        """Return what the lake holds, unfinished runs last within their kind."""
        from saestore.lake import KINDS

        wanted = [k for k in KINDS if kind is None or k == kind]
        return [
            Remark(ref, None, tuple(parts.states(self.lake.artefact(ref))))
            if unfinished
            else self._remark(ref)
            for k in wanted
            for unfinished in (False, True)
            for ref in self.lake.refs(k, unfinished=unfinished)
        ]

    def _remark(self, ref: Ref) -> Remark:
        """Return the remark on what has a manifest: one that is damaged does not hide the others."""
        try:
            return Remark(ref, self.lake.manifest(ref))
        except DamagedArtefactError as error:
            return Remark(ref, None, damage="; ".join(error.damage))
        except FormatVersionError as error:
            return Remark(ref, None, damage=error.message)

    def show(self, name: str) -> "pages.Page":
        """Return what there is to know about an artefact: one page for each kind.

        Raises:
            ArtefactNotFoundError: None or several have that name.
            IncompleteArtefactError: It was started and not finished.
        """
        from saestore.api import pages

        return pages.page(self.lake, name)

    def report(
        self,
        name: str,
        to: str | os.PathLike[str],
        *,
        features: Sequence[int] = (),
        query: str | None = None,
        progress: Progress | None = None,
    ) -> Path:
        """Write a report of a dictionary, a checkpoint of one, a sweep or an analysis; return its file.

        An analysis's report lists its features; with a choice, it lists those and has a section of each.

        Args:
            name: The artefact; with a choice of features, an analysis or a dictionary with only one.
            to: A file that ends in `.html`, or `.png` but for features; one that is there is replaced.
            features: Features that are chosen.
            query: SQL over the analysis, whose column `feature` says which are chosen.
            progress: Where to report.

        Raises:
            ArtefactNotFoundError: None or several have that name.
            IncompleteArtefactError: It was started and not finished.
            UnsupportedError: There is no report of its kind.
            FeatureNotFoundError: The dictionary has no such feature.
            QueryError: The SQL was refused, or names no features.
            MissingExtraError: matplotlib is not installed (extra `report`; features do without).
        """
        from saestore.api import reports

        return reports.write(
            self.lake, name, to, features=features, query=query, progress=progress or Silent()
        )

    def manifest(self, name: str) -> Manifest:
        """Return the manifest of the artefact that a name means.

        Raises:
            ArtefactNotFoundError: None or several have that name.
            IncompleteArtefactError: It was started and not finished.
        """
        return self.lake.manifest(self.lake.find(name))

    def verify(
        self, name: str, *, quick: bool = False, progress: Progress | None = None
    ) -> list[str]:
        """Return one line per damaged, missing or foreign file of an artefact; none when well.

        Args:
            name: The artefact.
            quick: Compare sizes, and of stores the shards' indexes, instead of reading every byte.
            progress: Where to report.

        Raises:
            ArtefactNotFoundError: None or several have that name.
            IncompleteArtefactError: It was started and not finished.
            FormatVersionError: Another major version wrote it.
        """
        ref = self.lake.find(name)
        try:
            manifest = self.lake.manifest(ref)
        except DamagedArtefactError as error:
            return list(error.damage)
        artefact = self.lake.artefact(ref)
        reporter = progress or Silent()
        with reporter.task(f"verify {name}", total=manifest.payload.bytes, unit="B") as task:
            if ref.kind != "activations":
                found = manifests.damage(artefact, manifest, quick=quick, advance=task.advance)
                return [*found, *self._annotation_damage(manifest, quick=quick)]
            from saestore.activations import verify

            return verify.damage(
                self.lake, ref.name, quick=quick, threads=self.threads, advance=task.advance
            )

    def same_tokens(self, names: Sequence[str]) -> "SameTokens":
        """Return which of several activation stores hold the same tokens, and what parts the others.

        Raises:
            ArtefactNotFoundError: There is none of a name.
            DamagedArtefactError: A part that is compared does not match its checksum.
        """
        from saestore.activations.same_tokens import same_tokens

        return same_tokens([self.activations(name) for name in names])

    def against_model(
        self, name: str, contexts: int, *, seed: int = 0, progress: Progress | None = None
    ) -> "ModelCheck":
        """Compute random contexts of a store again with its language model, and compare.

        Args:
            name: The store.
            contexts: How many.
            seed: Which.
            progress: Where to report.

        Raises:
            UnsupportedError: The store does not say which model it is of.
            SaestoreError: Any other of the tree: the model is gone, rows are damaged.
        """
        from saestore.generate import against_model

        self._use_threads()
        return against_model(
            self.activations(name),
            contexts,
            seed=seed,
            device=self.device,
            progress=progress,
        )
