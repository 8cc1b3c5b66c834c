"""Which torch device a name means, the same for every verb."""

import torch

from saestore.errors import ConfigError


def resolve(name: str) -> torch.device:
    """Return the device; `auto` is CUDA where there is one, else the CPU.

    Args:
        name: `auto`, or what torch understands, such as `cpu`, `cuda:1` or `mps`.

    Raises:
        ConfigError: Torch does not know it, or it is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            field="device",
            found=name,
            expected="a device of this machine",
            hint=f"'auto' takes what is there ({str(error).splitlines()[0]})",
        ) from error
    return torch.device(name)
