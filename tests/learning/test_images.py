"""Files become the views that the daemon would make of them; bad ones become a reason."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.dicom_files import gradient, make_dx, write
from tests.learning.tables import label_row
from triage.errors import DecodeError, DecodeUnsupported, PermanentError, StoreError
from triage.imaging.decode_pool import DecodeTask
from triage.imaging.subject import decode_subject
from triage.imaging.views import to_view, to_views, view_digest
from triage.learning.material.images import (
    MAXIMUM_FILE_MIB,
    Decoder,
    DirectoryImages,
    Part,
    Unreadable,
    views_of,
)
from triage.learning.material.labels import LabelError, LabelRow
from triage.learning.material.pictures import MAXIMUM_PIXELS, read_picture
from triage.records import ViewSpec

SPEC = ViewSpec(rendering="dicom", size_px=32)


def eight_bit(rows: int = 40, columns: int = 30) -> NDArray[np.uint8]:
    return np.asarray(gradient(rows, columns, maximum=200) + 20, np.uint8)


def save(pixels: NDArray[np.generic], path: Path, **options: object) -> Path:
    Image.fromarray(pixels).save(path, **options)  # type: ignore[arg-type]
    return path


def row_of(subject: str, line: int = 2) -> LabelRow:
    row = label_row(line)
    return LabelRow(subject=subject, group="", truth=row.truth, split="", strata={}, line=row.line)


def test_a_dicom_file_gives_the_views_of_the_daemon(tmp_path: Path) -> None:
    path = write(make_dx(), tmp_path / "film.dcm")
    served = decode_subject(DecodeTask(paths=(path,), specs=(SPEC,)))
    np.testing.assert_array_equal(views_of(path, SPEC), served.views[SPEC])


def test_eight_bits_are_taken_as_they_are(tmp_path: Path) -> None:
    pixels = eight_bit()
    views = views_of(save(pixels, tmp_path / "a.png"), SPEC)
    np.testing.assert_array_equal(
        views, to_view(np.asarray(pixels[None] / np.float32(255), np.float32), SPEC)[None]
    )


def test_eight_bits_equal_a_dicom_file_whose_window_shows_all_of_them(tmp_path: Path) -> None:
    pixels = eight_bit()
    film = make_dx(pixels, bits_stored=8, WindowCenter="128", WindowWidth="256")
    served = views_of(write(film, tmp_path / "a.dcm"), SPEC)
    np.testing.assert_allclose(views_of(save(pixels, tmp_path / "a.png"), SPEC), served, atol=1e-6)


def test_sixteen_bits_are_stretched_as_a_dicom_file_without_a_window(tmp_path: Path) -> None:
    pixels = gradient(maximum=4095)  # twelve of the sixteen bits, as detectors give
    views = views_of(save(pixels, tmp_path / "a.png"), SPEC)
    served = views_of(write(make_dx(pixels), tmp_path / "a.dcm"), SPEC)
    np.testing.assert_allclose(views, served, atol=1e-6)
    assert np.unique(views).size > 256  # not squeezed through eight bits


def test_colour_becomes_luminance_whatever_holds_it(tmp_path: Path) -> None:
    colour = np.zeros((8, 8, 3), np.uint8)
    colour[..., 1] = 200
    green = 0.587 * 200 / 255
    palette = Image.fromarray(colour).convert("P", palette=Image.Palette.ADAPTIVE)
    palette.save(tmp_path / "palette.png")
    save(np.dstack([colour, np.full((8, 8, 1), 255, np.uint8)]), tmp_path / "alpha.png")
    save(colour, tmp_path / "colour.png")
    for name in ("colour.png", "alpha.png", "palette.png"):
        np.testing.assert_allclose(read_picture(tmp_path / name, "dicom"), green, atol=1e-5)


def test_a_jpeg_is_read_nearly_as_it_was_written(tmp_path: Path) -> None:
    pixels = eight_bit()
    path = save(pixels, tmp_path / "a.jpeg", quality=95)
    np.testing.assert_allclose(read_picture(path, "dicom")[0], pixels / 255, atol=0.03)


def test_a_jpeg_is_turned_as_its_camera_says(tmp_path: Path) -> None:
    pixels = eight_bit()
    turned = Image.fromarray(pixels)
    exif = turned.getexif()
    exif[0x0112] = 6  # Orientation: a quarter to the left as stored
    turned.save(tmp_path / "a.jpeg", exif=exif, quality=95)
    assert read_picture(tmp_path / "a.jpeg", "dicom").shape == (1, 30, 40)


def test_crops_follow_the_whole_picture(tmp_path: Path) -> None:
    spec = ViewSpec(rendering="dicom", size_px=32, crops=2)
    pixels = eight_bit()
    views = views_of(save(pixels, tmp_path / "a.png"), spec)
    assert views.shape == (5, 1, 32, 32)
    np.testing.assert_array_equal(
        views, to_views(np.asarray(pixels[None] / np.float32(255), np.float32), spec)
    )


def test_the_digest_of_a_view_is_that_of_the_daemon(tmp_path: Path) -> None:
    path = save(eight_bit(), tmp_path / "a.png")
    with Decoder(1) as decoder:
        drawn = decoder.draw(Part(digest="", paths=(path,)), SPEC)()
    assert drawn.digests == tuple(map(view_digest, drawn.views))


def png_header(width: int, height: int) -> bytes:
    """The beginning of a PNG of any size, with a few bytes of pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(b"\0" * 10_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + pixels + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [9_000, 100_000])
def test_a_picture_that_claims_a_monstrous_size_is_refused_before_it_is_decoded(
    tmp_path: Path, side: int
) -> None:
    assert side * side > MAXIMUM_PIXELS
    (tmp_path / "bomb.png").write_bytes(png_header(side, side))
    with pytest.raises(
        DecodeError, match="more than|cannot be decoded" if side > 9_000 else "more"
    ):
        read_picture(tmp_path / "bomb.png", "dicom")


def truncated(path: Path) -> bytes:
    whole = save(eight_bit(), path).read_bytes()
    return whole[: len(whole) // 2]


@pytest.mark.parametrize("name", ["a.png", "a.jpeg"])
def test_a_picture_that_is_cut_short_is_an_error_of_the_picture(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(truncated(tmp_path / name))
    with pytest.raises(DecodeError):
        views_of(tmp_path / name, SPEC)


def test_no_damaged_byte_makes_another_error(tmp_path: Path) -> None:
    whole = save(eight_bit(), tmp_path / "a.png").read_bytes()
    path = tmp_path / "b.png"
    for at in range(8, len(whole), 7):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        try:
            picture = read_picture(path, "dicom")
        except DecodeError:
            continue
        assert np.isfinite(picture).all()


def test_several_pictures_in_one_file_are_refused(tmp_path: Path) -> None:
    frames = [Image.fromarray(np.full((8, 8), grey, np.uint8)) for grey in (10, 200)]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:])
    with pytest.raises(DecodeUnsupported):
        read_picture(tmp_path / "a.png", "dicom")


def test_a_picture_is_no_volume(tmp_path: Path) -> None:
    with pytest.raises(DecodeUnsupported):
        read_picture(save(eight_bit(), tmp_path / "a.png"), "ct-3-window")


def test_what_is_neither_picture_nor_dicom_is_a_reason_and_quotes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "Doe^Jane.txt"
    path.write_text("Doe^Jane")
    with pytest.raises(DecodeError) as raised:
        views_of(path, SPEC)
    assert "Doe" not in str(raised.value)
    with pytest.raises(StoreError):
        views_of(tmp_path / "absent", SPEC)


def test_a_directory_finds_its_files_and_names_the_row_of_a_missing_one(tmp_path: Path) -> None:
    save(eight_bit(), tmp_path / "a.png")
    images = DirectoryImages(tmp_path)
    images.require([row_of("a.png")])
    with pytest.raises(LabelError, match=r"row 7, column 'file' of the labels \(and 1 more rows\)"):
        images.require([row_of("a.png"), row_of("b.png", 7), row_of("c.png", 9)])
    os.mkfifo(tmp_path / "pipe")
    for name in ("b.png", "pipe"):
        with pytest.raises(Unreadable, match="there is no such file"):
            images.parts(row_of(name))
    with pytest.raises(PermanentError, match="there is no directory"):
        DirectoryImages(tmp_path / "a.png")


def test_a_file_beyond_any_image_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with (tmp_path / "huge").open("wb") as file:
        file.truncate((MAXIMUM_FILE_MIB << 20) + 1)
    with pytest.raises(Unreadable, match="larger than"):
        DirectoryImages(tmp_path).parts(row_of("huge"))


def test_a_link_that_leads_out_of_the_directory_is_refused(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "link.png").symlink_to(save(eight_bit(), tmp_path / "outside.png"))
    with pytest.raises(LabelError, match="row 2, column 'file' of the labels leads out"):
        DirectoryImages(inside).require([row_of("link.png")])


def test_a_part_is_named_by_its_bytes_and_not_by_its_place(tmp_path: Path) -> None:
    save(eight_bit(), tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes())
    save(eight_bit() + np.uint8(1), tmp_path / "c.png")
    images = DirectoryImages(tmp_path)
    first, same, other = (
        images.parts(row_of(name))[0].digest for name in ("a.png", "b.png", "c.png")
    )
    assert first == same != other


def test_pictures_are_drawn_without_a_decoder_process(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(eight_bit()).save(buffer, "PNG")
    (tmp_path / "no suffix").write_bytes(buffer.getvalue())
    with Decoder(1) as decoder:
        drawn = decoder.draw(Part(digest="", paths=(tmp_path / "no suffix",)), SPEC)()
        assert decoder._pool is None
    assert drawn.views.shape == (1, 1, 32, 32)
