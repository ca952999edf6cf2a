"""README and documents: their code runs, their links exist, their tables are true."""

import re
import tomllib
from pathlib import Path

import pytest

from gaussequiv.report.settings import Experiment

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")])


def blocks(document, language):
    return re.findall(rf"```{language}\n(.*?)```", document.read_text(), flags=re.S)


@pytest.mark.slow
@pytest.mark.parametrize("document", [d for d in DOCUMENTS if blocks(d, "python")], ids=lambda d: d.name)
def test_the_code_of_a_document_runs_from_top_to_bottom(document, tmp_path):
    names = {}
    for code in blocks(document, "python"):
        exec(compile(code, document.name, "exec"), names)
    if document.name == "README.md":
        assert (tmp_path / "curve.png").exists()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: d.name)
def test_links_lead_somewhere(document):
    for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
        assert target.startswith("https://arxiv.org/") or (document.parent / target).exists(), target


def test_the_experiment_of_the_documents_is_the_default():
    (text,) = blocks(ROOT / "docs" / "experiments.md", "toml")
    assert Experiment.model_validate(tomllib.loads(text)) == Experiment()
    written = tomllib.loads(text)
    for section, field in Experiment.model_fields.items():
        optional = {k for k, f in field.annotation.model_fields.items() if f.default is None}
        assert set(written[section]) == set(field.annotation.model_fields) - optional
        for key in optional:
            assert re.search(rf"\b{key}\b", text), f"{section}.{key} is not documented"


def test_every_function_and_test_file_of_the_table_of_equations_exists():
    text = (ROOT / "docs" / "equations.md").read_text()
    for path in re.findall(r"`(tests/[\w/.]+)`", text):
        assert (ROOT / path).exists(), path
