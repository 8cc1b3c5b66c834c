"""What features stand for, going by a language model: runs of `interpret`, what they would take, side by side."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from saestore.api import config
from saestore.api.exchanging import Settings
from saestore.lake import Lake
from saestore.progress import Progress, Silent
from saestore_schemas.interpret import InterpretSettings


if TYPE_CHECKING:
    from saestore.interpret import Compared, Estimate, Interpretation


class Interpreting:
    """Interpretations of a lake's features.

    Attributes:
        lake: The lake.
    """

    lake: Lake

    def interpret(
        self,
        settings: "Settings[InterpretSettings]",
        *,
        replay: str | None = None,
        cassettes: Sequence[str] = (),
        overwrite: bool = False,
        progress: Progress | None = None,
    ) -> "Interpretation":
        """Explain features and score the explanations: return the run, made, resumed or found finished.

        Args:
            settings: Which features, who is asked, how.
            replay: A run's cassette, or its folder, that alone answers: nobody is asked, no key is needed.
            cassettes: Others that answer before the endpoint is asked.
            overwrite: Replace a run of that name with other settings; its answers are kept and used again.
            progress: Where to report.

        Raises:
            SaestoreError: Any of the tree; what was answered stays and a rerun goes on from there.
        """
        from saestore import interpret

        return interpret.run(
            config.as_settings(InterpretSettings, settings),
            self.lake,
            progress=progress or Silent(),
            replay=replay,
            cassettes=cassettes,
            overwrite=overwrite,
        )

    def estimate_interpretation(
        self, settings: "Settings[InterpretSettings]", *, progress: Progress | None = None
    ) -> "Estimate":
        """Return what a run would ask and take; nobody is asked.

        Args:
            settings: Those of the run.
            progress: Where to report.

        Raises:
            SaestoreError: As `interpret`, but for endpoint and budget.
        """
        from saestore import interpret

        wanted = config.as_settings(InterpretSettings, settings)
        return interpret.estimate(wanted, self.lake, progress=progress or Silent())

    def compare_interpretations(self, names: Sequence[str]) -> "Compared":
        """Return finished runs side by side: scores, differences on the same features, tokens, cost.

        Args:
            names: Runs, `series/name/analysis/run`; or analyses, which stand for all their runs.

        Raises:
            ArtefactNotFoundError: There is no such run, or an analysis has none.
            DamagedArtefactError: A table does not match its manifest.
        """
        from saestore import interpret

        return interpret.compare(self.lake, names)
