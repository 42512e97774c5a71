"""Root without its power to read and write what file permissions forbid, which no other user has anyway."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_VERSION_3 = 0x20080522  # linux/capability.h
_DAC_OVERRIDE, _DAC_READ_SEARCH = 1 << 1, 1 << 2
_GET_SECUREBITS, _SET_SECUREBITS = 27, 28  # linux/prctl.h
_NO_SETUID_FIXUP = 1 << 2  # linux/securebits.h


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


@contextmanager
def humble() -> Iterator[None]:
    """This thread, and those that it starts meanwhile, obey permissions; a program that it starts has the power again.

    Linux keeps such powers for each thread, and one that is permitted may be taken up again. Without the bit, `access`
    would answer as if it had been.
    """
    if os.geteuid() != 0:
        yield
        return
    libc, header, sets = ctypes.CDLL(None, use_errno=True), _Header(_VERSION_3, 0), (_Sets * 2)()
    _done(libc.capget(ctypes.byref(header), sets))
    before, bits = sets[0].effective, _done(libc.prctl(_GET_SECUREBITS))
    _done(libc.prctl(_SET_SECUREBITS, bits | _NO_SETUID_FIXUP))
    sets[0].effective = before & ~(_DAC_OVERRIDE | _DAC_READ_SEARCH)
    _done(libc.capset(ctypes.byref(header), sets))
    try:
        yield
    finally:
        sets[0].effective = before
        _done(libc.capset(ctypes.byref(header), sets))
        _done(libc.prctl(_SET_SECUREBITS, bits))


def _done(answer: Any) -> int:
    if answer < 0:
        raise OSError(ctypes.get_errno(), "the powers of this thread cannot be changed")
    return int(answer)
