"""AVIF, JPEG 2000 and HEIF, with their decoders and without."""

from __future__ import annotations

import io
import struct
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image, ImageFile, features

from fusiform.cli import commands
from fusiform.data import image as image_module
from fusiform.data.checks import check_picture
from fusiform.data.image import find_images, read_image
from fusiform.errors import ImageError


def photograph() -> Image.Image:
    y, x = np.mgrid[0:80, 0:96]
    return Image.fromarray(np.stack([x * 255 // 95, y * 255 // 79, (x + y) * 255 // 174], axis=-1).astype(np.uint8))


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def boxes(brand: bytes, *others: bytes) -> bytes:
    """The box that every HEIF and AVIF file begins with, and nothing that could be decoded."""
    return struct.pack(">I", 16 + 4 * len(others)) + b"ftyp" + brand + bytes(4) + b"".join(others) + bytes(400)


@pytest.mark.skipif("avif" not in features.modules or not features.check("avif"), reason="Pillow was built without")
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_avif(mode: str) -> None:
    content = encoded(photograph().convert(mode), "AVIF", quality=95)
    expected = np.asarray(photograph().convert(mode).convert("RGB")).astype(int)
    assert np.abs(np.asarray(read_image(content)).astype(int) - expected).mean() < 3
    assert [fault.kind for fault in check_picture(content, name="a.avif").faults] == []
    assert [fault.kind for fault in check_picture(content, name="a.jpg").faults] == ["wrong extension"]
    with pytest.raises(ImageError, match="copy or download it again"):
        read_image(content[: len(content) // 2])


@pytest.mark.skipif("avif" not in features.modules or not features.check("avif"), reason="Pillow was built without")
def test_avif_by_its_second_brand_and_turned() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    content = encoded(photograph(), "AVIF", exif=exif, quality=95)
    assert read_image(content).size == (80, 96)
    length = int.from_bytes(content[:4], "big")
    assert b"avif" in content[16:length]
    general = content[:8] + b"mif1" + content[12:]
    assert read_image(general).size == (80, 96)


@pytest.mark.skipif(not features.check_codec("jpg_2000"), reason="Pillow was built without")
@pytest.mark.parametrize(("options", "ending"), [({}, ".jp2"), ({"no_jp2": True}, ".j2k")])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_jpeg_2000(options: dict[str, object], ending: str, mode: str) -> None:
    content = encoded(photograph().convert(mode), "JPEG2000", **options)
    np.testing.assert_array_equal(
        np.asarray(read_image(content)), np.asarray(photograph().convert(mode).convert("RGB"))
    )
    assert check_picture(content, name=f"a{ending}").faults == ()
    with pytest.raises(ImageError, match="copy or download it again"):
        read_image(content[:200])


@pytest.mark.parametrize(
    "content",
    [boxes(b"heic", b"mif1", b"heic"), boxes(b"mif1", b"heic"), boxes(b"heix"), boxes(b"hevc"), boxes(b"msf1")],
)
def test_heif_without_its_decoder_names_the_extra(content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif.as_plugin", None)
    with pytest.raises(
        ImageError, match=r"IMG\.HEIC: is a HEIC file.*pip install 'fusiform\[heif\]', or save"
    ) as caught:
        read_image(content, name="IMG.HEIC")
    assert caught.value.kind == "kind not read"
    assert [fault.kind for fault in check_picture(content, name="IMG.HEIC").faults] == ["kind not read"]


def test_avif_and_jpeg_2000_without_their_decoders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL.AvifImagePlugin", None)
    monkeypatch.setattr(features, "check_codec", lambda _: False)
    with pytest.raises(ImageError, match=r"is an AVIF file.*pip install --upgrade pillow"):
        read_image(boxes(b"avif"))
    with pytest.raises(ImageError, match=r"is a JPEG 2000 file.*save it as"):
        read_image(b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(100))


def test_videos_are_no_heif() -> None:
    for brand in (b"isom", b"iso5", b"mp42", b"M4V ", b"3gp5", b"qt  "):
        with pytest.raises(ImageError, match="is a video, and no picture: save frames as JPEG") as caught:
            read_image(boxes(brand))
        assert caught.value.kind == "not a picture"
    with pytest.raises(ImageError, match="is a video or RAW file"):
        read_image(boxes(b"crx "))


@pytest.mark.parametrize(
    ("head", "said"),
    [
        (b"\x1c\0\0\0TFL3", "is a model, and no picture: give it as --model"),
        (b'\x98\x12\0\0\0\0\0\0{"__meta', "is a model"),
        (b"\x08\x08\x12\x08fusiform", "is a model"),
        (b"\x08\x07:\xa1", "is a model"),
        (b"\x80\x02}q", "is a model"),
        (b"RIFF\0\1\0\0AVI LIST", "is a video, and no picture"),
        (b"\x1a\x45\xdf\xa3\x01", "is a video, and no picture"),
        (b"%PDF-1.7", "is a PDF, and no picture: save its pages as PNG"),
    ],
)
def test_what_is_given_in_a_pictures_place_is_named(head: bytes, said: str) -> None:
    with pytest.raises(ImageError, match=said) as caught:
        read_image(head + bytes(60))
    assert caught.value.kind == "not a picture"


def test_a_zip_file_is_no_picture() -> None:
    with pytest.raises(ImageError, match="is a zip file, and no picture: unzip it, and give its folder") as caught:
        read_image(b"PK\3\4" + bytes(60))
    assert caught.value.kind == "not a picture"


def test_heif_is_read_by_pillow_heif_and_never_as_a_thumbnail(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stub(ImageFile.ImageFile):
        """What pillow-heif gives: a plugin's class, whose draft would choose a thumbnail."""

        format = "HEIF"

        def _open(self) -> None:
            self._size, self._mode, self.tile = (96, 80), "RGB", []

        def load(self) -> None:
            self.im = photograph().im

        def draft(self, mode: object, size: object) -> None:
            raise AssertionError("a thumbnail was asked for")

    package, plugin = types.ModuleType("pillow_heif"), types.ModuleType("pillow_heif.as_plugin")
    plugin.HeifImageFile = Stub  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pillow_heif", package)
    monkeypatch.setitem(sys.modules, "pillow_heif.as_plugin", plugin)
    read = read_image(boxes(b"heic"), shorter_side=16)
    np.testing.assert_array_equal(np.asarray(read), np.asarray(photograph()))


def test_real_heif() -> None:
    pytest.importorskip("pillow_heif").register_heif_opener()
    content = encoded(photograph(), "HEIF", quality=95)
    assert np.abs(np.asarray(read_image(content)).astype(int) - np.asarray(photograph()).astype(int)).mean() < 3
    assert check_picture(content, name="a.heic").faults == ()
    with pytest.raises(ImageError, match="copy or download it again"):
        read_image(content[: len(content) // 2])


# In folders they are never passed over.


def test_folders_list_them(tmp_path: Path) -> None:
    names = ["a.HEIC", "b.heif", "c.hif", "d.avif", "e.JP2", "f.j2k", "g.jpx", "h.jpg"]
    for name in names:
        (tmp_path / name).touch()
    assert [path.name for path in find_images(tmp_path)] == names
    assert set(image_module.FORMATS) >= {"AVIF", "HEIF", "JPEG2000"}


def test_predict_lists_heic_files_and_strict_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif.as_plugin", None)
    photograph().save(tmp_path / "b.jpg")
    (tmp_path / "a.heic").write_bytes(boxes(b"heic", b"mif1"))
    result = CliRunner().invoke(commands, ["predict", str(tmp_path)])
    assert result.exit_code == 0
    assert "1 of 2 pictures could not be read" in result.stderr
    assert "a.heic: is a HEIC file, which needs pillow-heif" in result.stderr
    assert CliRunner().invoke(commands, ["predict", str(tmp_path), "--strict"]).exit_code == 3
    alone = CliRunner().invoke(commands, ["predict", str(tmp_path / "a.heic")])
    assert alone.exit_code == 1
    assert "fusiform[heif]" in alone.stderr
