"""Who was made from whom in a lake, and removing what nothing was made from."""

from saestore.api.annotating import Annotating
from saestore.errors import UnsupportedError
from saestore.lake import Lake, Ref, layout, lineage
from saestore.lake.lock import writing


class Relatives(Annotating):
    """Lineage.

    Attributes:
        lake: The lake.
    """

    lake: Lake

    def lineage(self, name: str) -> lineage.Node:
        """Return an artefact with everything it was made from.

        Raises:
            ArtefactNotFoundError: None or several have that name.
        """
        return lineage.ancestors(self.lake, self.lake.find(name))

    def children(self, name: str) -> list[Ref]:
        """Return the artefacts made from this one."""
        return lineage.children(self.lake, self.lake.find(name))

    def remove(self, name: str, *, with_annotations: bool = False) -> Ref:
        """Remove an artefact and everything in it.

        Args:
            name: The artefact.
            with_annotations: Remove what people say about an analysis's features too.

        Raises:
            UnsupportedError: Other artefacts were made from it, or lie in its folder, and are named; or
                people say something about its features.
            ArtefactBusyError: A living process is writing it.
        """
        ref = self.lake.find(name)
        kept = list(
            dict.fromkeys([*lineage.children(self.lake, ref), *lineage.inside(self.lake, ref)])
        )
        if kept:
            raise UnsupportedError(
                f"{ref.name!r} has children: {', '.join(child.path for child in kept)}",
                found=f"{len(kept)} children",
                expected="none",
                hint="remove them first; what they were made from must stay while they exist",
            )
        if not with_annotations:
            self._refuse_said(ref)
        artefact = self.lake.artefact(ref)
        with writing(artefact, name=ref.name):
            artefact.remove(layout.MANIFEST)  # first, so that nobody takes the rest for it
            artefact.remove()
        return ref
