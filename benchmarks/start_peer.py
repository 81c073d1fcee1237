"""The peer of benchmarks/start.py: Ray and an empty TorchTrainer, and nothing else imported.

    python benchmarks/start_peer.py MARK

Every worker's loop imports torch, touches the file MARK and reports once.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import ray
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

WORKERS = 2


def loop(config: dict) -> None:
    import torch

    torch.zeros(1)
    Path(config["mark"]).touch()
    ray.train.report({})


def main() -> None:
    ray.init("local", num_cpus=WORKERS + (os.cpu_count() or 1), log_to_driver=False)
    trainer = TorchTrainer(
        loop,
        train_loop_config={"mark": sys.argv[1]},
        scaling_config=ScalingConfig(num_workers=WORKERS),
        run_config=RunConfig(storage_path=str(Path(sys.argv[1]).parent)),
    )
    trainer.fit()


if __name__ == "__main__":
    main()
