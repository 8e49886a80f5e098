"""An address is a word in a JOB.json or on the command line; here it becomes files.

A plain path or ``file://…`` is a folder of this machine, which every worker must see under the same path.
This is the only place that tells one kind of address from another.
"""

from pathlib import Path

from darkhaloscope.contracts.errors import ConfigError, StoreError
from darkhaloscope.contracts.store import Dataset, Files, LocalFiles, Writer
from darkhaloscope.contracts.tables import Table


def files_at(address: str) -> Files:
    """The files below an address. ConfigError for a kind of address that is not known."""
    scheme, mark, rest = address.partition("://")
    if not mark or scheme == "file":
        # Workers may run in another folder than the driver.
        return LocalFiles(str(Path(rest if mark else address).absolute()))
    raise ConfigError(address, "", f"'{scheme}://' is not a kind of address", "a folder, file://FOLDER")


def dataset_at(address: str) -> Dataset:
    """Open a finished dataset. StoreError where there is none."""
    files = files_at(address)
    if isinstance(files, LocalFiles) and not Path(files.root).exists():
        raise StoreError(address, "does not exist", "check the path")
    return Dataset(files, address)


def writer_at(address: str, table: Table) -> Writer:
    """A writer of `table`. StoreError where there is a file in its place."""
    files = files_at(address)
    if isinstance(files, LocalFiles) and Path(files.root).is_file():
        raise StoreError(address, "is a file, not a folder", "choose another output folder")
    return Writer(files, address, table)


def text_at(address: str) -> str:
    """A small text file: a JOB.json. ConfigError where it cannot be read."""
    folder, slash, name = address.rpartition("/")
    try:
        return files_at(folder + slash or ".").read(name).decode()
    except FileNotFoundError as error:
        raise ConfigError(address, "", "no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(address, "", f"cannot be read: {error}") from error
