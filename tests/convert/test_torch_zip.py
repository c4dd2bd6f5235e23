"""The archive: what is damaged, cut short, overlapping or exploding is refused before anything is unpacked."""

import struct
import zipfile

import numpy as np
import pytest

from metro_jax.convert.errors import ConversionError, MissingFileError
from metro_jax.convert.torch_zip import TorchZip

from .torch_files import assemble, write_zip

PICKLE = assemble({"a": 1})


@pytest.mark.parametrize("compress", [False, True])
def test_entries_come_back(tmp_path, compress):
    data = np.random.default_rng(0).bytes(100_000)
    archive = TorchZip(write_zip(tmp_path / "x.bin", PICKLE, {"0": data, "1": b""}, compress=compress))
    assert archive.read("data/0").tobytes() == data
    assert archive.read("data/1").tobytes() == b""
    assert archive.read("data.pkl").tobytes() == PICKLE
    assert archive.size("data/0") == len(data)
    assert archive.size("data/../../etc/passwd") is None


def test_stored_entries_are_views_of_the_file(tmp_path):
    archive = TorchZip(write_zip(tmp_path / "x.bin", PICKLE, {"0": b"abcd"}))
    view = archive.read("data/0")
    assert not view.flags.owndata
    assert not view.flags.writeable


def test_a_file_cut_anywhere_is_refused(tmp_path):
    whole = write_zip(tmp_path / "x.bin", PICKLE, {"0": bytes(range(256))}).read_bytes()
    for cut in range(0, len(whole), 7):
        path = tmp_path / "cut.bin"
        path.write_bytes(whole[:cut])
        with pytest.raises(ConversionError, match=r"cut\.bin"):
            TorchZip(path)


def test_damage_is_noticed_when_read(tmp_path):
    data = bytes(range(256))
    path = write_zip(tmp_path / "x.bin", PICKLE, {"0": data})
    whole = bytearray(path.read_bytes())
    whole[whole.index(data) + 5] ^= 1
    path.write_bytes(whole)
    archive = TorchZip(path)
    with pytest.raises(ConversionError, match="checksum"):
        archive.read("data/0")


def test_damage_of_a_compressed_entry_is_noticed(tmp_path):
    data = np.random.default_rng(0).bytes(3000)
    path = write_zip(tmp_path / "x.bin", PICKLE, {"0": data}, compress=True)
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 255
    path.write_bytes(whole)
    with pytest.raises(ConversionError, match="unpacked"):
        TorchZip(path).read("data/0")


def test_zip_bombs_are_refused(tmp_path):
    path = write_zip(tmp_path / "x.bin", PICKLE, {"0": bytes(30 * 2**20)}, compress=True)
    assert path.stat().st_size < 2**20
    with pytest.raises(ConversionError, match="zip bomb"):
        TorchZip(path)


def test_many_small_bombs_are_refused(tmp_path):
    storages = {str(i): bytes(2**20 - 1) for i in range(40)}
    with pytest.raises(ConversionError, match="zip bomb"):
        TorchZip(write_zip(tmp_path / "x.bin", PICKLE, storages, compress=True))


def test_overlapping_entries_are_refused(tmp_path):
    """Directory entries that all point at one large entry."""
    path = write_zip(tmp_path / "x.bin", PICKLE, {str(i): b"" if i else bytes(5000) for i in range(4)})
    whole = path.read_bytes()
    begin = whole.index(b"PK\x01\x02")
    offset = zipfile.ZipFile(path).getinfo("archive/data/0").header_offset
    changed, position = bytearray(whole), begin
    while changed[position : position + 4] == b"PK\x01\x02":
        name, extra, comment = struct.unpack_from("<3H", changed, position + 28)
        struct.pack_into("<2I", changed, position + 20, 5000, 5000)
        struct.pack_into("<I", changed, position + 42, offset)
        position += 46 + name + extra + comment
    path.write_bytes(changed)
    with pytest.raises(ConversionError, match="overlap"):
        TorchZip(path)


def test_a_directory_that_lies_about_an_offset_is_refused(tmp_path):
    path = write_zip(tmp_path / "x.bin", PICKLE, {"0": bytes(50)})
    changed = bytearray(path.read_bytes())
    position = changed.rindex(b"PK\x01\x02", 0, changed.rindex(b"archive/data/0"))
    struct.pack_into("<I", changed, position + 42, 3)
    path.write_bytes(changed)
    with pytest.raises(ConversionError, match="no header"):
        TorchZip(path).read("data/0")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_entries_of_one_name_are_refused(tmp_path):
    path = write_zip(tmp_path / "x.bin", PICKLE)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/data.pkl", PICKLE)
    with pytest.raises(ConversionError, match="twice"):
        TorchZip(path)


def test_encrypted_entries_are_refused(tmp_path):
    path = write_zip(tmp_path / "x.bin", PICKLE)
    changed = bytearray(path.read_bytes())
    changed[changed.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(changed)
    with pytest.raises(ConversionError, match="encrypted"):
        TorchZip(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.", "torch before 1.6"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "git lfs pull"),
        (b"", "empty"),
        (b"<!DOCTYPE html><html></html>", "not a torch checkpoint"),
        (b"PK\x03\x04" + bytes(100), "cut short"),
    ],
)
def test_other_files_are_told_apart(tmp_path, content, reason):
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(content)
    with pytest.raises(ConversionError, match=reason):
        TorchZip(path)


def test_other_archives_are_told_apart(tmp_path):
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(ConversionError, match=r"NAME/data\.pkl"):
        TorchZip(path)


def test_a_missing_file_is_a_missing_file(tmp_path):
    with pytest.raises(MissingFileError, match="no such file"):
        TorchZip(tmp_path / "nowhere.bin")
