"""The one family of errors that users meet. Each names the place, what was found, what was expected, and the way out."""

from __future__ import annotations


class QsimError(Exception):
    """`QsimError(message, where=..., found=..., expected=..., hint=...)`: printed as one sentence and, if given, the fix.

    `where` is the place (file, op index and name, tensor, row); `exit_code` is what the command line returns for it.
    """

    exit_code = 1

    def __init__(self, message: str, *, where: str = "", found: object = None, expected: object = None, hint: str = ""):
        super().__init__(message)
        self.message, self.where, self.found, self.expected, self.hint = message, where, found, expected, hint

    def __str__(self) -> str:
        text = f"{self.where}: {self.message}" if self.where else self.message
        if self.found is not None:
            text += f"; found {self.found}"
        if self.expected is not None:
            text += f"; expected {self.expected}"
        return f"{text}. {self.hint}" if self.hint else text


class BadModel(QsimError):
    """The file cannot be used as a model."""

    exit_code = 3


class Malformed(BadModel):
    """Not a flatbuffer of the expected kind, or damaged: an offset, a length or an identifier is wrong."""


class Invalid(BadModel):
    """Well-formed bytes that no runtime could give a meaning: an index, a shape, a constant's size, a parameter."""


class TooLarge(BadModel):
    """The file asks for more than the limits allow."""


class NewerSchema(BadModel):
    """The file uses fields this version does not know, and the wanted operation would lose them."""


class Unsupported(QsimError):
    """A known thing that cannot be done here: an op without kernel, a scheme that cannot be saved."""

    exit_code = 4


class BadData(QsimError):
    """Input data that the model cannot take, or that drives an op outside its domain."""

    exit_code = 5


class BadRange(QsimError):
    """A range or quantization parameter that is NaN, infinite, inverted, missing, or names no tensor."""

    exit_code = 5


class BadRecipe(QsimError):
    """An option or recipe entry that cannot be understood."""

    exit_code = 2


class WriteFailed(QsimError):
    """Nothing was written: the target exists, cannot be written, or the disk refused."""

    exit_code = 6


class OracleFailed(QsimError):
    """The LiteRT interpreter is missing, refused the file, aborted or ran out of time in its own process."""

    exit_code = 7
