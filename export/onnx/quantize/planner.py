"""Which layers of a bundle get fewer bits: as many as an error budget for the picture allows, the costliest left out.

`prices` prices every layer in every kind of fewer bits. Each layer starts in the cheapest kind to run (or to
store) and climbs while the sum of prices exceeds the budget: first the layer that saves most error for its cost
in time (or bytes). The finished graphs' pictures then show whether the sum was right; if not, the budget shrinks
by the shortfall. Where pictures of two or four steps are too far,
layers are priced in them as well.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx

from export.calibrate import Range, calibrate
from export.checks.measure import psnr_db
from export.checks.reference import Reference
from export.onnx.quantize.codes import layer_of
from export.onnx.quantize.prices import Price, prices
from export.onnx.quantize.qdq import INT4, STATIC, WEIGHTS, rewrite
from export.onnx.run import open_session
from export.source import Source

FLOAT = "float"
# Kinds for each precision, most aggressive first; a layer that does not support one starts at the next.
LADDERS = {"int8": (STATIC, WEIGHTS), "int8-weights": (WEIGHTS,), "int4-weights": (INT4, WEIGHTS)}
BITS = {STATIC: 8, WEIGHTS: 8, INT4: 4.5, FLOAT: 32}
# Error that compressed weights may cause, as PSNR in dB of the mean picture. With 36 dB the release model's pictures
# were 5 % further from real ones (FD-Lite0) than the checkpoint's, with 40 dB 2 %, and 97 % of the work is in 8 bits.
BUDGET_DB = {"int8": 40.0, "int8-weights": 40.0, "int4-weights": 31.0}
# Multiply-adds that a convolution or linear layer must do per input number: with fewer, turning its input into
# codes and back may cost more time than the codes save. Layers of 256 and more took 0.4 to 0.9 of their float time
# (ONNX Runtime 1.32 on AVX2); the range between was not measured.
LEAST_MACS_PER_INPUT = 64
MACS_PER_BYTE = 10  # weight of a byte in the file relative to time, where time is to be saved
PROMPTS, PRICED, BATCH = 32, 8, 4  # pictures on which ranges and prices are measured
LARGE_PROMPTS, LARGE_PRICED = 4, 1  # for a large model, one at a time
ROUNDS = 4
ENCODER_DB = 35.0  # of an encoder's latents with its weights in 8 bits; below, they stay fp32
FURTHER_DB = 2.0  # dB by which the budget shrinks when the pictures are too far from real ones
MARGIN_DB = 0.3  # dB by which a missed budget shrinks beyond the shortfall
STEPS_DB = 5.0  # dB by which pictures of several steps may be further than the budget: each step adds its error


@dataclass(frozen=True)
class Plan:
    """Layer name -> kind of quantization, with the ranges that static ones need; absent layers stay fp32."""

    kinds: Mapping[str, str]
    ranges: Mapping[str, tuple[Range, Range]]
    expected_db: float


class Planner:
    """The prices of one checkpoint's layers, measured once for any number of plans."""

    def __init__(self, source: Source, precision: str) -> None:
        count, batch = (LARGE_PRICED, 1) if source.large else (PRICED, BATCH)
        prompts = LARGE_PROMPTS if source.large else PROMPTS
        self.precision, self.by_time = precision, STATIC in LADDERS[precision]
        self.source, self.count, self.batch = source, count, batch
        self.ranges = calibrate(source, prompts, batch) if self.by_time else {}
        self.prices = prices(source, self.ranges, LADDERS[precision], count, batch)
        self.steps = 1
        self.last = list(self.prices)[-1]  # makes the picture itself

    def look_at(self, steps: int) -> None:
        """Price the layers in pictures of so many steps, too; a layer's dearer price counts.

        A model that is made for many steps is surest at the noisiest one: there its one-step picture, a blur, shows
        least of what codes cost. A price in several steps is lowered by what they may cost more, STEPS_DB.
        """
        self.steps = steps
        found = prices(self.source, self.ranges, LADDERS[self.precision], self.count, self.batch, steps)
        for name, price in found.items():
            errors = self.prices[name].squared_error
            for kind, error in price.squared_error.items():
                errors[kind] = max(errors[kind], error * 10 ** (-STEPS_DB / 10))

    def ladder(self, price: Price) -> list[str]:
        """The kinds that a layer supports, the cheapest first."""
        return [kind for kind in LADDERS[self.precision] if self.allows(price, kind)] + [FLOAT]

    def allows(self, price: Price, kind: str) -> bool:
        """Whether a layer supports a kind and would save anything with it.

        The layer that makes the picture does not: its effect on a white background is a small error, but the same one
        in every picture, which FD notices (1.05 times the checkpoint's instead of 1.02); and it is the smallest layer.
        """
        if kind == STATIC and price.macs < LEAST_MACS_PER_INPUT * price.inputs:
            return False
        return kind in price.squared_error and price.layer.name != self.last

    def cost(self, price: Price, kind: str) -> float:
        """What a layer costs in a kind: multiply-adds and bytes where time is saved, else bytes."""
        size = price.weights * BITS[kind] / 8
        return price.macs * (0.5 if kind == STATIC else 1) + MACS_PER_BYTE * size if self.by_time else size

    def plan(self, budget_db: float) -> Plan:
        """The cheapest kinds whose prices sum to no more than the budget."""
        ladders = {name: self.ladder(price) for name, price in self.prices.items()}
        budget = 10 ** (-budget_db / 10)
        while (total := sum(self.error(name, kinds[0]) for name, kinds in ladders.items())) > budget:
            name = max((name for name in ladders if len(ladders[name]) > 1), key=lambda name: self.gain(name, ladders))
            ladders[name] = ladders[name][1:]
        kinds = {name: kinds[0] for name, kinds in ladders.items() if kinds[0] != FLOAT}
        return Plan(kinds, self.ranges, -10 * math.log10(max(total, 1e-15)))

    def error(self, name: str, kind: str) -> float:
        """A layer's share of the picture's mean squared error in a kind."""
        return self.prices[name].squared_error.get(kind, 0.0)

    def gain(self, name: str, ladders: Mapping[str, list[str]]) -> float:
        """Error removed per unit of cost by one step up the ladder."""
        now, then = ladders[name][:2]
        price = self.prices[name]
        return (self.error(name, now) - self.error(name, then)) / max(self.cost(price, then) - self.cost(price, now), 1)

    def notes(self, plan: Plan, budget_db: float, rounds: int) -> dict[str, Any]:
        """The recipe for the manifest: what was chosen, and the layers that were left out with their prices."""
        dear = {}
        for name, price in self.prices.items():
            first, chosen = self.ladder(price)[0], plan.kinds.get(name, FLOAT)
            if chosen != first:
                dear[name] = {"kind": chosen, f"{first}_db": _db(self.error(name, first))}
        counts = {kind: sum(k == kind for k in plan.kinds.values()) for kind in LADDERS[self.precision]}
        return {
            "method": "layers priced by their effect on the picture",
            "budget_db": round(budget_db, 2),
            "expected_db": round(plan.expected_db, 2),
            "rounds": rounds,
            "priced_steps": [1, self.steps] if self.steps > 1 else [1],
            "layers": counts,
            "float": sum(name not in plan.kinds for name in self.prices),
            "dearest": dear,
            "macs_in_8_bits": round(self.share(plan), 4),
        }

    def share(self, plan: Plan) -> float:
        """Share of all multiply-adds that are computed in 8 bits."""
        eight = sum(price.macs for name, price in self.prices.items() if plan.kinds.get(name) == STATIC)
        return eight / max(1, sum(price.macs for price in self.prices.values()))


def stored_encoder(model: onnx.ModelProto, reference: Reference) -> onnx.ModelProto:
    """The encoder's graph with its weights stored in 8 bits; unchanged where its latents would suffer.

    No picture from text involves it, so it is judged separately. One that computes a PCA with large offsets breaks.
    """
    kinds = {layer_of(node): WEIGHTS for node in model.graph.node if node.op_type == "Conv"}
    small = rewrite(model, kinds, {})
    feed = {"sample": reference.decoded}
    expected, found = (open_session(one).run(None, feed)[0] for one in (model, small))
    return small if psnr_db(expected, found) >= ENCODER_DB else copied(model)


def copied(model: onnx.ModelProto) -> onnx.ModelProto:
    """An independent model."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def _db(error: float) -> float:
    return round(-10 * math.log10(max(error, 1e-15)), 1)
