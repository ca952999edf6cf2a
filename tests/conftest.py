import sys
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("untimed", deadline=None)  # laws are about numbers: a busy machine breaks none of them
settings.load_profile("untimed")

sys.path.insert(0, str(Path(__file__).parent))  # tests share cases.py and oracles.py


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    """Nothing that a test writes lands in the tree."""
    monkeypatch.chdir(tmp_path)
