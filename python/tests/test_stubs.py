"""The stubs say what the module has."""

import ast
import inspect
import pathlib

import nixl_rs as nx
from nixl_rs import _native

STUB = pathlib.Path(nx.__file__).with_name("_native.pyi")


def parameters(function):
    every = function.args.posonlyargs + function.args.args + function.args.kwonlyargs
    return [arg.arg for arg in every if arg.arg not in ("self", "cls")]


def is_public(name):
    return not any(part.startswith("_") for part in name.split("."))


def test_names_and_parameters_are_those_of_the_module():
    tree = ast.parse(STUB.read_text())
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    told = {}
    for node in tree.body:
        if isinstance(node, functions):
            told[node.name] = parameters(node)
        if isinstance(node, ast.ClassDef) and is_public(node.name):
            for item in (item for item in node.body if isinstance(item, functions)):
                told[f"{node.name}.{item.name}"] = parameters(item)
    found = {}
    for name, value in vars(_native).items():
        if inspect.isclass(value):
            for inner, member in vars(value).items():
                if callable(member) and inner != "__new__":
                    signature = inspect.signature(member)
                    found[f"{name}.{inner}"] = [p for p in signature.parameters if p != "self"]
                else:
                    found[f"{name}.{inner}"] = []
            if value.__text_signature__:
                found[f"{name}.__new__"] = list(inspect.signature(value).parameters)
        elif callable(value):
            found[name] = list(inspect.signature(value).parameters)
    for name in told:
        assert name in found, f"{name} is not in the module"
        if not name.endswith(("__exit__", "__len__", "__await__")):
            assert told[name] == found[name], name
    for name in filter(is_public, found):
        assert name in told, f"{name} is not in the stubs"


def test_everything_public_has_a_docstring():
    for name in nx.__all__:
        value = getattr(nx, name)
        if not inspect.isclass(value) and not callable(value):
            continue
        assert value.__doc__, name
        for inner, member in vars(value).items() if inspect.isclass(value) else ():
            if is_public(inner) and (callable(member) or inspect.isgetsetdescriptor(member)):
                assert member.__doc__, f"{name}.{inner}"
