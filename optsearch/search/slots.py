"""What workers run on."""

from optsearch.errors import UsageError


def slots_of(device: str, workers: int) -> list[str]:
    """One device a worker, handed out in turn; every device gets one at least."""
    devices = [part.strip() for part in device.split(",") if part.strip()]
    if not devices:
        raise UsageError("--device is empty. Expected cpu, cuda, or a list such as cuda:0,cuda:1.")
    return [devices[index % len(devices)] for index in range(max(workers, len(devices)))]
