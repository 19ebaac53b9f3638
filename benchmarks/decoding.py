"""Milliseconds to decode a JPEG file, as one JSON line per decoder: torchvision, pil and, on CUDA, nvjpeg.

    python benchmarks/decoding.py --height 375 --width 500

The files show waves with noise, in the size of ImageNet's photographs. The decoders take turns; `ms` is the median
over the rounds of CPU time, or of wall-clock time for nvjpeg.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from warmstart.data import read_image


def photo(height: int, width: int, seed: int) -> Image.Image:
    """Return waves, coarse noise and grain."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    slope = 255 * (x + y) / (height + width) - 128
    waves = np.stack([100 * np.sin(x / 50 + y / 90), 90 * np.cos(y / 40), slope], axis=-1)
    coarse = Image.fromarray(rng.integers(0, 256, (height // 4, width // 4, 3), np.uint8)).resize((width, height))
    grain = rng.normal(0, 6, waves.shape)
    pixels = 128 + waves + (np.asarray(coarse, float) - 128) / 2 + grain
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("height", 375), ("width", 500), ("files", 24), ("rounds", 9)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    torch.set_num_threads(1)
    cuda = torch.cuda.is_available()
    decoders = ["torchvision", "pil", *(["nvjpeg"] if cuda else [])]
    seconds: dict[str, list[float]] = {decoder: [] for decoder in decoders}
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{number}.jpg" for number in range(given.files)]
        for number, path in enumerate(paths):
            photo(given.height, given.width, number).save(path, quality=85 + 7 * (number % 2))
        kilobytes = sum(path.stat().st_size for path in paths) / 1000 / len(paths)
        for decoder in decoders:
            read_image(paths[0], decoder)  # imports and initialises the decoder
        for _ in range(given.rounds):
            for decoder in decoders:
                clock = time.perf_counter if decoder == "nvjpeg" else time.process_time
                begin = clock()
                for path in paths:
                    read_image(path, decoder)
                if cuda:
                    torch.cuda.synchronize()
                seconds[decoder].append((clock() - begin) / len(paths))
    for decoder, rounds in seconds.items():
        line = {"decoder": decoder, "ms": round(1000 * statistics.median(rounds), 3)}
        about = {"kilobytes": round(kilobytes), "size": [given.height, given.width]}
        print(json.dumps(line | about | {"torch": str(torch.__version__)}))


if __name__ == "__main__":
    main()
