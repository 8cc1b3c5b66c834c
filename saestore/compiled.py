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
import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, Generic, ParamSpec, TypeVar

import crc32c
import numpy as np
from jaxtyping import Shaped, UInt32


P = ParamSpec("P")
R = TypeVar("R")

STREAMED = 32
"""Bytes that `stream_copy` moves at once: its addresses and lengths are multiples of it."""
_STRETCHES = 8192, 256
"""Bytes of a crc32c that `crc32c_of` computes three at a time: an instruction takes three cycles, and
one can begin in each."""
_COMPILING = threading.Lock()


class Compiled(Generic[P, R]):
    """A function that is compiled when it is first called."""

    def __init__(self, function: Callable[P, R]) -> None:
        functools.update_wrapper(self, function)
        self._function = inspect.unwrap(function)  # a type checker's wrapper has no machine code
        self._machine: Callable[P, R] | None = None

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call it."""
        return (self._machine or self._compiled())(*args, **kwargs)

    @property
    def _numba_type_(self) -> Any:
        """How numba sees it where another compiled function calls it."""
        return self._compiled()._numba_type_  # type: ignore[attr-defined] # numba's

    def _compiled(self) -> Callable[P, R]:
        with _COMPILING:
            self._machine = self._machine or _compile(self._function)
        return self._machine


def compiled(function: Callable[P, R]) -> Compiled[P, R]:
    """Mark a function over numpy arrays and numbers to be compiled.

    What it calls must be known to numba: numpy, arithmetic, the functions of this module, and compiled
    functions of the same file, which numba looks at to know whether the code it kept is still good.
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


def prefetch(array: Shaped[np.ndarray, " _"], index: int) -> None:
    """Ask for the part of an array around an index, which will be looked at soon, inside a compiled function.

    Memory takes as long as a hundred steps of a loop; what was asked for meanwhile is there. An index that
    the array does not have does no harm.

    Raises:
        TypeError: It was called by the interpreter.
    """
    del array, index
    raise TypeError("prefetch exists inside compiled functions only")


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


def read_at(descriptor: int, buffers: int, count: int, offset: int) -> int:
    """Read bytes of a file from an offset on, inside a compiled function; see `reads_files`.

    Args:
        descriptor: The open file.
        buffers: Address of pairs of 64-bit numbers: where bytes go, and how many.
        count: How many pairs.
        offset: Where in the file they begin.

    Returns:
        How many bytes there were, or a negative number.

    Raises:
        TypeError: It was called by the interpreter.
    """
    del descriptor, buffers, count, offset
    raise TypeError("read_at exists inside compiled functions only")


def crc32c_of(address: int, length: int, shifts: UInt32[np.ndarray, "_ _ _"]) -> np.uint32:
    """Return the crc32c of bytes, inside a compiled function; see `reads_files`.

    Args:
        address: Where they begin.
        length: How many.
        shifts: `crc32c_shifts()`.

    Raises:
        TypeError: It was called by the interpreter.
    """
    del address, length, shifts
    raise TypeError("crc32c_of exists inside compiled functions only")


def crc32c_step(register: np.uint64, address: int) -> np.uint64:
    """Return the register of a crc32c after 8 more bytes, inside a compiled function.

    Raises:
        TypeError: It was called by the interpreter.
    """
    del register, address
    raise TypeError("crc32c_step exists inside compiled functions only")


def crc32c_join(
    register: np.uint64, following: np.uint64, shift: UInt32[np.ndarray, "_ _"]
) -> np.uint64:
    """Join two registers of a crc32c, inside a compiled function: the second began at 0.

    Args:
        register: The one before them.
        following: Theirs.
        shift: `crc32c_shift` of their length.

    Raises:
        TypeError: It was called by the interpreter.
    """
    del register, following, shift
    raise TypeError("crc32c_join exists inside compiled functions only")


@functools.cache
def crc32c_shifts() -> UInt32[np.ndarray, "_ _ _"]:
    """Return what `crc32c_of` joins the parts of a checksum with: the shift of each stretch."""
    return np.stack([crc32c_shift(stretch) for stretch in _STRETCHES])


@functools.cache
def crc32c_shift(length: int) -> UInt32[np.ndarray, "_ _"]:
    """Return what becomes of a crc32c's register when so many zero bytes follow.

    It is linear in its bits, so four tables, one a byte, whose entries are combined by xor.
    """
    tables = np.zeros((4, 256), np.uint32)
    ones = 0xFFFFFFFF  # a crc32c begins and ends with the register inverted
    bits = [crc32c.crc32c(bytes(length), (1 << bit) ^ ones) ^ ones for bit in range(32)]
    for byte in range(4):
        for bit in range(8):
            having = np.arange(256) >> bit & 1 == 1
            tables[byte, having] ^= np.uint32(bits[8 * byte + bit])
    return tables


@functools.cache
def reads_files() -> bool:
    """Return whether compiled functions can read and check files: on Linux with x86 from 2008 on."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return False
    from llvmlite import binding  # noqa: PLC0415 - as below

    return bool(binding.get_host_cpu_features().get("sse4.2", False))


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
    _teach_prefetching()
    _teach_float16()
    _teach_reading()
    _teach_crc32c()


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


def _teach_prefetching() -> None:
    from llvmlite import ir  # noqa: PLC0415 - as above
    from numba.core import cgutils, types  # noqa: PLC0415 - as above
    from numba.extending import intrinsic, overload  # noqa: PLC0415 - as above

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        kind = signature.args[0]
        array = context.make_array(kind)(context, builder, values[0])
        place = cgutils.get_item_pointer(  # type: ignore[no-untyped-call] # numba's
            context, builder, kind, array, [values[1]], wraparound=False
        )
        address, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        function = ir.FunctionType(ir.VoidType(), [address, number, number, number])
        asked = builder.module.declare_intrinsic("llvm.prefetch", [address], function)
        reading, all_caches, data = number(0), number(3), number(1)
        builder.call(asked, [builder.bitcast(place, address), reading, all_caches, data])
        return context.get_dummy_value()

    @intrinsic
    def ask(_: object, array: Any, index: object) -> tuple[Any, Any]:
        del index
        return types.void(array, types.intp), emit

    @overload(prefetch)
    def ask_for(array: Any, index: Any) -> Any:  # noqa: ARG001 - as above
        def run(array: Any, index: Any) -> None:
            ask(array, index)  # type: ignore[call-arg] # as above

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


def _teach_reading() -> None:
    from numba.core import types  # noqa: PLC0415 - as above
    from numba.extending import overload  # noqa: PLC0415 - as above

    plain = types.intp(types.intc, types.intp, types.intc, types.int64)
    preadv = types.ExternalFunction("preadv", plain)

    @overload(read_at)
    def read(descriptor: Any, buffers: Any, count: Any, offset: Any) -> Any:  # noqa: ARG001 - as above
        def run(descriptor: Any, buffers: Any, count: Any, offset: Any) -> Any:
            return preadv(descriptor, buffers, count, offset)

        return inspect.unwrap(run)


def _teach_crc32c() -> None:
    from numba.core import types  # noqa: PLC0415 - as above
    from numba.extending import intrinsic, overload  # noqa: PLC0415 - as above

    @intrinsic
    def step(_: object, crc: object, address: object) -> tuple[Any, Any]:
        del crc, address
        return types.uint64(types.uint64, types.intp), partial(_emit_crc32c, "64.64", 64)

    @intrinsic
    def short_step(_: object, crc: object, address: object) -> tuple[Any, Any]:
        del crc, address
        return types.uint64(types.uint64, types.intp), partial(_emit_crc32c, "32.8", 8)

    @overload(crc32c_step)
    def next_word(register: Any, address: Any) -> Any:  # noqa: ARG001 - as above
        def run(register: Any, address: Any) -> Any:
            return step(register, address)  # type: ignore[call-arg] # as above

        return inspect.unwrap(run)

    @overload(crc32c_join)
    def join(register: Any, following: Any, shift: Any) -> Any:  # noqa: ARG001 - as above
        def run(register: Any, following: Any, shift: Any) -> Any:
            low = shift[0, register & 255] ^ shift[1, register >> 8 & 255]
            high = shift[2, register >> 16 & 255] ^ shift[3, register >> 24 & 255]
            return np.uint64(low ^ high) ^ following

        return inspect.unwrap(run)

    overload(crc32c_of)(_crc32c_by(step, short_step))


def _crc32c_by(step: Any, short_step: Any) -> Callable[..., Any]:
    """Return what makes `crc32c_of` of two instructions, for the next word and the next byte."""
    stretches = _STRETCHES

    def crc(address: Any, length: Any, shifts: Any) -> Any:  # noqa: ARG001 - as above
        def run(address: Any, length: Any, shifts: Any) -> Any:
            found = np.uint64(0xFFFFFFFF)
            at, end = address, address + length
            for which in range(len(stretches)):
                size, table = stretches[which], shifts[which]
                while end - at >= 3 * size:
                    parts = np.uint64(0), np.uint64(0)
                    for place in range(at, at + size, 8):
                        found = step(found, place)
                        parts = (
                            step(parts[0], place + size),
                            step(parts[1], place + 2 * size),
                        )
                    for part in parts:
                        found = crc32c_join(found, part, table)
                    at += 3 * size
            while at < end - 7:
                found = step(found, at)
                at += 8
            while at < end:
                found = short_step(found, at)
                at += 1
            return np.uint32(found ^ np.uint64(0xFFFFFFFF))

        return inspect.unwrap(run)

    return crc


def _emit_crc32c(kind: str, bits: int, _: object, builder: Any, __: object, values: Any) -> Any:
    """Emit the processor's instruction for the next bytes of a crc32c."""
    from llvmlite import ir  # noqa: PLC0415 - as above

    name = f"llvm.x86.sse42.crc32.{kind}"
    register, data = ir.IntType(max(bits, 32)), ir.IntType(bits)
    called = builder.module.globals.get(name)
    if called is None:
        function = ir.FunctionType(register, [register, data])
        called = ir.Function(builder.module, function, name)
    word = builder.load(builder.inttoptr(values[1], data.as_pointer()), align=1)
    whole = values[0].type
    if register == whole:
        return builder.call(called, [values[0], word])
    return builder.zext(builder.call(called, [builder.trunc(values[0], register), word]), whole)
