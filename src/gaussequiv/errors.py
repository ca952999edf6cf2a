"""The two ways in which a call can fail: the user's input, or the machine."""


class InputError(ValueError):
    """Wrong input: one sentence with what was expected, what came and what to do (exit code 2)."""


class StorageError(OSError):
    """A file could not be written or read, or is not what it says it is (exit code 3)."""
