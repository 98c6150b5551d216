"""One of three processes, of which some share an image: run by test_shard.py."""

import os
import sys
from pathlib import Path

import torch
from torch import distributed

from tests.helpers.models import random_images, tiny_xcit
from xcit_dense.rasters.window import Window
from xcit_dense.streaming.shard import sharded_levels, sum_gradients
from xcit_dense.streaming.stream import stream


def slope(level, number):
    """Returns a gradient for a complete level."""
    return torch.randn(level, generator=torch.Generator().manual_seed(number))


def count_bytes(sent):
    """Lets torch.distributed record the bytes of the tensors that it sums and sends."""
    all_reduce, batch = distributed.all_reduce, distributed.batch_isend_irecv

    def counted_sum(tensor, **options):
        sent["covariances"] += tensor.nbytes
        return all_reduce(tensor, **options)

    def counted_batch(operations):
        sent["halos"] += sum(each.tensor.nbytes for each in operations if each.op is distributed.isend)
        return batch(operations)

    distributed.all_reduce, distributed.batch_isend_irecv = counted_sum, counted_batch


def main(directory, ranks):
    """Computes the levels and gradients of each case in some of the processes, and saves them."""
    rank = int(os.environ["RANK"])
    distributed.init_process_group("gloo", init_method=f"file://{directory}/group", rank=rank, world_size=3)
    group = distributed.new_group(ranks) if len(ranks) < 3 else None
    if rank in ranks:
        torch.save(list(run_cases(directory, group)), Path(directory, f"{rank}.pt"))
    distributed.barrier()
    distributed.destroy_process_group()


def run_cases(directory, group):
    """Yields what the test compares, for each case."""
    sent = dict.fromkeys(("covariances", "halos"), 0)
    count_bytes(sent)
    for options, size, shapes in torch.load(Path(directory, "cases.pt"), weights_only=False):
        backbone = tiny_xcit(norm_eval=True, **options).train()
        sent.update(covariances=0, halos=0)
        torch.manual_seed(distributed.get_rank(group))
        band = sharded_levels(backbone, random_images(1, 3, *size), group)
        forward = dict(sent)
        slopes = [
            slope(shape, number)[:, :, rows.start : rows.stop]
            for number, (shape, rows) in enumerate(zip(shapes, band.rows))
        ]
        sum((level * each).sum() for level, each in zip(band.levels, slopes)).backward()
        both = dict(sent)
        sum_gradients(list(backbone.parameters()), group)
        gradients = {name: parameter.grad for name, parameter in backbone.named_parameters()}
        yield {
            "levels": [level.detach() for level in band.levels],
            "rows": band.rows,
            "gradients": gradients,
            "forward": forward,
            "both": both,
            "streamed": list(stream_parts(backbone.eval(), random_images(1, 3, *size), group)),
        }


def stream_parts(backbone, image, group):
    """Yields parts of levels that are streamed in bands: the own rows, more rows, and tiles; each with its window."""
    with stream(backbone, image, strip=3, shard=True, group=group) as levels:
        shapes = levels.shapes
        for level, rows in enumerate(levels.rows):
            window = Window(rows.start, 0, len(rows), shapes[level][2])
            yield level, window, levels.read(level, window)
        wanted = [[] for _ in levels.bands.rows]
        for _, height, _ in shapes:
            for process, rows in enumerate(levels.bands.of_map(height)):
                wanted[process].append(range(max(rows.start - 5, 0), min(rows.stop + 9, height)))
        levels.fetch(wanted)
        for level, rows in enumerate(wanted[levels.bands.index]):
            window = Window(rows.start, 0, len(rows), shapes[level][2])
            yield level, window, levels.read(level, window)
        for tile, parts in levels.tiles(64):
            for level, part in enumerate(parts):
                stride = levels.strides[level]
                yield level, Window(tile.row // stride, tile.column // stride, *part.shape[2:]), part


if __name__ == "__main__":
    main(sys.argv[1], [int(rank) for rank in sys.argv[2:]])
