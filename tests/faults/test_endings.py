"""Programs that end in every way there is, and what they had begun to save."""

import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest

import funcnets as fn
from funcnets.checkpoint import leaving

BEGIN = """
import os, signal, subprocess, sys, threading, time
import numpy as np
import funcnets as fn

def save(step):
    checkpoints.save(step, {"x": np.random.default_rng(step).random(3_000_000)})

def send(number, *seconds):
    def sender():
        for pause in seconds:
            time.sleep(pause)
            os.kill(os.getpid(), number)
    threading.Thread(target=sender, daemon=True).start()

def interrupt(number):
    import orbax.checkpoint as ocp
    save = ocp.AsyncCheckpointer.save
    ocp.AsyncCheckpointer.save = lambda *given, **named: (os.kill(os.getpid(), number), save(*given, **named))

signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background may be started without,
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # and without this one under nohup
checkpoints = fn.Checkpoints(sys.argv[1])
save(1)
"""


def run(program, *arguments, begin=BEGIN):
    root = str(pathlib.Path(fn.__file__).parent.parent)
    command = [sys.executable, "-c", begin + textwrap.dedent(program), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": root, "JAX_PLATFORMS": "cpu"}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)


def check(directory, *steps):
    checkpoints = fn.Checkpoints(directory)
    assert checkpoints.steps() == steps
    for step in steps:
        np.testing.assert_array_equal(
            checkpoints.restore(step=step)["x"], np.random.default_rng(step).random(3_000_000)
        )
    assert sorted(path.name for path in directory.iterdir()) == [".lock", *map(str, steps)]


INTERRUPTED = "KeyboardInterrupt"
AGAIN = "interrupt again to leave without it"
ENDINGS = {
    "last line": ("save(2)", 0, ""),
    "sys.exit": ("save(2); sys.exit(3)", 3, ""),
    "exception": ("save(2); raise RuntimeError('mine')", 1, "RuntimeError: mine"),
    "after a thread": ("t = threading.Thread(target=save, args=[2]); t.start(); t.join()", 0, ""),
    "SIGTERM": ("save(2); os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)", 143, ""),
    "SIGHUP": ("save(2); os.kill(os.getpid(), signal.SIGHUP); time.sleep(60)", 129, ""),
    "SIGTERM many times": ("save(2); send(signal.SIGTERM, *[0.003] * 100); time.sleep(60)", 143, ""),
    "SIGTERM when at its end": ("save(2); send(signal.SIGTERM, 0.02, *[0.001] * 100)", 0, ""),
    "SIGTERM in a with": ("with checkpoints: save(2); send(signal.SIGTERM, 0, 0.01); time.sleep(60)", 143, ""),
    "SIGTERM while it saves": ("interrupt(signal.SIGTERM); save(2); time.sleep(60)", 143, ""),
    "Ctrl-C while it saves": ("interrupt(signal.SIGINT); save(2)", -signal.SIGINT, INTERRUPTED),
    "a handler of its own": (
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))\n"
        "save(2); send(signal.SIGTERM, *[0.003] * 100); time.sleep(60)",
        7,
        "",
    ),
    "Ctrl-C": ("save(2); os.kill(os.getpid(), signal.SIGINT)", -signal.SIGINT, INTERRUPTED),
    "Ctrl-C in wait": ("save(2); send(signal.SIGINT, 0.01); checkpoints.wait()", -signal.SIGINT, INTERRUPTED),
    "Ctrl-C in close": ("save(2); send(signal.SIGINT, 0.01); checkpoints.close()", -signal.SIGINT, INTERRUPTED),
    "Ctrl-C at its end": ("save(2); send(signal.SIGINT, 0.02)", 0, AGAIN),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_what_was_saved_is_written_to_its_end(tmp_path, ending):
    program, code, said = ENDINGS[ending]
    ended = run(program, tmp_path)
    assert ended.returncode == code, ended.stderr
    assert (said in ended.stderr) if said else not ended.stderr
    check(tmp_path, 1, 2)


def test_what_writing_failed_with_is_said_at_the_end(tmp_path):
    limit = "import resource; checkpoints.wait(); resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, -1)); save(2)"
    assert f"while writing to {tmp_path}; the steps [1] are there" in run(limit, tmp_path).stderr
    check(tmp_path, 1)


def test_an_end_that_is_lost_on_the_way_comes_after_the_next_save(tmp_path):
    program = """
    class Cycle:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGTERM)

    Cycle()
    print("goes on")
    save(2)
    print("not this far")
    """
    ended = run(program, tmp_path)
    assert (ended.returncode, ended.stdout) == (143, "goes on\n")
    assert ended.stderr.startswith("Exception ignored in")  # Python has lost it
    check(tmp_path, 1, 2)


def test_a_program_that_is_interrupted_again_and_again_may_go_on(tmp_path):
    program = """
    import random

    def interrupt(number, frame):
        raise KeyboardInterrupt

    def save_until_interrupted():
        step = max(checkpoints.steps(), default=0)
        signal.setitimer(signal.ITIMER_REAL, random.uniform(0.001, 0.05))
        try:
            while True:
                step += 1
                checkpoints.save(step, {"x": np.full(100, step)})
                saved.add(step)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    saved = set()
    random.seed(0)
    signal.signal(signal.SIGALRM, interrupt)
    with fn.Checkpoints(sys.argv[1], keep=None) as checkpoints:
        checkpoints.save(0, {"x": np.full(100, 0)})
        for _ in range(40):
            try:
                save_until_interrupted()
            except KeyboardInterrupt:
                pass
        assert saved <= set(checkpoints.steps()), saved - set(checkpoints.steps())
        for step in checkpoints.steps():
            assert (checkpoints.restore(step=step)["x"] == step).all()
        print(len(saved) > 20)
    """
    ended = run(program, tmp_path, begin="import signal, sys\nimport numpy as np\nimport funcnets as fn\n")
    assert ended.stdout == "True\n", ended.stderr


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_process_that_is_forked_off_dies_of_sigterm_as_ever(tmp_path, method):
    program = f"""
    import multiprocessing, warnings
    warnings.simplefilter("ignore")
    processes = multiprocessing.get_context("{method}")
    worker, short = processes.Process(target=time.sleep, args=[60]), processes.Process(target=len, args=[()])
    worker.start(); short.start(); short.join()
    time.sleep(0.5)
    worker.terminate(); worker.join()
    other = subprocess.Popen(["sleep", "60"]); other.terminate(); other.wait()
    print(worker.exitcode, short.exitcode, other.returncode)
    """
    ended = run(program, tmp_path)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "-15 0 -15\n", "")
    check(tmp_path, 1)


def test_handlers_are_left_as_they_were(tmp_path):
    program = """
    print(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL, signal.getsignal(signal.SIGINT))
    checkpoints.close()
    print(signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGHUP))

    fn.Checkpoints(sys.argv[1]).restore()
    print(signal.getsignal(signal.SIGTERM))

    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    save(2)
    print(signal.getsignal(signal.SIGTERM))
    """
    ended = run(program, tmp_path)
    default, ignored = str(signal.SIG_DFL), str(signal.SIG_IGN)
    says = [f"False {signal.default_int_handler}", f"{default} {default}", default, ignored]
    assert ended.stdout.splitlines() == says, ended.stderr


def test_where_jax_runs_in_several_processes_sigterm_is_its_own(tmp_path):
    program = """
    import socket
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    import jax
    jax.distributed.initialize(f"localhost:{port}", 1, 0)
    with fn.Checkpoints(sys.argv[1]) as checkpoints:
        checkpoints.save(1, jax.numpy.zeros(3))
        print(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)
    """
    ended = run(program, tmp_path, begin="import signal, sys\nimport funcnets as fn\n")
    assert ended.stdout == "True\n", ended.stderr


def test_what_never_ends_can_be_left(tmp_path):
    program = """
    import os, signal, sys, threading, time
    from funcnets.checkpoint import leaving

    signal.signal(signal.SIGINT, signal.default_int_handler)

    class Endless:
        def wait(self):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(60)

    leaving.await_at_exit(Endless())
    """
    ended = run(program, begin="")
    assert AGAIN in ended.stderr
    assert "KeyboardInterrupt" in ended.stderr


def test_all_are_waited_for_though_one_fails():
    program = """
    from funcnets.checkpoint import leaving

    class One:
        def wait(self):
            print("waited")
            raise ValueError("failed")

    gone = One()
    for one in (One(), One(), gone):
        leaving.await_at_exit(one)
    leaving.forget(gone)
    """
    ended = run(program, begin="")
    assert ended.stdout == "waited\n" * 2
    assert ended.stderr.count("ValueError: failed") == 2


# Signals that wait


def test_signals_wait_for_what_is_unbroken():
    def handler(number, frame):
        handled.append(number)
        raise LookupError(number)

    numbers = (signal.SIGUSR1, signal.SIGUSR2)
    before = [signal.signal(number, handler) for number in numbers]
    done, handled = [], []
    try:
        with pytest.raises(LookupError), leaving.unbroken():
            for number in numbers:
                os.kill(os.getpid(), number)
            done.append(not handled)
        assert (done, set(handled)) == ([True], set(numbers))
        assert [signal.getsignal(number) for number in numbers] == [handler] * 2
        with leaving.unbroken():
            pass  # and once only
        with pytest.raises(LookupError):
            os.kill(os.getpid(), signal.SIGUSR1)
    finally:
        for number, one in zip(numbers, before, strict=True):
            signal.signal(number, one)


def test_what_is_unbroken_may_fail_and_may_be_in_any_thread():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ValueError, match="mine"), leaving.unbroken():
        raise ValueError("mine")
    assert signal.getsignal(signal.SIGINT) is before

    reached = []

    def work():
        with leaving.unbroken():
            reached.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert reached == [before]
