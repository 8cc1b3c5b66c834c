"""Between dictionaries and between analyses: what matches, what changed."""

from typing import TYPE_CHECKING

from saestore.api.machine import OnMachine
from saestore.lake import Lake
from saestore.progress import Progress, Silent


if TYPE_CHECKING:
    from saestore.analyze.between import Difference, Match


class Between(OnMachine):
    """Comparisons inside a lake.

    Attributes:
        lake: The lake.
    """

    lake: Lake

    def match(
        self,
        one: str,
        other: str,
        *,
        rows: int | None = 1_000_000,
        draws: int = 3,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> "Match":
        """Return which features of one dictionary are which of another; its `table` has a line of each.

        By cosine of decoder vectors; and, where both were analysed on one store, by correlation of values
        and of firing over the rows they share.

        Args:
            one: A dictionary, `series/name`, or an analysis of one, `series/name/analysis`.
            other: Another.
            rows: Shared rows to count, about, as whole contexts drawn at random; None, all. Memory is about
                50 bytes a firing on them.
            draws: Permutations that say how well features match by chance; 0, none.
            seed: Seed of the permutations.
            progress: Where to report.

        Raises:
            ArtefactNotFoundError: There is no such dictionary or analysis, or several analyses of one.
            UnsupportedError: They can be compared neither by weights nor by activations.
        """
        from saestore.analyze import between

        self._use_threads()
        return between.match(
            one,
            other,
            self.lake,
            rows=rows,
            draws=draws,
            seed=seed,
            device=self.device,
            progress=progress or Silent(),
        )

    def diff(self, one: str, other: str) -> "Difference":
        """Return what each feature of a dictionary does in two analyses; its `table` has a line of each.

        Args:
            one: An analysis, `series/name/analysis`.
            other: Another one of the same dictionary.

        Raises:
            ArtefactNotFoundError: There is no such analysis.
            UnsupportedError: They are of different dictionaries.
        """
        from saestore.analyze import between

        return between.diff(one, other, self.lake)
