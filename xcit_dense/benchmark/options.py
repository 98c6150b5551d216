"""Options of a benchmark."""

from __future__ import annotations

from dataclasses import dataclass

import torch

Size = tuple[int, int]  # height and width in pixels

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """The images, the step and the device of a benchmark: what does not depend on the kind of the model."""

    sizes: tuple[Size, ...]
    batch: int
    dtype: str  # a name in DTYPES; bf16 uses autocast
    train: bool  # forward and backward pass instead of inference
    device: str  # cpu or cuda
    threads: int
    rounds: int
    contenders: tuple[str, ...]  # in the order in which they run
    strict: bool = True  # whether a contender that cannot be made is an error, or is left out

    def __str__(self) -> str:
        what = "training step" if self.train else "inference"
        where = f"CPU, threads: {self.threads}" if self.device == "cpu" else torch.cuda.get_device_name()
        return f"{self.subject}, batch {self.batch}, {self.dtype}, {what} on {where}"

    @property
    def subject(self) -> str:
        """The name of what is measured."""
        raise NotImplementedError

    @property
    def autocast(self) -> torch.autocast:
        """The context of autocast, turned on for every dtype except fp32."""
        return torch.autocast(self.device, DTYPES[self.dtype], enabled=self.dtype != "fp32")


@dataclass(frozen=True, kw_only=True)
class Options(Conditions):
    """The options of a benchmark of a backbone."""

    variant: str

    @property
    def subject(self) -> str:
        """The name of what is measured."""
        return self.variant
