"""Loops in Python that run as machine code, for what no library does near the speed of memory.

`compiled` marks a function; numba compiles it when it is first called, with the processor's own
instructions, and keeps the code on disk for later processes. A compiled loop holds no lock of the
interpreter, so threads run it side by side. Arithmetic stays as written: nothing is reassociated
or fused, so results do not depend on the processor.

Importing this module is cheap; numba is loaded with the first call.
"""

import functools
import inspect
import platform
import threading
from collections.abc import Callable
from typing import Any, Generic, ParamSpec, TypeVar

import numpy as np


P = ParamSpec("P")
R = TypeVar("R")

STREAMED = 32
"""Bytes that `stream_copy` moves at once: its addresses and lengths are multiples of it."""
_COMPILING = threading.Lock()


class Compiled(Generic[P, R]):
    """A function that is compiled when it is first called."""

    def __init__(self, function: Callable[P, R]) -> None:
        functools.update_wrapper(self, function)
        self._function = inspect.unwrap(function)  # a type checker's wrapper has no machine code
        self._machine: Callable[P, R] | None = None

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call it."""
        machine = self._machine
        if machine is None:
            with _COMPILING:
                machine = self._machine = self._machine or _compile(self._function)
        return machine(*args, **kwargs)


def compiled(function: Callable[P, R]) -> Compiled[P, R]:
    """Mark a function over numpy arrays and numbers to be compiled.

    What it calls must be known to numba: numpy, arithmetic, and the functions of this module.
    """
    return Compiled(function)


def stream_copy(target: int, source: int, length: int) -> None:
    """Copy bytes past the caches, inside a compiled function.

    An ordinary copy first fetches the memory it will overwrite; one that will not be looked at soon
    is three times as fast without. Others may see the bytes after `stream_end`.

    Args:
        target: Address, a multiple of `STREAMED`.
        source: Address.
        length: Bytes, a multiple of `STREAMED`.

    Raises:
        TypeError: It was called by the interpreter.
    """
    del target, source, length
    raise TypeError("stream_copy exists inside compiled functions only")


def stream_end() -> None:
    """Wait for what `stream_copy` has under way, inside a compiled function.

    Raises:
        TypeError: It was called by the interpreter.
    """
    raise TypeError("stream_end exists inside compiled functions only")


def float16_bits(value: np.float32) -> np.uint16:
    """Return a float32 as the bits of a float16, rounded to nearest even, inside a compiled function.

    What is too large becomes infinity. The processor must know how: see `knows_float16`.

    Raises:
        TypeError: It was called by the interpreter.
    """
    del value
    raise TypeError("float16_bits exists inside compiled functions only")


def float32_of(bits: np.uint16) -> np.float32:
    """Return what the bits of a float16 stand for, inside a compiled function; see `float16_bits`.

    Raises:
        TypeError: It was called by the interpreter.
    """
    del bits
    raise TypeError("float32_of exists inside compiled functions only")


@functools.cache
def knows_float16() -> bool:
    """Return whether the processor converts float16 by itself: all do but x86 from before 2012."""
    if platform.machine().lower() in {"arm64", "aarch64"}:
        return True
    from llvmlite import binding  # noqa: PLC0415 - as below

    return bool(binding.get_host_cpu_features().get("f16c", False))


def _compile(function: Callable[..., Any]) -> Callable[..., Any]:
    import numba  # noqa: PLC0415 - half a second, for programs that get here

    _extend()
    try:
        machine: Callable[..., Any] = numba.njit(nogil=True, cache=True)(function)
    except (
        RuntimeError
    ):  # no folder for the code: neither beside the source nor in the user's cache
        machine = numba.njit(nogil=True)(function)
    return machine


@functools.cache
def _extend() -> None:
    """Teach numba this module's functions."""
    _teach_copying()
    _teach_float16()


def _teach_copying() -> None:
    from llvmlite import ir  # noqa: PLC0415 - as above
    from numba.core import types  # noqa: PLC0415 - as above
    from numba.extending import intrinsic, overload  # noqa: PLC0415 - as above

    def emit(_: object, builder: Any, __: object, addresses: Any) -> None:
        vector = ir.VectorType(ir.IntType(64), STREAMED // 8)
        target, source = (builder.inttoptr(each, vector.as_pointer()) for each in addresses)
        stored = builder.store(builder.load(source, align=1), target, align=STREAMED)
        mark = builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)])
        stored.set_metadata("nontemporal", mark)

    def emit_fence(_: object, builder: Any, __: object, ___: object) -> None:
        builder.fence("seq_cst")

    @intrinsic
    def stream(_: object, target: object, source: object) -> tuple[Any, Any]:
        del target, source
        return types.void(types.intp, types.intp), emit

    @intrinsic
    def fence(_: object) -> tuple[Any, Any]:
        return types.void(), emit_fence

    @overload(stream_copy)
    def copy(target: Any, source: Any, length: Any) -> Any:  # noqa: ARG001 - numba matches names
        def run(target: Any, source: Any, length: Any) -> None:
            for at in range(0, length, STREAMED):
                stream(target + at, source + at)  # type: ignore[call-arg] # numba gives the first

        return inspect.unwrap(run)

    @overload(stream_end)
    def end() -> Any:
        def run() -> None:
            fence()  # type: ignore[call-arg] # as above

        return inspect.unwrap(run)


def _teach_float16() -> None:
    from llvmlite import ir  # noqa: PLC0415 - as above
    from numba.core import types  # noqa: PLC0415 - as above
    from numba.extending import intrinsic, overload  # noqa: PLC0415 - as above

    def emit_bits(_: object, builder: Any, __: object, values: Any) -> Any:
        return builder.bitcast(builder.fptrunc(values[0], ir.HalfType()), ir.IntType(16))

    def emit_value(_: object, builder: Any, __: object, values: Any) -> Any:
        return builder.fpext(builder.bitcast(values[0], ir.HalfType()), ir.FloatType())

    @intrinsic
    def to_bits(_: object, value: object) -> tuple[Any, Any]:
        del value
        return types.uint16(types.float32), emit_bits

    @intrinsic
    def of_bits(_: object, bits: object) -> tuple[Any, Any]:
        del bits
        return types.float32(types.uint16), emit_value

    @overload(float16_bits)
    def narrow(value: Any) -> Any:  # noqa: ARG001 - as above
        def run(value: Any) -> Any:
            return to_bits(value)  # type: ignore[call-arg] # as above

        return inspect.unwrap(run)

    @overload(float32_of)
    def widen(bits: Any) -> Any:  # noqa: ARG001 - as above
        def run(bits: Any) -> Any:
            return of_bits(bits)  # type: ignore[call-arg] # as above

        return inspect.unwrap(run)
