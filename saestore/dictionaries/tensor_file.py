"""safetensors files with deterministic bytes.

The format is eight bytes of header length, a JSON header, the tensors' bytes. The `safetensors`
package reads what is written here, but its own writer puts metadata in hash order, so that the same
weights could give different files; this one sorts everything.
"""

import json
import struct
from collections.abc import Mapping

import safetensors
import safetensors.torch
import torch
from torch import Tensor


_NAMES = {
    torch.float64: "F64",
    torch.int64: "I64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_LENGTH = struct.Struct("<Q")


def dump(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """Return the file's bytes; see `parts`."""
    return b"".join(parts(tensors, metadata))


def parts(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> list[bytes | memoryview]:
    """Return the file's bytes, the same for the same tensors and metadata, in parts to be joined.

    Those of a tensor on the CPU are where it lies: a large state is written without a copy.

    Args:
        tensors: Tensors of float64, int64, float32, int32, bfloat16, float16, uint8 or bool, on any device.
        metadata: Strings for the header.
    """
    # Wide types first keeps every tensor aligned; that is the safetensors package's order too.
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))}
    data: list[bytes | memoryview] = []
    start = 0
    for name in order:
        tensor = tensors[name].detach().cpu().contiguous()
        each = tensor.reshape(-1).view(torch.uint8).numpy().data
        header[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, start + len(each)],
        }
        data.append(each)
        start += len(each)
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return [_LENGTH.pack(len(text)), text, *data]


def parse(data: bytes) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the metadata of a safetensors file.

    Raises:
        ValueError: It is truncated or not a safetensors file.
    """
    try:
        tensors = safetensors.torch.load(data)
    except safetensors.SafetensorError as error:
        msg = f"not a whole safetensors file ({error})"
        raise ValueError(msg) from error
    (length,) = _LENGTH.unpack_from(data)
    header = json.loads(data[_LENGTH.size : _LENGTH.size + length])
    return tensors, header.get("__metadata__", {})
