"""The operators that a picture model may use: arithmetic on arrays, and nothing that loops, loads or keeps state.

Not among them, on purpose: Loop, Scan and If, whose bodies are graphs of their own; sequences, optionals and
strings; random numbers, as the noise comes from the seed; operators of other domains, which libraries bring; and
com.microsoft's EPContext, which names a file to load.
"""

from __future__ import annotations

# Operators whose output has the shape of their first input.
SAME = frozenset(
    b"Abs Cast CastLike Ceil Clip Cos CumSum DequantizeLinear Elu Erf Exp Floor Gelu HardSigmoid HardSwish Identity "
    b"IsInf IsNaN LeakyRelu Log LogSoftmax Mish Neg Not QuantizeLinear Reciprocal Relu Round Sigmoid Sign Sin Softmax "
    b"Softplus Softsign Sqrt Tan Tanh Trilu".split()
)
# Whose output has the shape that numpy's broadcasting gives.
BROADCAST = frozenset(
    b"Add And Div Equal Greater GreaterOrEqual Less LessOrEqual Max Mean Min Mod Mul Or PRelu Pow Sub Sum Where "
    b"Xor".split()
)
# Whose output has no more elements than their first input.
RESHAPED = frozenset(
    b"ArgMax ArgMin Flatten ReduceL2 ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Reshape Shape "
    b"Size Slice Split Squeeze Transpose Unsqueeze".split()
)
# Whose output may be larger than all that goes in.
GROWING = frozenset(
    b"AveragePool BatchNormalization Concat Constant ConstantOfShape Conv ConvInteger ConvTranspose DepthToSpace "
    b"DynamicQuantizeLinear Einsum Expand Gather GatherElements GatherND Gemm GlobalAveragePool GroupNormalization "
    b"InstanceNormalization LayerNormalization MatMul MatMulInteger MaxPool Pad QLinearConv QLinearMatMul "
    b"RMSNormalization Range Resize ScatterElements ScatterND SpaceToDepth Tile TopK Upsample".split()
)
STANDARD = SAME | BROADCAST | RESHAPED | GROWING
MICROSOFT = frozenset(
    b"BiasGelu DequantizeLinear FastGelu FusedMatMul Gelu GroupNorm MatMulNBits MultiHeadAttention QuantizeLinear "
    b"QuickGelu SkipLayerNormalization".split()
)
ALLOWED = {b"": STANDARD, b"ai.onnx": STANDARD, b"com.microsoft": MICROSOFT}
