"""s3://, gs:// and gcs://: parts of objects, through fsspec.

Its packages find credentials and endpoints themselves: AWS_*, FSSPEC_S3_ANON=true for public buckets,
GOOGLE_APPLICATION_CREDENTIALS.
"""

from __future__ import annotations

from typing import Any

import fsspec

from diptych.base.errors import UserError
from diptych.data.io.address import BUCKETS, scheme, shown
from diptych.data.io.retry import Fault

FINAL = ("NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError", "ProfileNotFound")


class Bucket:
    """Reads parts of objects. Raises Fault for what a retry may cure, UserError for everything else."""

    chunk = 2**22  # bytes of one request; with smaller ones the round trips would cost more than the bytes

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout

    def connect(self, url: str, start: int, stop: int | None) -> _Object:
        system = self._system(url)
        try:
            file = system.open(url, "rb", block_size=self.chunk, cache_type="none")
        except Exception as error:
            raise _fault(url, error) from error
        file.seek(min(start, file.size))
        return _Object(url, file)

    def size(self, url: str) -> int | None:
        """Bytes of the object; None where there is none."""
        system = self._system(url)
        try:
            return int(system.info(url)["size"])
        except FileNotFoundError:
            return None
        except Exception as error:
            raise _fault(url, error) from error

    def _system(self, url: str) -> Any:
        """fsspec's file system, which fsspec itself keeps for the process. The retries are ours alone: they are
        counted, and don't multiply with the packages' (gcsfs would add six)."""
        kind = scheme(url)
        network = {"connect_timeout": self.timeout, "read_timeout": self.timeout, "retries": {"max_attempts": 0}}
        options: dict[str, Any] = {"config_kwargs": network} if kind == "s3" else {"requests_timeout": self.timeout}
        try:
            system = fsspec.filesystem(kind, use_listings_cache=False, **options)
        except ImportError as error:
            raise UserError(
                f"{shown(url)} needs the package {BUCKETS[kind]}: pip install 'diptych[remote]'."
            ) from error
        system.retries = 1
        return system


class _Object:
    """One object, read from a given byte. Every request asks for the version that was there when it was opened: s3fs
    sends the ETag itself, gcsfs gets the generation."""

    def __init__(self, url: str, file: Any) -> None:
        self.url, self.file, self.at = url, file, file.tell()
        self.total: int | None = file.size
        self.generation = file.details.get("generation")
        self.version: str | None = str(self.generation or file.details.get("ETag"))
        self.skipped = 0

    def read(self, most: int) -> bytes:
        try:
            if self.generation is None:
                return self.file.read(most)
            system, end = self.file.fs, min(self.at + most, self.file.size)
            data = system.cat_file(self.file.path, start=self.at, end=end, generation=self.generation)
            self.at += len(data)
            return data
        except Exception as error:
            raise _fault(self.url, error) from error

    def close(self, finished: bool) -> None:
        self.file.close()


def _fault(url: str, error: Exception) -> Exception:
    """The packages raise whatever their libraries do. UserError for what no retry cures, Fault for the rest."""
    name = type(error).__name__
    if isinstance(error, FileNotFoundError):
        return UserError(f"{shown(url)} does not exist: restore it, or index the shards again.")
    if isinstance(error, PermissionError) or name in FINAL:
        return UserError(f"{shown(url)} is refused by its server ({name}): check the address and the credentials.")
    if name == "FileExpired":
        return UserError(
            f"{shown(url)} changed on the server while it was read: restore it, or index the shards again."
        )
    return Fault(f"failed with {name}")
