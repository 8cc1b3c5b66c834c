"""The one base of everything that is written to disk, read from a file or sent over a wire.

It leaves pydantic's defaults in five places. Models are frozen, because a setting that changes
after it was fingerprinted lies about the run. Unknown keys are refused, because a typo must not
succeed. Defaults are validated, because they are documentation too. Infinity and NaN are refused:
JSON has neither, so they could not be written down. And a field without a docstring is refused
when its class is defined: the docstring becomes the JSON Schema description, the command-line help
and the reference page.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict
from typing_extensions import override


class Model(BaseModel):
    """A frozen, closed, documented record."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        validate_default=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        ser_json_inf_nan="null",
    )

    @classmethod
    @override
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Refuse a class with an undocumented field.

        Raises:
            TypeError: A field has no docstring.
        """
        super().__pydantic_init_subclass__(**kwargs)
        bare = [name for name, field in cls.model_fields.items() if not field.description]
        if bare:
            msg = f"{cls.__name__}: every field needs a docstring; missing on {', '.join(bare)}"
            raise TypeError(msg)
