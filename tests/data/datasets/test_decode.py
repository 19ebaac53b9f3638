"""Decoding of image files: every decoder returns what PIL returns."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from warmstart.config import CfgNode
from warmstart.data.datasets.decode import UnreadableImageError, read_image
from warmstart.data.datasets.image_heads import head_size

from ...built import build_train_loader, classification

WORKER = ("DATALOADER.BACKEND", "worker", "DATALOADER.NUM_WORKERS", 0, "SOLVER.IMS_PER_BATCH", 2)


def photo(height: int = 37, width: int = 51) -> Image.Image:
    """A colourful image of odd size, smooth and noisy at once."""
    y, x = np.mgrid[0:height, 0:width]
    waves = np.stack([128 + 100 * np.sin(x / 9 + y / 11), 128 + 90 * np.cos(y / 7), 3 * (x + y)], axis=-1)
    noise = np.random.default_rng(0).normal(0, 6, waves.shape)
    return Image.fromarray((waves + noise).clip(0, 255).astype(np.uint8))


def by_pil(path: Path, mode: str = "RGB") -> torch.Tensor:
    with Image.open(path) as picture:
        pixels = torch.from_numpy(np.array(ImageOps.exif_transpose(picture).convert(mode)))
    return pixels.permute(2, 0, 1) if pixels.ndim == 3 else pixels[None]


def turned(orientation: int = 6) -> Image.Exif:
    """EXIF data that says how the picture is rotated."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def with_transparency(mode: str) -> Image.Image:
    picture = photo().convert(mode)
    picture.putalpha(Image.fromarray(np.arange(37 * 51, dtype=np.uint16).reshape(37, 51).astype(np.uint8)))
    return picture


KINDS: dict[str, tuple[str, Image.Image, dict[str, Any]]] = {
    "jpeg": ("a.jpg", photo(), {"quality": 90}),
    "poor jpeg": ("a.jpg", photo(), {"quality": 5}),
    "jpeg of full colour": ("a.jpeg", photo(), {"subsampling": 0}),
    "jpeg, colour halved in width": ("a.jpg", photo(), {"subsampling": 1}),
    "progressive jpeg": ("a.jpg", photo(), {"progressive": True}),
    "rgb jpeg": ("a.jpg", photo(), {"keep_rgb": True}),
    "turned jpeg": ("a.jpg", photo(), {"exif": turned()}),
    "turned cmyk jpeg": ("a.jpg", photo().convert("CMYK"), {"exif": turned(5)}),
    "turned grey jpeg": ("a.jpg", photo().convert("L"), {"exif": turned(8)}),
    "turned png": ("a.png", photo(), {"exif": turned(8)}),
    "turned webp": ("a.webp", photo(), {"exif": turned(3)}),
    "turned tiff": ("a.tiff", photo(), {"exif": turned(7)}),
    "grey jpeg": ("a.jpg", photo().convert("L"), {}),
    "cmyk jpeg": ("a.jpg", photo().convert("CMYK"), {}),
    "jpeg called png": ("a.png", photo(), {"format": "JPEG"}),
    "png": ("a.png", photo(), {}),
    "png called jpg": ("a.jpg", photo(), {"format": "PNG"}),
    "transparent png": ("a.png", with_transparency("RGBA"), {}),
    "grey transparent png": ("a.png", with_transparency("LA"), {}),
    "palette png": ("a.png", photo().quantize(17), {}),
    "palette png with a transparent colour": ("a.png", photo().quantize(17), {"transparency": 3}),
    "black and white png": ("a.png", photo().convert("1"), {}),
    "bmp": ("a.bmp", photo(), {}),
    "gif": ("a.gif", photo(), {}),
    "animated gif": ("a.gif", photo(), {"save_all": True, "append_images": [photo().convert("L")]}),
    "two pictures in a jpeg": ("a.jpg", photo(), {"format": "MPO", "save_all": True, "append_images": [photo()]}),
    "webp": ("a.webp", photo(), {}),
    "tiff": ("a.tiff", photo(), {}),
    "ppm": ("a.ppm", photo(), {}),
}


@pytest.mark.parametrize("decoder", ["torchvision", "pil"])
@pytest.mark.parametrize("kind", KINDS)
def test_read_image_reads_every_format_as_pil_does(tmp_path: Path, kind: str, decoder: str) -> None:
    name, picture, options = KINDS[kind]
    picture.save(tmp_path / name, **options)
    sides = sorted(picture.size)
    for mode, channels in (("RGB", 3), ("L", 1)):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            image = read_image(tmp_path / name, decoder, mode)
        assert image.dtype == torch.uint8
        assert (len(image), sorted(image.shape[1:])) == (channels, sides)
        assert torch.equal(image, by_pil(tmp_path / name, mode))


@pytest.mark.parametrize("decoder", ["torchvision", "pil"])
@pytest.mark.parametrize("orientation", range(10))  # 1 to 8 have a meaning
def test_read_image_applies_the_orientation(tmp_path: Path, orientation: int, decoder: str) -> None:
    photo(6, 9).save(tmp_path / "a.jpg", exif=turned(orientation))
    image = read_image(tmp_path / "a.jpg", decoder)
    assert image.shape == ((3, 9, 6) if orientation in (5, 6, 7, 8) else (3, 6, 9))
    assert torch.equal(image, by_pil(tmp_path / "a.jpg"))
    with open(tmp_path / "a.jpg", "rb") as file:
        assert head_size(file) == tuple(image.shape[1:])


@pytest.mark.parametrize("decoder", ["torchvision", "pil"])
def test_read_image_ignores_damaged_exif(tmp_path: Path, decoder: str) -> None:
    photo(6, 9).save(tmp_path / "a.jpg", exif=turned())
    content = (tmp_path / "a.jpg").read_bytes()
    place = content.index(b"Exif") + 6
    (tmp_path / "a.jpg").write_bytes(content[:place] + b"\xff" * 12 + content[place + 12 :])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_image(tmp_path / "a.jpg", decoder).shape == (3, 6, 9)


@pytest.mark.parametrize("ending", ["png", "tiff"])
def test_read_image_takes_the_upper_8_of_16_bits(tmp_path: Path, ending: str) -> None:
    values = np.array([[0, 255, 256], [32767, 32768, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / f"a.{ending}")
    grey = read_image(tmp_path / f"a.{ending}", mode="L")
    assert grey.tolist() == [[[0, 0, 1], [127, 128, 255]]]
    assert torch.equal(read_image(tmp_path / f"a.{ending}"), grey.expand(3, -1, -1))


def test_read_image_refuses_32_bit_numbers_of_unknown_brightness(tmp_path: Path) -> None:
    for name, values in (("a", [0.0, 0.5]), ("b", [0.0, 70000.0]), ("c", [0.0, 200.0])):
        Image.fromarray(np.array([values], np.float32)).save(tmp_path / f"{name}.tiff")
    for name, highest in (("a", "0.5"), ("b", "70000")):
        message = (
            f"its pixels are 32-bit numbers from 0 to {highest}, whose brightness is not known; convert it to"
        )
        with pytest.raises(UnreadableImageError, match=message):
            read_image(tmp_path / f"{name}.tiff")
    assert read_image(tmp_path / "c.tiff", mode="L").tolist() == [[[0, 200]]]


def test_read_image_names_heif_photos(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    with pytest.raises(UnreadableImageError, match=r"^it is a HEIF \(HEIC\) photo, .*; convert it to JPEG$"):
        read_image(tmp_path / "a.jpg")


def test_read_image_warns_about_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 1000)  # PIL warns of more, and refuses twice as many
    photo().save(tmp_path / "a.jpg")
    photo().quantize(17).save(tmp_path / "b.png", transparency=bytes(range(17)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name, decoder in (("a.jpg", "torchvision"), ("a.jpg", "pil"), ("b.png", "pil")):
            read_image(tmp_path / name, decoder)
        with open(tmp_path / "a.jpg", "rb") as file:
            assert head_size(file) == (37, 51)


@pytest.mark.parametrize("decoder", ["torchvision", "pil"])
@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("a.jpg", lambda content: content[:900], "truncated"),
        ("a.jpg", lambda content: content[:-2], "truncated"),
        ("a.jpg", lambda content: content[:100], "Truncated File Read"),
        ("a.png", lambda content: content[:900], "truncated"),
        (
            "a.png",
            lambda content: content[:200] + bytes(100) + content[300:],
            "unrecognized|truncated",
        ),
        (
            "a.jpg",
            lambda content: b"<html>not found</html>",
            "^it is not an image in a format that PIL decodes itself$",
        ),
        ("a.jpg", lambda content: b"", "^it is not an image in a format that PIL decodes itself$"),
    ],
)
def test_read_image_reports_damaged_files(
    tmp_path: Path, name: str, change: Any, reason: str, decoder: str
) -> None:
    photo(200, 100).save(tmp_path / name)
    (tmp_path / name).write_bytes(change((tmp_path / name).read_bytes()))
    with pytest.raises(UnreadableImageError, match=reason):
        read_image(tmp_path / name, decoder)


def test_read_image_starts_no_interpreter_for_postscript(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)  # it is looked for once
    path = tmp_path / "a.jpg"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(x) show\n%%EOF\n")
    with pytest.raises(UnreadableImageError, match="it is not an image in a format that PIL decodes itself"):
        read_image(path)
    assert not (tmp_path / "ran").exists()


def test_read_image_uses_pil_if_torchvision_has_no_decoders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("warmstart.data.datasets.decode._jpeg_decoder", lambda device: None)
    photo().save(tmp_path / "a.jpg")
    assert torch.equal(read_image(tmp_path / "a.jpg"), by_pil(tmp_path / "a.jpg"))


def test_input_decoder_chooses_the_decoder_of_a_folder(
    tmp_path: Path, configured: Callable[..., CfgNode], monkeypatch: pytest.MonkeyPatch
) -> None:
    def by_torchvision(content: torch.Tensor) -> torch.Tensor:
        return torch.full((3, 4, 4), 7, dtype=torch.uint8)

    (tmp_path / "cats").mkdir()
    Image.new("RGB", (4, 4), (200, 200, 200)).save(tmp_path / "cats" / "1.jpg")
    monkeypatch.setattr("warmstart.data.datasets.decode._jpeg_decoder", lambda device: by_torchvision)
    for decoder, value in (("torchvision", 7), ("pil", 200)):
        cfg = configured("DATASETS.TRAIN", f"imagefolder:{tmp_path}", "INPUT.DECODER", decoder, *WORKER)
        images, _ = next(build_train_loader(cfg).batches())
        assert images.unique().mul(255).tolist() == pytest.approx([value])


def test_read_image_raises_file_not_found_for_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_image(tmp_path / "none.jpg")


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
def test_nvjpeg_reads_every_format_onto_the_device(tmp_path: Path, kind: str) -> None:
    name, picture, options = KINDS[kind]
    picture.save(tmp_path / name, **options)
    image = read_image(tmp_path / name, "nvjpeg")
    assert image.device.type == "cuda"
    assert image.shape == (3, picture.height, picture.width)
    # Its inverse transform rounds otherwise, and it may blow up halved colour in blocks.
    assert (image.cpu().int() - by_pil(tmp_path / name).int()).abs().float().mean() < 4


@pytest.mark.gpu
def test_random_numbers_drawn_on_the_device_are_keyed(tmp_path: Path) -> None:
    from warmstart.data.loaders.keyed_dataset import KeyedSamples
    from warmstart.data.loaders.worker import WorkerLoader, WorkerTrainLoader
    from warmstart.data.transforms.image import ImageTransform

    class OnDevice:
        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            return torch.zeros(3, 2, 2, device="cuda"), 0

    noise = ImageTransform([("Noise", torch.randn_like)], [0.0], [1.0])
    samples = KeyedSamples(OnDevice(), classification(1), noise, seed=0, name="x", on_cuda=True)
    loader = WorkerTrainLoader(WorkerLoader(samples, num_workers=0, pin_memory=False), seed=0, batch_size=2)
    before = torch.cuda.get_rng_state()
    first, second = (next(loader.batches(start)).images for start in (3, 3))
    assert first.is_cuda
    assert torch.equal(first, second)
    assert not torch.equal(first, next(loader.batches(4)).images)
    assert torch.equal(torch.cuda.get_rng_state(), before)


def test_read_image_refuses_a_file_that_is_not_regular(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.jpg")
    for path in (tmp_path / "fifo.jpg", Path("/dev/zero")):
        with pytest.raises(OSError, match="not a regular file"):
            read_image(path)
