"""A GPU is fed the batches of the stream, one ahead, and a position is that of what was handed out."""

import pytest
import torch

from saestore.dictionaries import ContextRows
from saestore.lake import Lake
from saestore.testing.stores import HOOKPOINT, synthetic_store
from saestore.train.feed import fed
from saestore.train.rows import TrainingRows
from saestore_schemas.train import ActivationsSettings


def opened(lake, *, contexts=False):
    settings = ActivationsSettings(name="synthetic", batch_rows=64, held_out=0.1)
    return TrainingRows.open(settings, lake, hookpoints=[HOOKPOINT], contexts=contexts)


@pytest.mark.parametrize("contexts", [False, True], ids=["rows", "contexts"])
@pytest.mark.parametrize("stored", ["float32", "float16", "bfloat16", "int8"])
def test_a_device_gets_the_rows_of_the_stream(tmp_path, device, stored, contexts):
    lake = Lake.at(tmp_path)
    synthetic_store(lake, rows=600, width=7, dtype=stored)
    rows, where = opened(lake, contexts=contexts), torch.device(device)
    direct = rows.stream([HOOKPOINT], seed=3)
    sent = rows.stream([HOOKPOINT], seed=3, dtype=rows.form_for([HOOKPOINT], where))
    with fed(sent, where) as feed:
        for _ in range(25):
            wanted, batch = next(direct), next(feed)
            assert batch[HOOKPOINT].device.type == where.type
            assert batch[HOOKPOINT].dtype == torch.float32
            assert torch.equal(batch[HOOKPOINT].cpu(), wanted[HOOKPOINT])
            if isinstance(wanted, ContextRows):
                assert torch.equal(batch.contexts.wanted.cpu(), wanted.contexts.wanted)
            assert feed.state_dict()["position"] == direct.state_dict()["position"]


@pytest.mark.gpu
def test_memory_is_not_written_before_what_reads_it_is_over(tmp_path):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    lake = Lake.at(tmp_path)
    synthetic_store(lake, rows=600, width=7)
    rows, where = opened(lake), torch.device("cuda")
    direct = rows.stream([HOOKPOINT], seed=3)
    busy, seen, wanted = torch.randn(4096, 4096, device=where), [], []
    with fed(rows.stream([HOOKPOINT], seed=3), where) as feed:
        for _ in range(12):
            batch = next(feed)
            for _ in range(20):  # the device is far behind what is queued
                busy = torch.nn.functional.normalize(busy @ busy)
            seen.append(batch[HOOKPOINT] * 1)
            wanted.append(next(direct)[HOOKPOINT].clone())
    assert all(torch.equal(a.cpu(), b) for a, b in zip(seen, wanted, strict=True))
