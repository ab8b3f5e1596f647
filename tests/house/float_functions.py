"""Float functions that may differ from machine to machine: where a source calls one, or takes a power."""

import ast

# Where its result is the one that IEEE 754 asks for, a function is welcome.
BARRED = {
    *("exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "logaddexp", "power", "float_power", "cbrt"),
    *("sin", "cos", "tan", "sinh", "cosh", "tanh", "arcsin", "arccos", "arctan", "arctan2", "arcsinh"),
    *("arccosh", "arctanh", "hypot", "sinc", "dot", "matmul", "einsum", "inner", "mean", "std", "var", "fma"),
    *("linalg", "fft", "nextafter", "i0"),
}
LIBRARIES = {"math", "cmath", "scipy"}
EXACT = {"gcd", "isqrt", "prod", "fsum", "frexp", "sqrt", "inf", "isfinite", "isnan", "nan"}
"""What of the libraries is on integers, or has one right result that all machines give."""


def float_functions_in(source: str) -> list[str]:
    """What a source does of the kind, each with its line."""
    found: list[str] = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Attribute(value=ast.Name(id="np" | "numpy" | "math" | "cmath"), attr=name):
                found += [f"line {node.lineno}: {name}"] if name in BARRED else []
            case ast.Import(names=names):
                found += [f"line {node.lineno}: {name.name}" for name in names if name.name in LIBRARIES]
            case ast.ImportFrom(module=str(module), names=names) if module in {*LIBRARIES, "numpy"}:
                found += [f"line {node.lineno}: {name.name}" for name in names if name.name not in EXACT]
            case ast.BinOp(op=ast.Pow(), left=left, right=right):
                whole = isinstance(right, ast.Constant) and right.value == 2
                if not isinstance(left, ast.Constant) and not whole:
                    found.append(f"line {node.lineno}: a power")
            case ast.BinOp(op=ast.MatMult()):
                found.append(f"line {node.lineno}: a matrix product")
            case _:
                pass
    return found
