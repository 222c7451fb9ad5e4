"""Float ONNX in many dialects -> one normal form; see ``passes`` below, which says it in order."""

from __future__ import annotations

__all__ = [
    "CanonicalizeGemmPass",
    "CanonicalizeReshapePass",
    "ClearForeignMetadataPass",
    "ConvertOpsetPass",
    "FoldBatchNormPass",
    "FoldConstantsPass",
    "FreeBatchSizePass",
    "FuseAddIntoConvBiasPass",
    "FuseGeluPass",
    "FuseHardActivationsPass",
    "FuseLayerNormPass",
    "FusePadIntoConvPass",
    "FuseSiluPass",
    "MergeTransposePass",
    "RemoveZeroBiasPass",
    "ResolveAutoPadPass",
    "RestoreSoftmaxPass",
    "RewriteReduceMeanPass",
    "batch_norm_factors",
    "normal_form",
]

import onnx_ir as ir
from onnx_ir.passes import common

from ..clear_metadata import ClearForeignMetadataPass
from .auto_pad import ResolveAutoPadPass
from .batch import FreeBatchSizePass
from .bias import FuseAddIntoConvBiasPass, RemoveZeroBiasPass
from .constants import FoldConstantsPass
from .fold_batch_norm import FoldBatchNormPass, batch_norm_factors
from .gelu import FuseGeluPass
from .gemm import CanonicalizeGemmPass
from .hard import FuseHardActivationsPass
from .layer_norm import FuseLayerNormPass
from .naming import name_pass
from .opset import ConvertOpsetPass
from .pad import FusePadIntoConvPass
from .pooling import RewriteReduceMeanPass
from .reshape import CanonicalizeReshapePass
from .silu import FuseSiluPass
from .softmax import RestoreSoftmaxPass
from .transpose import MergeTransposePass


def normal_form() -> ir.passes.PassManager:
    """The passes of the normal form, BatchNormalization kept, in order."""
    return ir.passes.PassManager(
        [
            common.InlinePass(),
            common.RemoveInitializersFromInputsPass(),
            ClearForeignMetadataPass(),
            name_pass(),
            common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
            _infer_shapes(),
            ConvertOpsetPass(),
            name_pass(),
            common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
            _infer_shapes(),
            ir.passes.PassManager(
                [
                    FoldConstantsPass(),
                    common.IdentityEliminationPass(),
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
            CanonicalizeGemmPass(),
            FuseAddIntoConvBiasPass(),
            RemoveZeroBiasPass(),
            common.RemoveUnusedNodesPass(),
            common.RemoveUnusedOpsetsPass(),
            common.TopologicalSortPass(),
            FreeBatchSizePass(),
            common.RemoveUnusedNodesPass(),
            ClearForeignMetadataPass(),  # the folder writes some too
            name_pass(),
            _infer_shapes(),
        ],
        steps=1,
    )


def _infer_shapes() -> common.ShapeInferencePass:
    # Not strict: an operator of another domain must not cost the shapes of all others.
    return common.ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)
