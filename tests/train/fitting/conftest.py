import signal

import pytest


@pytest.fixture
def handlers():
    """Python's own handlers of signals, whatever the tests are run by; they are there again afterwards."""
    own = dict.fromkeys((signal.SIGTERM, signal.SIGHUP), signal.SIG_DFL) | {signal.SIGINT: signal.default_int_handler}
    before = {number: signal.signal(number, handler) for number, handler in own.items()}
    yield
    after = {number: signal.signal(number, handler) for number, handler in before.items()}
    assert after == own
