"""Imports go down the stairs; theory and simulation never meet; torch and matplotlib stay in their rooms."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "gaussequiv"
MAY_IMPORT = {
    "errors": set(),
    "code": {"errors"},
    "maths": {"errors"},
    "models": {"errors", "maths"},
    "theory": {"errors", "maths", "models"},
    "generators": {"errors", "code", "maths", "models"},
    "simulation": {"errors", "maths", "models"},
    "report": {"errors", "code", "maths", "models", "theory", "generators", "simulation", "version"},
    "face": {"errors", "maths", "models", "theory", "generators", "simulation", "report"},
}
LIBRARIES = {
    "torch": {"generators", "simulation"},
    "matplotlib": {
        f"report/figures/{name}.py" for name in ("__init__", "curves", "drawing", "full_batches", "sources", "verdicts")
    },
    "typer": {"report/cli.py"},
}
FILES = sorted(SOURCE.rglob("*.py"))


def room(path):
    parts = path.relative_to(SOURCE).parts
    return "face" if parts[0] in ("__init__.py", "__main__.py") else parts[0].removesuffix(".py")


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            if node.module == "gaussequiv":
                yield from (
                    f"gaussequiv.{a.name}" if a.name != "__version__" else "gaussequiv.version" for a in node.names
                )
            else:
                yield node.module


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_go_down_the_stairs(path):
    home = room(path)
    for module in imports(path):
        top, *rest = module.split(".")
        if top == "gaussequiv" and rest and rest[0] != home:
            assert rest[0] in MAY_IMPORT[home], f"{path.name} in {home} imports {module}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_heavy_libraries_stay_in_their_rooms(path):
    for module in imports(path):
        places = LIBRARIES.get(module.split(".")[0])
        if places is not None:
            assert room(path) in places or str(path.relative_to(SOURCE)) in places, f"{path} imports {module}"


def test_theory_and_simulation_share_only_the_nouns():
    assert "simulation" not in MAY_IMPORT["theory"]
    assert "theory" not in MAY_IMPORT["simulation"]


def fresh(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_and_predicting_loads_neither_torch_nor_matplotlib():
    code = (
        "import sys, gaussequiv as ge\n"
        "m = ge.GaussianModel.isotropic(5)\n"
        "p = ge.OnlineSGD(m, ge.TwoLayer.random(1, 5), ge.TwoLayer.random(1, 5), lr=.1)\n"
        "ge.predict(p, times=[0, 1])\n"
        "print([name for name in ('torch', 'matplotlib', 'typer') if name in sys.modules])"
    )
    assert fresh(code).strip() == "[]"


def test_help_loads_no_heavy_library():
    modules = fresh("import sys, gaussequiv.report.cli; print(*sys.modules)").split()
    assert not {"numpy", "scipy", "torch", "matplotlib", "xarray", "pydantic"} & set(modules)


def test_every_public_name_exists_and_is_listed():
    import gaussequiv

    for public in gaussequiv.__all__:
        assert getattr(gaussequiv, public) is not None
    assert set(gaussequiv.__all__) <= set(dir(gaussequiv))
