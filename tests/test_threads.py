"""Threads make a run faster and change nothing: not its bits, not other runs, not the processes that it starts."""

import multiprocessing
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import nnkernels as nnk
from nnkernels._plan import Work
from nnkernels.backends.numba import threads

RNG = np.random.default_rng(0)
CASES = {  # layers, rows, batch: units in lanes, rows in lanes
    "units in lanes": (
        [nnk.Dense(40, 70, activation="sigmoid"), nnk.Dense(70, 10)],
        60,
        10,
    ),
    "units in lanes, deep": (
        [nnk.Dense(9, 40, activation="tanh"), nnk.Dense(40, 40), nnk.Dense(40, 20)],
        50,
        7,
    ),
    "rows in lanes": ([nnk.Dense(4, 8, activation="tanh"), nnk.Dense(8, 3)], 900, 900),
    "rows in lanes, batches": (
        [nnk.Dense(4, 8, activation="tanh"), nnk.Dense(8, 3)],
        900,
        400,
    ),
}


def train(case, optimizer="adam", steps=40):
    layers, n_rows, batch = CASES[case]
    rng = np.random.default_rng(1)
    x, y = (
        rng.normal(size=(n_rows, layers[0].n_in)),
        rng.normal(size=(n_rows, layers[-1].n_out)),
    )
    net = nnk.Sequential(*layers, device="numba", rng=0)
    history = net.fit(
        x,
        y,
        loss="mean_squared_error",
        optimizer=optimizer,
        batch_size=batch,
        steps=steps,
        plan="generated",
    )
    return net.parameters.flat.copy(), history.loss


@pytest.fixture
def always(monkeypatch):
    """Use so many threads, whether they pay or not."""

    def use(n):
        monkeypatch.setattr(Work, "worth_threads", True)
        monkeypatch.setenv("NNKERNELS_NUM_THREADS", str(n))

    return use


@pytest.mark.parametrize("case", CASES)
def test_a_long_run_of_a_gang_has_the_bits_of_one_thread(always, case):
    always(1)
    expected = train(case, steps=1500)
    always(2)
    for got, wanted in zip(train(case, steps=1500), expected, strict=True):
        np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "rmsprop"])
@pytest.mark.parametrize("case", CASES)
def test_the_bits_do_not_depend_on_the_number_of_threads(always, case, optimizer):
    always(1)
    expected = train(case, optimizer)
    for n in (2, 3, 8):
        always(n)
        for got, wanted in zip(train(case, optimizer), expected, strict=True):
            np.testing.assert_array_equal(got, wanted)


def test_runs_at_the_same_time_have_the_bits_of_lone_ones(always):
    always(2)
    expected = {case: train(case)[0] for case in CASES}
    with ThreadPoolExecutor(6) as pool:
        for case, (got, _) in zip([*CASES] * 4, pool.map(train, [*CASES] * 4), strict=True):
            np.testing.assert_array_equal(got, expected[case])


def test_the_variable_says_how_many(monkeypatch):
    monkeypatch.setenv("NNKERNELS_NUM_THREADS", "3")
    assert threads.count() == 3
    monkeypatch.delenv("NNKERNELS_NUM_THREADS")
    assert threads.count() >= 1


@pytest.mark.parametrize("value", ["0", "two", "-1", "1.5"])
def test_a_number_of_threads_that_is_none_is_refused_before_anything_changes(monkeypatch, value):
    monkeypatch.setenv("NNKERNELS_NUM_THREADS", value)
    net = nnk.Sequential(*CASES["rows in lanes"][0], device="numba", rng=0)
    before = net.parameters.flat.copy()
    x = RNG.normal(size=(5000, 4))
    with pytest.raises(ValueError, match="NNKERNELS_NUM_THREADS must be a number of threads"):
        net.fit(x, x[:, :3], loss="huber", steps=20_000)
    np.testing.assert_array_equal(net.parameters.flat, before)


def test_every_thread_has_its_turn_and_an_error_in_one_is_raised():
    seen = []
    threads.together(lambda thread, n: seen.append((thread, n)), 3)
    assert sorted(seen) == [(0, 3), (1, 3), (2, 3)]

    def fail(thread, n):
        if thread == n - 1:
            raise RuntimeError("in a thread")

    with pytest.raises(RuntimeError, match="in a thread"):
        threads.together(fail, 2)
    threads.together(fail_not, 2)  # the gang is free again


def fail_not(thread, n):
    pass


def test_a_gang_within_a_gang_runs_alone():
    inner = []
    threads.together(lambda thread, n: threads.together(lambda t, m: inner.append((t, m)), 2), 2)
    assert inner == [(0, 1), (0, 1)]


FORKING = """
import os, sys, threading, numpy as np, nnkernels as nnk
x = np.random.default_rng(0).normal(size=(2000, 4))
def train(steps):
    net = nnk.Sequential(nnk.Dense(4, 8, activation="tanh"), nnk.Dense(8, 3), device="numba", rng=0)
    net.fit(x, x[:, :3], loss="huber", steps=steps, plan="generated")
    return net.parameters.flat.copy()
expected = train(50)
busy = threading.Thread(target=train, args=(20_000,), daemon=True)
busy.start()
child = os.fork()
if child == 0:
    os._exit(0 if np.array_equal(train(50), expected) else 1)
_, status = os.waitpid(child, 0)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def test_a_forked_process_trains_also_while_another_thread_does():
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKING]
    subprocess.run(command, check=True, timeout=60)


def bits(case):
    return train(case)[0]


def test_a_spawned_process_has_the_same_bits():
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        np.testing.assert_array_equal(pool.apply(bits, ("rows in lanes",)), bits("rows in lanes"))


FORKING_OFTEN = """
import os, sys, threading, time, numpy as np, nnkernels as nnk
from nnkernels._plan import Work
Work.worth_threads = True
x = np.random.default_rng(0).normal(size=(400, 4))
def train(width, steps=20):
    net = nnk.Sequential(nnk.Dense(4, width, activation="tanh"), nnk.Dense(width, 3), device="numba", rng=0)
    net.fit(x, x[:, :3], loss="huber", steps=steps, plan="generated")
    return net.parameters.flat.copy()
expected = train(8)
def work():
    for width in range(9, 1000):
        train(width, steps=2000) if sys.argv[1] == "runs" else train(width)
threading.Thread(target=work, daemon=True).start()
for number in range(3):
    time.sleep(0.05)
    child = os.fork()
    if child == 0:
        train(40 + number) if sys.argv[1] == "compiles" else None
        os._exit(0 if np.array_equal(train(8), expected) else 1)
    _, status = os.waitpid(child, 0)
    if status:
        os._exit(1)
os._exit(0)
"""


@pytest.mark.parametrize("other", ["runs", "compiles"])
def test_forks_at_any_moment_of_another_thread_can_train(other, tmp_path):
    command = [
        sys.executable,
        "-W",
        "ignore::DeprecationWarning",
        "-c",
        FORKING_OFTEN,
        other,
    ]
    variables = os.environ | {
        "NNKERNELS_NUM_THREADS": "2",
        "NNKERNELS_CACHE_DIR": str(tmp_path),
    }
    subprocess.run(command, check=True, timeout=120, env=variables)


INTERRUPTED = """
import os, signal, sys, threading, time, numpy as np, nnkernels as nnk
x = np.random.default_rng(0).normal(size=(4000, 1))
batch, steps, width = int(sys.argv[1]), 10**9, int(sys.argv[2])
def make():
    layers = nnk.Dense(1, width, activation="sigmoid"), nnk.Dense(width, 1)
    return nnk.Sequential(*layers, device="numba", rng=0)
arguments = {"loss": "huber", "optimizer": nnk.SGD(1e-3), "batch_size": batch, "log_every": 10**9}
make().fit(x, x, steps=2, plan="generated", **{**arguments, "log_every": 1})
net, sent = make(), []
def interrupt():
    sent.append(time.perf_counter())
    os.kill(os.getpid(), signal.SIGINT)
threading.Timer(0.7, interrupt).start()
try:
    net.fit(x, x, steps=steps, plan="generated", **arguments)
except KeyboardInterrupt:
    print(time.perf_counter() - sent[0])
assert np.isfinite(net.parameters.flat).all()
"""


@pytest.mark.parametrize(("batch", "width"), [(1, 10), (4000, 16)], ids=["one row a step", "two threads"])
def test_ctrl_c_ends_a_compiled_run_soon(unwatched, batch, width):
    """Within 0.2 s on a machine that is not busy; the limit here leaves room for one that is."""
    command = [sys.executable, "-c", INTERRUPTED, str(batch), str(width)]
    done = subprocess.run(command, check=True, timeout=60, capture_output=True, text=True, env=unwatched)
    assert float(done.stdout) < 1


INTERRUPTED_OFTEN = """
import os, signal, threading, time, numpy as np, nnkernels as nnk
from nnkernels._plan import Work
Work.worth_threads = True
rng, x = np.random.default_rng(0), np.random.default_rng(0).normal(size=(256, 4))
def make():
    return nnk.Sequential(nnk.Dense(4, 8, activation="tanh"), nnk.Dense(8, 3), device="numba", rng=0)
arguments = {"loss": "huber", "optimizer": nnk.SGD(1e-3), "plan": "generated", "log_every": 1}
make().fit(x, x[:, :3], steps=5, **arguments)
begun, ended = threading.Semaphore(0), threading.Event()
def interrupt():
    while True:
        begun.acquire()
        time.sleep(rng.uniform(0.001, 0.01))
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        if not ended.wait(20):
            os._exit(1)
threading.Thread(target=interrupt, daemon=True).start()
for number in range(150):
    net = make()
    ended.clear()
    try:
        begun.release()
        net.fit(x, x[:, :3], steps=10**6, **arguments)
    except KeyboardInterrupt:
        pass
    ended.set()
    assert np.isfinite(net.parameters.flat).all()
"""


def test_ctrl_c_at_any_moment_of_a_gang_ends_the_run(unwatched):
    """Also between a worker's end and the notice of it, or before a thread has begun."""
    variables = unwatched | {"NNKERNELS_NUM_THREADS": "2"}
    subprocess.run(
        [sys.executable, "-c", INTERRUPTED_OFTEN],
        check=True,
        timeout=120,
        env=variables,
    )


AT_EVERY_POINT = """
import sys, time
from nnkernels.backends.numba import threads
def interrupted_at(point):
    seen = 0
    def trace(frame, event, argument):
        nonlocal seen
        if event != "exception":
            seen += 1
            if seen == point:
                raise KeyboardInterrupt
        return trace
    sys.settrace(trace)
    try:
        threads.together(lambda thread, n: time.sleep(0.01), 2)
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(None)
    return False
threads.together(lambda thread, n: None, 2)
point = 1
while interrupted_at(point):
    seen = []
    threads.together(lambda thread, n: seen.append(n), 2)
    assert seen == [2, 2], point
    point += 1
assert point > 10
"""


def test_an_interrupt_at_every_point_of_a_gangs_call_neither_hangs_nor_loses_the_gang(unwatched):
    """Raised line by line, where a signal could be: the next call has its threads again."""
    subprocess.run([sys.executable, "-c", AT_EVERY_POINT], check=True, timeout=60, env=unwatched)


def test_a_job_that_is_abandoned_before_it_begins_does_not_begin_later():
    calls = []
    job = threads._Job(lambda thread, n: calls.append(thread), 2)
    assert threads._running.setdefault("gang", job) is job
    job.abandon()
    job.lead()
    assert not calls
    threads.together(lambda thread, n: calls.append((thread, n)), 2)
    assert sorted(calls) == [(0, 2), (1, 2)]
