"""The container of torch checkpoints: a zip archive whose storages are found by offset and mapped into memory.

Written by torch.save since 1.6: `NAME/data.pkl` (a pickle of the object, storages by reference), `NAME/data/KEY` (the
raw bytes of one storage each, uncompressed), `NAME/version`, in newer files `NAME/byteorder` ("little" or "big") and
other small notes. Entries may be compressed if somebody packed the file again; those are unpacked within bounds.
"""

import collections
import mmap
import pathlib
import struct
import zipfile
import zlib

import numpy as np

from metro_jax.convert.errors import ConversionError, MissingFileError

# A packed entry may become this many times larger. Weights hardly shrink; a deflate bomb reaches 1032.
MAX_EXPANSION = 20
# Below this size the ratio says nothing: a storage of zeros shrinks a thousandfold.
SMALL_ENTRY = 2**20

# First bytes of what else may be called `pytorch_model.bin`. torch before 1.6 wrote its magic number as a pickle.
_LEGACY_TORCH = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
_LFS_POINTER = b"version https://git-lfs"

_LOCAL_HEADER = struct.Struct("<4s5H3I2H")  # signature ... name length, extra length
_ENCRYPTED = 0x1


def check_present(path: pathlib.Path) -> pathlib.Path:
    """`path`, if it is a file with something in it."""
    if not path.is_file():
        raise MissingFileError(f"{path}: no such file; check the path, or download the checkpoint again")
    if path.stat().st_size == 0:
        raise ConversionError(f"{path}: the file is empty; download it again")
    return path


def check_not_pointer(path: pathlib.Path, head: bytes) -> None:
    """Refuse what git leaves behind where the large file was not fetched."""
    if head.startswith(_LFS_POINTER):
        raise ConversionError(f"{path}: this is a Git LFS pointer, not the file itself; run `git lfs pull` first")


class TorchZip:
    """The entries of one archive, addressed without its folder name.

    Raises:
        ConversionError: the file is no zip archive, is cut short, holds overlapping, encrypted or exploding entries, or
            was written by torch before 1.6.
    """

    def __init__(self, path: pathlib.Path) -> None:
        self.path = check_present(path)
        with open(path, "rb") as file:
            self.bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._check_kind(self.bytes[:64])
        try:
            with zipfile.ZipFile(path) as archive:
                entries = archive.infolist()
        except (zipfile.BadZipFile, NotImplementedError, struct.error, OSError, ValueError) as error:
            raise ConversionError(
                f"{path}: the archive is cut short or damaged ({error}); download it again"
            ) from error
        self._check_entries(entries)
        self.folder = self._folder([entry.filename for entry in entries])
        self.entries = {entry.filename.removeprefix(self.folder): entry for entry in entries}
        self._checked: set[str] = set()
        self._last = (0, 0)  # where the entry read before lies, and its size

    def _check_kind(self, head: bytes) -> None:
        check_not_pointer(self.path, head)
        if head.startswith(_LEGACY_TORCH):
            raise ConversionError(
                f"{self.path}: written in the format of torch before 1.6, which is a chain of pickles; load it in a "
                "newer PyTorch and save it again, or save its state dict as safetensors"
            )
        if not head.startswith(b"PK\x03\x04"):
            raise ConversionError(
                f"{self.path}: not a torch checkpoint: it starts with {head[:8]!r}, a zip archive with PK"
            )

    def _check_entries(self, entries: list[zipfile.ZipInfo]) -> None:
        twice = [name for name, n in collections.Counter(entry.filename for entry in entries).items() if n > 1]
        if twice:
            raise ConversionError(f"{self.path}: the archive holds entries twice, so that it is ambiguous: {twice[:5]}")
        if sum(entry.compress_size for entry in entries) > len(self.bytes):
            raise ConversionError(f"{self.path}: the entries overlap (a zip bomb) or the archive is cut short")
        for entry in entries:
            if entry.flag_bits & _ENCRYPTED:
                raise ConversionError(f"{self.path}: {entry.filename} is encrypted; checkpoints are not")
            if entry.compress_type == zipfile.ZIP_STORED:
                if entry.file_size != entry.compress_size:
                    raise ConversionError(f"{self.path}: {entry.filename} is stored, but its two sizes differ")
            elif entry.file_size > max(SMALL_ENTRY, MAX_EXPANSION * entry.compress_size):
                raise ConversionError(
                    f"{self.path}: {entry.filename} would grow from {entry.compress_size} to {entry.file_size} bytes "
                    "(a zip bomb); weights do not shrink that much"
                )
        packed = sum(entry.file_size for entry in entries if entry.compress_type != zipfile.ZIP_STORED)
        if packed > max(SMALL_ENTRY, MAX_EXPANSION * len(self.bytes)):
            raise ConversionError(f"{self.path}: its entries would grow to {packed} bytes (a zip bomb)")

    def _folder(self, names: list[str]) -> str:
        pickles = [name for name in names if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(pickles) != 1:
            raise ConversionError(
                f"{self.path}: a zip archive, but not a torch checkpoint: it should hold one NAME/data.pkl and holds "
                f"{len(pickles)} among {len(names)} entries"
            )
        return pickles[0].removesuffix("data.pkl")

    def size(self, name: str) -> int | None:
        """Bytes of an entry once unpacked; None where there is none of that name."""
        return self.entries[name].file_size if name in self.entries else None

    def read(self, name: str) -> np.ndarray:
        """An entry's bytes, checksum verified; a read-only view of the file where it is stored uncompressed."""
        entry = self.entries[name]
        if entry.compress_type != zipfile.ZIP_STORED:
            return np.frombuffer(self._unpack(entry), np.uint8)
        start = self._start(entry)
        self._let_go(start, entry.file_size)
        view = np.frombuffer(self.bytes, np.uint8, entry.file_size, start) if entry.file_size else np.empty(0, np.uint8)
        if name not in self._checked:
            if zlib.crc32(view.data) != entry.CRC:
                raise ConversionError(f"{self.path}: {entry.filename} is damaged (checksum); download the file again")
            self._checked.add(name)
        return view

    def _let_go(self, start: int, size: int) -> None:
        """Give back the memory of the entry read before; a view of it stays valid and is read from the file again.

        Pages of a mapped file count as this process's memory, so a whole checkpoint would, once read through.
        """
        before, length = self._last
        self._last = (start, size)
        if before == start or not length or not hasattr(mmap, "MADV_DONTNEED"):
            return
        first = before // mmap.PAGESIZE * mmap.PAGESIZE
        self.bytes.madvise(mmap.MADV_DONTNEED, first, before + length - first)

    def _start(self, entry: zipfile.ZipInfo) -> int:
        """Where the data begins: after the local header, whose variable part may differ from the directory's."""
        header = self.bytes[entry.header_offset : entry.header_offset + _LOCAL_HEADER.size]
        if len(header) < _LOCAL_HEADER.size or header[:4] != b"PK\x03\x04":
            raise ConversionError(
                f"{self.path}: {entry.filename} has no header where the directory says; download it again"
            )
        *_, name_length, extra_length = _LOCAL_HEADER.unpack(header)
        start = entry.header_offset + _LOCAL_HEADER.size + name_length + extra_length
        if start + entry.file_size > len(self.bytes):
            raise ConversionError(
                f"{self.path}: {entry.filename} reaches beyond the end of the file; download it again"
            )
        return start

    def _unpack(self, entry: zipfile.ZipInfo) -> bytes:
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(entry) as stream:
                data = stream.read(entry.file_size + 1)
        except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, OSError) as error:
            raise ConversionError(
                f"{self.path}: {entry.filename} cannot be unpacked ({error}); download it again"
            ) from error
        if len(data) != entry.file_size:
            raise ConversionError(f"{self.path}: {entry.filename} is cut short; download the file again")
        return data
