"""Writing a model: `Model` -> records -> bytes -> file.

Two ways. *rebuild* starts from the records the model was read from, lays over them what changed, and writes a new flatbuffer: nothing
the format holds is lost (sparsity, metadata, min/max, custom options, signatures, shared buffers). *patch* keeps the file's bytes
and changes numbers inside existing vectors only.
"""

from __future__ import annotations

import os
from pathlib import Path

from . import check, flat
from .errors import Invalid, NewerSchema, Unsupported, WriteFailed
from .files import can_write_beside, replace_file
from .graph import Model
from .patch import patch
from .rebuild import rebuild

HOW = ("auto", "patch", "rebuild")


def to_bytes(model: Model, how: str = "auto") -> bytes:
    """The bytes of a .tflite of this model. `how`: "patch", "rebuild", or "auto": patch where that suffices.

    *Raises*: Invalid for a model that no runtime could give a meaning; NewerSchema where a rebuild would lose newer fields;
    Unsupported where "patch" does not suffice.
    """
    return _encode(model, how)[0]


def save(model: Model, path: str | os.PathLike[str], *, how: str = "auto", force: bool = False, in_place: bool = False) -> str:
    """Writes the model to `path`, whole or not at all; returns "patch" or "rebuild".

    An existing file is replaced only with `force`, the file the model was read from only with `in_place`.
    *Raises*: WriteFailed before any work where the target cannot be; Invalid also for rules (see `check`) that the model breaks
    and did not break when it was loaded; otherwise as `to_bytes`.
    """
    target = Path(path)
    may_write(target, model.path, force=force, in_place=in_place)
    _refuse_simulated(model)
    new = [p for p in check.check(model) if p not in model.notes]
    if new:
        raise Invalid("; ".join(new[:3]) + (f" (and {len(new) - 3} more)" if len(new) > 3 else ""), where=str(target))
    data, used = _encode(model, how)
    replace_file(target, data)
    return used


def may_write(path: str | os.PathLike[str], source: str, *, force: bool = False, in_place: bool = False) -> None:
    """*Raises*: WriteFailed if `path` must not or cannot be written; to be called before any compute. `source`: the input's path."""
    target, where = Path(path), str(path)
    try:
        os.lstat(target)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError) as e:  # a name that is too long, say
        raise WriteFailed(f"cannot be written: {getattr(e, 'strerror', None) or e}", where=where) from e
    if target.is_dir():
        raise WriteFailed("is a directory", where=where)
    if not target.parent.is_dir():
        raise WriteFailed("the directory does not exist", where=where)
    if source and target.exists() and os.path.exists(source) and os.path.samefile(target, source):
        if not in_place:
            raise WriteFailed("is the file the model was read from", where=where, hint="Write elsewhere, or ask for it with --in-place")
    elif target.exists() and not force:
        raise WriteFailed("exists already", where=where, hint="Use --force to replace it")
    can_write_beside(target)


def _encode(model: Model, how: str) -> tuple[bytes, str]:
    if how not in HOW:
        raise ValueError(f"how must be one of {', '.join(HOW)}, not {how!r}")
    _refuse_simulated(model)
    check.reject(model)
    if how != "rebuild":
        data = patch(model)
        if data is not None:
            return data, "patch"
        if how == "patch":
            raise Unsupported("more than numbers of existing vectors changed, a patch cannot hold that", hint='Use how="rebuild"')
    unknown = model.source.unknown if model.source is not None else ()
    if unknown:
        raise NewerSchema("rewriting would lose fields this version does not know", where=model.path, found=", ".join(unknown))
    return flat.write(rebuild(model)), "rebuild"


def _refuse_simulated(model: Model) -> None:
    """*Raises*: Unsupported for a model of a scheme that only fake mode knows."""
    name = getattr(model.report, "scheme", "codes of fewer bits than their type")
    if name.startswith("sim:") or any(t.is_simulated for g in model.graphs for t in g.tensors):
        raise Unsupported("a simulated model cannot be written: no runtime has such kernels", where=model.path, found=name)
