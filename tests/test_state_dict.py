"""Weights from files: what fits is loaded, what does not is said in one line."""

from __future__ import annotations

import pathlib
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from mpqtool.errors import DataError
from mpqtool.state_dict import load_weights


def _network(features: int = 3, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    network = nn.Sequential(nn.Linear(2, features), nn.BatchNorm1d(features))
    with torch.no_grad():
        for tensor in network.state_dict().values():
            tensor.copy_(torch.rand(tensor.shape, generator=generator).add(seed).to(tensor.dtype))
    return network


@pytest.mark.parametrize(
    ("name", "save"), [("w.safetensors", save_file), ("w.pt", torch.save)], ids=["safetensors", "torch"]
)
def test_weights_are_loaded_and_what_stands_beside_them_is_not(
    tmp_path: pathlib.Path,
    caplog: pytest.LogCaptureFixture,
    name: str,
    save: Callable[[Any, pathlib.Path], None],
) -> None:
    source, target = _network(seed=2), _network()
    save({**source.state_dict(), "momentum/0.weight": torch.zeros(1)}, tmp_path / name)
    load_weights(target, tmp_path / name)
    (said,) = caplog.messages
    assert said.endswith("left alone what the network does not have: 'momentum/0.weight'")
    for key, value in source.state_dict().items():
        torch.testing.assert_close(target.state_dict()[key], value, rtol=0, atol=0)


def test_old_files_without_the_counters_of_batch_normalization_fit(tmp_path: pathlib.Path) -> None:
    source, target = _network(seed=2), _network()
    state = {k: v for k, v in source.state_dict().items() if not k.endswith("num_batches_tracked")}
    save_file(state, tmp_path / "w.safetensors")
    load_weights(target, tmp_path / "w.safetensors")
    torch.testing.assert_close(target.state_dict()["1.running_var"], state["1.running_var"], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        pytest.param(
            {"0.weight": torch.zeros(3, 2)},
            r"'0.bias' and 4 others are missing; .* 1 tensors, the first of them '0.weight', the network 7",
            id="several-missing",
        ),
        pytest.param(
            {k: v for k, v in _network().state_dict().items() if k != "1.running_mean"},
            r"'1.running_mean' is missing; the file has 6 tensors",
            id="one-missing",
        ),
        pytest.param(
            _network(5).state_dict(),
            r"'0.weight' is \[5, 2\] in the file and \[3, 2\] in the network",
            id="shape",
        ),
        pytest.param(
            {**_network().state_dict(), "0.weight": torch.tensor([[1, 2], [torch.nan, 4], [5, torch.inf]])},
            "2 of the 6 numbers of '0.weight' are NaN or infinite",
            id="not-finite",
        ),
    ],
)
def test_weights_of_another_network_change_nothing(
    tmp_path: pathlib.Path, state: dict[str, Tensor], message: str
) -> None:
    network = _network()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(DataError, match=message) as caught:
        load_weights(network, tmp_path / "w.safetensors")
    assert "\n" not in str(caught.value)
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


def test_the_prefix_of_data_parallel_is_taken_off(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    source, target = _network(seed=2), _network()
    save_file({f"module.{k}": v for k, v in source.state_dict().items()}, tmp_path / "w.safetensors")
    load_weights(target, tmp_path / "w.safetensors")
    torch.testing.assert_close(target.state_dict(), source.state_dict(), rtol=0, atol=0)
    (said,) = caplog.messages
    assert "every name begins with 'module.'" in said


def test_a_network_with_that_prefix_keeps_it(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    source, target = (nn.ModuleDict({"module": _network(seed=seed)}) for seed in (2, 0))
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    load_weights(target, tmp_path / "w.safetensors")
    torch.testing.assert_close(target.state_dict(), source.state_dict(), rtol=0, atol=0)
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("name", "write", "reason"),
    [
        pytest.param("w.pt", lambda p: p.write_bytes(b"hello world"), "not a file of torch.save", id="junk"),
        pytest.param("w.pt", lambda p: p.write_bytes(b""), "not a file of torch.save", id="empty"),
        pytest.param(
            "w.safetensors",
            lambda p: p.write_bytes(b"hello world"),
            "not a safetensors file",
            id="safetensors",
        ),
        pytest.param(
            "w.pt", lambda p: torch.save(_network(), p), "something else than tensors", id="network"
        ),
        pytest.param(
            "w.pt", lambda p: torch.save({"a": np.zeros(2)}, p), "something else than tensors", id="numpy"
        ),
    ],
)
def test_files_of_another_kind(
    tmp_path: pathlib.Path, name: str, write: Callable[[pathlib.Path], object], reason: str
) -> None:
    write(tmp_path / name)
    with pytest.raises(DataError, match=rf"Cannot read weights '.*': it .*{reason}.*\. Give a .safetensors"):
        load_weights(_network(), tmp_path / name)


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
def test_no_file(tmp_path: pathlib.Path, name: str) -> None:
    with pytest.raises(DataError, match=rf"Cannot read weights '.*{name}': No such file"):
        load_weights(_network(), tmp_path / name)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param({"model": _network().state_dict(), "epoch": 3}, id="checkpoint"),
        pytest.param([torch.zeros(1)], id="list"),
    ],
)
def test_no_state_dictionary(tmp_path: pathlib.Path, content: object) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(DataError, match=r"is no state dictionary\. Save network\.state_dict\(\) alone"):
        load_weights(_network(), tmp_path / "w.pt")


class _Bomb:
    def __init__(self, path: pathlib.Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return pathlib.Path.touch, (self.path,)


@pytest.mark.parametrize("save", [torch.save, lambda thing, path: path.write_bytes(pickle.dumps(thing))])
def test_code_in_a_pickle_is_not_run(
    tmp_path: pathlib.Path, save: Callable[[Any, pathlib.Path], None]
) -> None:
    save({"0.weight": _Bomb(tmp_path / "ran")}, tmp_path / "w.pt")
    with pytest.raises(DataError, match="Cannot read weights") as caught:
        load_weights(_network(), tmp_path / "w.pt")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


@given(content=st.binary(max_size=64), name=st.sampled_from(["w.safetensors", "w.pt"]))
def test_any_other_bytes_are_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, name: str
) -> None:
    path = tmp_path_factory.mktemp("bytes") / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"Cannot (read|use) weights") as caught:
        load_weights(_network(), path)
    assert "\n" not in str(caught.value)
