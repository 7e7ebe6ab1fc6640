"""Names of nodes and tensors stay unique through every rewrite of a graph."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from diffusers import UNet2DConditionModel
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from export.graphs import UNetGraph
from export.onnx.graph import refuse_doubles, unique
from export.onnx.half import to_fp16
from export.onnx.passes import optimize
from export.onnx.quantize.codes import layer_of
from export.onnx.quantize.qdq import WEIGHTS, rewrite
from export.onnx.run import open_session
from export.onnx.trace import Port, trace
from runtime.errors import UserError


def float_port(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, [2])


def graph_of(nodes: list[onnx.NodeProto], **stored: np.ndarray) -> onnx.GraphProto:
    tensors = [numpy_helper.from_array(value, name) for name, value in stored.items()]
    return helper.make_graph(nodes, "g", [float_port("x")], [float_port("y")], tensors)


def test_a_taken_name_gets_a_number() -> None:
    taken = {"a", "a_2"}
    assert [unique("a", taken), unique("b", taken), unique("b", taken)] == ["a_3", "b", "b_2"]
    assert taken == {"a", "a_2", "a_3", "b", "b_2"}


def test_doubles_are_seen() -> None:
    one = helper.make_node("Relu", ["x"], ["z"], name="n")
    for other, said in (
        (helper.make_node("Relu", ["z"], ["y"], name="n"), "two nodes the name n"),
        (helper.make_node("Relu", ["x"], ["z"], name="m"), "two tensors the name z"),
        (helper.make_node("Relu", ["z"], ["x"], name="m"), "two tensors the name x"),
    ):
        with pytest.raises(UserError, match=f"^a pass gave {said}"):
            refuse_doubles(graph_of([one, other]), "a pass")
    last = helper.make_node("Relu", ["z"], ["y"], name="m")
    refuse_doubles(graph_of([one, last]), "a pass")
    refuse_doubles(graph_of([one, last], x=np.zeros(2, np.float32)), "a pass")  # an input's default
    with pytest.raises(UserError, match="the name y"):
        refuse_doubles(graph_of([one, last], y=np.zeros(2, np.float32)), "a pass")


class Twice(nn.Module):
    """One module that computes two exact GELUs and two products with stored matrices, all in one scope."""

    first: torch.Tensor
    second: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("first", "second"):
            self.register_buffer(name, torch.randn(4, 4), persistent=False)
        self.act = nn.GELU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.act(x @ (self.first * 2)) @ (self.second * 2))


@pytest.fixture(scope="module")
def gelu_unet() -> UNet2DConditionModel:
    """A small U-Net with GELU everywhere: two in each residual block."""
    torch.manual_seed(0)
    made = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16,),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        cross_attention_dim=[16],
        attention_head_dim=2,
        act_fn="gelu",
        resnet_time_scale_shift="scale_shift",
    )
    return made.eval()


def test_a_network_of_gelus_is_traced_and_rewritten(gelu_unet: UNet2DConditionModel) -> None:
    torch.manual_seed(1)
    feed = {
        "sample": torch.randn(2, 4, 8, 8),
        "timestep": torch.tensor(999.0),
        "encoder_hidden_states": torch.randn(2, 77, 16),
    }
    ports = [Port(name, value, name != "timestep") for name, value in feed.items()]
    model = trace(UNetGraph(gelu_unet), ports, ["out_sample"])
    optimize(model)
    gelus = [node.name for node in model.graph.node if node.op_type == "Gelu"]
    assert len(gelus) > 10 and len(set(gelus)) == len(gelus)
    kinds = {layer_of(node): WEIGHTS for node in model.graph.node if node.op_type == "Conv"}
    with torch.no_grad():
        expected = gelu_unet(*feed.values()).sample.numpy()
    given = {name: value.numpy() for name, value in feed.items()}
    for made, tolerance in ((model, 1e-4), (to_fp16(model), 2e-2), (rewrite(model, kinds, {}), 1e-1)):
        found = open_session(made).run(None, given)[0]
        assert np.abs(found - expected).max() < tolerance * np.abs(expected).max()


def test_equal_operations_in_one_module_get_names_of_their_own() -> None:
    torch.manual_seed(0)
    module, x = Twice(), torch.randn(2, 4)
    model = trace(module, [Port("x", x)], ["y"])
    optimize(model)
    found = open_session(model).run(None, {"x": x.numpy()})[0]
    np.testing.assert_allclose(found, module(x).numpy(), rtol=1e-5, atol=1e-5)
