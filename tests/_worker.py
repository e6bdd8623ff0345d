"""One process of a run that spans several: ``python -m tests._worker JOB``, started by ``test_processes``."""

import json
import sys

import jax


def main(devices: int, x64: bool, place: dict, runs: list[dict]) -> None:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_num_cpu_devices", devices)
    jax.config.update("jax_enable_x64", x64)
    jax.distributed.initialize(**place)
    from tests.test_processes import train  # makes arrays, which only now will have their devices

    assert jax.device_count() == place["num_processes"] * devices
    for run in runs:
        train(**run)


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
