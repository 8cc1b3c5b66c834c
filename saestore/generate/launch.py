"""Processes that were started together: which part each one makes, on which device."""

from collections.abc import Mapping

import torch

from saestore.errors import ConfigError
from saestore.lake.parts import Part


def part_of(shard: str | None, environment: Mapping[str, str]) -> Part:
    """Return the part that `I/N` means, or torchrun's environment.

    Raises:
        ConfigError: It is malformed, or nothing says which part.
    """
    part = Part.parse(shard) if shard is not None else Part.of_environment(environment)
    if part is None:
        raise ConfigError(
            field="--shard",
            problem="nothing says which part this process makes",
            expected="I/N, or RANK and WORLD_SIZE in the environment, as torchrun sets them",
            hint="start one process for each part: --shard 0/2 and --shard 1/2",
        )
    return part


def device_for(device: str, environment: Mapping[str, str]) -> str:
    """Return the device of one process of several: on a machine with GPUs, one of its own.

    Args:
        device: `auto`, `cuda`, or a device that was named exactly and stays.
        environment: `LOCAL_RANK` says which process of this machine it is, as torchrun sets it.
    """
    local = environment.get("LOCAL_RANK", "")
    if device not in {"auto", "cuda"} or not local.isdigit() or not torch.cuda.is_available():
        return device
    return f"cuda:{int(local) % torch.cuda.device_count()}"


def announcement(part: Part, device: str, then: str) -> str:
    """Return what a process says that takes its part from torchrun's environment.

    Args:
        part: Which.
        device: Where it computes.
        then: The command that makes the artefact of all parts.
    """
    return f"part {part}, as RANK and WORLD_SIZE say, on {device}; when all are finished: {then}"
