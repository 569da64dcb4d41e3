"""A plan in numbers for programs, and in words for people."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from tistore.capture.planning.plan import Plan
from tistore.capture.planning.timing import Range, Timing


def describe_plan(planned: Plan, timing: Timing | None = None) -> dict[str, Any]:
    """List what a run takes under names that stay: bytes, counts and seconds."""
    largest = planned.largest
    return {
        "organisms": [organism.name for organism in planned.organisms],
        "layers": list(planned.layers),
        "components": list(planned.settings.components),
        "hidden": planned.hidden,
        "dtype": planned.dtype,
        "responses": planned.responses,
        "readings": planned.readings,
        "readings_left": planned.readings_left,
        "generated_tokens": planned.generated_tokens,
        "read_tokens": planned.read_tokens,
        "rows": planned.rows,
        "raw_bytes": planned.size_bytes,
        "raw_bytes_by_arm": planned.arm_bytes,
        "raw_bytes_by_component": planned.component_bytes,
        "stored_bytes": planned.stored_bytes,
        "heads_bytes": planned.heads_bytes,
        "peak_disk_bytes": planned.peak_disk_bytes,
        "reserve_bytes": planned.reserve_bytes,
        "files": planned.files,
        "free_bytes": planned.free_bytes,
        "device": "gpu" if largest.memory.is_gpu else "cpu",
        "device_bytes": largest.total,
        "device_total_bytes": largest.memory.total,
        "weights_bytes": largest.weights,
        "adapters_bytes": largest.adapters,
        "in_flight_bytes": largest.in_flight,
        "logits_bytes": largest.logits,
        "tokens_in_flight": largest.tokens_in_flight,
        "host_bytes": planned.host_bytes,
        "timing": timing.source if timing else None,
        "seconds_low": timing.total.low if timing else None,
        "seconds_high": timing.total.high if timing else None,
        "load_seconds": timing.load if timing else None,
        "generate_seconds_high": _high(timing.generate) if timing else None,
        "read_seconds_high": _high(timing.read) if timing else None,
        "write_seconds_high": _high(timing.write) if timing else None,
        "generated_tokens_per_second": timing.generated_per_second if timing else None,
        "read_tokens_per_second": timing.read_per_second if timing else None,
        "written_bytes_per_second": timing.written_per_second if timing else None,
        "limits": [limit.name for limit in planned.limits if limit.is_exceeded],
        "verdict": _judge(planned),
    }


def show_plan(planned: Plan, timing: Timing | None = None) -> dict[str, str]:
    """Put what a run takes into words, sizes in powers of 1000."""
    largest = planned.largest
    where = "GPU" if largest.memory.is_gpu else "this machine's memory"
    there = (
        "which is not here" if largest.memory.total is None else _show_size(largest.memory.total)
    )
    arms = planned.arm_bytes
    return {
        "organisms": f"{len(planned.organisms)}: "
        + ", ".join(organism.name for organism in planned.organisms),
        "layers": ", ".join(map(str, planned.layers)),
        "model": f"{planned.hidden} wide, {planned.dtype}",
        "responses": f"{planned.responses:,}, read {planned.readings:,} times"
        + (f"; {planned.readings_left:,} readings are left" if planned.share_left < 1 else ""),
        "tokens": f"{planned.generated_tokens:,} to write, {planned.read_tokens:,} to read",
        "rows": f"{planned.rows:,}",
        "raw": f"{_show_arms(arms)} before compression; {_show_size(planned.size_bytes)} in all",
        "components": ", ".join(
            f"{name} {_show_size(size)}" for name, size in planned.component_bytes.items()
        ),
        "stored": f"about {_show_size(planned.stored_bytes)} in {planned.files:,} files",
        "disk": f"{_show_size(planned.peak_disk_bytes)} at most, and "
        f"{_show_size(planned.reserve_bytes)} kept free; {_show_size(planned.free_bytes)} are free",
        "device": f"{where}, {there}: {_show_size(largest.total)}, of which weights "
        f"{_show_size(largest.weights)}, adapters {_show_size(largest.adapters)}, "
        f"{largest.tokens_in_flight:,} tokens in flight {_show_size(largest.in_flight)}, "
        f"logits {_show_size(largest.logits)}",
        "host": _show_size(planned.host_bytes),
        "time": _show_timing(timing, len(arms)),
        "verdict": _judge(planned),
    }


def _judge(planned: Plan) -> str:
    short = [limit.name for limit in planned.limits if limit.is_exceeded]
    return f"FAIL: {', '.join(short)}" if short else "PASS"


def _show_arms(arms: dict[str, int]) -> str:
    if len(set(arms.values())) == 1:
        return f"{_show_size(next(iter(arms.values())))} per reading arm"
    return ", ".join(f"{name} {_show_size(size)}" for name, size in arms.items())


def _show_size(size_bytes: int) -> str:
    """Show a size in powers of 1000, with as many places as tell something."""
    size, unit = next(
        (size_bytes / factor, unit)
        for factor, unit in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB"), (1, "bytes"))
        if size_bytes >= factor or unit == "bytes"
    )
    places = 0 if size >= 100 or unit == "bytes" else 1 if size >= 10 else 2
    return f"{size:,.{places}f} {unit}"


def _show_timing(timing: Timing | None, n_arms: int) -> str:
    if timing is None:
        return "unknown; --probe loads the base and times it"
    shown = f"{_show_range(timing.total)}, by {timing.source}"
    if timing.read is None or timing.write is None or timing.load is None:
        return shown
    details = [f"load {_show_seconds(timing.load)}"]
    if timing.generate is not None:
        details.append(f"write the responses {_show_range(timing.generate)}")
    details.append(f"read {_show_range(timing.read.scaled(1 / n_arms))} an arm")
    details.append(f"store {_show_range(timing.write)}")
    return f"{shown}: {', '.join(details)}"


def _show_range(seconds: Range) -> str:
    low, high = _show_seconds(seconds.low), _show_seconds(seconds.high)
    return low if low == high else f"{low} to {high}"


def _show_seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else str(timedelta(seconds=round(seconds)))


def _high(seconds: Range | None) -> float | None:
    return seconds.high if seconds else None
