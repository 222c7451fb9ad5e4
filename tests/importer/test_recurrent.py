from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from compare import assert_equivalent, run_onnx
from importing import BATCHES, imported

import mpqtool.importer.recurrent
from mpqtool.passes.errors import UnsupportedOpError

TIME, INPUTS, HIDDEN = 6, 5, 4
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
VERSIONS = [(op, opset) for op in GATES for opset in (7, 14, 22)]


def _model(op: str, attributes: str, *, opset: int = 14, optional: tuple[str, ...] = ()) -> onnx.ModelProto:
    """One node with weights; ``optional`` inputs are ``b``, ``lengths``, ``h``, ``c`` and ``p``."""
    directions = 2 if "bidirectional" in attributes else 1
    names = ["b", "lengths", "h", *(["c", "p"] if op == "LSTM" else [])]
    used = ["x", "w", "r", *(name if name in optional else "" for name in names)]
    outputs = ["y", "y_h", *(["y_c"] if op == "LSTM" else [])]
    state = f"float[{directions}, N, {HIDDEN}]"
    types = {"x": f"float[T, N, {INPUTS}]", "lengths": "int32[N]", "h": state, "c": state}
    ins = ", ".join(f"{kind} {name}" for name, kind in types.items() if name in used)
    outs = ", ".join(f"float[] {name}" for name in outputs)
    attributes = ", ".join(filter(None, [f"hidden_size = {HIDDEN}", attributes]))
    model = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["": {opset}]> net ({ins}) => ({outs}) '
        f"{{ {', '.join(outputs)} = {op} <{attributes}> ({', '.join(used).rstrip(', ')}) }}"
    )
    rng, rows = np.random.default_rng(1), GATES[op] * HIDDEN
    shapes = {"w": (rows, INPUTS), "r": (rows, HIDDEN), "b": (2 * rows,), "p": (3 * HIDDEN,)}
    for name in filter(used.__contains__, shapes):  # in one order: every run draws the same weights
        array = rng.normal(size=(directions, *shapes[name])).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return model


def _feeds(model: onnx.ModelProto, batch: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(batch)
    directions = model.graph.initializer[0].dims[0]
    arrays = {
        "x": rng.normal(size=(TIME, batch, INPUTS)).astype(np.float32),
        "lengths": np.array([3, TIME, 1][:batch], np.int32),
        "h": rng.normal(size=(directions, batch, HIDDEN)).astype(np.float32),
        "c": rng.normal(size=(directions, batch, HIDDEN)).astype(np.float32),
    }
    return {value.name: arrays[value.name] for value in model.graph.input}


def _assert_matches(model: onnx.ModelProto) -> None:
    """As ONNX Runtime at every batch size, with a gradient for every weight."""
    module = imported(model)
    names = [output.name for output in model.graph.output]
    assert {name for name, _ in module.named_parameters()} == {i.name for i in model.graph.initializer}
    for batch in BATCHES:
        feeds = _feeds(model, batch)
        made = module(*map(torch.from_numpy, feeds.values()))
        assert_equivalent(
            run_onnx(model, feeds),
            {name: tensor.detach().numpy() for name, tensor in zip(names, made, strict=True)},
            rtol=1e-4,
            atol=2e-6,  # the runtime has its own sigmoid and tanh
        )
        module.zero_grad()
        sum(tensor.square().sum() for tensor in made).backward()
        for name, parameter in module.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 1e-6, name


@pytest.mark.parametrize(("op", "opset"), VERSIONS)
def test_only_the_weights(op: str, opset: int) -> None:
    _assert_matches(_model(op, "", opset=opset))


@pytest.mark.parametrize("op", GATES)
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("optional", [("b", "h", "c", "p"), ("b", "lengths"), ("lengths", "h", "c")])
def test_directions_and_optional_inputs(op: str, direction: str, optional: tuple[str, ...]) -> None:
    _assert_matches(_model(op, f'direction = "{direction}"', optional=optional))


KERNEL_FORMS = [("LSTM", ""), ("GRU", "linear_before_reset = 1"), ("RNN", "")]


@pytest.mark.parametrize(("op", "attributes"), KERNEL_FORMS)
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("optional", [(), ("b", "h", "c")])
def test_the_forms_of_torch_are_one_kernel(
    op: str, attributes: str, direction: str, optional: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(mpqtool.importer.recurrent, "recur")
    attributes = ", ".join(filter(None, [f'direction = "{direction}"', attributes]))
    _assert_matches(_model(op, attributes, optional=optional))


@pytest.mark.parametrize(("op", "attributes"), KERNEL_FORMS)
def test_the_kernel_gives_what_the_loop_gives(op: str, attributes: str) -> None:
    """Values and the gradients of all weights; a clip this high changes nothing but that it is a loop."""
    made = []
    for clip in ("", "clip = 1e6"):
        given = ", ".join(filter(None, ['direction = "bidirectional"', attributes, clip]))
        model = _model(op, given, optional=("b", "h", "c"))
        module = imported(model).double()
        inputs = [torch.from_numpy(x).double().requires_grad_() for x in _feeds(model, 3).values()]
        results = module(*inputs)
        learned = [*inputs, *(p for _, p in sorted(module.named_parameters()))]
        loss = sum(part.square().sum() for part in results)
        made.append((*results, *torch.autograd.grad(loss, learned)))
    for fused, looped in zip(*made, strict=True):
        torch.testing.assert_close(fused, looped, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("op", "attributes"),
    [
        ("LSTM", "clip = 0.5"),
        ("LSTM", "input_forget = 1"),
        ("GRU", "clip = 0.5"),
        ("GRU", "linear_before_reset = 1"),
        ("GRU", 'linear_before_reset = 1, clip = 0.5, direction = "bidirectional"'),
        ("RNN", "clip = 0.5"),
    ],
)
def test_forms(op: str, attributes: str) -> None:
    _assert_matches(_model(op, attributes, optional=("b", "h", "c", "p")))


@pytest.mark.parametrize(
    "attributes",
    [
        'activations = ["Affine"], activation_alpha = [0.3], activation_beta = [0.2]',
        'activations = ["Elu"]',
        'activations = ["Elu"], activation_alpha = [0.5]',
        'activations = ["HardSigmoid"]',
        'activations = ["HardSigmoid"], activation_alpha = [0.3], activation_beta = [0.4]',
        'activations = ["LeakyRelu"]',
        'activations = ["LeakyRelu"], activation_alpha = [0.3]',
        'activations = ["Relu"]',
        'activations = ["ScaledTanh"], activation_alpha = [0.7], activation_beta = [0.9]',
        'activations = ["Sigmoid"]',
        'activations = ["Softplus"]',
        'activations = ["Softsign"]',
        'activations = ["Tanh", "Tanh"]',
        'activations = ["ThresholdedRelu"], activation_alpha = [0.5]',
        'activations = ["Relu", "LeakyRelu"], activation_alpha = [0.2], direction = "bidirectional"',
    ],
)
def test_activations(attributes: str) -> None:
    _assert_matches(_model("RNN", attributes, optional=("b",)))


@pytest.mark.parametrize(
    ("op", "attributes"),
    [
        (
            "LSTM",
            'activations = ["Sigmoid", "LeakyRelu", "Affine"], activation_alpha = [0.3, 0.5], '
            "activation_beta = [0.1]",
        ),
        ("GRU", 'activations = ["HardSigmoid", "Softsign"]'),
        (
            "GRU",
            'activations = ["Sigmoid", "Tanh", "HardSigmoid", "Elu"], activation_alpha = [0.3, 0.6], '
            'activation_beta = [0.4], direction = "bidirectional"',
        ),
    ],
)
def test_numbers_are_used_up_in_order(op: str, attributes: str) -> None:
    _assert_matches(_model(op, attributes, optional=("b",)))


def test_the_default_of_thresholded_relu_is_that_of_the_operator() -> None:
    """Alpha is 1, says the standard; ONNX Runtime takes 0."""
    given = 'activations = ["ThresholdedRelu"]'
    plain, spelt = (imported(_model("RNN", a)) for a in (given, given + ", activation_alpha = [1.0]"))
    x = torch.from_numpy(_feeds(_model("RNN", ""), 3)["x"])
    assert torch.equal(plain(x)[0], spelt(x)[0])


def test_softplus_of_a_large_number_is_that_number() -> None:
    """ONNX Runtime and the standard's reference give infinity from 89 on."""
    module = imported(_model("RNN", 'activations = ["Softplus"]'))
    with torch.no_grad():
        module.w.fill_(20.0)
        module.r.zero_()
    y, _ = module(torch.ones(1, 1, INPUTS))
    torch.testing.assert_close(y, torch.full((1, 1, 1, HIDDEN), 20.0 * INPUTS), rtol=0, atol=0)


@pytest.mark.parametrize("op", GATES)
@pytest.mark.parametrize("optional", [("b", "h", "c", "lengths"), ("b", "h", "c"), ("b",)])
def test_the_batch_can_be_first(op: str, optional: tuple[str, ...]) -> None:
    """ONNX Runtime does not have this layout: it is the other one with its axes moved."""
    models = [_model(op, f'layout = {i}, direction = "bidirectional"', optional=optional) for i in (0, 1)]
    time_first, batch_first = map(imported, models)
    inputs = [torch.from_numpy(array) for array in _feeds(models[0], 3).values()]
    y, *states = time_first(*inputs)
    moved = [x if x.ndim == 1 else x.transpose(0, 1) for x in inputs]
    y_moved, *states_moved = batch_first(*moved)
    torch.testing.assert_close(y_moved, y.permute(2, 0, 1, 3), rtol=0, atol=0)
    for state, state_moved in zip(states, states_moved, strict=True):
        torch.testing.assert_close(state_moved, state.transpose(0, 1), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        (
            'activations = ["Cosine", "Tanh", "Tanh"]',
            "activation 'Cosine' is unknown. Export .* one of affine",
        ),
        ('activations = ["Tanh"]', "activations has 1 names where 3 are needed. Give it 3"),
        ('direction = "sideways"', "direction='sideways', allowed are forward, reverse, bid"),
    ],
)
def test_refusals(attributes: str, reason: str) -> None:
    with pytest.raises(UnsupportedOpError, match=reason):
        imported(_model("LSTM", attributes))
