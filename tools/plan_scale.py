"""Predict speed and memory of a config on many devices, from measurements on one.

python tools/plan_scale.py --config-file config/recipes/cifar10.yaml --gpus 8 64 1024 --between-gbs 12.5

docs/SCALING.md has the formulas, and their errors.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any, NamedTuple

from warmstart.tools import interruptible, table

with interruptible(__name__):
    from warmstart.config import CfgNode, ConfigError, Flag
    from warmstart.data import data_spec, device_of, num_workers
    from warmstart.engine import (
        MODES,
        Cluster,
        Link,
        Profile,
        measure_loader,
        measure_profile,
        predict,
        read_command_line,
        refuse_ranks,
        resolve_config,
        run_tool,
        workers_needed,
    )
    from warmstart.engine.analysis.link_benchmark import measure_links

_MOST = 10**9  # devices, or images


def count(text: str) -> int:
    """Return a whole number above 0 from a command line."""
    if not text.isdecimal() or int(text) < 1:
        several = "; separate several by spaces, as 8 64" if "," in text else ""
        raise ValueError(f"expected a whole number above 0, such as 8{several}")
    if int(text) > _MOST:
        raise ValueError(f"expected at most {_MOST:,}")
    return int(text)


def amount(text: str) -> float:
    """Return a number above 0 from a command line."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise ValueError("expected a number above 0, such as 12.5")
    return value


FLAGS = (
    Flag("--gpus", "many", "numbers of devices; default: 1 8 64 512", convert=count),
    Flag("--per-machine", "one", "devices in a machine; default: 8", convert=count),
    Flag("--inside-us", "one", "latency of links inside a machine, in microseconds; default: 3.4", convert=amount),
    Flag("--inside-gbs", "one", "their bandwidth per device, in 1e9 bytes a second; default: 235", convert=amount),
    Flag("--between-us", "one", "latency between machines; default: 10", convert=amount),
    Flag("--between-gbs", "one", "bandwidth of all network cards of a machine; default: 200", convert=amount),
    Flag("--measure-links", "none", "measure links inside a machine, between two processes on this one"),
    Flag("--images", "one", "images of a micro-batch on one device; default: IMS_PER_BATCH's", convert=count),
    Flag("--forward-ms", "one", "milliseconds of its forward pass, if known", convert=amount),
    Flag("--backward-ms", "one", "of its backward pass", convert=amount),
    Flag("--update-ms", "one", "of the optimizer's step", convert=amount),
    Flag("--loader-rate", "one", "images per second of the loader, if known", convert=amount),
    Flag("--json", "none", "print one JSON object instead of tables"),
)
_GPUS = (1, 8, 64, 512)
_TIMES = ("forward_ms", "backward_ms", "update_ms")
_LINKS = {"inside_us": 3.4, "inside_gbs": 235.0, "between_us": 10.0, "between_gbs": 200.0}
_TITLES = {
    "weak": "weak scaling: as many images a device, whatever their number",
    "strong": "strong scaling: all share SOLVER.IMS_PER_BATCH",
}


class Row(NamedTuple):
    """A line of a table.

    Attributes:
        scaling: weak or strong.
        devices: how many.
        machines: how many the devices fill.
        mode: ddp or fsdp.
        batch: images of an update, over all devices.
        seconds: of an update.
        waiting: the part of these seconds in which devices wait for communication.
        efficiency: images per second of a device, relative to a single device.
        memory: bytes on a device, by purpose.
        loaders: loading processes that each machine needs.
    """

    scaling: str
    devices: int
    machines: int
    mode: str
    batch: int
    seconds: float
    waiting: float
    efficiency: float
    memory: dict[str, int]
    loaders: int


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool with the arguments of a command line and return its exit code."""
    summary = "Predict speed and memory of a config on many devices, from measurements on one."
    flags, cfg = read_command_line(argv, FLAGS, summary)
    refuse_ranks("plan_scale.py runs in one process")
    times, numbers, cluster = given_times(flags), list(dict.fromkeys(flags["gpus"] or _GPUS)), build_cluster(flags)
    for devices in numbers:
        try:
            cluster.shape(devices)
        except ValueError as error:
            raise ConfigError(f"command line: --gpus: {error}, or another --per-machine") from None
    cfg = resolve_config(cfg)
    if flags["measure_links"]:
        cluster = replace(cluster, inside=measure_links())
    images = flags["images"] or cfg.SOLVER.IMS_PER_BATCH // cfg.SOLVER.GRAD_ACCUM_STEPS
    profile = measure_profile(cfg, images, times=times)
    rate = flags["loader_rate"] or measure_loader(cfg)
    found = predict_all(cfg, profile, cluster, numbers, images, rate / max(num_workers(cfg, data_spec(cfg)), 1))
    if flags["json"]:
        known = {"profile": asdict(profile), "cluster": asdict(cluster), "loader_images_per_s": rate}
        print(json.dumps({"images": images, **known, "rows": [row._asdict() for row in found]}))
    else:
        print(f"{describe_device(cfg, profile, images, rate)}\n{describe_cluster(cluster)}\n")
        print(describe_rows(found))
    return 0


def given_times(flags: dict[str, Any]) -> tuple[float, float, float] | None:
    """Return the seconds of the three parts of an update, if flags give them."""
    forward, backward, update = (flags[name] for name in _TIMES)
    if forward and backward and update:
        return forward / 1e3, backward / 1e3, update / 1e3
    if forward or backward or update:
        raise ConfigError(
            "command line: --forward-ms, --backward-ms and --update-ms belong together; give all three"
        )
    return None


def build_cluster(flags: dict[str, Any]) -> Cluster:
    """Return the machines that flags describe."""
    if flags["measure_links"] and (flags["inside_us"] or flags["inside_gbs"]):
        raise ConfigError("command line: --measure-links measures what --inside-us and --inside-gbs say; choose")
    inside_us, inside_gbs, between_us, between_gbs = (flags[name] or default for name, default in _LINKS.items())
    links = Link(inside_us / 1e6, inside_gbs * 1e9), Link(between_us / 1e6, between_gbs * 1e9)
    return Cluster(flags["per_machine"] or 8, *links)


def predict_all(
    cfg: CfgNode, profile: Profile, cluster: Cluster, numbers: Sequence[int], images: int, of_one_worker: float
) -> list[Row]:
    """Return the predictions for weak and then for strong scaling, if a number of devices divides IMS_PER_BATCH.

    Args:
        cfg: resolved.
        profile: of one device.
        cluster: the machines.
        numbers: of devices.
        images: per device in a micro-batch, for weak scaling.
        of_one_worker: images per second of one loading process.
    """
    parts, found = cfg.SOLVER.GRAD_ACCUM_STEPS, []
    whole = cfg.SOLVER.IMS_PER_BATCH // parts
    for scaling, devices, mode in itertools.product(_TITLES, numbers, MODES):
        on_one, share, rest = (images, images, 0) if scaling == "weak" else (whole, *divmod(whole, devices))
        if rest or (devices == 1 and mode != MODES[0]):  # one device shards nothing
            continue
        one = predict(profile, cluster, 1, on_one, micro_batches=parts).seconds
        seconds, waiting, memory = predict(profile, cluster, devices, share, mode, parts)
        machines, _ = cluster.shape(devices)
        batch = share * devices * parts
        loaders = workers_needed(batch / machines / seconds, of_one_worker)
        efficiency = batch / seconds / devices / (on_one * parts / one)
        found.append(Row(scaling, devices, machines, mode, batch, seconds, waiting, efficiency, memory, loaders))
    return found


def describe_device(cfg: CfgNode, profile: Profile, images: int, rate: float) -> str:
    """Return the measurements on one device, as text."""
    work = profile.forward.of(images), profile.backward.of(images), profile.update
    forward, backward, update = (f"{1e3 * seconds:.3g} ms" for seconds in work)
    workers = num_workers(cfg, data_spec(cfg))
    return (
        f"{cfg.MODEL.NAME} on {device_of(cfg)}: {images:,} images take {forward} forward, {backward} backward,"
        f" {cfg.SOLVER.OPTIMIZER} {update}\n"
        f"gradients: {sum(profile.gradients) / 1e6:,.1f} MB; buckets they are sent in: {len(profile.buckets())}\n"
        f"fsdp: {describe_units(profile)}\n"
        f"loader: {rate:,.0f} images/s from {f'{workers} processes' if workers else 'the training process itself'}"
    )


def describe_units(profile: Profile) -> str:
    """Return in words which weights fsdp all-gathers at a time.

    >>> from warmstart.engine import Work
    >>> describe_units(Profile((8,), (1.0,), Work(0, 0), Work(0, 0), 0.0, weights=8_000_000))
    'MODEL.FSDP.WRAP names no module, so all 8.0 MB of weights are gathered at once'
    """
    rest = f"{profile.rest()[0] / 1e6:,.1f} MB of weights"
    if not profile.units:
        return f"MODEL.FSDP.WRAP names no module, so all {rest} are gathered at once"
    largest = max(unit.weights for unit in profile.units) / 1e6
    return (
        f"modules that are gathered by themselves: {len(profile.units)}, the largest of {largest:,.1f} MB; "
        f"{rest} are in none"
    )


def describe_cluster(cluster: Cluster) -> str:
    """Return the latencies and bandwidths of the links, as text.

    >>> describe_cluster(Cluster(8, Link(3.4e-6, 235e9), Link(1e-5, 12.5e9)))
    'links: 3.4 us and 235 GB/s inside a machine of 8 devices, 10 us and 12.5 GB/s between machines'
    """
    links = cluster.inside, cluster.between
    inside, between = (f"{1e6 * link.latency:.3g} us and {link.bandwidth / 1e9:.3g} GB/s" for link in links)
    return f"links: {inside} inside a machine of {cluster.per_machine} devices, {between} between machines"


def describe_rows(found: Sequence[Row]) -> str:
    """Return the tables, and for each mode the memory of a device in its last row."""
    head = ["devices", "machines", "mode", "batch", "ms/it", "it/s", "images/s", "efficiency", "waiting ms"]
    tables = []
    for scaling, title in _TITLES.items():
        lines = [[*head, "memory MB", "loaders"]]
        for row in found:
            if row.scaling == scaling:
                counts = f"{row.devices:,}", f"{row.machines:,}", row.mode, f"{row.batch:,}"
                rates = f"{1e3 * row.seconds:.4g}", f"{1 / row.seconds:,.4g}", f"{row.batch / row.seconds:,.0f}"
                waits = f"{row.efficiency:.0%}", f"{1e3 * row.waiting:.3g}"
                lines.append(
                    [*counts, *rates, *waits, f"{sum(row.memory.values()) / 1e6:,.1f}", f"{row.loaders:,}"]
                )
        none = "none of these numbers of devices divides the images of a micro-batch"
        tables.append(f"{title}\n{table(lines, text=2) if lines[1:] else none}")
    memory = [
        f"memory of {row.mode} on {row.devices:,}, weak: "
        + ", ".join(f"{what} {size / 1e6:,.1f} MB" for what, size in row.memory.items() if size)
        for row in {row.mode: row for row in found if row.scaling == "weak"}.values()
    ]
    note = "loaders: processes that load on each machine, at the rate of those here"
    return "\n\n".join([*tables, "\n".join([*memory, note])])


if __name__ == "__main__":
    run_tool(main)
