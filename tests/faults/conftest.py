"""The run that nothing disturbs, made once."""

import pytest
from lineage import Reference


@pytest.fixture(scope="session")
def reference(tmp_path_factory):
    return Reference(tmp_path_factory.mktemp("undisturbed"))
