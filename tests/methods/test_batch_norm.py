from __future__ import annotations

import numpy as np
import torch
from onnx_text import parse

from mpqtool.importer import import_graph
from mpqtool.methods.batch_norm import reestimate
from mpqtool.passes.pipelines import normalize

TEXT = """
net (float[N, 2, 3] x) => (float[N, 2, 3] y)
    <float[2] s = {1, 1}, float[2] b = {0, 0}, float[2] m = {9, 9}, float[2] v = {9, 9}>
    { y = BatchNormalization (x, s, b, m, v) }
"""


def test_statistics_become_the_averages_over_all_samples(rng: np.random.Generator) -> None:
    network = import_graph(normalize(parse(TEXT))).train()
    x = torch.from_numpy(rng.normal(loc=3, scale=2, size=(50, 2, 3)).astype(np.float32))

    reestimate(network, [(x[:40],), (x[40:],)])  # batches of different sizes

    buffers = dict(network.named_buffers())
    torch.testing.assert_close(buffers["m"], x.mean((0, 2)), rtol=1e-5, atol=0)  # float32 sums of 150 terms
    inside = [part.transpose(0, 1).flatten(1).var(1) for part in (x[:40], x[40:])]
    torch.testing.assert_close(buffers["v"], 0.8 * inside[0] + 0.2 * inside[1], rtol=1e-5, atol=0)
    assert network.training


FLAT = TEXT.replace("[N, 2, 3]", "[N, 2]")


def test_a_last_batch_of_one_sample_is_left_out(rng: np.random.Generator) -> None:
    x = torch.from_numpy(rng.normal(size=(5, 2)).astype(np.float32))
    networks = [import_graph(normalize(parse(FLAT))) for _ in range(2)]

    reestimate(networks[0], [(x[:4],), (x[4:],)])

    reestimate(networks[1], [(x[:4],)])
    one, other = (dict(network.named_buffers()) for network in networks)
    assert all(torch.equal(one[name], other[name]) for name in "mv")


def test_a_single_sample_has_statistics_over_its_pixels() -> None:
    network = import_graph(normalize(parse(TEXT)))
    reestimate(network, [(torch.arange(6.0).view(1, 2, 3),)])
    assert dict(network.named_buffers())["m"].tolist() == [1, 4]


def test_momentum_and_mode_are_given_back_whatever_happens(rng: np.random.Generator) -> None:
    network = import_graph(normalize(parse(TEXT))).eval()
    (norm,) = [m for m in network.modules() if hasattr(m, "momentum")]
    before = norm.momentum
    try:
        reestimate(network, [(torch.zeros(2, 7),)])
    except (RuntimeError, ValueError):
        pass
    else:
        raise AssertionError("a batch of another shape must not pass")
    assert norm.momentum == before
    assert not network.training
