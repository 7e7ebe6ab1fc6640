"""Turns a program's block into steps that can run: constants found, parameters checked, last uses recorded."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from export.mil.ops import CONSTANTS, OPERATIONS
from export.mil.ops.registry import OPSET, STRING, Operation
from export.mil.package import MilError, Package, Port, port_of, protobuf
from export.mil.values import Constant, WeightFiles, expression

Source = str | Constant  # an earlier value by name, or a constant


@dataclass(frozen=True)
class Step:
    """One operation, ready to run."""

    type: str
    operation: Operation
    arguments: list[tuple[str, Source | list[Source]]]
    outputs: list[Port]
    spent: list[str] = field(default_factory=list)  # values that are not needed after this step


@dataclass(frozen=True)
class Plan:
    """A function's steps, in order, and its constants by name."""

    steps: list[Step]
    constants: dict[str, Constant]


def unknown_operations(package: Package) -> list[str]:
    """Types of operations that the evaluator does not know."""
    used = {op.type for op in package.block.operations}
    return sorted(used - OPERATIONS.keys() - CONSTANTS.keys() - {"const"})


def make_plan(package: Package) -> Plan:
    """Raises MilError that names all operations, or all parameters of operations, that are not supported."""
    unknown = unknown_operations(package)
    if unknown:
        raise MilError(f"{package.path.name}: the evaluator does not know {', '.join(unknown)}")
    files, constants, steps, forms = WeightFiles(package), dict[str, Constant](), list[Step](), list[str]()
    for op in package.block.operations:
        if not op.outputs:
            raise MilError(f"{package.path} is damaged: an operation {op.type} gives nothing")
        if op.type == "const":
            constants[op.outputs[0].name] = constant(files, op.attributes["val"], op.outputs[0])
        elif op.type in CONSTANTS:
            constants |= expressions(files, op, constants)
        else:
            arguments = bound(files, op, constants)
            forms += unknown_form(op, arguments)
            outputs = [port_of(item) for item in op.outputs]
            steps.append(Step(op.type, OPERATIONS[op.type], arguments, outputs))
    if forms:
        raise MilError(f"{package.path.name}: the evaluator does not know these forms: {'; '.join(forms)}")
    check_order(package, steps, constants.keys())
    with_opset(steps, package.opset)
    note_last_uses(steps, set(package.block.outputs))
    return Plan(steps, constants)


def constant(files: WeightFiles, value: Any, named: Any) -> Constant:
    """A value stored in the program or in a weight file; named: its name and declared type."""
    is_text = value.type.tensorType.dataType == STRING
    return Constant(None if is_text else port_of(named), partial(files.value, value, named.name))


def literal(files: WeightFiles, value: Any, name: str) -> Constant:
    """A value that is written where it is used."""
    return constant(files, value, protobuf("MIL").NamedValueType(name=name, type=value.type))


def expressions(files: WeightFiles, op: Any, constants: dict[str, Constant]) -> dict[str, Constant]:
    """The outputs of a constexpr operation: its parts are attributes before iOS18, then inputs."""
    where = op.outputs[0].name
    parts = {name: literal(files, item, f"{where}.{name}") for name, item in op.attributes.items() if name != "name"}
    for name, argument in op.inputs.items():
        found = source(files, argument.arguments[0], constants, f"{where}.{name}")
        if isinstance(found, str):
            raise MilError(f"{op.type} {where}: {name} is not a constant")
        parts[name] = found
    missing = [name for name, needed in CONSTANTS[op.type].parameters.items() if needed and name not in parts]
    if missing or not parts.keys() <= CONSTANTS[op.type].parameters.keys():
        raise MilError(f"the evaluator does not know this form of {op.type}: {where} with {', '.join(parts)}")
    ports = [port_of(item) for item in op.outputs]
    return {port.name: Constant(port, expression(CONSTANTS[op.type], parts, ports, i)) for i, port in enumerate(ports)}


def source(files: WeightFiles, binding: Any, constants: dict[str, Constant], where: str) -> Source:
    """The value that a binding refers to."""
    if binding.WhichOneof("binding") == "value":
        return literal(files, binding.value, where)
    name: str = binding.name
    return constants.get(name, name)


def bound(files: WeightFiles, op: Any, constants: dict[str, Constant]) -> list[tuple[str, Source | list[Source]]]:
    """An operation's arguments by parameter name; several values of one parameter are a list."""
    arguments: list[tuple[str, Source | list[Source]]] = []
    for name, argument in op.inputs.items():
        items = [source(files, item, constants, f"{op.outputs[0].name}.{name}") for item in argument.arguments]
        arguments.append((name, items if takes_list(OPERATIONS[op.type], name) or len(items) != 1 else items[0]))
    return arguments


def takes_list(operation: Operation, name: str) -> bool:
    """Whether a parameter is a tuple of tensors."""
    parameter = inspect.signature(operation.function).parameters.get(name)
    return parameter is not None and str(parameter.annotation).startswith("list")


def unknown_form(op: Any, arguments: Iterable[tuple[str, Source | list[Source]]]) -> list[str]:
    """What is not supported in an operation's parameters, in words; empty when all is."""
    operation, given = OPERATIONS[op.type], dict(arguments)
    where = f"{op.type} ({op.outputs[0].name})"
    strange = [name for name in given if name not in operation.parameters or name == OPSET]
    missing = [name for name, needed in operation.parameters.items() if needed and name not in given and name != OPSET]
    lists = [name for name, item in given.items() if isinstance(item, list) and not takes_list(operation, name)]
    return [f"{where}: parameter {name}" for name in [*strange, *lists]] + [
        f"{where} without {name}" for name in missing
    ]


def check_order(package: Package, steps: list[Step], constants: Collection[str]) -> None:
    """Raise MilError unless every value is computed before it is read, and every output by the end."""
    given = {port.name for port in package.inputs} | set(constants)
    for step in steps:
        missing = names_read(step) - given
        if missing:
            where = f"{step.type} {step.outputs[0].name}"
            raise MilError(f"{package.path} is damaged: {where} reads {missing.pop()!r}, which nothing gives before")
        given |= {port.name for port in step.outputs}
    missing = set(package.block.outputs) - given
    if missing:
        raise MilError(f"{package.path} is damaged: nothing gives its output {missing.pop()!r}")


def names_read(step: Step) -> set[str]:
    """The values that a step reads, except constants."""
    read = [item for _, one in step.arguments for item in (one if isinstance(one, list) else [one])]
    return {item for item in read if isinstance(item, str)}


def with_opset(steps: list[Step], opset: int) -> None:
    """Pass the opset's number to the operations whose meaning depends on it."""
    number = Constant(None, lambda: opset)
    for step in steps:
        if OPSET in step.operation.parameters:
            step.arguments.append((OPSET, number))


def note_last_uses(steps: list[Step], needed: set[str]) -> None:
    """Record at each step the values that no later step and no output needs."""
    seen = set(needed)
    for step in reversed(steps):
        names = names_read(step) | {port.name for port in step.outputs}
        step.spent.extend(sorted(names - seen))
        seen |= names
