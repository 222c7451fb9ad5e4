"""Float ONNX in many dialects -> one normal form; see ``passes`` below, which says it in order."""

from __future__ import annotations

__all__ = [
    "AlignFunctionsPass",
    "CanonicalizeGemmPass",
    "CanonicalizeReshapePass",
    "ClearForeignMetadataPass",
    "ConvertOpsetPass",
    "EliminateIdentityPass",
    "FlattenMatMulPass",
    "FoldBatchNormPass",
    "FoldConstantsPass",
    "FreeBatchSizePass",
    "FuseAddIntoConvBiasPass",
    "FuseGeluPass",
    "FuseHardActivationsPass",
    "FuseLayerNormPass",
    "FusePadIntoConvPass",
    "FuseSiluPass",
    "InferShapesPass",
    "InsertBatchNormPass",
    "MergeTransposePass",
    "PositiveBatchNormPass",
    "RemoveZeroBiasPass",
    "ResolveAutoPadPass",
    "RestoreSoftmaxPass",
    "RewriteConvTransposePass",
    "RewriteReduceMeanPass",
    "SeparateStatisticsPass",
    "batch_norm_factors",
    "normal_form",
    "without_batch_norm",
]

from collections.abc import Collection

import onnx_ir as ir
from onnx_ir.passes import common

from ..clear_metadata import ClearForeignMetadataPass
from .auto_pad import ResolveAutoPadPass
from .batch import FreeBatchSizePass
from .bias import FuseAddIntoConvBiasPass, RemoveZeroBiasPass
from .constants import FoldConstantsPass
from .conv_transpose import RewriteConvTransposePass
from .fold_batch_norm import FoldBatchNormPass, batch_norm_factors
from .gelu import FuseGeluPass
from .gemm import CanonicalizeGemmPass
from .hard import FuseHardActivationsPass
from .identity import EliminateIdentityPass
from .infer import InferShapesPass
from .insert_batch_norm import InsertBatchNormPass, without_batch_norm
from .layer_norm import FuseLayerNormPass
from .matmul import FlattenMatMulPass
from .naming import name_pass
from .opset import AlignFunctionsPass, ConvertOpsetPass
from .pad import FusePadIntoConvPass
from .pooling import RewriteReduceMeanPass
from .positive_batch_norm import PositiveBatchNormPass
from .reshape import CanonicalizeReshapePass
from .silu import FuseSiluPass
from .softmax import RestoreSoftmaxPass
from .statistics import SeparateStatisticsPass
from .transpose import MergeTransposePass


def normal_form(
    parameters: Collection[str] | None = None, *, for_integers: bool = True
) -> ir.passes.PassManager:
    """The passes of the normal form, BatchNormalization kept, in order.

    Args:
        parameters: Names of all parameters, if they are known: no other bias of zeros is one.
        for_integers: Whether ConvTranspose, and MatMul of rank 3 and more, become Conv and Gemm. In float
            these are slower, the first up to several times, and the weights have other shapes.
    """
    return ir.passes.PassManager(
        [
            common.RemoveUnusedFunctionsPass(),  # type: ignore[no-untyped-call]
            AlignFunctionsPass(),
            common.InlinePass(),
            common.RemoveInitializersFromInputsPass(),
            ClearForeignMetadataPass(),
            name_pass(),
            common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
            InferShapesPass(),
            ConvertOpsetPass(),
            name_pass(),
            common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
            InferShapesPass(),
            ir.passes.PassManager(
                [
                    EliminateIdentityPass(),  # first: one initializer for two layers stays one
                    FoldConstantsPass(),
                    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
                    common.RemoveUnusedNodesPass(),
                ],
                steps=5,
            ),
            MergeTransposePass(),
            RestoreSoftmaxPass(),
            # Before the passes that would take an Add or a mean out of these formulas.
            FuseHardActivationsPass(),
            FuseGeluPass(),
            FuseLayerNormPass(),
            FuseSiluPass(),
            ResolveAutoPadPass(),
            FusePadIntoConvPass(),
            RewriteReduceMeanPass(),
            CanonicalizeReshapePass(),
            *([FlattenMatMulPass()] if for_integers else []),
            CanonicalizeGemmPass(),
            FuseAddIntoConvBiasPass(),
            RemoveZeroBiasPass(parameters),
            *([RewriteConvTransposePass()] if for_integers else []),
            SeparateStatisticsPass(),
            common.RemoveUnusedNodesPass(),
            common.RemoveUnusedOpsetsPass(),
            common.TopologicalSortPass(),
            FreeBatchSizePass(),
            common.RemoveUnusedNodesPass(),
            ClearForeignMetadataPass(),  # the folder writes some too
            name_pass(),
            InferShapesPass(),
        ],
        steps=1,
    )
