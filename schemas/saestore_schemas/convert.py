"""Settings of `saestore convert`: the same dictionary with another activation function or gating."""

from pydantic import Field

from saestore_schemas.base import Model
from saestore_schemas.gating import Gating
from saestore_schemas.names import ArtefactName, DictionaryName
from saestore_schemas.train import ActivationsSettings


class ConvertSettings(Model):
    """One conversion, to a JumpReLU or to another gating: of which dictionary, on which rows."""

    series: ArtefactName
    """Group of dictionaries the result belongs to."""
    name: ArtefactName
    """Name within the series."""
    dictionary: DictionaryName
    """What is converted, `series/name`."""
    gating: Gating | None = None
    """How the heads of a crosscoder shall gate, with the same codes; its activation function stays what it
    is. Absent, it becomes a JumpReLU."""
    activations: ActivationsSettings | None = None
    """Rows on which thresholds are found and codes compared; absent, those that trained it."""
    rows: int = Field(default=1 << 18, ge=1)
    """Rows of calibration, at most, where thresholds are found."""
