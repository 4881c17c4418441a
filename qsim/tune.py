"""Opt-in settings that make XLA faster on a CPU. Never applied at import."""

from __future__ import annotations

import ctypes
import logging
import os
import sys

log = logging.getLogger("qsim")

# glibc's mallopt parameters (malloc.h): keep big temporaries in one arena instead of mapping and faulting them in anew each time.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX, M_ARENA_MAX = -1, -2, -4, -8


def tune_cpu(*, threads: int | None = None, devices: int | None = None, cache: str | None = None, onednn: bool = False) -> None:
    """Tune this process for XLA on a CPU: allocator, vector width, threads, persistent compile cache.

    Call it before jax first computes; what comes too late is skipped with a log line. threads: size of XLA's thread pool (NPROC).
    devices: host devices to split a batch over. cache: directory of compiled programs, kept between runs. onednn: convolutions and
    products by the oneDNN library inside XLA, where that was measured to work (`qsim.onednn`); not together with `cache`.
    The allocator part needs glibc and is skipped elsewhere. No integer changes; float results may in their last bits.
    Raises: ValueError for `onednn` with `cache`.
    """
    if onednn and cache:
        raise ValueError("tune_cpu: programs with oneDNN calls cannot be kept in a cache; give onednn or cache, not both")
    _tune_malloc()
    if _backend_started():
        log.warning("tune_cpu: jax has started; vector width, threads and devices stay as they are")
    else:
        # inner loops over 16 or 32 channels are unrolled before they are vectorized, and then become gathers
        flags = ["--xla_cpu_prefer_vector_width=512", "--xla_backend_extra_options=xla_cpu_disable_loop_unrolling"]
        if devices:
            flags.append(f"--xla_force_host_platform_device_count={devices}")
        os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *flags]).strip()
        if threads:
            os.environ["NPROC"] = str(threads)
    if cache:
        import jax

        jax.config.update("jax_compilation_cache_dir", cache)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    if onednn:
        from .onednn import enable

        enable()


def _tune_malloc() -> None:
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    for parameter, value in ((M_ARENA_MAX, 1), (M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, 64 << 20)):
        mallopt(parameter, value)


def _backend_started() -> bool:
    if "jax" not in sys.modules:
        return False
    from jax._src import xla_bridge

    return bool(xla_bridge.backends_are_initialized())
