"""A third party's backend: installed with pip into an environment of its own, found by its entry point."""

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

PLUGIN = Path(__file__).parent / "counting_backend"


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """The interpreter of a new environment that has this one's packages, and the plugin."""
    root = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(root)], check=True)
    python = root / "bin" / "python"
    script = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = subprocess.run([python, "-c", script], capture_output=True, text=True, check=True).stdout.strip()
    here = sysconfig.get_path("purelib")
    Path(packages, "outer.pth").write_text(f"import site; site.addsitedir({here!r})\n")
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps"]
    subprocess.run([*install, "--no-build-isolation", str(PLUGIN)], check=True)
    return python


def run(python, *command, **environment):
    done = subprocess.run(
        [python, *command], capture_output=True, text=True, check=True, env=os.environ | environment, cwd=python.parent
    )
    return done.stdout


def test_it_passes_the_conformance_test(python):
    run(python, "-c", "import nnkernels_counting.kernels as k, nnkernels.testing as t; t.check_backend(k)")


def test_it_trains_through_its_device_string_and_counts(python):
    code = (
        "import nnkernels as nnk, nnkernels_counting.kernels as counting, json\n"
        "net = nnk.Sequential(nnk.Dense(1, 4, activation='tanh'), nnk.Dense(4, 1), device='counting', rng=0)\n"
        "x = [i / 50 for i in range(50)]\n"
        "history = net.fit(x, x, loss='half_squared_error', optimizer=nnk.SGD(0.1), batch_size=10, steps=200)\n"
        "counts = [counting.calls[name] for name in ('sgd_update', 'tanh_forward', 'gather')]\n"
        "print(json.dumps([str(history.device), bool(history.loss[-1] < 1e-3), counts]))\n"
    )
    assert json.loads(run(python, "-c", code)) == ["counting", True, [200, 200, 400]]


def test_it_is_listed_among_the_devices_with_its_own_reason_where_it_cannot_be_used(python):
    def listed(**environment):
        devices = json.loads(run(python, "-m", "nnkernels", "devices", "--json", **environment))
        return next(device for device in devices if device["device"] == "counting")

    assert listed()["available"]
    broken = listed(COUNTING_BROKEN="1")
    assert (broken["available"], broken["reason"], broken["remedy"]) == (False, "has lost its beads", "Buy new beads")


def test_an_unknown_device_lists_it(python):
    code = "import nnkernels as nnk\ntry: nnk.device('countign')\nexcept nnk.DeviceError as error: print(error)"
    assert "Did you mean 'counting'" in run(python, "-c", code)
