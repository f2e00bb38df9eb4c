from __future__ import annotations

import pytest
from byte_tokenizer import write_byte_tokenizer
from numpy_backend import NumpyBackend
from tiny_golden import CASES, GOLDEN, Golden, read_golden

from neo_edge.tokenizer import Tokenizer, load_tokenizer


@pytest.fixture
def backend() -> NumpyBackend:
    return NumpyBackend(GOLDEN)


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    directory = tmp_path_factory.mktemp("tokenizer")
    write_byte_tokenizer(directory)
    tokenizer = load_tokenizer(directory)
    assert tokenizer is not None
    return tokenizer


@pytest.fixture(params=CASES)
def golden(request: pytest.FixtureRequest) -> Golden:
    return read_golden(request.param)
