"""What can go wrong between a data set and its reader."""


class StorageError(Exception):
    """Bytes that could not be had. Its text is the reason; of a remote file it starts with its URL, without secrets."""


class MissingError(StorageError):
    """There is no such file."""
