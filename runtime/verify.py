"""Prove that an integer file computes the integers it promises."""

from __future__ import annotations

__all__ = ["VerifyResult", "verify"]

import dataclasses
import functools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent import futures
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray
from onnx_ir.passes import common

from mpqtool.passes import metadata
from mpqtool.passes.errors import PassError
from mpqtool.passes.load import load_model
from mpqtool.passes.lower.foreign import code_shifts
from mpqtool.passes.lower.keep_float import kept_float
from mpqtool.passes.lower.names import NameCodesPass
from mpqtool.passes.pipelines import lower_like

from .errors import RuntimeFault
from .held import BROKEN, compare_attributes, compare_constants, read_integers, require_qdq
from .local import LocalCheck
from .reference import Reference
from .rounding import Rounding, shaken
from .session import LEVELS, make_session, resolve_provider
from .tally import Tally, TensorResult

Array = NDArray[Any]
Simulation = Callable[[dict[str, Array]], Mapping[str, Array]]
_TAIL_TOLERANCE = 1e-3
"""Of outputs behind float operators, in units of the largest: float32 kernels differ by about 1e-6 each.
Where the largest is small beside what it is computed from, ``Rounding`` allows for more."""

_SHAKEN, _SHARE_OF_SHAKEN = 3, 4
"""Where that does not do: runs of the reference that round at random, and how many times as far as they are
apart an engine may be, sample by sample."""

_QDQ_LEVEL = "disabled"
"""The QDQ file as written: at higher levels ONNX Runtime replaces its operators by others."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class VerifyResult:
    """What verification found.

    Attributes:
        passed: Something was compared, every tensor in every engine, and nothing differs. Real outputs that
            the simulation does not name are the exception: ONNX Runtime alone is held against the reference.
        provider: The execution provider that ran the integer file, a key of ``PROVIDERS``.
        engines: What was compared with the reference: ``ort:LEVEL``, ``simulation``.
        samples: Inputs that were run.
        codes_compared: Codes and exact real outputs, each counted once however many engines computed it.
        codes_different: Of these, those that any engine computed otherwise.
        real_compared: Values of outputs behind float operators, compared within the tolerance of float32. A
            file that was found fastest in float alone has no others.
        constants_compared: Weight codes, bias codes, scales and zero points of the file, against the QDQ
            file.
        constants_different: Of these, those that are other than the QDQ file says.
        first_different: The first difference, ``NAME (ENGINE)``, or None.
        real_unsettled: Of ``real_compared``, those that are further off than float32 usually is, but no
            further than its rounding takes them in this network.
        island_compared: Of ``codes_compared``, those behind float operators.
        island_different: Of these, those that differ between engines by 1; not in ``codes_different``.
        qdq_max_lsb: Largest difference of a code from the QDQ file's own; None if nothing was compared.
        qdq_rate: Share of the codes that differ from the QDQ file's.
        local_max_lsb: Largest difference of a code from what the QDQ file's own operators compute of the same
            inputs, layer by layer; None if nothing was compared. Beyond rounding, verification fails.
        local_rate: Share of the codes that differ from these.
        local_left_out: How many tensors of codes were not compared so: the QDQ file does not have them.
        top1_agreement: Share of samples where both files give the same class; None if there are none.
        integer_top1: Share of samples where the integer file gives the label; None without labels.
        qdq_top1: The same of the QDQ file.
        tensors: One row per tensor.
    """

    passed: bool
    provider: str
    engines: tuple[str, ...]
    samples: int
    codes_compared: int
    codes_different: int
    real_compared: int
    real_unsettled: int
    constants_compared: int
    constants_different: int
    first_different: str | None
    island_compared: int
    island_different: int
    qdq_max_lsb: int | None
    qdq_rate: float | None
    local_max_lsb: int | None
    local_rate: float | None
    local_left_out: int
    top1_agreement: float | None
    integer_top1: float | None
    qdq_top1: float | None
    tensors: tuple[TensorResult, ...]


def verify(
    int_path: str | os.PathLike[str],
    qdq_path: str | os.PathLike[str],
    batches: Iterable[Mapping[str, Array]],
    *,
    simulate: Simulation | None = None,
    labels: Array | None = None,
    levels: Sequence[str] = tuple(LEVELS),
    provider: str = "cpu",
    threads: int | None = None,
    on_batch: Callable[[], object] | None = None,
) -> VerifyResult:
    """Compare every code of an integer file, in every engine, on every batch.

    The expected codes come from the numpy reference on the integer graph that the QDQ file stands for,
    whatever target the integer file was made for: all of them have the same codes.
    Compared with them, element by element: ONNX Runtime on the integer file at every optimisation
    level, and the simulation. The file as it is, without the extra outputs that show the codes, must
    give the same outputs to the bit at every level. So must weights and scales in the file be those of
    the QDQ file.

    That the integer graph stands for the QDQ file is checked apart from lowering, layer by layer:
    ``LocalCheck``.

    Behind a float operator engines may differ by one code, at a hundredth of the elements. The reference and
    the simulation go on from the codes of ONNX Runtime there.

    Args:
        int_path: The integer file.
        qdq_path: The QDQ file it was made of.
        batches: Graph inputs by name; about 250 samples each are fast.
        simulate: Gives the codes of every quantized value, by name ``v.codes``, from the feeds. Among
            these are also codes to go on from, where float operators make them, under their names.
        labels: Class of each sample, in the order of the batches.
        levels: Optimisation levels, keys of ``session.LEVELS``.
        provider: Key of ``PROVIDERS``, or ``auto``.
        threads: How many runs of ONNX Runtime go on at a time; None: one per core.
        on_batch: Called after each batch.

    Raises:
        ModelError: A file cannot be read.
        RuntimeFault: A file cannot be run, or the two do not belong together.
    """
    tops: list[tuple[Array, Array]] = []
    samples = 0
    with futures.ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        run = _Run(int_path, qdq_path, pool, levels=levels, provider=provider, simulate=simulate)
        for batch in batches:
            feeds = {name: np.asarray(x, order="C") for name, x in batch.items()}
            tops.append(run.batch(feeds))
            samples += len(np.atleast_1d(next(iter(feeds.values()))))
            if on_batch is not None:
                on_batch()
    return run.result(samples, tops, labels)


class _Run:
    """The sessions of one verification, and what they found so far."""

    def __init__(
        self,
        int_path: str | os.PathLike[str],
        qdq_path: str | os.PathLike[str],
        pool: futures.Executor,
        *,
        levels: Sequence[str],
        provider: str,
        simulate: Simulation | None,
    ) -> None:
        if not levels:
            raise RuntimeFault(f"No optimisation level to verify at, allowed: {', '.join(LEVELS)}. Name one.")
        shipped, qdq = load_model(int_path), load_model(qdq_path)
        require_qdq(qdq, qdq_path)
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(qdq)
        NameCodesPass()(qdq)
        shifts = code_shifts(qdq)
        target = shipped.metadata_props.get(metadata.TARGET, "cpu")
        try:
            promised = lower_like(qdq, shipped)
            wanted = Reference(promised)
            same = target == "cpu"
            self.reference = wanted if same else Reference(lower_like(qdq, shipped, target="cpu"))
        except (PassError, *BROKEN) as error:
            raise RuntimeFault(f"Cannot lower {os.fspath(qdq_path)!r} again: {error}") from error
        islands = self.reference.islands
        kinds = {name: "island" if name in islands else "codes" for name in self.reference.codes}
        kinds |= dict.fromkeys(self.reference.exact_outputs, "float")
        held = {str(v.name) for node in shipped.graph for v in node.outputs}
        if not self.reference.codes and not kept_float(shipped):
            raise RuntimeFault(
                f"Nothing to verify: no activation of {os.fspath(qdq_path)!r} has uint8 or int8 codes with "
                "one scale, so nothing of it computes in integers. `mpqtool lower` says why."
            )
        if not held.issuperset(kinds):
            lacking = next(name for name in kinds if name not in held)
            raise RuntimeFault(
                f"{os.fspath(int_path)!r} does not hold {lacking!r}, which {os.fspath(qdq_path)!r} asks for: "
                "they do not belong together. Lower the QDQ file again."
            )
        shown = _with_outputs(ir.to_proto(shipped), kinds)
        self.simulate, self.provider = simulate, resolve_provider(shown, provider)
        runtimes = {f"ort:{level}" for level in levels}
        self.engines = runtimes | ({"simulation"} if simulate else set())
        # A simulation may stop at the last codes: what it gives behind them is compared, not required.
        required = {name: runtimes if kind == "float" else self.engines for name, kind in kinds.items()}
        self.tally = Tally(kinds, required)
        self.constants = compare_constants(wanted, read_integers(shipped, int_path), self.tally)
        compare_attributes(promised, shipped, self.tally)
        outputs = [str(value.name) for value in shipped.graph.outputs]
        self.tail = [name for name in outputs if name not in kinds]
        self.pool = pool
        self.real_compared = self.real_unsettled = 0
        self.shown = {level: _session(shown, self.provider, level) for level in levels}
        self.shipped = {level: _session(int_path, self.provider, level) for level in levels}
        codes = {str(v.name) for node in qdq.graph for v in node.outputs} & set(self.reference.codes)
        named = (name for name in sorted(codes) if name.endswith(metadata.SUFFIX))  # others are not ours
        self.qdq_codes = {name: shifts[name] for name in named if name in shifts}
        self.qdq = _session(_with_outputs(ir.to_proto(qdq), codes), "cpu", _QDQ_LEVEL)
        exact = set(self.reference.exact_outputs)
        self.local = LocalCheck(qdq, kept_float(shipped), self.qdq_codes, values=exact, islands=islands)

    def batch(self, feeds: dict[str, Array]) -> tuple[Array, Array]:
        """Run one batch everywhere; the first outputs of the integer and of the QDQ file."""
        shown = {level: self.pool.submit(self._run_shown, s, feeds) for level, s in self.shown.items()}
        shipped = {level: self.pool.submit(_run, s, feeds) for level, s in self.shipped.items()}
        of_qdq = self.pool.submit(_run, self.qdq, feeds)
        top = next(reversed(shown))
        islands = self.reference.islands
        given = {name: shown[top].result()[name] for name in islands} if islands else {}
        rounding = Rounding(feeds)
        expected = self.reference.run(feeds, given, rounding)
        found = {level: run.result() for level, run in shown.items()}
        futures.wait([*shipped.values(), of_qdq])
        # Only now: threads that wait for each other, as torch's do, need the cores for themselves.
        simulated = self._left(self.simulate({**feeds, **given})) if self.simulate else None
        same, other = {f"ort:{top}": found[top]}, []
        for level, values in found.items():
            if level != top and all(np.array_equal(values[name], given[name]) for name in given):
                same[f"ort:{level}"] = values
            elif level != top:
                other.append(level)
        if simulated is not None:
            same["simulation"] = simulated
        self.tally.batch(expected, same)
        unsettled = self._unsettled(feeds, given, expected)
        for level in found.keys() - set(other):
            self._compare_tail(expected, found[level], level, rounding, unsettled)
        for level in other:  # its islands differ, so what follows does too
            own = {name: found[level][name] for name in given}
            again = self.reference.run(feeds, own)
            self.tally.batch(again, {f"ort:{level}": found[level]}, again=True)
            self._compare_tail(again, found[level], level, rounding, self._unsettled(feeds, own, again))
        for level, run in shipped.items():
            for name, value in run.result().items():
                if not np.array_equal(value, found[level][name], equal_nan=True):
                    self.tally.fail(f"{name} (ort:{level}, the file as it is)")
        qdq = self._left(of_qdq.result())
        own = {name: _shifted(qdq[name], shift) for name, shift in self.qdq_codes.items()}
        self.tally.qdq_batch(expected, own)
        self._compare_locally(feeds, {**expected, **given}, of_qdq.result(), rounding, unsettled)
        return next(iter(found[top].values())), next(iter(qdq.values()))

    def _run_shown(self, session: ort.InferenceSession, feeds: dict[str, Array]) -> dict[str, Array]:
        """Run the file with its codes shown; those that it carries in float32 as the integers they are."""
        codes = set(self.reference.codes)
        return {name: _integers(x) if name in codes else x for name, x in _run(session, feeds).items()}

    def _left(self, values: Mapping[str, Array]) -> dict[str, Array]:
        """What the integer file still computes of values: not the channels of removed kernels."""
        kept = self.reference.kept
        return {name: x.take(kept[name], axis=1) if name in kept else x for name, x in values.items()}

    def _compare_locally(
        self, feeds: dict[str, Array], computed: dict[str, Array], qdq: dict[str, Array], rounding: Rounding,
        unsettled: Callable[[str], Array],
    ) -> None:  # fmt: skip
        """Each layer as the QDQ file computes it of the inputs that it has here."""
        whole = {name: _shifted(qdq[name], shift) for name, shift in self.qdq_codes.items()}
        local, allowed = self.local.run(feeds, computed, whole, self.reference.kept), self.local.allowed
        self.tally.local_batch(computed, {name: local[name] for name in self.local.codes}, allowed)
        for name in self.local.values:
            if not _close(local[name], computed[name], rounding.of(name), allowed.get(name, 0.0)):
                if name in self.tail and (
                    self._is_settled(name, local[name], computed[name], unsettled) is not None
                ):
                    continue
                self.tally.fail(f"{name} (not what the QDQ file computes of the same inputs)")

    def _compare_tail(
        self, expected: dict[str, Array], found: dict[str, Array], level: str, rounding: Rounding,
        unsettled: Callable[[str], Array],
    ) -> None:  # fmt: skip
        """Outputs behind float operators, which no two libraries compute alike to the last bit."""
        for name in self.tail:
            reference, value = expected[name], found[name]
            self.real_compared += value.size
            if _close(value, reference, rounding.of(name)):
                continue
            settled = self._is_settled(name, value, reference, unsettled)
            if settled is None:
                self.tally.fail(f"{name} (ort:{level}, behind float operators)")
            else:
                self.real_unsettled += int((~settled).sum())

    def _is_settled(
        self, name: str, value: Array, reference: Array, unsettled: Callable[[str], Array]
    ) -> NDArray[np.bool_] | None:
        """Which elements are as near as float32 usually is; None if rounding does not take another so far."""
        if value.shape != reference.shape or value.dtype.kind != "f":
            return None
        finite = np.isfinite(reference)
        largest = np.abs(reference).max(initial=0, where=finite)
        with np.errstate(invalid="ignore"):
            gap = np.where(finite, np.abs(value.astype(np.float64) - reference), 0)
        near = (gap <= _TAIL_TOLERANCE * largest) & (finite | (value == reference))
        enough = near | (finite & (gap <= unsettled(name)))
        return near if bool(enough.all()) else None

    def _unsettled(
        self, feeds: dict[str, Array], given: dict[str, Array], expected: dict[str, Array]
    ) -> Callable[[str], Array]:
        """How far rounding takes an output, by name: the same for all elements of a sample."""

        @functools.cache
        def runs() -> list[dict[str, Array]]:
            return [self.reference.run(feeds, given, shaken(seed)) for seed in range(_SHAKEN)]

        def of(name: str) -> Array:
            wanted = expected[name]
            alike = [
                run[name] for run in runs() if run[name].shape == wanted.shape
            ]  # sizes may be computed too
            if len(alike) < _SHAKEN:
                return np.zeros((1,) * wanted.ndim)
            with np.errstate(invalid="ignore"):
                gap = np.maximum.reduce([np.abs(x.astype(np.float64) - wanted) for x in alike])
            gap = np.where(np.isfinite(gap), gap, 0)
            most: Array = gap.max(axis=tuple(range(1, gap.ndim)), keepdims=True)
            return _SHARE_OF_SHAKEN * most

        return of

    def result(self, samples: int, tops: list[tuple[Array, Array]], labels: Array | None) -> VerifyResult:
        self.tally.limit_islands()
        rows, tally = self.tally.rows, self.tally
        compared, different = sum(row.compared for row in rows), sum(row.different for row in rows)
        qdq_compared = sum(row.qdq_compared for row in rows)
        local_compared = sum(row.local_compared for row in rows)
        integer, qdq = _classes([top[0] for top in tops]), _classes([top[1] for top in tops])
        known = labels if labels is not None and len(labels) == samples else None
        return VerifyResult(
            passed=samples > 0
            and compared + self.real_compared > 0
            and different == 0
            and self.constants[0] > 0
            and self.constants[1] == 0
            and tally.first_different is None
            and (tally.complete or not rows),
            provider=self.provider,
            engines=tuple(sorted(self.engines)),
            samples=samples,
            codes_compared=compared,
            codes_different=different,
            real_compared=self.real_compared,
            real_unsettled=self.real_unsettled,
            constants_compared=self.constants[0],
            constants_different=self.constants[1],
            first_different=tally.first_different,
            island_compared=sum(row.compared for row in rows if row.kind == "island"),
            island_different=sum(row.island_different for row in rows),
            qdq_max_lsb=max(row.qdq_largest for row in rows) if qdq_compared else None,
            qdq_rate=sum(row.qdq_different for row in rows) / qdq_compared if qdq_compared else None,
            local_max_lsb=max(row.local_largest for row in rows) if local_compared else None,
            local_rate=sum(row.local_different for row in rows) / local_compared if local_compared else None,
            local_left_out=len(set(self.reference.codes) - set(self.local.codes)),
            top1_agreement=_agreement(integer, qdq),
            integer_top1=_agreement(integer, known),
            qdq_top1=_agreement(qdq, known),
            tensors=rows,
        )


def _close(value: Array, reference: Array, rounding: float, unsettled: float = 0.0) -> bool:
    """Whether real values are the same but for float32, and what is not settled."""
    largest = float(np.abs(reference).max(initial=0))
    reach = max(_TAIL_TOLERANCE * largest, rounding) + unsettled
    return value.shape == reference.shape and np.allclose(value, reference, rtol=0, atol=reach)


def _shifted(codes: Array, shift: int) -> NDArray[np.uint8]:
    """The codes of another tool's file, which may be int8, as ours."""
    return (codes.astype(np.int16) + shift).astype(np.uint8)


def _with_outputs(proto: onnx.ModelProto, names: Iterable[str]) -> bytes:
    """The model with these values as further outputs."""
    held = {output.name for output in proto.graph.output}
    for name in names:
        if name not in held:
            proto.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    return bytes(proto.SerializeToString())


def _session(model: str | os.PathLike[str] | bytes, provider: str, level: str) -> ort.InferenceSession:
    # Runs go on side by side, one thread each: less waiting than many threads on one run.
    return make_session(model, provider=provider, level=level, threads=1)


def _run(session: ort.InferenceSession, feeds: dict[str, Array]) -> dict[str, Array]:
    names = [output.name for output in session.get_outputs()]
    try:
        return dict(zip(names, session.run(names, feeds), strict=True))
    except Exception as error:  # ONNX Runtime's exceptions have no common base but this
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise RuntimeFault(
            f"ONNX Runtime {ort.__version__} cannot run a file that it loaded: {first}. Check the samples "
            "and both files with `mpqtool inspect`."
        ) from error


def _integers(codes: Array) -> Array:
    """Codes as uint8; left as they are where one of them is no code."""
    if codes.dtype != np.float32 or not np.all((codes >= 0) & (codes <= 255)):  # NaN is neither
        return codes
    integers = codes.astype(np.uint8)
    return integers if np.array_equal(integers, codes) else codes


def _classes(outputs: list[Array]) -> Array | None:
    """The class of each sample, where the first output is one score per class."""
    if not outputs or any(x.ndim != 2 or x.shape[1] < 2 or x.dtype != np.float32 for x in outputs):
        return None
    return np.concatenate([x.argmax(axis=1) for x in outputs])


def _agreement(a: Array | None, b: Array | None) -> float | None:
    return None if a is None or b is None or not len(a) else float(np.equal(a, b).mean())
